# %% [markdown]
# # A4 · BatchNorm1d, in training and in eval
#
# Afterwards you can normalize a batch by its own statistics, keep the running statistics that take over in eval, and say through which of the
# two a gradient flows. The layer of `tinygrad_norm/nn/batch_norm.py`, with its equation numbers; for one channel c, over its M values:
#
# $$\mu = \tfrac1M\sum_i x_i \;(1), \qquad v = \tfrac1M\sum_i (x_i-\mu)^2, \quad r = (v+\varepsilon)^{-1/2} \;(2),$$
# $$\hat x_i = (x_i-\mu)\,r \;(3), \qquad y_i = \gamma\,\hat x_i+\beta \;(4)$$
#
# x is `(N, C)`, so M = N; or `(N, C, L)`, and M = N·L. The channel is always axis 1. What belongs to a channel is `(C,)`: `weight` (γ), `bias` (β),
# `rstd` (r), the running statistics. The two helpers below let one line of code serve both shapes.

# %% setup
import numpy as np

from tinygrad_norm.course import load

check = load("a4").check

# %%
def over(x):
    """The axes that a channel's statistics are taken over."""
    return (0,) if x.ndim == 2 else (0, 2)


def channels(x, values):
    """values (C,), shaped to broadcast with x"""
    return values if x.ndim == 2 else values[:, None]

# %% [markdown]
# ## 1 · Forward, in training
#
# Equations (1) to (4). The variance is the biased one (divided by M), and ε stands inside the root.

# %% task="batch_norm_train" points=3
def batch_norm_train(x, weight, bias, eps):
    """x (N, C) or (N, C, L), weight (C,), bias (C,), eps a number → y and xhat as x, rstd (C,)"""
    ### BEGIN SOLUTION
    mean = x.mean(axis=over(x))  # (1)
    deviation = x - channels(x, mean)
    rstd = 1 / np.sqrt((deviation**2).mean(axis=over(x)) + eps)  # (2)
    xhat = deviation * channels(x, rstd)  # (3)
    y = channels(x, weight) * xhat + channels(x, bias)  # (4)
    ### END SOLUTION
    return y, xhat, rstd

# %%
check(batch_norm_train)

# %% grader
from tinygrad_norm.autograd.wrong_norms import BATCH_NORM_EVAL_DX, RUNNING
from tinygrad_norm.course.task import Output, Values, Wrong, cases_of, large_norm, task
from tinygrad_norm.course.wrong_stages import DMEAN, DVAR, wrong_dmean, wrong_dvar, wrong_rstd

BIASED = "(2): var = 1/M Σ (x − μ)²: biased"
INSIDE = "(2): rstd = (var + eps)^(−½)"
XHAT = "(3): x̂ = (x − μ)·rstd"
AFFINE = "(4): y = γ x̂ + β"


def three_axes(v):
    return v.x.ndim == 3


def flat(v, a):
    """What broadcasts with x as (C,)."""
    return np.reshape(a, v.parameter_shape)


def over_features(v):
    return (v.x - v.x.mean(axis=1, keepdims=True)) / np.sqrt(v.x.var(axis=1, keepdims=True) + v.eps)


def over_axis_0(v):
    return (v.x - v.x.mean(axis=0)) / np.sqrt(v.x.var(axis=0) + v.eps)


