# %% [markdown]
# # A2 · Softmax and cross-entropy, derived by hand
#
# A classifier's last layer gives a number for each class, its loss is the cross-entropy of their softmax. Afterwards you can write both so that they hold
# for logits of a thousand, apply the Jacobian of the softmax without ever forming it, and show why so little is left of it in the gradient of the loss. The
# library's own version stands in `tinygrad_norm/nn/cross_entropy.py`; the numbers of the equations are those of that file, where the logits are called x.
#
# `logits` is z (N, C): a row for each sample, a column for each class. `target` (N) holds the number t of the right class. For one row:
#
# $$m = \max_k z_k, \qquad s = \sum_k e^{z_k-m}, \qquad \ell_k = -\ln \mathrm{softmax}(z)_k = \ln s - (z_k - m) \tag{cross-entropy, 1}$$
# $$p_k = \mathrm{softmax}(z)_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad L = \frac1N\sum_n \ell_{t_n} \tag{cross-entropy, 2}$$
#
# Under each step there is a check: run it as often as you like.

# %% setup
import numpy as np

from tinygrad_norm.course import load

check = load("a2").check

# %% [markdown]
# ## 1 · Softmax
#
# Over the last axis. In float64 $e^{710}$ is already infinite, so a number must be taken off each row before the exponential. Any number leaves the softmax
# as it is: it stands above and below the line; with the largest of the row nothing overflows and the sum is at least 1.

# %% task="softmax" points=3
def softmax(logits):
    """logits (…, C) → p (…, C): each row sums to 1"""
    ### BEGIN SOLUTION
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p = e / e.sum(axis=-1, keepdims=True)
    ### END SOLUTION
    return p

# %%
check(softmax)

# %% grader
from tinygrad_norm.course.task import Case, Output, Values, Wrong, cases_of, task

NORMALISED = "pₖ = e^zₖ / Σⱼ e^zⱼ"
SHIFTED = "(1): softmax(z) = softmax(z − m), m the largest of the row"
ROWS = "each sample has a softmax of its own, over its classes"


def quotient(e, axis=-1):
    return e / e.sum(axis=axis, keepdims=True)


def logits_alone(rng):
    def case(name, z, **more):
        return Case(name, Values(logits=z, z=z, p=quotient(np.exp(z - z.max(axis=-1, keepdims=True)))), **more)

    far = rng.standard_normal((3, 4)) + np.array([[900.0], [0.0], [-900.0]])
    high = rng.standard_normal((4, 6))  # so many classes that the mean of a row is not enough to take off
    high[:, 0] += 1000
    return [
        case("general", rng.standard_normal((6, 5)) + 0.3),
        case("square", rng.standard_normal((5, 5)) * 2),
        case("three axes", rng.standard_normal((2, 3, 5)), edge=True),
        case("logits of 1000", high, edge=True),
        case("rows far apart", far, edge=True),
    ]


def matrix(v):
    return v.z.ndim == 2


def square(v):
    return matrix(v) and v.z.shape[0] == v.z.shape[1]


