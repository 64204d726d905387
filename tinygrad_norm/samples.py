"""Sample inputs for the rows of testing.py: each function returns one that draws an array from a random stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Sample = Callable[[np.random.RandomState], Array]


def normal(*shape: int, mean: float = 0.3, scale: float = 1.3) -> Sample:
    """Both signs, a mean that is not 0, no kink near."""
    return lambda rng: np.asarray(rng.standard_normal(shape) * scale + mean)


def positive(*shape: int, low: float = 0.3, high: float = 3.0) -> Sample:
    """Away from 0, for logarithms and divisors."""
    return lambda rng: np.asarray(rng.uniform(low, high, shape))


def spread(*shape: int) -> Sample:
    """Distinct values at least 0.07 apart from each other and 0.03 from 0: no ties and no kinks within reach of a difference.

    Example:
        >>> drawn = np.sort(spread(1000)(np.random.RandomState(0)))
        >>> bool(np.diff(drawn).min() > 0.07 and np.abs(drawn).min() > 0.03)
        True
    """

    def make(rng: np.random.RandomState) -> Array:
        n = int(np.prod(shape))
        values = (rng.permutation(n) - n // 2) * 0.11 + 0.05 + rng.uniform(-0.02, 0.02, n)
        return np.asarray(values.reshape(shape))

    return make


def integers(high: int, *shape: int) -> Sample:
    """Class numbers and indices."""
    return lambda rng: np.asarray(rng.randint(0, high, shape).astype(np.int64))


def mask(*shape: int) -> Sample:
    """True and False."""
    return lambda rng: np.asarray(rng.uniform(size=shape) < 0.5)


def probabilities(*shape: int) -> Sample:
    """Rows that sum to 1."""

    def make(rng: np.random.RandomState) -> Array:
        p = rng.uniform(0.1, 1, shape)
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    return make


def prefixes(length: int, *counts: int) -> Sample:
    """The mask of sequences of these lengths, padded to one length."""
    return lambda rng: np.arange(length) < np.array(counts)[:, None]
