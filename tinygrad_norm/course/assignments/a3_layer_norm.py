# %% [markdown]
# # A3 · LayerNorm, derived by hand
#
# You write the forward pass of layer normalization, then its backward pass twice: once in the steps of the chain rule, and once in the single
# line that the steps collapse to. Plain NumPy; every array is `(…, D)`, and the statistics are taken over the last axis:
#
# $$\mu = \tfrac1D\sum_j x_j, \qquad v = \tfrac1D\sum_j (x_j-\mu)^2, \qquad r = (v+\varepsilon)^{-1/2},$$
# $$\hat x_j = (x_j-\mu)\,r, \qquad y_j = \gamma_j\hat x_j+\beta_j$$
#
# In code: `weight` is γ, `bias` is β, `rstd` is r, `xhat` is x̂. Under each step there is a check: run it as often as you like.

# %% setup
import numpy as np

from tinygrad_norm.course import load

check = load("a3").check

# %% [markdown]
# ## 1 · Forward
#
# Return `y`, `xhat` and `rstd`; the last with its axis kept, as `(…, 1)`, so that it broadcasts. The variance is the biased one (divided by D),
# and ε stands inside the root.

# %% task="layer_norm_forward" points=3
def layer_norm_forward(x, weight, bias, eps):
    """x (…, D), weight (D,), bias (D,), eps a number → y (…, D), xhat (…, D), rstd (…, 1)"""
    ### BEGIN SOLUTION
    mean = x.mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + eps)
    xhat = (x - mean) * rstd
    y = weight * xhat + bias
    ### END SOLUTION
    return y, xhat, rstd

# %%
check(layer_norm_forward)

# %% grader
from tinygrad_norm.course.task import Output, Wrong, cases_of, large_norm, task
from tinygrad_norm.course.wrong_stages import DMEAN, DVAR, wrong_dmean, wrong_dvar, wrong_rstd

BIASED = "var = 1/D Σⱼ (xⱼ − μ)²: biased"
INSIDE = "rstd = (var + eps)^(−½)"


def over_batch(v):
    return (v.x - v.x.mean(axis=0)) / np.sqrt(v.x.var(axis=0) + v.eps)