task(
    softmax,
    cases=logits_alone,
    outputs=[
        Output("p", line=NORMALISED, wrong=[
            Wrong("no maximum taken off", SHIFTED, lambda v: quotient(np.exp(v.z))),
            Wrong("the mean taken off, not the maximum", SHIFTED, lambda v: quotient(np.exp(v.z - v.z.mean(axis=-1, keepdims=True)))),
            Wrong("the maximum of all rows taken off", SHIFTED, lambda v: quotient(np.exp(v.z - v.z.max()))),
            Wrong("the maximum over the batch taken off", SHIFTED, lambda v: quotient(np.exp(v.z - v.z.max(axis=0)))),
            Wrong("the maximum over the batch taken off, the softmax over the batch", ROWS, lambda v: quotient(np.exp(v.z - v.z.max(axis=0)), 0)),
            Wrong("softmax over the batch, no maximum taken off", ROWS, lambda v: quotient(np.exp(v.z), 0)),
            Wrong("the maximum of each row, the sum over the batch", ROWS, lambda v: quotient(np.exp(v.z - v.z.max(axis=-1, keepdims=True)), 0)),
            Wrong("the sum without keepdims", ROWS, lambda v: (e := np.exp(v.z - v.z.max(axis=1, keepdims=True))) / e.sum(axis=1), square),
            Wrong("divided by the sum over everything", ROWS, lambda v: (e := np.exp(v.z - v.z.max(axis=-1, keepdims=True))) / e.sum()),
            Wrong("not divided by the sum", NORMALISED, lambda v: np.exp(v.z - v.z.max(axis=-1, keepdims=True))),
            Wrong("neither maximum nor sum", NORMALISED, lambda v: np.exp(v.z)),
            Wrong("divided by the number of classes", NORMALISED, lambda v: np.exp(v.z - v.z.max(axis=-1, keepdims=True)) / v.z.shape[-1]),
            Wrong("the logarithm of the softmax", NORMALISED, lambda v: np.log(v.p)),
            Wrong("sigmoid", NORMALISED, lambda v: 1 / (1 + np.exp(-v.z))),
            Wrong("z for e^z", NORMALISED, lambda v: quotient(v.z)),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 2 · The loss
#
# Return L, a number, by (1) and (2). Where a confident model is wrong, p underflows to 0 and its logarithm is −∞, though ℓ is a plain 1000: compute ℓ from z, m
# and s, not from p. A row whose target is −100 does not count, neither in the sum nor in N.

# %% task="cross_entropy_forward" points=3
def cross_entropy_forward(logits, target):
    """logits (N, C), target (N,) whole numbers from 0 to C − 1, or −100 → the loss, a number"""
    ### BEGIN SOLUTION
    rows = np.flatnonzero(target != -100)
    m = logits.max(axis=1, keepdims=True)
    log_s = np.log(np.exp(logits - m).sum(axis=1, keepdims=True))
    ell = log_s - (logits - m)  # (1)
    loss = ell[rows, target[rows]].mean()  # (2)
    ### END SOLUTION
    return loss

# %%
check(cross_entropy_forward)

# %% grader
TAKEN = "(1): ℓₖ = ln s − (zₖ − m)"
PICKED = "(2): L = 1/N Σₙ ℓ of the target class"
COUNTED = "(2): N is the number of rows that count"


def ell(v, z=None, axis=1):
    z = v.z if z is None else z
    m = z.max(axis=axis, keepdims=True)
    return np.log(np.exp(z - m).sum(axis=axis, keepdims=True)) - (z - m)


def naive(z):
    return np.log(np.exp(z).sum(axis=1, keepdims=True)) - z


def mean_at(v, losses, o=None):
    """The mean of what stands at the targets."""
    return np.where(v.o if o is None else o, losses, 0).sum() / v.N


def few_rows(rng):
    """The cases of the bank, and targets that are not the class of an even share: no mean is another's by chance."""
    made = cases_of("cross_entropy")(rng)
    z, t = rng.standard_normal((7, 3)), np.array([0, 2, -100, 1, 2, -100, 2])
    made.append(Case("two ignored rows", Values(z=z, logits=z, target=t), edge=True, hidden=True))
    for case in made[-1:]:
        keep = (t != -100)[:, None]
        o = np.zeros_like(z)
        o[np.flatnonzero(keep), t[keep[:, 0]]] = 1
        case.values.update(p=quotient(np.exp(z - z.max(axis=1, keepdims=True))), o=o, N=int(keep.sum()), C=3, rows=7, keep=keep)
    return made


task(
    cross_entropy_forward,
    cases=few_rows,
    outputs=[
        Output("loss", line="L = 1/N Σₙ (ln s − (z − m)) at the target class", wrong=[
            Wrong("sum, not mean", COUNTED, lambda v: mean_at(v, ell(v)) * v.N),
            Wrong("ignored rows counted in N", COUNTED, lambda v: mean_at(v, ell(v)) * v.N / v.rows),
            Wrong("mean over the classes as well", COUNTED, lambda v: mean_at(v, ell(v)) / v.C),
            Wrong("sign", "(1): ℓ = −ln p", lambda v: -mean_at(v, ell(v))),
            Wrong("log₂", "(1): the natural logarithm", lambda v: mean_at(v, ell(v)) / np.log(2)),
            Wrong("exponential and logarithm taken apart", TAKEN, lambda v: mean_at(v, -np.log(v.p))),
            Wrong("log(p + 1e-9)", TAKEN, lambda v: mean_at(v, -np.log(v.p + 1e-9))),
            Wrong("p for −ln p", "(1): ℓ = −ln p", lambda v: mean_at(v, v.p)),
            Wrong("1 − p for −ln p", "(1): ℓ = −ln p", lambda v: mean_at(v, 1 - v.p)),
            Wrong("the mean taken off, not the maximum", "(1): m = maxₖ zₖ", lambda v: mean_at(v, naive(v.z - v.z.mean(axis=1, keepdims=True)))),
            Wrong("m added once too often", TAKEN, lambda v: mean_at(v, ell(v) + v.z.max(axis=1, keepdims=True))),
            Wrong("m forgotten in z − m", TAKEN, lambda v: mean_at(v, ell(v) - v.z.max(axis=1, keepdims=True))),
            Wrong("softmax twice", "cross-entropy takes logits, not probabilities", lambda v: mean_at(v, ell(v, v.p))),
            Wrong("softmax over the batch", ROWS, lambda v: mean_at(v, ell(v, axis=0))),
            Wrong("the likeliest class, not the target", PICKED, lambda v: (ell(v).min(axis=1, keepdims=True) * v.keep).sum() / v.N),
            Wrong("all classes, not the target's", PICKED, lambda v: (ell(v) * v.keep).sum() / v.N),
            Wrong("labels off by one", "classes count from 0", lambda v: mean_at(v, ell(v), np.roll(v.o, -1, axis=1))),
            Wrong("one loss a row, no mean", PICKED, lambda v: np.where(v.o, ell(v), 0).sum(axis=1)),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 3 · The Jacobian of the softmax
#
# Now backwards. Let `dp` be the gradient in p, whatever comes after. Each logit moves every probability of its row: from the quotient,
#
# $$\frac{\partial p_k}{\partial z_j} = p_k\,(\delta_{kj} - p_j)$$
#
# Sum over k, as for every value that has several consumers, and simplify until no C × C matrix is left. (This is the backward of `softmax` wherever no
# logarithm follows, as in attention.)

# %% task="softmax_backward" points=3
def softmax_backward(dp, p):
    """dp (…, C), p (…, C), a softmax → dlogits (…, C)"""
    ### BEGIN SOLUTION
    dlogits = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    ### END SOLUTION
    return dlogits

# %%
check(softmax_backward)

# %% grader
JACOBIAN = "dzⱼ = Σₖ dpₖ pₖ (δₖⱼ − pⱼ)"
EVERY = "every logit moves every probability of its row"


def softmaxes(rng):
    def case(name, shape, **more):
        p = quotient(np.exp(rng.standard_normal(shape) * 1.5))
        return Case(name, Values(p=p, z=p, dp=rng.standard_normal(shape) + 0.4), **more)

    made = [case("general", (6, 5)), case("square", (5, 5)), case("three axes", (2, 3, 4), edge=True), case("one sample", (1, 4), edge=True, hidden=True)]
    v = Values({**made[0].values, "dp": 2.0**100 * made[0].values.dp})
    return [*made, Case("with dp 2¹⁰⁰ times as large", v, edge=True, telling=True)]


def inner(v, axis=-1, keepdims=True):
    return (v.dp * v.p).sum(axis=axis, keepdims=keepdims)


task(
    softmax_backward,
    cases=softmaxes,
    outputs=[
        Output("dlogits", line=JACOBIAN, wrong=[
            Wrong("the diagonal of the Jacobian only", EVERY, lambda v: v.dp * v.p * (1 - v.p)),
            Wrong("δ without −p", EVERY, lambda v: v.dp * v.p),
            Wrong("−p without δ", JACOBIAN, lambda v: -v.p * inner(v)),
            Wrong("sign between the two terms", JACOBIAN, lambda v: v.p * (v.dp + inner(v))),
            Wrong("sign of all", JACOBIAN, lambda v: -v.p * (v.dp - inner(v))),
            Wrong("a mean for the sum", JACOBIAN, lambda v: v.p * (v.dp - inner(v) / v.p.shape[-1])),
            Wrong("p forgotten in the sum", JACOBIAN, lambda v: v.p * (v.dp - v.dp.sum(axis=-1, keepdims=True))),
            Wrong("p forgotten in front", JACOBIAN, lambda v: v.dp - inner(v)),
            Wrong("p forgotten in front of the first term", JACOBIAN, lambda v: v.dp - v.p * inner(v)),
            Wrong("p forgotten in front of the second term", JACOBIAN, lambda v: v.p * v.dp - inner(v)),
            Wrong("dp not weighted: p − o", "p − o is for the cross-entropy; here dp can be anything", lambda v: v.p - v.dp),
            Wrong("summed over the batch", ROWS, lambda v: v.p * (v.dp - inner(v, 0)), lambda v: v.p.shape[0] > 1),
            Wrong("summed over everything", ROWS, lambda v: v.p * (v.dp - (v.dp * v.p).sum()), lambda v: v.p.shape[0] > 1),
            Wrong("the sum without keepdims", ROWS, lambda v: v.p * (v.dp - inner(v, 1, False)), square),
            Wrong("returned dp", JACOBIAN, lambda v: v.dp),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 4 · The gradient of the loss, step by step
#
# One could go on with $dp_k = -o_k/(N p_k)$, where o is one-hot at the target; but p may be 0. So leave p alone and walk back through
# (1) written as $\ell_k = \mathrm{lse} - z_k$, with $\mathrm{lse} = \ln \sum_j e^{z_j}$ (m has dropped out). `upstream` is the gradient of whatever
# comes after the loss, a number. z reaches the loss along two paths: as itself, and through lse.
#
# 1. `dell` (N, C): the gradient of the $\ell_k$: only the target's counts, and a row with target −100 is 0;
# 2. `dlse` (N, 1): that of lse, which stands in every $\ell_k$ of its row;
# 3. `dlogits` (N, C): both paths together; $\partial\,\mathrm{lse}/\partial z_j$ is an old friend.
#
# If one of them is wrong, the check names the first. Your `softmax` may help (if its check failed, the reference's stands in for it).

# %% task="cross_entropy_staged" points=5
def cross_entropy_staged(logits, target, upstream):
    """logits (N, C), target (N,), upstream a number → dell (N, C), dlse (N, 1), dlogits (N, C)"""
    ### BEGIN SOLUTION
    rows = np.flatnonzero(target != -100)
    dell = np.zeros_like(logits)
    dell[rows, target[rows]] = upstream / len(rows)
    dlse = dell.sum(axis=1, keepdims=True)
    dlogits = dlse * softmax(logits) - dell
    ### END SOLUTION
    return dell, dlse, dlogits

# %%
check(cross_entropy_staged)

# %% grader
DELL = "dℓ = u o/N, from (2)"
DLSE = "ℓₖ = lse − zₖ: dlse = Σₖ dℓₖ"
DZ = "dz = dlse·p − dℓ: ∂lse/∂zⱼ = pⱼ, ∂ℓₖ/∂zⱼ = pⱼ − δₖⱼ (4)"


def large_entropy(rng, shape=(8, 8192)):
    return Values(logits=rng.standard_normal(shape), target=rng.randint(0, shape[1], shape[0]), upstream=1.3)


def of_dell(name, breaks, of):
    """A mistake in dℓ as it shows in dℓ, and in dlse."""
    return Wrong(name, breaks, lambda v: of(v, v.u * v.o / v.N)), Wrong(name, breaks, lambda v: of(v, v.u * v.keep / v.N))


DZ_WRONG = [
    Wrong("p + o for p − o", DZ, lambda v: v.u * (v.p + v.o) * v.keep / v.N),
    Wrong("o − p, and the sum over N samples", "(2): L is a mean of −ln p", lambda v: -v.dz * v.N),
    Wrong("rows that do not count have a gradient", COUNTED, lambda v: v.u * (v.p - v.o) / v.N),
]
DELL_WRONG = [
    of_dell("no 1/N", "(2): the loss is a mean over N samples", lambda v, right: right * v.N),
    of_dell("1/N²", "(2): the loss is a mean over N samples", lambda v, right: right / v.N),
    of_dell("1/(N·C)", "(2): the loss is a mean over N samples", lambda v, right: right / v.C),
    of_dell("ignored rows counted in N", COUNTED, lambda v, right: right * v.N / v.rows),
    of_dell("upstream gradient ignored", "the chain rule: times u", lambda v, right: right / v.u),
    of_dell("sign", DELL, lambda v, right: -right),
]
task(
    cross_entropy_staged,
    cases=cases_of("cross_entropy", derived=True),
    uses=("softmax",),
    large=large_entropy,
    outputs=[
        Output("dell", line=DELL, wrong=[
            *(pair[0] for pair in DELL_WRONG),
            Wrong("every class, not the target's", "(2): only ℓ of the target class is in the loss", lambda v: v.u / v.N * v.keep * np.ones_like(v.z)),
            Wrong("1/p in it", "ℓ is −ln p already: no further logarithm", lambda v: v.u * v.o / (v.N * v.p)),
            Wrong("p in it", "(2): ∂L/∂ℓ has no p", lambda v: v.u * v.o * v.p / v.N),
            Wrong("labels off by one", "classes count from 0", lambda v: v.u * np.roll(v.o, 1, axis=1) / v.N),
            Wrong("all rows at all targets", "o[arange(N), t] = 1: one element a row", lambda v: v.u / v.N * np.isin(np.arange(v.C), v.t) * np.ones_like(v.z)),
        ]),
        Output("dlse", line=DLSE, wrong=[
            *(pair[1] for pair in DELL_WRONG if pair[1].name != "1/(N·C)"),  # as the next one
            Wrong("a mean for the sum", DLSE, lambda v: v.u * v.keep / (v.N * v.C)),
            Wrong("times the number of classes", "only dℓ of the target is not 0", lambda v: v.u * v.keep * v.C / v.N),
            Wrong("summed over the batch as well", "each row has its own lse", lambda v: np.full_like(v.z[:, :1], v.u)),
            Wrong("axis not kept", "dlse is (N, 1)", lambda v: (v.u * v.keep / v.N)[:, 0]),
            Wrong("p of the target in it", DLSE, lambda v: v.u * (v.o * v.p).sum(axis=1, keepdims=True) / v.N),
            Wrong("zero", DLSE, lambda v: 0 * v.z[:, :1]),
        ]),
        Output("dlogits", "cross_entropy dz", DZ_WRONG, DZ, weight=2),
    ],
)  # fmt: skip

# %% [markdown]
# ## 5 · The gradient of the loss in one line
#
# Insert the steps into each other: with o one-hot at the target (a row of zeros where it does not count), what is left is softmax, o, and a factor:
#
# $$dz = \;? \tag{cross-entropy, 5}$$

# %% task="cross_entropy_backward" points=4
def cross_entropy_backward(logits, target, upstream):
    """logits (N, C), target (N,), upstream a number → dlogits (N, C)"""
    ### BEGIN SOLUTION
    keep = (target != -100)[:, None]
    onehot = np.arange(logits.shape[1]) == target[:, None]
    dlogits = upstream / keep.sum() * keep * (softmax(logits) - onehot)
    ### END SOLUTION
    return dlogits

# %%
check(cross_entropy_backward)

# %% grader
task(
    cross_entropy_backward,
    cases=cases_of("cross_entropy", derived=True),
    uses=("softmax",),
    large=large_entropy,
    outputs=[Output("dlogits", "cross_entropy dz", DZ_WRONG, "(5): dz = u (p − o)/N, and 0 in rows that do not count")],
)

# %% [markdown] question="row_sum" points=2
# Each row of dz sums to 0. Why must that be so, without any calculation? And for which samples is dz = (p − o)/N small, and how large can it become
# at most? Compare with squared error on the probabilities, where p(1 − p) stays in front.
#
# ### BEGIN SOLUTION
# Adding one number to all logits of a row changes no softmax and so not the loss: the derivative in the direction (1, …, 1) is 0, and that is the sum of
# dz. dz is small where p is close to o: samples that are right already, and sure. No element exceeds 1/N, and it comes close where the model is sure and
# wrong. With the squared error the Jacobian of the softmax is not cancelled: where p is close to 0 or 1 the gradient vanishes also for a wrong answer, and
# such a sample is never learned.
# ### END SOLUTION

# %% [markdown] question="together" points=1
# Why is the loss one operation on logits, and not `-log(softmax(z))` of two? Give the value of both, and the gradient of both, at z = (1000, 0) and
# target 1.
#
# ### BEGIN SOLUTION
# At z = (1000, 0) p is (1, 0), since e^(−1000) underflows: −ln 0 = ∞. Its gradient in p is −1/0 = −∞, which the Jacobian multiplies with p = 0: NaN.
# Together ℓ = ln s − (z − m) = 0 + 1000 = 1000, with the gradient p − o = (1, −1).
# ### END SOLUTION
