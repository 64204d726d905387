"""gradcheck of a function in a file, `path/to/file.py:function`, for the command line and for graders.

Where the inputs of a function of yours come from, the first that is there:

    layer_norm.inputs = (x, weight, bias)            an attribute of the function: tensors, arrays, nested lists, numbers
    layer_norm_inputs = (x, weight, bias)            in the file; or a function of that name that returns them
    --shapes 4,5 5 5                                 random ones of these shapes
    otherwise                                        random ones: (4, 5) for each argument without a default, (5,) for weight, bias, gamma, beta
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..nn.module import Module
from ..tensor import Tensor
from .gradcheck import gradcheck_report
from .report import GradcheckResult
from .target import GradcheckError, named_tensors, positional_parameters

__all__ = ["check_file"]


def check_file(target: str, shapes: list[tuple[int, ...]] | None = None, *, seed: int = 0, **options: Any) -> GradcheckResult:
    """gradcheck_report of `path/to/file.py:function`, with inputs as this module's docstring says.

    Args:
        target: the file and the name in it: a function, a Function class, a Module or its class.
        shapes: of random inputs, where the file has none.
        seed: of random inputs.
        options: for gradcheck_report: atol, rtol, fast_mode …
    Raises:
        ValueError: there is no such file or name, or it cannot be called with these inputs; says what to do.
    """
    path, _, name = target.rpartition(":")
    if not path or not name:
        raise ValueError(f"say which function of which file, as my_norm.py:layer_norm, or choose among the library's ops with --only NAME; got {target!r}")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there is no file {path}")
    module = _import(file)
    if not hasattr(module, name):
        there = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module.__name__]
        raise ValueError(f"{path} has no {name!r}; it has {', '.join(there) or 'no functions'}")
    function = getattr(module, name)
    if isinstance(function, type) and issubclass(function, Module):
        function = function().double()
    if not callable(function):
        raise ValueError(f"{name} in {path} is of type {type(function).__name__}; expected a function, a Function or a Module")
    inputs, guessed = _inputs(module, function, name, shapes, seed)
    try:
        return gradcheck_report(function, inputs, **options)
    except GradcheckError:
        raise
    except Exception as error:
        how = f"{name}.inputs = (x, …) or {name}_inputs = (x, …) in the file, or --shapes 4,5 5"
        tried = ", ".join(str(tuple(n.tensor.shape)) for n in named_tensors(inputs, ""))
        said = f"random inputs of shapes {tried}" if guessed else "its inputs"
        raise ValueError(f"{name} raised {type(error).__name__} with {said}: {error}. Say what it takes: {how}") from error


def _import(file: Path) -> Any:
    name = f"checked_{file.stem}" if file.stem in sys.modules else file.stem
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent.resolve()))  # so that it can import its neighbours
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def _inputs(module: Any, function: Any, name: str, shapes: list[tuple[int, ...]] | None, seed: int) -> tuple[Any, bool]:
    given = getattr(function, "inputs", None)
    given = getattr(module, f"{name}_inputs", None) if given is None else given
    if given is not None:
        given = given() if callable(given) and not isinstance(given, Tensor) else given
        if isinstance(given, list) and any(isinstance(v, (Tensor, np.ndarray)) for v in given):
            given = tuple(given)
        inputs = _as_tensors(given if isinstance(given, (tuple, dict)) else (given,))
        found = [n.tensor for n in named_tensors(inputs, "")]
        if not any(t.requires_grad for t in found):
            for t in found:
                if t.dtype.is_floating_point:
                    t.requires_grad = True
        return inputs, False
    rng = np.random.RandomState(seed)
    chosen = shapes if shapes is not None else _guess(function)
    return tuple(Tensor(rng.standard_normal(s) * 1.3 + 0.3, True) for s in chosen), shapes is None


def _as_tensors(value: Any) -> Any:
    """Arrays and lists of numbers as Tensors; tuples and dicts stay what they are."""
    if isinstance(value, dict):
        return {k: _as_tensors(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_as_tensors(v) for v in value)
    if isinstance(value, (list, np.ndarray)):
        array = np.asarray(value)
        return Tensor(array.astype(np.float64) if array.dtype.kind == "f" else array)
    return value


def _guess(function: Any) -> list[tuple[int, ...]]:
    if isinstance(function, Module):
        for attribute in ("in_features", "num_features", "normalized_shape"):
            size = getattr(function, attribute, None)
            if size is not None:
                return [(4, *size) if isinstance(size, tuple) else (4, size)]
    vectors = ("weight", "bias", "gamma", "beta", "γ", "β")
    return [(5,) if p.name in vectors else (4, 5) for p in positional_parameters(function) if p.default is p.empty]
