"""Arithmetic that rounds where torch rounds, so that every bit is torch's: a·b + c in one step, and Box & Muller (1958) upon it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# -- 1. a·b + c with one rounding ----------------------------------------------------------------------------------------


def fma32(a: Array | float, b: Array | float, c: Array | float) -> Array:
    """a·b + c with one rounding to float32, handed back in float64.

    The product of two float32 is exact in float64. What remains is the double rounding float64, float32, which
    changes a result about once in 2²⁸.
    """
    return np.asarray(np.multiply(a, b, dtype=np.float64) + c, dtype=np.float32).astype(np.float64)


def fma64(a: Array, b: float, c: float) -> Array:
    """a·b + c with one rounding to float64 (Boldo & Melquiond 2008: the low parts add up rounding to odd)."""
    plain: Array = a * b + c
    if c == 0.0 or math.frexp(b)[0] in (0.5, -0.5):
        return plain  # one of the two steps is exact
    with np.errstate(over="ignore", invalid="ignore"):  # beyond 1e300 the parts overflow, and plain has to do
        product, low = _two_product(a, b)
        total, rest = _two_sum(product, c)
        odd, lost = _two_sum(rest, low)
        bits = odd.view(np.int64)
        outward = np.where((lost > 0) == (odd > 0), 1, -1)
        bits += np.where((lost != 0) & (bits & 1 == 0), outward, 0)
        return np.where(np.isfinite(lost), total + odd, plain)


def _two_sum(a: Array, b: Array | float) -> tuple[Array, Array]:
    """a + b and its rounding error (Knuth, TAOCP 2, 4.2.2, Theorem B)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def _two_product(a: Array, b: float) -> tuple[Array, Array]:
    """a·b and its rounding error (Dekker 1971): halves of 26 bits, whose products are exact."""
    product = a * b
    t = a * 134217729.0  # 2²⁷ + 1
    a1 = t - (t - a)
    s = b * 134217729.0
    b1 = s - (s - b)
    a2, b2 = a - a1, b - b1
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


# -- 2. Box-Muller ----------------------------------------------------------------------------------------------------
# torch takes float32 logarithm, sine and cosine from the Cephes polynomials (Moshier 1989), with fused multiply-adds.
# The same steps, each rounded in the same place, give the same bits. NumPy's own log, sin and cos would be seven times
# as fast (30 ns a number here), but 14 % of the numbers would differ from torch's, by up to 4 units in the last place.


def _constants(*values: float) -> list[float]:
    return [float(np.float32(v)) for v in values]


_LOG = _constants(  # ln(1+x) = x − x²/2 + x³·P(x)
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_LN2_LOW, _LN2_HIGH = _constants(-2.12194440e-4, 0.693359375)
_SIN = _constants(-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)  # sin x = x + x³·P(x²)
_COS = _constants(2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)  # cos x = 1 − x²/2 + x⁴·P(x²)
_QUARTER_PI = _constants(0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8)  # π/4 in three parts
_HALF_SQRT2 = int(np.float32(math.sqrt(0.5)).view(np.int32))


def _log32(u: NDArray[np.float32]) -> NDArray[np.float32]:
    """ln u in float32 for u in (0, 1], with torch's rounding."""
    bits = u.view(np.int32) - _HALF_SQRT2  # u = m·2ᵉ, m in [√½, √2)
    e = (bits >> 23).astype(np.float64)
    x = ((bits & 0x7FFFFF) + _HALF_SQRT2).view(np.float32).astype(np.float64) - 1.0
    z = fma32(x, x, 0.0)
    y: Array | float = _LOG[0]
    for c in _LOG[1:]:
        y = fma32(y, x, c)
    y = fma32(fma32(y, x, 0.0), z, fma32(e, _LN2_LOW, 0.0))
    y = fma32(z, -0.5, y)
    return fma32(e, _LN2_HIGH, fma32(x, 1.0, y)).astype(np.float32)


def _sincos32(theta: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """sin θ and cos θ in float32 for θ in [0, 2π), with torch's rounding."""
    octant = ((theta * np.float32(4 / math.pi)).astype(np.int32) + 1) & ~1
    y = octant.astype(np.float64)
    x: Array = theta.astype(np.float64)
    for part in _QUARTER_PI:
        x = fma32(y, -part, x)
    z = fma32(x, x, 0.0)
    c = fma32(fma32(_COS[0], z, _COS[1]), z, _COS[2])
    c = fma32(1.0, fma32(fma32(c, z, 0.0), z, -0.5 * z), 1.0)
    s = fma32(fma32(_SIN[0], z, _SIN[1]), z, _SIN[2])
    s = fma32(fma32(s, z, 0.0), x, x)
    straight = (octant & 2) == 0
    sin = np.where(straight, s, c).astype(np.float32)
    cos = np.where(straight, c, s).astype(np.float32)
    sin.view(np.int32)[...] ^= (octant & 4) << 29  # bit 31 is the sign
    cos.view(np.int32)[...] ^= ((octant + 2) & 4) << 29
    return sin, cos


def box_muller(u: Array, mean: float, std: float) -> None:
    """Uniforms to normals, in place: in each row of 16, columns 0-7 are 1 − U₁ and columns 8-15 are U₂."""
    for start in range(0, len(u), 2048):
        rows = u[start : start + 2048]  # (≤2048, 16)
        u1, u2 = 1 - rows[:, :8], rows[:, 8:]  # (0, 1]: the logarithm stays finite
        theta = u.dtype.type(2 * math.pi) * u2
        if u.dtype == np.float32:
            r = np.sqrt(np.float32(-2) * _log32(u1))
            sin, cos = _sincos32(theta)
            m, s = float(np.float32(mean)), float(np.float32(std))
            for half, wave in ((rows[:, :8], cos), (rows[:, 8:], sin)):
                half[...] = (r * wave).astype(np.float64) * s + m
        else:
            logs = np.fromiter(map(math.log, u1.ravel().tolist()), np.float64, u1.size)  # NumPy's own has another last bit with AVX-512
            r = np.sqrt(-2.0 * logs.reshape(u1.shape))
            for half, wave in ((rows[:, :8], np.cos(theta)), (rows[:, 8:], np.sin(theta))):
                half[...] = fma64(r * wave, std, mean)