FEATURES = ("statistics over the features", "(1): each channel has its own statistics, over the batch")
AXIS_0 = ("(N, C, L): statistics over axis 0 only", "(1): the M = N·L values of a channel lie along axes 0 and 2")
task(
    batch_norm_train,
    cases=cases_of("batch_norm"),
    outputs=[
        Output("y", line=AFFINE, wrong=[
            *wrong_rstd(BIASED, INSIDE, lambda v, r: v.deviation * r * v.gamma + v.beta),
            Wrong(*FEATURES, lambda v: over_features(v) * v.gamma + v.beta),
            Wrong(*AXIS_0, lambda v: over_axis_0(v) * v.gamma + v.beta, three_axes),
            Wrong("β forgotten", AFFINE, lambda v: v.xhat * v.gamma),
            Wrong("γ forgotten", AFFINE, lambda v: v.xhat + v.beta),
            Wrong("γ and β swapped", AFFINE, lambda v: v.xhat * v.beta + v.gamma),
        ]),
        Output("xhat", line=XHAT, wrong=[
            *wrong_rstd(BIASED, INSIDE, lambda v, r: v.deviation * r),
            Wrong(*FEATURES, over_features),
            Wrong(*AXIS_0, over_axis_0, three_axes),
            Wrong("the mean not subtracted", XHAT, lambda v: v.x * v.rstd),
            Wrong("returned y for x̂", "(3), (4): x̂ is before γ and β", lambda v: v.y),
        ]),
        Output("rstd", line=INSIDE, wrong=[
            *wrong_rstd(BIASED, INSIDE, flat),
            Wrong("std for 1/std", INSIDE, lambda v: flat(v, 1 / v.rstd)),
            Wrong("returned the variance", INSIDE, lambda v: flat(v, v.var)),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 2 · The running statistics
#
# Eval has no batch to take statistics from, so training keeps averages, moved by each batch:
#
# $$m \leftarrow (1-\alpha)\,m + \alpha\,\mu \;(5), \qquad u \leftarrow (1-\alpha)\,u + \alpha\, v\,\tfrac{M}{M-1} \;(6)$$
#
# m is `running_mean`, u is `running_var`, α is `momentum`, the weight of the new value. (6) wants the unbiased variance, though (2) normalizes by the
# biased one. Return new arrays; leave those you are given as they are.

# %% task="batch_norm_running" points=2
def batch_norm_running(x, running_mean, running_var, momentum):
    """x (N, C) or (N, C, L), running_mean (C,), running_var (C,), momentum a number → the new running_mean (C,), running_var (C,)"""
    ### BEGIN SOLUTION
    running_mean = (1 - momentum) * running_mean + momentum * x.mean(axis=over(x))  # (5)
    running_var = (1 - momentum) * running_var + momentum * x.var(axis=over(x), ddof=1)  # (6)
    ### END SOLUTION
    return running_mean, running_var

# %%
check(batch_norm_running)

# %% grader
def in_channels(rng, derived=False):
    """The cases with running statistics as (C,); as the bank's formulas have them they are kept under another name."""
    made = []
    for case in cases_of("batch_norm", derived=derived)(rng):
        v = Values(case.values)
        v["kept"] = {"running_mean": v.running_mean, "running_var": v.running_var}
        v["running_mean"], v["running_var"] = flat(v, v.running_mean), flat(v, v.running_var)
        made.append(case._replace(values=v))
    return made


def of_bank(wrong, shaped=lambda v, a: a):
    """Mistakes of the bank, on such cases."""
    return [Wrong(w.name, w.breaks, lambda v, w=w: shaped(v, w.gradient(Values({**v, **v.kept})))) for w in wrong]


def moved(v, weight, new):
    return (1 - weight) * v.running_mean + weight * flat(v, new)


MOVE = "(5): running_mean ← (1 − momentum)·running_mean + momentum·μ"
task(
    batch_norm_running,
    cases=in_channels,
    outputs=[
        Output("running_mean", line=MOVE, wrong=[
            Wrong("momentum the other way round", MOVE, lambda v: moved(v, 1 - v.momentum, v.mean)),
            Wrong("running statistics not updated", MOVE, lambda v: v.running_mean),
            Wrong("replaced, not averaged", MOVE, lambda v: flat(v, v.mean)),
            Wrong("added, not averaged", MOVE, lambda v: v.running_mean + v.momentum * flat(v, v.mean)),
            Wrong("a sum for the mean", "(1): μ = 1/M Σ x", lambda v: moved(v, v.momentum, v.mean * v.M)),
        ]),
        Output("running_var", line="(6): running_var ← (1 − momentum)·running_var + momentum·var·M/(M − 1)", wrong=[
            *of_bank(RUNNING, flat),
            Wrong("M − 1 for M/(M − 1)", "(6): var·M/(M − 1)", lambda v: (1 - v.momentum) * v.running_var + v.momentum * flat(v, v.var / (v.M - 1))),
            Wrong("(N, C, L): N/(N − 1), not M/(M − 1)", "(6): M = N·L values a channel",
                  lambda v: (1 - v.momentum) * v.running_var + v.momentum * flat(v, v.var * len(v.x) / (len(v.x) - 1)), three_axes),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 3 · Forward, in eval
#
# The running statistics take the place of (1) and (2). They are constants: a sample's result no longer depends on its neighbours in the batch.

# %% task="batch_norm_eval" points=1
def batch_norm_eval(x, weight, bias, running_mean, running_var, eps):
    """x (N, C) or (N, C, L), the others (C,), eps a number → y as x"""
    ### BEGIN SOLUTION
    rstd = 1 / np.sqrt(running_var + eps)
    y = channels(x, weight) * (x - channels(x, running_mean)) * channels(x, rstd) + channels(x, bias)
    ### END SOLUTION
    return y

# %%
check(batch_norm_eval)

# %% grader
EVAL = "in eval: y = γ (x − running_mean)/√(running_var + eps) + β"


def evaluated(of):
    """y in eval, of (values with the running statistics ready to broadcast)."""
    return lambda v: of(Values({**v, **v.kept}))


task(
    batch_norm_eval,
    cases=in_channels,
    outputs=[Output("y", line=EVAL, wrong=[
        Wrong("batch statistics in eval", "in eval the running statistics count", lambda v: v.y),
        Wrong("the batch's mean in eval", "in eval the running statistics count",
              evaluated(lambda v: v.gamma * (v.x - v.mean) / np.sqrt(v.running_var + v.eps) + v.beta)),
        Wrong("the batch's variance in eval", "in eval the running statistics count", evaluated(lambda v: v.gamma * (v.x - v.running_mean) * v.rstd + v.beta)),
        Wrong("eps dropped", EVAL, evaluated(lambda v: v.gamma * (v.x - v.running_mean) / np.sqrt(v.running_var) + v.beta)),
        Wrong("eps outside the root", EVAL, evaluated(lambda v: v.gamma * (v.x - v.running_mean) / (np.sqrt(v.running_var) + v.eps) + v.beta)),
        Wrong("a variance for a deviation", EVAL, evaluated(lambda v: v.gamma * (v.x - v.running_mean) / (v.running_var + v.eps) + v.beta)),
        Wrong("γ forgotten", EVAL, evaluated(lambda v: (v.x - v.running_mean) / np.sqrt(v.running_var + v.eps) + v.beta)),
        Wrong("β forgotten", EVAL, evaluated(lambda v: v.gamma * (v.x - v.running_mean) / np.sqrt(v.running_var + v.eps))),
    ])],
)  # fmt: skip

# %% [markdown]
# ## 4 · The gradients of γ and β
#
# `dy` is the gradient of the loss in y, in training. γ and β of a channel are shared by its M values: equation (8).

# %% task="batch_norm_parameters" points=2
def batch_norm_parameters(dy, xhat):
    """dy and xhat (N, C) or (N, C, L) → dweight (C,), dbias (C,)"""
    ### BEGIN SOLUTION
    dweight = (dy * xhat).sum(axis=over(dy))  # (8)
    dbias = dy.sum(axis=over(dy))
    ### END SOLUTION
    return dweight, dbias

# %%
check(batch_norm_parameters)

# %% grader
task(
    batch_norm_parameters,
    cases=cases_of("batch_norm"),
    outputs=[
        Output("dweight", "batch_norm dγ", line="(8): dγ = Σ dy x̂, over the M values of a channel"),
        Output("dbias", "batch_norm dβ", line="(8): dβ = Σ dy, over the M values of a channel"),
    ],
)

# %% [markdown]
# ## 5 · The gradient of x in training, step by step
#
# In training μ and v are computed from x: each x reaches the loss directly, and through μ and v of its channel, which all M values share.
#
# 1. `dxhat`: what goes into x̂;
# 2. `dvar` `(C,)`: the gradient of the variance; $\partial r/\partial v = -\tfrac12 (v+\varepsilon)^{-3/2}$;
# 3. `dmean` `(C,)`: the gradient of the mean;
# 4. `dx`: the three paths together.
#
# If one of them is wrong, the check names the first.

# %% task="batch_norm_staged" points=5
def batch_norm_staged(dy, x, weight, eps):
    """dy and x (N, C) or (N, C, L), weight (C,), eps → dxhat as x, dvar (C,), dmean (C,), dx as x"""
    ### BEGIN SOLUTION
    M = x.size // x.shape[1]
    deviation = x - channels(x, x.mean(axis=over(x)))
    rstd = 1 / np.sqrt((deviation**2).mean(axis=over(x)) + eps)
    dxhat = dy * channels(x, weight)
    dvar = (dxhat * deviation).sum(axis=over(x)) * -0.5 * rstd**3
    dmean = -rstd * dxhat.sum(axis=over(x))
    dx = dxhat * channels(x, rstd) + channels(x, dvar) * 2 / M * deviation + channels(x, dmean) / M
    ### END SOLUTION
    return dxhat, dvar, dmean, dx

# %%
check(batch_norm_staged)

# %% grader
DXHAT = "dx̂ = γ dy"
OWN = "each channel has its own statistics: the sum is over its M values"


task(
    batch_norm_staged,
    cases=cases_of("batch_norm", derived=True),
    large=large_norm("batch_norm", (16384, 16)),
    outputs=[
        Output("dxhat", line=DXHAT, wrong=[
            Wrong("forgot γ", DXHAT, lambda v: v.dy),
            Wrong("γ twice", DXHAT, lambda v: v.d * v.gamma),
            Wrong("returned dx for dx̂", DXHAT, lambda v: v.dx),
        ]),
        Output("dvar", line=DVAR, wrong=[
            *wrong_dvar(DXHAT, flat),
            Wrong("(N, C, L): summed over axis 0 only", OWN, lambda v: (-0.5 * v.d * v.deviation * v.rstd**3).sum(axis=0), three_axes),
            Wrong("summed over the features", OWN, lambda v: (-0.5 * v.d * v.deviation * v.rstd**3).sum(axis=1)),
        ]),
        Output("dmean", line=DMEAN, wrong=[
            *wrong_dmean(DXHAT, flat),
            Wrong("(N, C, L): summed over axis 0 only", OWN, lambda v: (-v.rstd * v.d).sum(axis=0), three_axes),
            Wrong("summed over the features", OWN, lambda v: (-v.rstd * v.d).sum(axis=1)),
        ]),
        Output("dx", "batch_norm dx", line="dx = dx̂·rstd + dvar·2/M (x − μ) + dmean/M", weight=2),
    ],
)  # fmt: skip

# %% [markdown]
# ## 6 · The gradient of x in training, in one line
#
# Insert `dvar` and `dmean` into `dx`, and simplify: that is equation (9). What is left of the statistics are `rstd`, `xhat`, and two means. Your
# `batch_norm_train` gives you the first two (if its check failed, the reference's stands in for it here).

# %% task="batch_norm_backward" points=5
def batch_norm_backward(dy, x, weight, eps):
    """dy and x (N, C) or (N, C, L), weight (C,), eps → dx as x"""
    _, xhat, rstd = batch_norm_train(x, weight, 0 * weight, eps)
    ### BEGIN SOLUTION
    mean_dy, mean_dy_xhat = dy.mean(axis=over(x)), (dy * xhat).mean(axis=over(x))
    dx = channels(x, weight * rstd) * (dy - channels(x, mean_dy) - xhat * channels(x, mean_dy_xhat))  # (9)
    ### END SOLUTION
    return dx

# %%
check(batch_norm_backward)

# %% grader
task(
    batch_norm_backward,
    cases=cases_of("batch_norm", derived=True),
    uses=("batch_norm_train",),
    large=large_norm("batch_norm", (16384, 16)),
    outputs=[Output("dx", "batch_norm dx", line="(9): dx = γ rstd (dy − mean(dy) − x̂ mean(dy x̂))")],
)

# %% [markdown]
# ## 7 · The gradient of x in eval
#
# Which of the three paths are left?

# %% task="batch_norm_eval_backward" points=2
def batch_norm_eval_backward(dy, x, weight, running_mean, running_var, eps):
    """dy and x (N, C) or (N, C, L), the others (C,), eps → dx as x"""
    ### BEGIN SOLUTION
    dx = dy * channels(x, weight / np.sqrt(running_var + eps))
    ### END SOLUTION
    return dx

# %%
check(batch_norm_eval_backward)

# %% grader
EVAL_DX = "in eval the statistics are constants: dx = γ·dy/√(running_var + eps)"
task(
    batch_norm_eval_backward,
    cases=lambda rng: in_channels(rng, derived=True),
    outputs=[Output("dx", line=EVAL_DX, wrong=[
        *of_bank(BATCH_NORM_EVAL_DX),
        Wrong("forgot rstd in eval", EVAL_DX, lambda v: v.d),
        Wrong("returned dy", EVAL_DX, lambda v: v.dy),
        Wrong("eps outside the root in eval", EVAL_DX, evaluated(lambda v: v.d / (np.sqrt(v.running_var) + v.eps))),
        Wrong("a variance for a deviation in eval", EVAL_DX, evaluated(lambda v: v.d / (v.running_var + v.eps))),
    ])],
)  # fmt: skip

# %% [markdown] question="two_modes" points=2
# ## 8 · In words
#
# A network with BatchNorm does well in training, and badly as soon as it is evaluated: on the very same batches. Name two mistakes, in the code of
# the layer or around it, that do this.
#
# ### BEGIN SOLUTION
# The running statistics are not the data's. In the layer: they are never updated; or momentum is taken the other way round, so that they are those
# of the last batch; or a deviation is stored for a variance. Around it: too few steps since the start at 0 and 1 for so small a momentum; batches that
# are very small or unlike each other. (Forgetting `eval()` is another mistake: then the batch's own statistics go on being used.)
# ### END SOLUTION

# %% [markdown] question="sum_of_dx" points=1
# In training Σ dx over the values of one channel is 0, whatever dy is. Read that off equation (9), and say what it means for a bias that is added to x
# just before the layer.
#
# ### BEGIN SOLUTION
# Σ (dy − mean(dy)) is 0, and Σ x̂ is 0: so Σ dx is 0. The gradient of a bias before the layer is that sum: it is never learned, because (1) subtracts
# it with the mean. β takes its place.
# ### END SOLUTION