BATCH = ("statistics over the batch", "each sample has its own statistics")
task(
    layer_norm_forward,
    cases=cases_of("layer_norm"),
    outputs=[
        Output("y", line="yⱼ = γⱼ x̂ⱼ + βⱼ", wrong=[
            *wrong_rstd(BIASED, INSIDE, lambda v, r: v.deviation * r * v.weight + v.bias),
            Wrong(*BATCH, lambda v: over_batch(v) * v.weight + v.bias),
            Wrong("β forgotten", "yⱼ = γⱼ x̂ⱼ + βⱼ", lambda v: v.xhat * v.weight),
            Wrong("γ forgotten", "yⱼ = γⱼ x̂ⱼ + βⱼ", lambda v: v.xhat + v.bias),
            Wrong("γ and β swapped", "yⱼ = γⱼ x̂ⱼ + βⱼ", lambda v: v.xhat * v.bias + v.weight),
        ]),
        Output("xhat", line="x̂ⱼ = (xⱼ − μ)·rstd", wrong=[
            *wrong_rstd(BIASED, INSIDE, lambda v, r: v.deviation * r),
            Wrong(*BATCH, over_batch),
            Wrong("the mean not subtracted", "x̂ⱼ = (xⱼ − μ)·rstd", lambda v: v.x * v.rstd),
            Wrong("returned y for x̂", "x̂ is before γ and β", lambda v: v.y),
        ]),
        Output("rstd", line=INSIDE, wrong=[
            *wrong_rstd(BIASED, INSIDE, lambda v, r: r),
            Wrong("std for 1/std", INSIDE, lambda v: 1 / v.rstd),
            Wrong("returned the variance", INSIDE, lambda v: v.var),
            Wrong("axis not kept", "rstd is (…, 1)", lambda v: v.rstd[..., 0]),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 2 · The gradients of γ and β
#
# `dy` is the gradient of the loss in y. γ and β are shared by all samples.

# %% task="layer_norm_parameters" points=2
def layer_norm_parameters(dy, xhat):
    """dy (…, D), xhat (…, D) → dweight (D,), dbias (D,)"""
    ### BEGIN SOLUTION
    samples = tuple(range(dy.ndim - 1))
    dweight = (dy * xhat).sum(axis=samples)
    dbias = dy.sum(axis=samples)
    ### END SOLUTION
    return dweight, dbias

# %%
check(layer_norm_parameters)

# %% grader
task(
    layer_norm_parameters,
    cases=cases_of("layer_norm"),
    outputs=[
        Output("dweight", "layer_norm dγ", line="dγⱼ = Σ dyⱼ x̂ⱼ, over all samples"),
        Output("dbias", "layer_norm dβ", line="dβⱼ = Σ dyⱼ, over all samples"),
    ],
)

# %% [markdown]
# ## 3 · The gradient of x, step by step
#
# Walk the graph of the forward pass backwards. x reaches the loss along three paths: directly, through the mean, and through the variance.
#
# 1. `dxhat`: what goes into x̂;
# 2. `dvar`: the gradient of the variance, as `(…, 1)`; $\partial r/\partial v = -\tfrac12 (v+\varepsilon)^{-3/2}$;
# 3. `dmean`: the gradient of the mean, as `(…, 1)`;
# 4. `dx`: all three paths together.
#
# If one of them is wrong, the check names the first.

# %% task="layer_norm_staged" points=5
def layer_norm_staged(dy, x, weight, eps):
    """dy (…, D), x (…, D), weight (D,), eps → dxhat (…, D), dvar (…, 1), dmean (…, 1), dx (…, D)"""
    ### BEGIN SOLUTION
    D = x.shape[-1]
    mean = x.mean(axis=-1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    rstd = 1 / np.sqrt(var + eps)
    dxhat = dy * weight
    dvar = (dxhat * (x - mean)).sum(axis=-1, keepdims=True) * -0.5 * rstd**3
    dmean = -rstd * dxhat.sum(axis=-1, keepdims=True)
    dx = dxhat * rstd + dvar * 2 / D * (x - mean) + dmean / D
    ### END SOLUTION
    return dxhat, dvar, dmean, dx

# %%
check(layer_norm_staged)

# %% grader
def as_it_is(v, statistic):
    return statistic


task(
    layer_norm_staged,
    cases=cases_of("layer_norm", derived=True),
    large=large_norm("layer_norm"),
    outputs=[
        Output("dxhat", line="dx̂ = γ⊙dy", wrong=[
            Wrong("forgot γ", "dx̂ = γ⊙dy", lambda v: v.dy),
            Wrong("γ twice", "dx̂ = γ⊙dy", lambda v: v.d * v.gamma),
        ]),
        Output("dvar", line=DVAR, wrong=[
            *wrong_dvar("dx̂ = γ⊙dy", as_it_is),
            Wrong("summed over the batch", "each sample has its own variance", lambda v: (-0.5 * v.d * v.deviation * v.rstd**3).sum(axis=0)),
        ]),
        Output("dmean", line=DMEAN, wrong=wrong_dmean("dx̂ = γ⊙dy", as_it_is)),
        Output("dx", "layer_norm dx", line="dx = dx̂·rstd + dvar·2/D (x − μ) + dmean/D", weight=2),
    ],
)  # fmt: skip

# %% [markdown]
# ## 4 · The gradient of x in one line
#
# Insert `dvar` and `dmean` into `dx`, and simplify: what is left are `rstd`, `xhat`, and two means. Your `layer_norm_forward` gives you the
# first two (if its check failed, the reference's stands in for it here).

# %% task="layer_norm_backward" points=5
def layer_norm_backward(dy, x, weight, eps):
    """dy (…, D), x (…, D), weight (D,), eps → dx (…, D)"""
    _, xhat, rstd = layer_norm_forward(x, weight, 0.0, eps)
    ### BEGIN SOLUTION
    d = dy * weight
    dx = rstd * (d - d.mean(axis=-1, keepdims=True) - xhat * (d * xhat).mean(axis=-1, keepdims=True))
    ### END SOLUTION
    return dx

# %%
check(layer_norm_backward)

# %% grader
task(
    layer_norm_backward,
    cases=cases_of("layer_norm", derived=True),
    uses=("layer_norm_forward",),
    large=large_norm("layer_norm"),
    outputs=[Output("dx", "layer_norm dx", line="dx = rstd (d − mean(d) − x̂ mean(d x̂)), d = γ⊙dy")],
)

# %% [markdown] question="gamma_inside" points=2
# ## 5 · In words
#
# For BatchNorm the line of part 4 may be written with γ in front: γ·rstd·(dy − mean(dy) − x̂ mean(dy x̂)). Why is that right there and wrong here?
#
# ### BEGIN SOLUTION
# The means are over the axes of the statistics. In BatchNorm those are the samples of one channel, and γ is the same for all of them: it is a
# constant in both means and can be pulled out. In LayerNorm they are over the features of one sample, and each feature has a γ of its own:
# mean(γ⊙dy) is not γ·mean(dy).
# ### END SOLUTION

# %% [markdown] question="blind_loss" points=1
# A friend checks the backward pass through the loss `y.sum()` with γ = 1, finds dx = 0 everywhere, and concludes that the code is wrong. What is
# the right dx there, and which mistakes would this check let through?
#
# ### BEGIN SOLUTION
# It is 0: Σ x̂ is 0 whatever x is, so the loss does not depend on x. dy is constant, so d − mean(d) is 0 and mean(d x̂) is 0: a wrong factor, a
# missing variance path, even returning zeros pass. A random dy and a random γ are needed.
# ### END SOLUTION
