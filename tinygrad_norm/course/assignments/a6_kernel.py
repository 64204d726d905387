# %% [markdown]
# # A6 · A kernel of your own
#
# Afterwards you can write a loop that numba compiles, keep it correct where loops usually go wrong (NaN, float32, inputs that are not contiguous, a large
# mean), and make it at least 5 times as fast as NumPy. `tinygrad_norm/kernel.py` says how the library's own kernels are set up.
#
# NumPy goes over memory once for every operation and puts each result into a new array. A kernel reads a row, keeps what it needs at hand, and
# writes the result. `@njit` compiles a function when it is first called with arrays of a new type, which takes about a second. So each check first runs
# your function as plain Python, on small arrays: what is wrong is said at once. What is right there is compiled, checked again, and timed.
# All arrays are `(N, D)` or `(D,)`.

# %% setup
import numpy as np

from tinygrad_norm.course import load

check = load("a6").check

# %%
import math

from numba import njit, prange

FASTMATH = {"reassoc", "contract", "nsz"}
njit(lambda x: x)(0.0)  # numba's first compilation of all takes a second more than the others: it is done here

# %% [markdown]
# ## 1 · ReLU, with its NaN
#
# $y = \max(x, 0)$, and NaN where x is NaN: a network that has gone wrong must be seen to have gone wrong. The result has the shape and the dtype of x.
# x may be a transposed array, so let two indices run over it.

# %% task="relu_kernel" points=2
@njit
def relu_kernel(x):
    """x (N, D), float32 or float64 → y (N, D) of the same dtype"""
    y = np.empty(x.shape, x.dtype)
    ### BEGIN SOLUTION
    for n in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[n, j] = 0 if x[n, j] <= 0 else x[n, j]  # no comparison with NaN is true
    ### END SOLUTION
    return y

# %%
check(relu_kernel)

# %% grader
from tinygrad_norm.course.task import Case, Faster, Output, Values, Wrong, cases_of, norm_values, task
from tinygrad_norm.course.wrong_stages import wrong_rstd


def of_rows(rng):
    """One input in several guises: what is no float64, or lies otherwise in memory, is an edge."""
    x = rng.standard_normal((6, 5))
    x[1, 2], x[3, 0] = 0.0, -0.0
    with_nan = x.copy()
    with_nan[2, 3], with_nan[4, 1] = np.nan, np.inf
    return [
        Case("general", Values(x=x), plain=True),
        Case("float32", Values(x=x.astype(np.float32)), edge=True),
        Case("a transposed x", Values(x=np.asfortranarray(rng.standard_normal((4, 7)))), edge=True),
        Case("NaN", Values(x=with_nan.astype(np.float32)), edge=True),
        Case("no rows", Values(x=x[:0]), edge=True, hidden=True),
    ]


RELU = "y = x where x > 0, else 0"
task(
    relu_kernel,
    cases=of_rows,
    float32=False,
    same_dtype=True,
    packages=("numpy", "numba"),
    seconds=60.0,
    outputs=[Output("y", line=RELU, wrong=[
        Wrong("NaN becomes 0", "NaN stays NaN; every comparison with NaN is false", lambda v: np.where(v.x > 0, v.x, 0), lambda v: np.isnan(v.x).any()),
        Wrong("NaN becomes infinity", "NaN stays NaN", lambda v: np.where(np.isnan(v.x), np.inf, np.maximum(v.x, 0)), lambda v: np.isnan(v.x).any()),
        Wrong("returned x", RELU, lambda v: v.x),
        Wrong("the absolute value", RELU, lambda v: np.abs(v.x)),
        Wrong("the negative part", RELU, lambda v: np.minimum(v.x, 0)),
        Wrong("returned the mask", RELU, lambda v: np.where(np.isnan(v.x), v.x, v.x > 0)),
        Wrong("leaky", RELU, lambda v: np.where(v.x > 0, v.x, 0.01 * v.x)),
    ])],
)  # fmt: skip

# %% [markdown]
# ## 2 · LayerNorm forward, at least 5 times as fast
#
# For each row n: μ and v over its D elements, $r = (v+\varepsilon)^{-1/2}$, $y_j = \gamma_j (x_j-\mu)\,r+\beta_j$. This is the function to beat; the check
# first looks at whether yours is right, and only then at the clock (at 128 × 512 in float32; compiling is not counted):

# %%
def layer_norm_numpy(x, weight, bias, eps):
    mean = x.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + eps)
    return weight * ((x - mean) * rstd) + bias


def layer_norm_backward_numpy(dy, x, weight, eps):
    mean = x.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + eps)
    xhat = (x - mean) * rstd
    d = dy * weight
    dx = rstd * (d - d.mean(axis=1, keepdims=True) - xhat * (d * xhat).mean(axis=1, keepdims=True))
    return dx, (dy * xhat).sum(axis=0), dy.sum(axis=0)

