"""How a tensor looks when it is printed: character for character what torch prints.

Three steps, in the order of this file:

1. Options:   what `set_printoptions` sets.
2. Elements:  every element shown becomes a word. All words share one notation, chosen from the finite nonzero
   values alone: `3.` when all are whole numbers, `3.1416` when one is not, and `3.1416e+00` when one of
                    max|x| / min|x| > 1000,     max|x| > 1e8,     min|x| < 1e-4
   holds, because fixed point would then drown the small ones in zeros or the reader in digits.
3. Layout:    brackets, line breaks, `...`, and after the numbers what they do not tell: size, dtype, grad_fn.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["element_words", "set_printoptions", "tensor_repr"]


# -- 1. Options -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Options:
    precision: int = 4  # digits after the point
    threshold: float = 1000  # more elements than this: show only the edges
    edgeitems: int = 3  # how many items an edge has
    linewidth: int = 80  # characters
    sci_mode: bool | None = None  # None: chosen from the values


_PROFILES = {
    "default": _Options(),
    "short": _Options(precision=2, edgeitems=2),
    "full": _Options(threshold=math.inf),
}
_options = _Options()


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors are printed from now on.

    What is left at None keeps its value, with one exception that torch makes too: `sci_mode` is set by every
    call, so a call without it goes back to choosing the notation from the values.

    Args:
        precision: digits after the decimal point (4).
        threshold: a tensor with more elements than this is printed as its edges only (1000; `math.inf`: never).
        edgeitems: items shown at either end of every axis of such a tensor (3).
        linewidth: characters in a line (80).
        profile: a starting point for the four above: "default", "short" (2 digits, 2 edge items) or "full" (all elements).
        sci_mode: True or False: always or never scientific notation; None: by the values.

    Raises:
        TypeError, ValueError: for a value without a meaning; then no option has changed.

    >>> import numpy as np
    >>> set_printoptions(precision=2)
    >>> tensor_repr(np.array([3.14159], dtype=np.float32))
    'tensor([3.14])'
    >>> set_printoptions(profile="default")
    """
    global _options
    if profile is not None and profile not in _PROFILES:
        raise ValueError(f"set_printoptions: profile is {profile!r}; expected one of {', '.join(map(repr, _PROFILES))}")
    if sci_mode not in (None, True, False):
        raise TypeError(f"set_printoptions: sci_mode is {sci_mode!r}; expected True, False or None")
    new = _options if profile is None else _PROFILES[profile]
    if precision is not None:
        new = replace(new, precision=_count("precision", precision))
    if threshold is not None:
        new = replace(new, threshold=math.inf if threshold == math.inf else _count("threshold", threshold))
    if edgeitems is not None:
        new = replace(new, edgeitems=_count("edgeitems", edgeitems))
    if linewidth is not None:
        new = replace(new, linewidth=_count("linewidth", linewidth))
    _options = replace(new, sci_mode=sci_mode)


def _count(name: str, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)
    except TypeError:
        allowed = "a whole number or math.inf" if name == "threshold" else "a whole number"
        raise TypeError(f"set_printoptions: {name} is {value!r}; expected {allowed}") from None
    if number < 0:
        raise ValueError(f"set_printoptions: {name} is {number}; expected 0 or more")
    return number


# -- 2. Elements ------------------------------------------------------------------------------------------------


def _notation(deciding: NDArray[Any]) -> Callable[[float], str]:
    """The function that writes one float, given the finite nonzero values, which decide how."""
    fixed, scientific = f"{{:.{_options.precision}f}}".format, f"{{:.{_options.precision}e}}".format
    if deciding.size:
        size = np.abs(deciding.astype(np.float64))
        smallest, largest = float(size.min()), float(size.max())
        wide = largest / smallest > 1000 or largest > 1e8 or smallest < 1e-4
        if wide if _options.sci_mode is None else _options.sci_mode:
            return scientific
        if (size != np.ceil(size)).any():
            return fixed
    return lambda value: f"{value:.0f}." if math.isfinite(value) else str(value)


