"""How values are written in pictures and steps: all of a small one, the shape and spread of a large one."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

import numpy as np

__all__ = ["assigned", "cut", "is_small", "number", "one_line", "rows", "shape_text", "width_of"]

Array = np.ndarray[Any, Any]
SMALL, SMALL_ROW = 16, 10  # elements of an array, and of a vector, that text still shows one by one
ROWS, COLUMNS = 4, 4  # of a matrix that a box of a picture does


def number(value: Any) -> str:
    """A number in four digits: 6.0, 0.3333, 1.2e-07, 3.

    Example:
        >>> number(6.0), number(1 / 3), number(3), number(-0.0)
        ('6.0', '0.3333', '3', '0.0')
    """
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    text = f"{value + 0.0:.4g}"  # + 0.0: a zero has no sign here
    if text.lstrip("-").isdigit():
        text += ".0"
    return "−" + text[1:] if text[0] == "-" else text


def shape_text(shape: tuple[int, ...]) -> str:
    """(4, 16); "scalar" for a 0-d value."""
    return str(tuple(shape)) if shape else "scalar"


def spread(array: Array) -> str:
    """min, mean and max; of bool and integers min and max."""
    if array.size == 0:
        return "empty"
    if array.dtype.kind != "f":
        return f"{number(array.min())} … {number(array.max())}"
    with np.errstate(all="ignore"):
        return f"min {number(array.min())}, mean {number(array.mean(dtype=np.float64))}, max {number(array.max())}"


def is_small(array: Array) -> bool:
    """Whether text shows every element."""
    return 0 < array.size <= SMALL and max(array.shape, default=1) <= SMALL_ROW


def one_line(array: Array | None) -> str:
    """The value in one line; a large one by its shape and spread.

    Example:
        >>> import numpy as np
        >>> one_line(np.array([[1.0, 2.5], [0.0, -1.0]]))
        '[[1.0, 2.5], [0.0, −1.0]]'
        >>> one_line(np.ones((8, 8)))
        '(8, 8): min 1.0, mean 1.0, max 1.0'
    """
    if array is None:
        return "not kept"
    if not is_small(array):
        return f"{shape_text(array.shape)}: {spread(array)}"

    def nested(a: Array) -> str:
        return number(a[()]) if a.ndim == 0 else "[" + ", ".join(nested(row) for row in a) + "]"

    return nested(array)


def assigned(name: str, array: Array, sign: str = " = ") -> list[str]:
    """name = the value; a small matrix with its rows below one another.

    Example:
        >>> import numpy as np
        >>> assigned("dx", np.array([[1.0, 2.5], [10.0, -1.0]]))
        ['dx = [ 1.00,  2.50]', '     [10.00, −1.00]']
    """
    if array.ndim != 2 or len(array) < 2 or not is_small(array):
        return [f"{name}{sign}{one_line(array)}"]
    if len(name) > 12:
        return [f"{name}{sign}".rstrip(), *("    " + line for line in matrix(array))]
    return [f"{name}{sign}{line}" if i == 0 else " " * len(name + sign) + line for i, line in enumerate(matrix(array))]


def matrix(array: Array) -> list[str]:
    """The rows of a matrix, one below the other."""
    words = [_column_words(row, array) for row in array]
    width = max(len(w) for row in words for w in row)
    return ["[" + ", ".join(w.rjust(width) for w in row) + "]" for row in words]


def rows(array: Array | None) -> list[str]:
    """The value in a few short lines, for a box: a small scalar, vector or matrix whole, else its spread."""
    if array is None:
        return ["value not kept"]
    if 0 < array.size <= ROWS * COLUMNS and array.ndim <= 2 and max(array.shape, default=1) <= COLUMNS:
        return matrix(array) if array.ndim == 2 else [one_line(array)]
    if array.size == 0 or array.dtype.kind != "f":
        return [spread(array)]
    with np.errstate(all="ignore"):
        low, mean, high = (number(v) for v in (array.min(), array.mean(dtype=np.float64), array.max()))
    return [f"mean {mean}", f"{low} … {high}"]


def _column_words(row: Array, of: Array) -> list[str]:
    """A row of a matrix with as many digits after the point in every element, unless that would hide the small ones."""
    size = np.abs(of[np.isfinite(of) & (of != 0)].astype(np.float64))
    whole = size.size == 0 or of.dtype.kind != "f" or not (size != np.round(size)).any()
    if whole or size.max() >= 1e4 or size.min() < 1e-3 * min(size.max(), 1.0):
        return [number(v) for v in row]
    digits = max(1, min(4, 3 - math.floor(math.log10(size.max()))))
    return [f"{v + 0.0:.{digits}f}".replace("-", "−") for v in row]


def width_of(text: str, size: float) -> float:
    """The width of a line of a fixed-width font at this size, in pixels: a little more than it takes."""
    cells = sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return cells * size * 0.615


def cut(text: str, length: int = 30) -> str:
    """At most so many characters, the middle left out."""
    return text if len(text) <= length else text[: length // 2] + "…" + text[-(length - 1 - length // 2) :]