# %% [markdown]
# - A sum `s += x[n, j]` is a chain: each addition waits for the one before it, because floating-point addition may not be reordered. `FASTMATH` allows
#   it ("reassoc"), and then several elements are added at once. Try a plain `@njit` as well. `fastmath=True` would also assume that there is no NaN.
# - In float32 a Python number or `x.shape[1]` can turn the whole loop into float64: `x.dtype.type(0)` is a zero of x's own type.
# - The variance wants a second loop, over $(x_j-\mu)^2$: E[x²] − μ² cancels at a large mean.
# - `parallel=True` with `prange` for the loop over rows pays for large arrays only: waking the threads costs more than such a small one takes.

# %% task="layer_norm_kernel" points=5
@njit(fastmath=FASTMATH)
def layer_norm_kernel(x, weight, bias, eps):
    """x (N, D), weight (D,), bias (D,), float32 or float64, eps a number → y (N, D) of the same dtype"""
    N, D = x.shape
    y = np.empty(x.shape, x.dtype)
    ### BEGIN SOLUTION
    zero = x.dtype.type(0)
    for n in range(N):
        mean = zero
        for j in range(D):
            mean += x[n, j]
        mean /= x.dtype.type(D)
        var = zero
        for j in range(D):
            var += (x[n, j] - mean) * (x[n, j] - mean)
        rstd = x.dtype.type(1 / math.sqrt(var / D + eps))
        for j in range(D):
            y[n, j] = weight[j] * ((x[n, j] - mean) * rstd) + bias[j]
    ### END SOLUTION
    return y

# %%
check(layer_norm_kernel)

# %% grader
def of_norm(rng, derived=False):
    """As `of_rows`, from the cases on which no mistake of a norm passes."""
    made = [c._replace(plain=True) for c in cases_of("layer_norm", leave_out=("three axes",), derived=derived)(rng)]
    v = made[0].values

    def other(x, **change):
        a = {"weight": v.weight, "bias": v.bias, "dy": v.dy, **change}
        values = norm_values("layer_norm", x, a["weight"], a["bias"], a["dy"], v.eps)
        values["weight"], values["bias"] = a["weight"], a["bias"]
        return values

    single = {k: v[k].astype(np.float32) for k in ("weight", "bias", "dy")}
    with_nan = v.x.copy()
    with_nan[2, 1] = np.nan
    return [
        *made,
        Case("float32", other(v.x.astype(np.float32), **single), edge=True, rtol=1e-4),
        Case("float32 with a mean of 1e4", other((v.x + 1e4).astype(np.float32), **single), edge=True, rtol=2e-2),
        Case("a transposed x", other(np.asfortranarray(v.x)), edge=True, plain=True),
        Case("NaN", other(with_nan.astype(np.float32), **single), edge=True, rtol=1e-4),
        Case("a single row", other(v.x[:1], dy=v.dy[:1]), edge=True, hidden=True),
    ]


def for_the_clock(rng):
    x, dy = rng.standard_normal((2, 128, 512)).astype(np.float32)
    weight, bias = rng.standard_normal((2, 512)).astype(np.float32)
    return Values(x=x, dy=dy, weight=weight, bias=bias, eps=1e-5)


BIASED = "var = 1/D Σⱼ (xⱼ − μ)²: biased"
INSIDE = "rstd = (var + eps)^(−½)"


def with_rstd(name, line, rstd):
    return Wrong(name, line, lambda v: v.deviation * rstd(v) * v.weight + v.bias)


def running_on(v):
    """Both sums go on from row to row."""
    mean = np.cumsum(v.x.sum(axis=1, keepdims=True), axis=0) / v.M
    var = np.cumsum(((v.x - mean) ** 2).sum(axis=1, keepdims=True), axis=0) / v.M
    return (v.x - mean) / np.sqrt(var + v.eps) * v.weight + v.bias


how = {"float32": False, "same_dtype": True, "packages": ("numpy", "numba"), "seconds": 60.0}
task(
    layer_norm_kernel,
    cases=of_norm,
    faster=Faster(5, for_the_clock, than="layer_norm_numpy", repeat=800),
    outputs=[Output("y", line="yⱼ = γⱼ (xⱼ − μ)·rstd + βⱼ, row by row", wrong=[
        *wrong_rstd(BIASED, INSIDE, lambda v, r: v.deviation * r * v.weight + v.bias),
        with_rstd("a sum for the variance", BIASED, lambda v: 1 / np.sqrt(v.var * v.M + v.eps)),
        with_rstd("std for 1/std", INSIDE, lambda v: 1 / v.rstd),
        Wrong("sums not set to 0 for each row", "each row has its own μ and var", running_on),
        Wrong("β forgotten", "yⱼ = γⱼ x̂ⱼ + βⱼ", lambda v: v.xhat * v.weight),
        Wrong("γ forgotten", "yⱼ = γⱼ x̂ⱼ + βⱼ", lambda v: v.xhat + v.bias),
        Wrong("returned x̂", "yⱼ = γⱼ x̂ⱼ + βⱼ", lambda v: v.xhat),
        Wrong("γ of the row, not of the feature", "γⱼ belongs to feature j", lambda v: v.xhat * v.weight[:, None] + v.bias[:, None],
              lambda v: v.x.shape[0] == v.x.shape[1]),
    ])],
    **how,
)  # fmt: skip

