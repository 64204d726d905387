# %% [markdown]
# # A5 · A network of your own layers, trained
#
# Afterwards you can put layers together, send a gradient back through all of them, and train with the steps of `tinygrad_norm/optim/sgd.py`. The
# network has H hidden units and C classes; x is `(N, I)`, and `target` `(N,)` holds class numbers:
#
# $$a = x W_1^\top + b_1, \quad \hat a = (a-\mu)\,r, \quad z = \gamma\odot\hat a+\beta, \quad h = \max(z, 0), \quad \text{logits} = h W_2^\top + b_2$$
#
# with LayerNorm's μ and r over the H units of a sample (r with its ε = 1e-5 inside the root), and the loss is softmax cross-entropy, its mean over the batch.
# `params` is a dict: `W1` `(H, I)`, `b1` `(H,)`, `gamma` `(H,)`, `beta` `(H,)`, `W2` `(C, H)`, `b2` `(C,)`. The layers are those of A1, A2 and A3: copy
# your own into the cell below and call them, or write their lines anew.

# %% setup
import numpy as np

from tinygrad_norm.course import load

check = load("a5").check

# %%
EPS = 1e-5
NAMES = ("W2", "b2", "gamma", "beta", "W1", "b1")  # from the loss backwards

# your own layers

# %% [markdown]
# ## 1 · Forward
#
# Return what the backward pass will need as well: `xhat` is â, `rstd` is r as `(N, 1)`.

# %% task="forward" points=2
def forward(params, x):
    """params as above, x (N, I) → xhat (N, H), rstd (N, 1), h (N, H), logits (N, C)"""
    ### BEGIN SOLUTION
    a = x @ params["W1"].T + params["b1"]
    deviation = a - a.mean(axis=1, keepdims=True)
    rstd = 1 / np.sqrt((deviation**2).mean(axis=1, keepdims=True) + EPS)
    xhat = deviation * rstd
    h = np.maximum(params["gamma"] * xhat + params["beta"], 0)
    logits = h @ params["W2"].T + params["b2"]
    ### END SOLUTION
    return xhat, rstd, h, logits

# %%
check(forward)

# %% grader
from tinygrad_norm.course.task import Case, Output, Values, Wrong, task


def network(rng, n=6, i=4, hidden=5, c=3):
    """Random inputs; and, for the formulas of the mistakes, what they are computed from."""
    params = {
        "W1": rng.standard_normal((hidden, i)), "b1": rng.standard_normal(hidden), "gamma": rng.uniform(0.5, 1.5, hidden) * rng.choice([-1, 1], hidden),
        "beta": 0.5 * rng.standard_normal(hidden), "W2": rng.standard_normal((c, hidden)), "b2": rng.standard_normal(c),
    }  # fmt: skip
    x, target = rng.standard_normal((n, i)) + 0.4, rng.randint(0, c, n)
    return changed(Values(params=params, x=x, target=target, lr=0.05, momentum=0.7, steps=5, N=n, C=c))


def changed(v, **params):
    """The values with other params."""
    v["params"] = {**v.params, **params}
    v.update(v.params)
    v["a"] = v.x @ v.W1.T + v.b1
    v["deviation"] = v.a - v.a.mean(axis=1, keepdims=True)
    v["var"] = (v.deviation**2).mean(axis=1, keepdims=True)
    v["xhat"], v["rstd"], v["h"], v["logits"] = forward(v.params, v.x)
    v["right"] = gradients(v.params, v.x, v.target) if "gradients" in globals() else ()
    return v


def of_network(rng):
    dead, alive, high, small = network(rng), np.arange(5) != 2, network(rng), network(rng)
    up = 1500 / high.logits.flat[np.abs(high.logits).argmax()]
    return [
        Case("general", network(rng)),
        Case("another shape", network(rng, 7, 3, 4, 4)),
        Case("square", network(rng, 5, 5, 5, 5)),
        Case("a variance as small as eps", changed(small, W1=1e-3 * small.W1, b1=1e-3 * small.b1)),
        Case("one sample", network(rng, n=1), edge=True),
        Case("z exactly 0", changed(dead, gamma=dead.gamma * alive, beta=dead.beta * alive), edge=True),
        Case("logits of 1000", changed(high, W2=up * high.W2, b2=up * high.b2), edge=True),
    ]


