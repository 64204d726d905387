"""The fixtures, in a test run of their own."""

from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

INSTALLED = any(e.value == "tinygrad_norm.pytest_plugin" for e in entry_points(group="pytest11"))
MINE = """
    import numpy as np
    import tinygrad_norm as tg

    class Square(tg.autograd.Function):
        factor = 2.0
        def forward(self, x):
            self.save_for_backward(x)
            return x ** 2
        def backward(self, g):
            (x,) = self.saved_tensors
            return self.factor * x * g

    class Wrong(Square):
        factor = 4.0

    class Slightly(Square):
        factor = 2.0 * (1 + 1e-5)

    def x():
        return tg.tensor(np.array([0.5, -1.5]), requires_grad=True)
"""


@pytest.fixture
def outcome(pytester):
    def run(tests, *options):
        pytester.makepyfile(mine=MINE)
        pytester.makepyfile(test_it="from mine import *\nimport tinygrad_norm as tg\n" + tests)
        return pytester.runpytest_subprocess(*(() if INSTALLED else ("-p", "tinygrad_norm.pytest_plugin")), *options)

    return run


def test_gradcheck_fixture(outcome):
    result = outcome("""
def test_right(gradcheck):
    report = gradcheck(Square.apply, x())
    assert report.ok

def test_second_order(gradcheck):
    gradcheck(tg.exp, x(), order=2)

def test_wrong(gradcheck):
    gradcheck(Wrong.apply, x())

def test_a_little_wrong(gradcheck):
    gradcheck(Slightly.apply, x())

def test_torchs_tolerance(gradcheck):
    gradcheck(Slightly.apply, x(), atol=1e-5, rtol=1e-3)

def test_no_tensor(gradcheck):
    gradcheck(lambda x: None, x())
""")
    result.assert_outcomes(passed=3, failed=3)
    text = result.stdout.str()
    assert "gradcheck of Wrong.apply: FAILED" in text
    assert "is 2 times the right one, everywhere" in text
    assert "<lambda> returns no Tensor" in text
    assert "Traceback" not in text
    assert "pytest_plugin.py" not in text  # no line of the library's own
    assert "def check(" not in text


def test_gradcheck_fixture_of_order_2_without_the_parameters(outcome):
    result = outcome("""
class Scale(tg.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = tg.nn.Parameter(tg.tensor([2.0, -1.0], dtype=tg.float64))

    def forward(self, x):
        return Cut.apply(x, self.weight)

class Cut(tg.autograd.Function):  # its second derivative by w twice is missing
    def forward(self, x, w):
        self.save_for_backward(x, w)
        return x * x * w * w

    def backward(self, g):
        x, w = self.saved_tensors
        constant = w.detach() if isinstance(w, tg.Tensor) else w
        return 2 * x * w * w * g, 2 * x * x * constant * g

def test_without(gradcheck):
    report = gradcheck(Scale(), x(), order=2, parameters=False)
    assert [p.input for p in report.pairs] == ["x"]

def test_with(gradcheck):
    gradcheck(Scale(), x(), order=2)

def test_of_the_first_alone(gradcheck):
    gradcheck(Scale(), x(), order=1)

def test_of_a_third(gradcheck):
    gradcheck(tg.exp, x(), order=3)
""")
    result.assert_outcomes(passed=2, failed=2)
    text = result.stdout.str()
    assert "dweight, weight: no gradient comes back to weight" in text
    assert "order must be 1 or 2; got 3" in text


def test_torch_compare_fixture(outcome):
    result = outcome("""
def test_right(torch_compare):
    assert torch_compare(tg.nn.LayerNorm(2).double(), x().reshape(1, 2).detach()).ok

def test_wrong(torch_compare):
    torch_compare(lambda x: x * 1.01, x(), torch_counterpart=lambda x: x * 1.0)
""")
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    assert "DIFFERS" in text
    assert "pytest_plugin.py" not in text


def test_without_torch_it_skips_and_says_how_to_get_it(outcome):
    result = outcome(
        """
import sys
sys.modules["torch"] = None

def test_it(torch_compare):
    torch_compare(tg.exp, x())
""",
        "-rs",
    )
    result.assert_outcomes(skipped=1)
    assert "pip install torch==2.13.0" in result.stdout.str()


def test_the_fixtures_are_listed_and_nothing_is_imported_before_they_are_used(outcome):
    text = outcome("def test_it(): pass", "--fixtures").stdout.str()
    assert "gradcheck(fn, inputs, order=1" in text
    assert "torch_compare(module_or_function, inputs" in text


def test_warnings_of_blind_recipes_reach_the_test(outcome):
    result = outcome("""
def test_it(gradcheck):
    gradcheck(tg.nn.LayerNorm(2).double(), x().reshape(1, 2).detach().requires_grad_())
""")
    result.assert_outcomes(passed=1, warnings=3)
    assert "GradcheckWarning: LayerNorm: γ = 1 everywhere" in result.stdout.str()