# %% [markdown]
# ## 3 · LayerNorm backward, at least 5 times as fast
#
# With $d = \gamma\odot dy$: $dx = r\,(d - \mathrm{mean}(d) - \hat x\,\mathrm{mean}(d\,\hat x))$, $d\gamma_j = \sum_n dy_{nj}\hat x_{nj}$,
# $d\beta_j = \sum_n dy_{nj}$. One loop over the rows can do all three; `layer_norm_backward_numpy` above is to be beaten.

# %% task="layer_norm_backward_kernel" points=5
@njit(fastmath=FASTMATH)
def layer_norm_backward_kernel(dy, x, weight, eps):
    """dy and x (N, D), weight (D,), float32 or float64, eps a number → dx (N, D), dweight (D,), dbias (D,) of the same dtype"""
    N, D = x.shape
    dx = np.empty(x.shape, x.dtype)
    dweight, dbias = np.zeros(D, x.dtype), np.zeros(D, x.dtype)
    ### BEGIN SOLUTION
    zero, width = x.dtype.type(0), x.dtype.type(D)
    for n in range(N):
        mean = zero
        for j in range(D):
            mean += x[n, j]
        mean /= width
        var = zero
        for j in range(D):
            var += (x[n, j] - mean) * (x[n, j] - mean)
        rstd = x.dtype.type(1 / math.sqrt(var / D + eps))
        mean_d, mean_d_xhat = zero, zero
        for j in range(D):
            xhat = (x[n, j] - mean) * rstd
            mean_d += dy[n, j] * weight[j]
            mean_d_xhat += dy[n, j] * weight[j] * xhat
            dweight[j] += dy[n, j] * xhat
            dbias[j] += dy[n, j]
        mean_d /= width
        mean_d_xhat /= width
        for j in range(D):
            dx[n, j] = rstd * (dy[n, j] * weight[j] - mean_d - (x[n, j] - mean) * rstd * mean_d_xhat)
    ### END SOLUTION
    return dx, dweight, dbias

# %%
check(layer_norm_backward_kernel)

# %% grader
task(
    layer_norm_backward_kernel,
    cases=lambda rng: of_norm(rng, derived=True),
    faster=Faster(5, for_the_clock, than="layer_norm_backward_numpy", repeat=200),
    outputs=[
        Output("dx", "layer_norm dx", line="dx = rstd (d − mean(d) − x̂ mean(d x̂)), d = γ⊙dy", weight=2),
        Output("dweight", "layer_norm dγ", line="dγⱼ = Σ dyⱼ x̂ⱼ, over all rows"),
        Output("dbias", "layer_norm dβ", line="dβⱼ = Σ dyⱼ, over all rows"),
    ],
    **how,
)

# %% [markdown] question="why_faster" points=2
# ## 4 · In words
#
# Count how often `layer_norm_numpy` reads or writes an array of N·D elements, and how often your kernel reads or writes one in main memory. Why does a
# plain `@njit` bring so little of that (a factor of 1 to 2.5, by processor)? And why would a kernel for ReLU gain next to nothing over `np.maximum(x, 0)`?
#
# ### BEGIN SOLUTION
# NumPy: mean reads 1; x − mean reads and writes 2; the square 2; its mean 1; x − mean again 2; times rstd 2; times weight 2; plus bias 2: 14 passes. The
# kernel reads a row three times, but only the first time from main memory (a row fits into the cache), and writes y once: 2 passes. With a plain @njit the
# two sums are chains of D additions, each waiting for the last: the adder's latency counts, not memory. np.maximum is already one read and one write by a
# vectorized loop: there is nothing left to save.
# ### END SOLUTION

# %% [markdown] question="prange_race" points=2
# Someone writes `prange` for the loop over the rows of the backward kernel and leaves `dweight[j] += …` inside. dx is right on every run, dγ is not. What
# happens, and how is it avoided?
#
# ### BEGIN SOLUTION
# Two threads read the same dweight[j], each adds its own term and writes: one of the two is lost. Each thread (or each block of rows) gets sums of its own,
# which are added up after the loop; in a fixed order, so that every run gives the same result.
# ### END SOLUTION
