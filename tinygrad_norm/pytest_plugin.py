"""Fixtures for any course's test suite: `gradcheck` and `torch_compare`, with a failure that can be read.

    def test_my_layer_norm(gradcheck):
        gradcheck(my_layer_norm, (x, weight, bias))                # fails with the report, not with a traceback through this library

    def test_my_batch_norm(torch_compare):
        torch_compare(MyBatchNorm1d(4).double(), x, torch_counterpart=torch.nn.BatchNorm1d(4).double())

pytest finds them by the entry point of the installed package; nothing is imported until a test asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["gradcheck", "torch_compare"]


@pytest.fixture
def gradcheck() -> Callable[..., Any]:
    """gradcheck(fn, inputs, order=1, atol=1e-7, rtol=1e-6, **options): fails the test where a gradient does not hold.

    The tolerances are tighter than torch's, since the numeric derivative is good to 1e-10: a forgotten eps shows. order=2 checks the
    second derivatives as well, by the parameters of a Module too unless parameters=False. The other options are gradcheck_report's. Returns the report.
    """

    def check(fn: Callable[..., Any], inputs: Any, *, order: int = 1, atol: float = 1e-7, rtol: float = 1e-6, **options: Any) -> Any:
        __tracebackhide__ = True
        import warnings

        from tinygrad_norm.autograd.gradcheck import GradcheckError, GradcheckWarning, gradcheck_report, gradient_of

        if order not in (1, 2):
            raise ValueError(f"gradcheck: order must be 1 or 2; got {order}")
        failure = None
        try:
            report = gradcheck_report(fn, inputs, atol=atol, rtol=rtol, **options)
            if not report.ok:
                failure = str(report)
            elif order > 1:
                first, arguments = gradient_of(fn, inputs, parameters=options.get("parameters", True))
                second = gradcheck_report(first, arguments, atol=atol, rtol=rtol, **{**options, "allow_unused": True})
                failure = None if second.ok else str(second)
        except GradcheckError as error:
            failure = str(error)
        if failure is not None:
            pytest.fail(failure, pytrace=False)
        for message in report.warnings:
            warnings.warn(message, GradcheckWarning, stacklevel=2)
        return report

    return check


@pytest.fixture
def torch_compare() -> Callable[..., Any]:
    """torch_compare(module_or_function, inputs, **options): fails the test where something differs from torch; skips without torch.

    The options are those of tinygrad_norm.autograd.compare_with_torch. Returns the Comparison.
    """

    def compare(module_or_function: Any, inputs: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        from tinygrad_norm.autograd.torch_compare import compare_with_torch

        try:
            comparison = compare_with_torch(module_or_function, inputs, **options)
        except ImportError as error:
            if "needs torch" not in str(error):  # an import that fails in the code under test is a failure
                raise
            pytest.skip(str(error))
        if not comparison.ok:
            pytest.fail(str(comparison), pytrace=False)
        return comparison

    return compare