def element_words(array: NDArray[Any]) -> tuple[NDArray[np.object_], int]:
    """Every element as text, right-aligned, in the array's shape; and the width they are aligned to."""
    if array.dtype.kind == "f":
        deciding = array[np.isfinite(array) & (array != 0)]
        write: Callable[[Any], str] = _notation(deciding)
    else:
        deciding, write = array.ravel(), str
    # As in torch, zeros, infinities and NaN have no say in the width and may stick out: tensor([0., -inf]).
    width = max((len(write(value)) for value in deciding.tolist()), default=1)
    words = np.empty(array.size, dtype=object)
    words[:] = [write(value).rjust(width) for value in array.ravel().tolist()]
    return words.reshape(array.shape), width


# -- 3. Layout --------------------------------------------------------------------------------------------------


def _brackets(words: NDArray[np.object_], cut: list[bool], indent: int, width: int) -> str:
    """The words in nested brackets; `cut[axis]` says that the middle of an axis was left out."""
    if words.ndim == 0:
        return str(words.item())
    edge = _options.edgeitems
    margin = " " * (indent + 1)
    if words.ndim == 1:
        row = words.tolist()
        if cut[0]:
            row.insert(edge, " ..." if edge else "...")
        per_line = max(1, (_options.linewidth - indent) // (width + len(", ")))
        lines = [", ".join(row[i : i + per_line]) for i in range(0, len(row), per_line)]
        return "[" + (",\n" + margin).join(lines) + "]"
    blocks = [_brackets(block, cut[1:], indent + 1, width) for block in words]
    if cut[0]:
        blocks.insert(edge, "...")
    return "[" + ("," + "\n" * (words.ndim - 1) + margin).join(blocks) + "]"


def _numbers(array: NDArray[Any], indent: int) -> str:
    if array.size == 0:
        return "[]"
    edge = _options.edgeitems
    cut = [array.size > _options.threshold and n > 2 * edge for n in array.shape]
    for axis, n in enumerate(array.shape):
        if cut[axis]:
            array = array.take([*range(edge), *range(n - edge, n)], axis=axis)
    words, width = element_words(array)
    return _brackets(words, cut, indent, width)


def tensor_repr(
    array: NDArray[Any],
    *,
    grad_fn: str | None = None,
    requires_grad: bool = False,
    prefix: str = "tensor(",
) -> str:
    """The text that torch prints for a tensor on the CPU with these values.

    float32, int64 and bool, the types that `tensor(...)` would choose by itself, are not named; all others are.

    Args:
        array: the values; any shape, any strides; floating point, integer or bool.
        grad_fn: name of the node that made the tensor, `AddBackward0`; takes the place of `requires_grad`.
        requires_grad: True for a leaf that collects a gradient.
        prefix: what stands before the numbers; the lines after the first are indented by its length.

    Raises:
        TypeError: for an array of complex numbers or of objects.

    >>> print(tensor_repr(np.array([[1.0, 2.5], [np.nan, -3.0]]), grad_fn="AddBackward0"))
    tensor([[ 1.0000,  2.5000],
            [    nan, -3.0000]], dtype=torch.float64, grad_fn=<AddBackward0>)
    >>> print(tensor_repr(np.zeros((0, 3), dtype=np.float32)))
    tensor([], size=(0, 3))
    """
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"tensor_repr: the array has dtype {array.dtype}; expected floating point, integer or bool")
    empty = array.size == 0
    untold = []
    if (empty and array.ndim != 1) or (not empty and _options.edgeitems == 0):
        untold.append(f"size={array.shape}")
    if array.dtype.name not in (("float32",) if empty else ("float32", "int64", "bool")):
        untold.append(f"dtype=torch.{array.dtype.name}")
    if grad_fn is not None:
        untold.append(f"grad_fn=<{grad_fn}>")
    elif requires_grad:
        untold.append("requires_grad=True")

    indent = len(prefix)
    text = prefix + _numbers(array, indent)
    # torch counts two characters too many in the line of the numbers, and none too many in a line it has begun.
    column = len(text) - (text.rfind("\n") + 1) + 2
    for item in untold:
        if column + len(", ") + len(item) > _options.linewidth:
            text += ",\n" + " " * indent + item
            column = indent + len(item)
        else:
            text += ", " + item
            column += len(", ") + len(item)
    return text + ")"