def of_gradients(rng):
    """And two that tell: a and h in other units; and logits beside which a step is lost."""
    v, up = network(rng), 2.0**33
    v = changed(v, W1=up * v.W1, b1=up * v.b1, gamma=up * v.gamma, beta=up * v.beta, W2=v.W2 / up)
    w = network(rng)
    return [
        *of_network(rng),
        Case("in other units: W₁, b₁, γ and β 2³³ times as large, W₂ as much smaller", v, edge=True, telling=True),
        Case("with logits of 2⁶⁰ and −2⁶⁰", changed(w, b2=2.0**60 * rng.permutation([1.0, -1.0, -1.0])), edge=True, telling=True, unless="logits of 1000"),
    ]


def square(v):
    return len({*v.W1.shape, *v.W2.shape, *v.x.shape}) == 1


INSIDE = "rstd = (var + eps)^(−½), eps = 1e-5"
FIRST, NORM, HIDDEN, LAST = "a = x W₁ᵀ + b₁", "â = (a − μ)·rstd, over the units of a sample", "h = max(γ⊙â + β, 0)", "logits = h W₂ᵀ + b₂"
WRONG_RSTD = [
    ("unbiased variance", "var is biased: divided by H", lambda v: 1 / np.sqrt(v.var * v.a.shape[1] / (v.a.shape[1] - 1) + EPS)),
    ("eps dropped", INSIDE, lambda v: 1 / np.sqrt(v.var)),
    ("eps outside the root", INSIDE, lambda v: 1 / (np.sqrt(v.var) + EPS)),
]


def normed(a):
    return (a - a.mean(axis=1, keepdims=True)) / np.sqrt(a.var(axis=1, keepdims=True) + EPS)


