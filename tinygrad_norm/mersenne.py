"""The stream of bits under the random numbers: MT19937 (Matsumoto & Nishimura 1998), and uniform numbers from its words.

One 32-bit word u a step, seeded with the low 32 bits of the seed. A 64-bit word is two of them, the high one first.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rounding import fma64

Array = NDArray[Any]

_BLOCK = 1 << 14  # words drawn at once: the 64-bit words that NumPy hands out then stay in cache


class MersenneTwister:
    """NumPy's engine, made at the first draw: numpy.random is a third of what importing the package would take.

    Whoever draws holds the lock of its generator (random.py).
    """

    _initial_seed: int

    @functools.cached_property
    def _bits(self) -> np.random.MT19937:
        bits = np.random.MT19937(0)  # 0 spares the entropy pool; the next line seeds it
        np.random.RandomState(bits).seed(self._initial_seed % 2**32)
        return bits

    @functools.cached_property
    def _engine(self) -> np.random.RandomState:
        return np.random.RandomState(self._bits)

    def _restart(self, seed: int) -> None:
        self._initial_seed = seed % 2**64
        if "_bits" in self.__dict__:
            self._engine.seed(seed % 2**32)

    def _words(self, n: int) -> NDArray[np.uint32]:
        out = np.empty(n, np.uint32)
        for i in range(0, n, _BLOCK):
            out[i : i + _BLOCK] = self._bits.random_raw(min(_BLOCK, n - i))
        return out

    def _double_words(self, n: int) -> NDArray[np.uint64]:
        return self._engine.randint(0, 2**64, n, dtype=np.uint64)  # NumPy too puts the first word high

    def _uniforms(self, n: int, dtype: np.dtype[Any], width: float = 1.0, low: float = 0.0) -> Array:
        """n numbers U·width + low, shape (n,)."""
        out = np.empty(n, dtype)
        for i in range(0, n, _BLOCK):  # by blocks: a pass over an array beyond the cache costs as much as the words
            part = out[i : i + _BLOCK]
            if dtype == np.float32:
                part[...] = (self._words(len(part)) & np.uint32(2**24 - 1)).view(np.int32)
                part *= np.float32(2.0**-24)
                if (width, low) != (1.0, 0.0):
                    part[...] = part.astype(np.float64) * width + low  # as in fma32
            else:
                part[...] = (self._double_words(len(part)) & np.uint64(2**53 - 1)).view(np.int64)
                part *= 2.0**-53
                part[...] = fma64(part, width, low)
        return out
