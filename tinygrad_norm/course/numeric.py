"""A numeric derivative in the place of a derived one: how it is found out, and what is said of it.

    by size       one element at a time it takes thousands of times as long as a derivation: a large case, and the clock (`Task.large`)
    by digits     a step in x, or along dy, is lost where a derivation keeps its digits: the cases that are `telling`
    by its code   a complex step loses nothing, but must take an imaginary part, and no derivation here does
"""

from __future__ import annotations

import contextlib
import io
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

import numpy as np

from .diagnosis import Finding
from .task import Case, Task
from .worker import definitions

__all__ = ["COMPLEX_STEP", "asked_of", "complex_step", "lost_digits", "no_digits", "overflow", "words_beside", "words_of"]

KEY = "a numeric derivative"
COMPLEX_STEP = Finding(KEY, "it takes the imaginary part of a complex number: a complex step is a derivative taken numerically; derive it")
COMPLEX = {"imag", "complex", "complex64", "complex128", "clongdouble", "csingle", "cdouble"}


def lost_digits(output: str, case: Case) -> Finding:
    """What is said of an output that is right in general and wrong where it tells."""
    where = f"{output} is right on ordinary numbers, but not {case.name}"
    return Finding(KEY, f"{where}. A derivation keeps its digits there, a difference quotient loses them (or a small number is added, or x limited): derive it")


def no_digits(got: Any) -> bool:
    """Whether an answer has no digits that could tell: none came, or it is beyond the end of float32."""
    return got is None or (got.dtype == np.float32 and not np.isfinite(got).all())


def overflow(output: str, case: Case) -> Finding:
    """What is said of an output that is right in general and overflows where it should tell."""
    where = f"{output} is right on ordinary numbers, but inf or NaN {case.name}"
    return Finding(f"{output}: overflow of float32", f"{where}. float32 ends at 3.4e38: compute in float64, as the inputs are, or in another order")


def asked_of(task: Task, cases: Sequence[Case]) -> bool:
    """Whether the task wants a derivation."""
    return task.large is not None or any(c.telling for c in cases)


# -- By its code ------------------------------------------------------------------------------------------------------------------------------


def complex_step(name: str, words: Mapping[str, set[str]]) -> bool:
    """Whether a function, or one that it calls, computes with complex numbers.

    Args:
        name: of the function. words: what stands in each function there is, from `words_of` or `words_beside`.

    Example:
        >>> words = words_of(["def f(x, h=1e-20):\\n    return g(x + 1j * h).imag / h", "def g(x): return x * x  # 1j"])
        >>> complex_step("f", words), complex_step("g", words)
        (True, False)
    """
    seen, waiting = {name}, [name]
    while waiting:
        inside = words.get(waiting.pop(), set())
        if inside & COMPLEX:
            return True
        new = {w for w in inside if w in words} - seen
        seen |= new
        waiting += new
    return False


def words_of(cells: Sequence[str]) -> dict[str, set[str]]:
    """The names in every function of a submission, which is read word by word and neither run nor compiled."""
    found: dict[str, set[str]] = {}
    for cell in cells:
        words: set[str] = set()
        depth, fresh = 0, True  # of brackets; whether a name is waited for that says what begins here
        with contextlib.suppress(tokenize.TokenError, SyntaxError):
            for token in tokenize.generate_tokens(io.StringIO(definitions(cell)).readline):
                if token.start[1] == 0 and depth == 0 and token.type in (tokenize.NAME, tokenize.OP):
                    words, fresh = set(), True
                if token.type == tokenize.OP:
                    depth += (token.string in "([{") - (token.string in ")]}")
                elif token.type == tokenize.NUMBER and token.string[-1] in "jJ":
                    words.add("complex")
                elif token.type == tokenize.NAME and fresh and token.string != "def":
                    found[token.string], fresh = words, False
                elif token.type == tokenize.NAME:
                    words.add(token.string)
    return found


def words_beside(function: Callable[..., Any]) -> dict[str, set[str]]:
    """The same for a function in this process, and all that stands beside it."""
    beside = {**getattr(function, "__globals__", {}), getattr(function, "__name__", ""): function}
    return {name: set(_words(code)) for name, f in beside.items() if isinstance(code := getattr(f, "__code__", None), CodeType)}


def _words(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, complex):
            yield "complex"
        elif isinstance(constant, CodeType):
            yield from _words(constant)