def softmax(v, axis=1):
    e = np.exp(v.logits - v.logits.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


task(
    forward,
    cases=of_network,
    outputs=[
        Output("xhat", line=f"{FIRST}; {NORM}; {INSIDE}", wrong=[
            Wrong("b₁ forgotten", FIRST, lambda v: normed(v.x @ v.W1.T)),
            Wrong("W₁ not transposed", FIRST, lambda v: normed(v.x @ v.W1 + v.b1), square),
            Wrong("statistics over the batch", NORM, lambda v: (v.a - v.a.mean(axis=0)) / np.sqrt(v.a.var(axis=0) + EPS)),
            Wrong("the mean not subtracted", NORM, lambda v: v.a * v.rstd),
            Wrong("not normalized", NORM, lambda v: v.a),
            *(Wrong(name, line, lambda v, rstd=rstd: v.deviation * rstd(v)) for name, line, rstd in WRONG_RSTD),
            Wrong("returned z for â", "â is before γ and β", lambda v: v.gamma * v.xhat + v.beta),
        ]),
        Output("rstd", line=INSIDE, wrong=[
            *(Wrong(*each) for each in WRONG_RSTD),
            Wrong("std for 1/std", INSIDE, lambda v: 1 / v.rstd),
            Wrong("returned the variance", INSIDE, lambda v: v.var),
            Wrong("axis not kept", "rstd is (N, 1)", lambda v: v.rstd[:, 0]),
        ]),
        Output("h", line=HIDDEN, wrong=[
            Wrong("no ReLU", HIDDEN, lambda v: v.gamma * v.xhat + v.beta),
            Wrong("ReLU before γ and β", HIDDEN, lambda v: v.gamma * np.maximum(v.xhat, 0) + v.beta),
            Wrong("γ and β forgotten", HIDDEN, lambda v: np.maximum(v.xhat, 0)),
        ]),
        Output("logits", line=LAST, wrong=[
            Wrong("b₂ forgotten", LAST, lambda v: v.h @ v.W2.T),
            Wrong("W₂ not transposed", LAST, lambda v: v.h @ v.W2 + v.b2, square),
            Wrong("returned probabilities", "the softmax belongs to the loss", softmax),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 2 · The loss and all gradients
#
# Backwards through the layers, from the logits: $d\text{logits} = (p-o)/N$ (p softmax, o one-hot), then W₂ and b₂, h, ReLU, γ and β, LayerNorm, W₁ and b₁.
# Return the gradients in that order, which is that of `NAMES`: `dict(zip(NAMES, gradients(…)[1:]))` has them by name, and the check names the first that
# is wrong. `logits` may be as large as 1000: subtract the largest of a row before you take exponentials.

# %% task="gradients" points=6
def gradients(params, x, target):
    """params, x (N, I), target (N,) of class numbers → loss (a number), then dW2, db2, dgamma, dbeta, dW1, db1 in the shapes of their parameters"""
    xhat, rstd, h, logits = forward(params, x)
    ### BEGIN SOLUTION
    N = len(x)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(N), target].mean()
    dlogits = np.exp(log_p)
    dlogits[np.arange(N), target] -= 1
    dlogits /= N
    dW2, db2 = dlogits.T @ h, dlogits.sum(axis=0)
    dz = (dlogits @ params["W2"]) * (h > 0)
    dgamma, dbeta = (dz * xhat).sum(axis=0), dz.sum(axis=0)
    d = dz * params["gamma"]
    da = rstd * (d - d.mean(axis=1, keepdims=True) - xhat * (d * xhat).mean(axis=1, keepdims=True))
    dW1, db1 = da.T @ x, da.sum(axis=0)
    ### END SOLUTION
    return loss, dW2, db2, dgamma, dbeta, dW1, db1

# %%
check(gradients)

# %% grader
def backwards(v, dlogits=None, mask=None, da=None, d=None):
    """All of the gradients but with one step done otherwise; a step is a function of the values and of what goes into it."""
    g = softmax(v)
    g[np.arange(v.N), v.target] -= 1
    g = g / v.N if dlogits is None else dlogits(v)
    dz = (g @ v.params["W2"]) * ((v.h > 0) if mask is None else mask(v))
    into = dz * v.gamma if d is None else d(v, dz)
    out = v.rstd * (into - into.mean(axis=1, keepdims=True) - v.xhat * (into * v.xhat).mean(axis=1, keepdims=True)) if da is None else da(v, into)
    return g.T @ v.h, g.sum(axis=0), (dz * v.xhat).sum(axis=0), dz.sum(axis=0), out.T @ v.x, out.sum(axis=0)


def m(a):
    return a.mean(axis=1, keepdims=True)


def without_eps(v, d):
    rstd = 1 / np.sqrt(v.var)
    return rstd * (d - m(d) - v.deviation * rstd * m(d * v.deviation * rstd))


CROSS = "dlogits = (p − o)/N"
MASK = "dz = dh·(z > 0)"
NORM_DX = "da = rstd (d − mean(d) − â mean(d â))"
INTO = "d = γ⊙dz"
AFTER_LOSS = [
    ("no 1/N: dlogits is N times as large", CROSS, {"dlogits": lambda v: v.N * plain(v)}),
    ("the one-hot target not subtracted", CROSS, {"dlogits": lambda v: softmax(v) / v.N}),
    ("sign of dlogits", "a gradient points up: the step subtracts it", {"dlogits": lambda v: -plain(v)}),
    ("softmax over the batch", "p sums to 1 over the classes of a sample", {"dlogits": lambda v: plain(v, 0)}),
]
AFTER_RELU = [
    *AFTER_LOSS,
    ("ReLU's mask forgotten", MASK, {"mask": lambda v: 1.0}),
    ("the mask of â for that of z", MASK, {"mask": lambda v: v.xhat > 0}),
]
AFTER_NORM = [
    *AFTER_RELU,
    ("LayerNorm passed over", NORM_DX, {"da": lambda v, d: d}),
    ("mean and variance taken as constant", NORM_DX, {"da": lambda v, d: v.rstd * d}),
    ("mean taken as constant", NORM_DX, {"da": lambda v, d: v.rstd * (d - v.xhat * m(d * v.xhat))}),
    ("variance taken as constant", NORM_DX, {"da": lambda v, d: v.rstd * (d - m(d))}),
    ("eps dropped", INSIDE, {"da": without_eps}),
    ("forgot rstd", NORM_DX, {"da": lambda v, d: d - m(d) - v.xhat * m(d * v.xhat)}),
    ("forgot γ", INTO, {"d": lambda v, dz: dz}),
]


def plain(v, axis=1):
    g = softmax(v, axis)
    g[np.arange(v.N), v.target] -= 1
    return g / v.N


def steps_wrong(which, k):
    return [Wrong(name, line, lambda v, how=how: backwards(v, **how)[k]) for name, line, how in which]


def summed(name):
    return f"{name} is shared by all samples: its gradient is a sum over them"


LOSS = "loss = −1/N Σ log p[target]"
task(
    gradients,
    cases=of_gradients,
    uses=("forward",),
    large=lambda rng: network(rng, 128, 400, 100, 10),
    outputs=[
        Output("loss", line=LOSS, wrong=[
            Wrong("a sum for the mean", LOSS, lambda v: v.right[0] * v.N),
            Wrong("sign of the loss", LOSS, lambda v: -v.right[0]),
            Wrong("p for log p", LOSS, lambda v: -softmax(v)[np.arange(v.N), v.target].mean()),
            Wrong("log₂ for log", LOSS, lambda v: v.right[0] / np.log(2)),
            Wrong("divided by N·C", LOSS, lambda v: v.right[0] / v.C),
        ]),
        Output("dW2", line="dW₂ = dlogitsᵀ h", wrong=[*steps_wrong(AFTER_LOSS, 0), Wrong("transposed", "dW₂ = dlogitsᵀ h", lambda v: v.right[1].T)]),
        Output("db2", line="db₂ = Σ dlogits", wrong=[*steps_wrong(AFTER_LOSS, 1), Wrong("a mean for the sum", summed("b₂"), lambda v: v.right[2] / v.N)]),
        Output("dgamma", line="dγ = Σ dz â", wrong=[*steps_wrong(AFTER_RELU, 2), Wrong("a mean for the sum", summed("γ"), lambda v: v.right[3] / v.N)]),
        Output("dbeta", line="dβ = Σ dz", wrong=[*steps_wrong(AFTER_RELU, 3), Wrong("a mean for the sum", summed("β"), lambda v: v.right[4] / v.N)]),
        Output("dW1", line="dW₁ = daᵀ x", wrong=[*steps_wrong(AFTER_NORM, 4), Wrong("transposed", "dW₁ = daᵀ x", lambda v: v.right[5].T)]),
        Output("db1", line="db₁ = Σ da", wrong=[*steps_wrong(AFTER_NORM, 5), Wrong("a mean for the sum", summed("b₁"), lambda v: v.right[6] / v.N)]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 3 · One step
#
# SGD with momentum and weight decay, of one parameter of any shape. With the equation numbers of `optim/sgd.py` (no dampening, no Nesterov):
#
# $$g \leftarrow \nabla + \lambda\theta \;(1), \qquad b \leftarrow \mu b + g \;(2), \qquad \theta \leftarrow \theta - \eta\, b \;(4)$$
#
# η is `lr`, μ is `momentum`, λ is `weight_decay`, b is `buffer`. Return new arrays; leave those you are given as they are.

# %% task="sgd_step" points=2
def sgd_step(param, grad, buffer, lr, momentum, weight_decay):
    """param, grad and buffer of one shape, the others numbers → the new param and the new buffer"""
    ### BEGIN SOLUTION
    buffer = momentum * buffer + (grad + weight_decay * param)  # (1), (2)
    param = param - lr * buffer  # (4)
    ### END SOLUTION
    return param, buffer

# %%
check(sgd_step)

# %% grader
def of_step(rng):
    def one(shape, weight_decay):
        param, grad, buffer = rng.standard_normal((3, *shape))
        return Values(param=param, grad=grad, buffer=buffer, lr=0.1, momentum=0.7, weight_decay=weight_decay, g=grad + weight_decay * param)

    return [Case("general", one((4, 3), 0.05)), Case("no weight decay", one((5,), 0.0)), Case("a single number", one((), 0.05), edge=True)]


def decays(v):
    return v.weight_decay != 0


DECAY, BUFFER, STEP = "(1): g ← ∇ + λθ", "(2): b ← μb + g", "(4): θ ← θ − η b"
task(
    sgd_step,
    cases=of_step,
    outputs=[
        Output("param", line=STEP, wrong=[
            Wrong("a step up", STEP, lambda v: v.param + v.lr * (v.momentum * v.buffer + v.g)),
            Wrong("lr forgotten", STEP, lambda v: v.param - (v.momentum * v.buffer + v.g)),
            Wrong("stepped along the gradient, not the buffer", STEP, lambda v: v.param - v.lr * v.g),
            Wrong("stepped along the old buffer", STEP, lambda v: v.param - v.lr * v.buffer),
            Wrong("weight decay forgotten", DECAY, lambda v: v.param - v.lr * (v.momentum * v.buffer + v.grad), decays),
            Wrong("sign of the weight decay", DECAY, lambda v: v.param - v.lr * (v.momentum * v.buffer + v.grad - v.weight_decay * v.param), decays),
            Wrong("the gradient weighted by 1 − μ", BUFFER, lambda v: v.param - v.lr * (v.momentum * v.buffer + (1 - v.momentum) * v.g)),
            Wrong("the look-ahead of Nesterov", STEP, lambda v: v.param - v.lr * (v.g + v.momentum * (v.momentum * v.buffer + v.g))),
        ]),
        Output("buffer", line=BUFFER, wrong=[
            Wrong("lr inside the buffer", "(2), (4): η stands outside of b", lambda v: v.momentum * v.buffer + v.lr * v.g),
            Wrong("momentum forgotten", BUFFER, lambda v: v.buffer + v.g),
            Wrong("the gradient weighted by 1 − μ", BUFFER, lambda v: v.momentum * v.buffer + (1 - v.momentum) * v.g),
            Wrong("weight decay forgotten", DECAY, lambda v: v.momentum * v.buffer + v.grad, decays),
            Wrong("sign of the weight decay", DECAY, lambda v: v.momentum * v.buffer + v.grad - v.weight_decay * v.param, decays),
            Wrong("the buffer not kept", BUFFER, lambda v: v.buffer),
            Wrong("only the gradient kept", BUFFER, lambda v: v.g),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 4 · Training
#
# `steps` times: the loss and its gradients on the whole batch, then a step of every parameter (no weight decay), each with a buffer of its own that starts
# at 0. `losses[k]` is the loss before step k. If `gradients` or `sgd_step` did not pass its check, the reference's stands in for it.

# %% task="train" points=4
def train(params, x, target, lr, momentum, steps):
    """params, x (N, I), target (N,), numbers → losses (steps,), and the logits (N, C) of the trained network on x"""
    params = dict(params)
    ### BEGIN SOLUTION
    buffers = {name: np.zeros_like(params[name]) for name in NAMES}
    losses = []
    for _ in range(steps):
        loss, *grads = gradients(params, x, target)
        losses.append(loss)
        for name, grad in zip(NAMES, grads):
            params[name], buffers[name] = sgd_step(params[name], grad, buffers[name], lr, momentum, 0.0)
    logits = forward(params, x)[-1]
    ### END SOLUTION
    return losses, logits

# %%
check(train)

# %% grader
def trained(v, only=NAMES, lr=1.0, reset=False, add=False, one=False, after=False):
    """Training with one thing done otherwise: → losses, logits."""
    params, buffers, losses = dict(v.params), {n: np.zeros_like(v.params[n]) for n in NAMES}, []
    shared = dict(buffers)
    for _ in range(v.steps):
        loss, *grads = gradients(params, v.x, v.target)
        losses.append(loss)
        for name, grad in zip(NAMES, grads):
            shared[name] = shared[name] + grad if add else grad
            if name in only:
                old = np.zeros_like(grad) if reset else buffers[name]
                params[name], buffers[name] = sgd_step(params[name], shared[name], old, lr * v.lr, v.momentum, 0.0)
    losses.append(gradients(params, v.x, v.target)[0])
    return losses[1:] if after else losses[:-1], forward(params, v.x)[-1]


EACH = "b ← μb + g: each parameter's buffer lasts from step to step"
FRESH = "each step has a gradient of its own"
ALL = "a step of every parameter"
TRAINING = [
    ("the buffers begun anew at each step", EACH, {"reset": True}),
    ("gradients added up from step to step", FRESH, {"add": True}),
    ("a step up", "θ ← θ − η b", {"lr": -1.0}),
    ("only the last layer trained", ALL, {"only": ("W2", "b2")}),
    ("only the weights trained, not the biases", ALL, {"only": ("W1", "gamma", "W2")}),
    ("γ and β not trained", ALL, {"only": ("W1", "b1", "W2", "b2")}),
    ("never stepped", ALL, {"only": ()}),
]
ORDER = "losses[k] is the loss before step k"
task(
    train,
    cases=lambda rng: [c for c in of_network(rng) if c.name not in ("one sample", "logits of 1000", "z exactly 0")],
    uses=("forward", "gradients", "sgd_step"),
    outputs=[
        Output("losses", line=ORDER, wrong=[
            *(Wrong(name, line, lambda v, how=how: np.array(trained(v, **how)[0])) for name, line, how in TRAINING),
            Wrong("the losses after each step", ORDER, lambda v: np.array(trained(v, after=True)[0])),
        ]),
        Output("logits", line="the logits of the trained network", wrong=[
            *(Wrong(name, line, lambda v, how=how: trained(v, **how)[1]) for name, line, how in TRAINING if name != "never stepped"),
            Wrong("of the network before training", "the logits of the trained network", lambda v: v.logits),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 5 · Look at it learn
#
# Three arms of a spiral, 40 points each: no straight line separates them.

# %%
def spiral(seed=0):
    """x (120, 2), target (120,)"""
    rng = np.random.RandomState(seed)
    t, arm = np.tile(np.linspace(0.1, 1, 40), 3), np.repeat(np.arange(3), 40)
    angle = 4 * t + 2 * np.pi / 3 * arm + 0.1 * rng.standard_normal(120)
    return np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1), arm


def start(hidden=32, seed=0):
    """Random params for the spiral."""
    rng = np.random.RandomState(seed)
    return {
        "W1": rng.standard_normal((hidden, 2)), "b1": rng.standard_normal(hidden), "gamma": np.ones(hidden), "beta": np.zeros(hidden),
        "W2": rng.standard_normal((3, hidden)) / hidden**0.5, "b2": np.zeros(3),
    }  # fmt: skip


def look(lr=0.1, momentum=0.9, steps=300):
    """Trains on the spiral and says how well."""
    x, target = spiral()
    losses, logits = train(start(), x, target, lr, momentum, steps)
    print(f"loss {losses[0]:.3f} → {losses[-1]:.3f}, right: {(np.argmax(logits, axis=1) == target).mean():.0%}")

# %%
look()

# %% [markdown] question="learning_rate" points=2
# ## 6 · In words
#
# Call `look` with other values of `lr` and `momentum`. What happens with lr = 0.001, with lr = 10, and with momentum = 0? Why does momentum μ act like
# a learning rate of up to lr/(1 − μ)?
#
# ### BEGIN SOLUTION
# With 0.001 the loss falls, but slowly; with 10 it ends above where it began: the steps go beyond the valley. Without momentum it falls as with a
# rate a tenth as large (lr = 1 and momentum = 0 end where 0.1 and 0.9 do). Where the gradient g hardly changes, b tends to
# g + μg + μ²g + … = g/(1 − μ), so each step is lr·g/(1 − μ).
# ### END SOLUTION

# %% [markdown] question="zero_start" points=1
# Someone starts with W₁, b₁, β and W₂ at 0, and the network learns next to nothing. Which parameters get a gradient in the first step, and which never?
#
# ### BEGIN SOLUTION
# With W₁, b₁ and β at 0 all of h is 0: dW₂ = dlogitsᵀ h is 0, and with W₂ at 0 dh = dlogits W₂ is 0, so nothing below gets a gradient. Only b₂ learns:
# how frequent each class is. As h and W₂ stay 0, that is so for ever.
# ### END SOLUTION
