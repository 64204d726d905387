"""The numeric derivative: central differences, extrapolated to step 0, with an estimate of what is still wrong.

For a smooth f the central difference has only even powers of the step in its error,

    D(h) = (f(x+h) − f(x−h)) / 2h = f′(x) + c₂h² + c₄h⁴ + …                                         (1)

so from D(h), D(h/2), D(h/4) … the powers can be removed one after the other (Richardson 1911; Ridders 1982):

    T(k, 0) = D(h/2ᵏ),   T(k, m) = T(k, m−1) + (T(k, m−1) − T(k−1, m−1)) / (4ᵐ − 1)                  (2)

How far T(k, m) is from its two neighbours says how wrong it may be; how much rounding it holds is known, about ε|f|/h. A fixed step of
1e-6 leaves 1e-10·|f|/|x| of rounding at best and usually 1e-9 of each output; (2) takes steps of about a tenth, where rounding is
1e-15, and still has an error of h¹⁰. All outputs are treated at once, each with the entry of the table that is best for it.

At a kink the central difference is not wrong but means nothing: the average of two slopes. There the one-sided differences

    J(h) = (f(x+h) − f(x))/h − (f(x) − f(x−h))/h = h f″(x) + O(h³)                                   (3)

do not go to 0 with h.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .target import Array

__all__ = ["Derivative", "derivative", "first_step", "noise_level"]

LEVELS = 7  # rows of the table: steps h … h/64
RESTARTS = 5  # how often the whole table moves to smaller steps, each time by 64
Line = Callable[[float], tuple[float, Array]]  # step wanted → step taken (as x's type can hold it), all outputs


class Derivative(NamedTuple):
    """df/dt of every output along one line.

    Attributes:
        value: (M,) the derivative.
        error: (M,) an estimate of its error; inf where no difference is finite.
        left, right: (M,) the one-sided slopes; equal to value where there is no kink.
        kink: (M,) whether they disagree, at every step that was tried.
        jump: (M,) whether the function itself jumps there.
    """

    value: Array
    error: Array
    left: Array
    right: Array
    kink: Array
    jump: Array


def first_step(values: Array, index: Any = None) -> Any:
    """About a quarter of the scale on which this input varies, but not of others that are far larger than it.

    Of the element at an index; of all of them, as an array, where that is `...`; None: on which all do together.
    In float32 a power of two, so that x ± h is exact. In float64 none: a function whose period is a power of two would look constant.
    """
    x = np.asarray(values, np.float64)
    largest = float(np.abs(x).max())
    own = np.abs(largest if index is None else x[index])
    spread = float(x.std())
    if spread > 1e-6 * largest:
        most = float(np.median(np.abs(x - np.median(x))))  # the spread of most of them, whatever one that is huge makes of the whole's
        own = np.maximum(own, most / 8)
        scale = np.where(own > 0, np.minimum(own, spread), spread)
    else:
        scale = np.where(own > 0, own, largest or 1.0)
    step = np.exp2(np.floor(np.log2(scale / 4))) * (1.0 if values.dtype == np.float32 else 0.9397)
    step = np.where(np.isfinite(step) & (step > 0), step, 0.25)
    return step if step.ndim else float(step)


def derivative(
    line: Line, f0: Array, h: float, unit: Array, noise: Array | None = None, step: float | None = None, widest: float = 0.25
) -> Derivative:
    """The derivative of all outputs along a line, by (1) and (2).

    Args:
        line: t → (the step that was really taken, the M outputs there).
        f0: (M,) the outputs at t = 0.
        h: the first step.
        unit: (M,) the relative rounding of each output, the spacing of 1 in its element type.
        noise: (M,) how much each output trembles (noise_level). The differences of rounded values can agree exactly and mean nothing.
        step: None; or a number, to take the plain central difference (1) with just this step, as torch does.
        widest: the step to try where rounding is all that is left of the error: the input may not act on the scale of its own value.
    Returns:
        A Derivative.
    """
    m = len(f0)
    value, error, scale = np.zeros(m), np.full(m, np.inf), np.zeros(m)
    trembling = np.zeros(m) if noise is None else np.where(np.isfinite(noise), noise, 0)
    rows = 2 if step is not None else LEVELS
    widened = False
    if step is not None:
        h = 2 * step
    with np.errstate(all="ignore"):
        for attempt in range(1 if step is not None else RESTARTS):
            if attempt and not widened and np.all((2 * trembling / h >= error) | (error <= 1e-7 * scale)):
                break  # smaller steps would only tremble more
            found, doubt = np.zeros(m), np.full(m, np.inf)  # the best of this table
            table: list[list[Array]] = []
            one_sided: list[tuple[Array, Array]] = []
            differences: list[Array] = []
            bends: list[Array] = []
            still = np.ones(m, bool)  # nothing has moved
            for k in range(rows):
                up, f_up = line(h / 2**k)
                down, f_down = line(-h / 2**k)
                if not up > down:
                    break  # the step is lost in x
                width = up - down
                size = np.maximum(np.abs(f_up), np.abs(f_down))
                # 4: a few roundings on the way; the largest output counts with an eighth, for the cancellation in the small ones
                rounding = 4 * unit * np.maximum(size, _largest(size) / 8) / width
                rounding = np.fmax(rounding, 2 * trembling / width)
                still &= (f_up == f0) & (f_down == f0)
                one_sided.append(((f0 - f_down) / -down, (f_up - f0) / up))
                differences.append(np.abs(f_up - f_down))
                bends.append(np.abs(f_up - f0 + (f_down - f0)))
                row = [(f_up - f_down) / width]
                for j in range(min(k, 5) if step is None else 0):
                    row.append(row[j] + (row[j] - table[-1][j]) / (4 ** (j + 1) - 1))
                    guess = np.maximum(np.abs(row[j + 1] - row[j]), np.abs(row[j + 1] - table[-1][j])) + 2 * rounding
                    better = guess < doubt
                    found, doubt = np.where(better, row[j + 1], found), np.where(better, guess, doubt)
                if step is not None and k == 1:
                    found, doubt = row[0], np.abs(row[0] - table[-1][0]) + rounding
                table.append(row)
                if k and np.all(((np.minimum(doubt, error) <= 4 * rounding) & np.isfinite(rounding)) | still):
                    break  # smaller steps would only add rounding
            if not table:
                break
            found, doubt = np.where(still, 0, found), np.where(still, 0, doubt)
            better = doubt < error
            if len(table) > 1 and step is None:
                # f(x+h) − 2f(x) + f(x−h) falls by 4 with half the step, at a kink by 2. Where it stays, all of f's own change lies within the step.
                better &= ~((bends[-1] > 0.75 * bends[-2]) & (bends[-1] > 1e4 * unit * np.maximum(size, np.abs(f0)) + 64 * trembling))
            value, error = np.where(better, found, value), np.where(better, doubt, error)
            scale = np.abs(value) + 1e-6 * np.abs(value).max(initial=0) + unit * np.abs(f0)
            good = error <= 1e-7 * scale
            if widened or np.all(good):
                break
            if np.all(good | ((error <= 8 * rounding) & np.isfinite(rounding))):
                if h > widest / 4 or attempt:
                    break
                h, widened = widest, True
            else:
                h /= 64
        if table:  # where no table was to be believed, as at a jump, the last one
            value, error = np.where(np.isinf(error), found, value), np.where(np.isinf(error), doubt, error)
        return _kinks(line, f0, unit, trembling, value, error, one_sided, differences, h / 2 ** (len(table) - 1) if table else h)


def _largest(sizes: Array) -> float:
    """Of what is finite among them."""
    largest = float(sizes.max(initial=0))
    return largest if math.isfinite(largest) else float(sizes[np.isfinite(sizes)].max(initial=0))


def _kinks(
    line: Line,
    f0: Array,
    unit: Array,
    trembling: Array,
    value: Array,
    error: Array,
    one_sided: list[tuple[Array, Array]],
    differences: list[Array],
    h: float,
) -> Derivative:
    """(3), looked at again with a step 64 times smaller wherever it does not seem to go to 0."""
    nothing = np.zeros(len(f0), bool)
    if len(one_sided) < 2:
        return Derivative(value, error, value, value, nothing, nothing)
    (left0, right0), (left, right) = one_sided[-2], one_sided[-1]
    rest = 2 * (right - left) - (right0 - left0)
    slope = np.maximum(np.abs(left), np.abs(right))
    size = np.maximum(np.abs(f0), _largest(np.abs(f0)) / 8)
    suspicious = (np.abs(rest) > 1e-6 * slope + 64 * unit * size / h) | ~np.isfinite(rest) | (error > 1e-4 * slope)
    suspicious &= np.isfinite(f0) & ~((left == 0) & (right == 0))
    if not suspicious.any():
        return Derivative(value, error, value, value, nothing, nothing)
    near = h / 64
    up, f_up = line(near)
    down, f_down = line(-near)
    if not (up > 0 > down):
        return Derivative(value, error, value, value, nothing, nothing)
    left2, right2 = (f0 - f_down) / -down, (f_up - f0) / up
    gap, before = np.abs(right2 - left2), np.abs(right - left)
    one_side = np.isfinite(left2) != np.isfinite(right2)
    # A jump keeps its height while the step falls by 64, so the slope that reaches over it grows by 64.
    height, height_before = np.abs(f_up - f_down), differences[-1]
    jump = suspicious & (np.abs(height - height_before) < 0.2 * height_before) & (height > np.maximum(1e3 * unit, 1e-6) * size)
    noisy = gap < 256 * unit * size / near
    kink = suspicious & ~jump & ((gap > 0.5 * before) & (gap < 2 * before + 1e-300) & ~noisy | one_side)
    strange = kink | jump
    # A kink that all of the table's steps reached over looks like one slope to it, and the nearest step does not reach over it.
    central, doubt = (f_up - f_down) / (up - down), gap + (4 * unit * size + 2 * trembling) / near
    refuted = suspicious & ~strange & (np.abs(central - value) > error + doubt)
    value, error = np.where(refuted, central, value), np.where(refuted, doubt, error)
    return Derivative(value, error, np.where(strange, left2, value), np.where(strange, right2, value), kink, jump)


def noise_level(line: Line, h: float) -> Array:
    """How much each output trembles when t moves by almost nothing; the ECnoise method of Moré & Wild 2011.

    The sixth differences of 15 values at distances h have lost every smooth part, which is of order h⁶; what is left of them is noise,
    enlarged by √(12!/6!²) = √924. A kink is no noise: it bends the line once, and seven of the eleven fourth differences do not see it; what
    slips in rounding bends back. The smaller of two distances counts: a pole nearby spoils the larger one.
    """
    levels = []
    with np.errstate(all="ignore"):
        for distance in (0.739 * h, 0.061 * h):  # no powers of two: rounding to float32 is regular along those
            values = np.array([line(distance * (k - 7))[1] for k in range(15)])
            level = np.sqrt(np.mean(np.diff(values, n=6, axis=0) ** 2, axis=0) / 924)
            rounding = 64 * np.finfo(np.float64).eps * np.abs(values).max(axis=0)
            bends = np.diff(values, n=2, axis=0)
            most = np.sort(np.abs(np.diff(bends, n=2, axis=0)), axis=0)[6] / math.sqrt(70)
            kinked = (most <= rounding) & (2 * np.abs(bends.sum(axis=0)) >= np.abs(bends).max(axis=0))
            levels.append(np.where(kinked, most, level))
            if np.all(levels[-1] <= rounding):
                break  # no more than rounding: the other distance can only say less
    return np.asarray(np.fmin.reduce(levels))
