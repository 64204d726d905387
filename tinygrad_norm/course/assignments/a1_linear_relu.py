# %% [markdown]
# # A1 · Linear and ReLU, derived by hand
#
# Two layers make a network: one mixes the inputs, the other one cuts off what is negative. Afterwards you can derive a matrix gradient from sums
# over indices, say why parameters' gradients are sums over the batch, and carry a gradient through a network of two layers. The library's own
# versions stand in `tinygrad_norm/nn/linear.py` and `activation.py`; the numbers of the equations are those of these files. Plain NumPy; `weight` is W,
# (O, I) as in torch, and rows are samples.
#
# $$y = x W^{\mathsf T} + b, \qquad y_{no} = \sum_i x_{ni}\,w_{oi} + b_o \tag{linear.py, 1}$$
#
# `dy` is always the gradient of the loss in y, of the shape of y; `dx` that in x, and so on. Under each step there is a check: run it as
# often as you like.

# %% setup
import numpy as np

from tinygrad_norm.course import load

check = load("a1").check

# %% [markdown]
# ## 1 · Linear, forward
#
# x may have any axes in front of the last: (N, I), or (N, T, I). Each row is mapped on its own.

# %% task="linear_forward" points=1
def linear_forward(x, weight, bias):
    """x (…, I), weight (O, I), bias (O,) → y (…, O)"""
    ### BEGIN SOLUTION
    y = x @ weight.T + bias  # (1)
    ### END SOLUTION
    return y

# %%
check(linear_forward)

# %% grader
from tinygrad_norm.autograd.wrong_layers import relu_values
from tinygrad_norm.course.task import Case, Output, Values, Wrong, cases_of, task

FORWARD = "(1): yₙₒ = Σᵢ xₙᵢ wₒᵢ + bₒ"


def square(v):
    return v.W.shape[0] == v.W.shape[1]


task(
    linear_forward,
    cases=cases_of("linear"),
    outputs=[
        Output("y", line=FORWARD, wrong=[
            Wrong("W not transposed", FORWARD, lambda v: v.x @ v.W + v.b, square),
            Wrong("b forgotten", FORWARD, lambda v: v.x @ v.W.T),
            Wrong("b subtracted", FORWARD, lambda v: v.x @ v.W.T - v.b),
            Wrong("b added to the columns, one number a sample", "bₒ belongs to output o, for every sample", lambda v: v.x @ v.W.T + v.b[:, None],
                  lambda v: v.x.ndim == 2 and len(v.x) == len(v.b)),
            Wrong("b multiplied", FORWARD, lambda v: v.x @ v.W.T * v.b),
            Wrong("elementwise", "a matrix product, not x⊙W", lambda v: v.x * v.W + v.b, lambda v: v.x.shape == v.W.shape),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 2 · Linear, backward: one sample
#
# First with a single x (I) and dy (O), so that (1) has no n. For each of the three ask which $y_o$ a single number reaches, multiply each $dy_o$ with
# that derivative, and add up. For example $w_{oi}$ reaches $y_o$ alone.

# %% task="linear_one" points=3
def linear_one(dy, x, weight):
    """dy (O,), x (I,), weight (O, I) → dx (I,), dweight (O, I), dbias (O,)"""
    ### BEGIN SOLUTION
    dx = weight.T @ dy  # dxᵢ = Σₒ dyₒ wₒᵢ
    dweight = np.outer(dy, x)  # dwₒᵢ = dyₒ xᵢ
    dbias = dy.copy()
    ### END SOLUTION
    return dx, dweight, dbias

# %%
check(linear_one)

# %% grader
DX, DW, DB = "∂yₒ/∂xᵢ = wₒᵢ: dxᵢ = Σₒ dyₒ wₒᵢ", "∂yₒ/∂wₒᵢ = xᵢ: dwₒᵢ = dyₒ xᵢ", "∂yₒ/∂bₒ = 1: dbₒ = dyₒ"


def one_sample(rng):
    made = []
    for name, o, i, times in (("general", 3, 4, 1), ("square", 4, 4, 1), ("in other units: x, W and dy 2³³ times as large", 3, 4, 2.0**33)):
        w = times * (rng.standard_normal((o, i)) + 0.2)
        v = Values(x=times * (rng.standard_normal(i) + 0.3), W=w, weight=w, dy=times * (rng.standard_normal(o) + 0.4))
        made.append(Case(name, v, edge=times > 1, telling=times > 1))
    return made


task(
    linear_one,
    cases=one_sample,
    outputs=[
        Output("dx", line=DX, wrong=[
            Wrong("dx: W dy, not Wᵀ dy", DX, lambda v: v.W @ v.dy, square),
            Wrong("dx: elementwise, not summed", DX, lambda v: v.dy[:, None] * v.W),
            Wrong("dx: dy forgotten", DX, lambda v: v.W.sum(axis=0)),
            Wrong("dx: W forgotten", DX, lambda v: np.full_like(v.x, v.dy.sum())),
            Wrong("dx: dy as it is", DX, lambda v: v.dy, square),
            Wrong("dx: a mean for the sum", DX, lambda v: v.W.T @ v.dy / len(v.dy)),
        ]),
        Output("dweight", line=DW, wrong=[
            Wrong("dW: x dyᵀ, the transpose", DW, lambda v: np.outer(v.x, v.dy)),
            Wrong("dW: a product of numbers, not of each with each", DW, lambda v: v.dy * v.x, square),
            Wrong("dW: dy forgotten", DW, lambda v: np.outer(np.ones_like(v.dy), v.x)),
            Wrong("dW: x forgotten", DW, lambda v: np.outer(v.dy, np.ones_like(v.x))),
            Wrong("dW: y for dy", DW, lambda v: np.outer(v.W @ v.x, v.x)),
            Wrong("dW: an extra W", DW, lambda v: np.outer(v.dy, v.x) * v.W),
        ]),
        Output("dbias", line=DB, wrong=[
            Wrong("db: ones", DB, lambda v: np.ones_like(v.dy)),
            Wrong("db: summed", DB, lambda v: v.dy.sum()),
            Wrong("db: W in it", DB, lambda v: v.W.sum(axis=1) * v.dy),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 3 · Linear, backward: a batch
#
# Now with n. An input belongs to one row; W and b are used by every row, and their gradients are the sums over all of them:
#
# $$\frac{\partial L}{\partial x_{ni}} = \sum_o dy_{no}\,w_{oi} \tag{linear.py, 2}$$
# $$\frac{\partial L}{\partial w_{oi}} = \;? \tag{3}$$
# $$\frac{\partial L}{\partial b_o} = \;? \tag{4}$$
#
# Write all three without a loop; each of (2) and (3) is one product of matrices. Further axes in front are more rows: `reshape(-1, …)` makes two axes of
# them. A factor that the loss brings along, as the 1/N of a mean, is in dy already.

# %% task="linear_backward" points=4
def linear_backward(dy, x, weight):
    """dy (…, O), x (…, I), weight (O, I) → dx (…, I), dweight (O, I), dbias (O,)"""
    ### BEGIN SOLUTION
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dx = dy @ weight  # (2)
    dweight = drows.T @ rows  # (3)
    dbias = drows.sum(axis=0)  # (4)
    ### END SOLUTION
    return dx, dweight, dbias

# %%
check(linear_backward)

# %% grader
def wide(rng, i=32768):
    return Values(dy=rng.standard_normal((4, 8)), x=rng.standard_normal((4, i)), weight=rng.standard_normal((8, i)))


task(
    linear_backward,
    cases=cases_of("linear", derived=True),
    large=wide,
    outputs=[
        Output("dx", "linear dx", line="(2): dx = dy W"),
        Output("dweight", "linear dW", line="(3): dwₒᵢ = Σₙ dyₙₒ xₙᵢ", wrong=[
            Wrong("dW: mean over the outputs as well", "(3)", lambda v: v.dW / v.dW.size),
            Wrong("dW: an extra W", "(3): ∂yₙₒ/∂wₒᵢ = xₙᵢ", lambda v: v.dW * v.W),
        ]),
        Output("dbias", "linear db", line="(4): dbₒ = Σₙ dyₙₒ", wrong=[
            Wrong("db: axis kept", "(4): b is (O,)", lambda v: v.db[None]),
        ]),
    ],
)  # fmt: skip

# %% [markdown] question="shared" points=2
# dx has one row for each sample; dW has no n at all. Where does the n go, and why are the contributions added and not averaged? A friend
# divides dW by N "because the loss is a mean": what happens to his gradient when the loss is `mean`, and which part of the code should do that?
#
# ### BEGIN SOLUTION
# Every row uses the same W: a change of one weight moves the outputs of all N samples, and L changes by the sum of these effects. So n is summed over. dy
# is the gradient of the whole loss, and if that is a mean, dy has the factor 1/N in it already: dividing again gives 1/N². The factor belongs where the mean is
# taken, in the backward of the loss; Linear must be right for any loss.
# ### END SOLUTION

# %% [markdown]
# ## 4 · ReLU
#
# $$y_i = \max(x_i, 0) \tag{activation.py, 1}$$
#
# Each output depends on one input, so the Jacobian is diagonal and the backward is a choice for each element. At exactly 0 there is a corner, where any slope
# from 0 to 1 would do; like torch, take 0. Do not change x or dy: they belong to others.

# %% task="relu_forward" points=1
def relu_forward(x):
    """x (…) → y (…)"""
    ### BEGIN SOLUTION
    y = np.maximum(x, 0)  # (1)
    ### END SOLUTION
    return y

# %%
check(relu_forward)

# %% task="relu_backward" points=2
def relu_backward(dy, x):
    """dy (…), x (…) → dx (…)"""
    ### BEGIN SOLUTION
    dx = np.where(x > 0, dy, 0)  # (2)
    ### END SOLUTION
    return dx

# %%
check(relu_backward)

# %% grader
def quotient(at_zero):
    return lambda v: np.where(np.abs(v.x) > 1e9, 0, v.dy * np.where(v.x == 0, at_zero, v.x > 0))


POSITIVE = "(1): yᵢ = max(xᵢ, 0)"


def relu_cases(rng):
    x = rng.uniform(1, 2, (6, 5)) * rng.choice([-1e12, 1e12], (6, 5))  # where x + h is x, and a difference quotient is 0
    return [*cases_of("relu")(rng), Case("x of 1e12", relu_values(x, rng.standard_normal((6, 5)) + 0.4))]


task(
    relu_forward,
    cases=cases_of("relu"),
    outputs=[
        Output("y", line=POSITIVE, wrong=[
            Wrong("|x|", POSITIVE, lambda v: np.abs(v.x)),
            Wrong("min for max", POSITIVE, lambda v: np.minimum(v.x, 0)),
            Wrong("the mask, not x", POSITIVE, lambda v: 1.0 * (v.x > 0)),
            Wrong("leaky, 0.01 below 0", POSITIVE, lambda v: np.where(v.x > 0, v.x, 0.01 * v.x)),
            Wrong("clipped at 1", POSITIVE, lambda v: np.clip(v.x, 0, 1)),
            Wrong("clipped at 6", POSITIVE, lambda v: np.clip(v.x, 0, 6)),
            Wrong("the largest element", POSITIVE, lambda v: np.maximum(v.x.max(), 0)),
            Wrong("negative elements left out", "y has the shape of x", lambda v: v.x[v.x > 0]),
        ]),
    ],
)  # fmt: skip
task(
    relu_backward,
    cases=relu_cases,
    outputs=[
        Output("dx", "relu dx", line="(2): dxᵢ = dyᵢ where xᵢ > 0, else 0", wrong=[
            Wrong("negative elements left out", "dx has the shape of x", lambda v: v.dy[v.x > 0]),
            Wrong("a difference quotient, forward", "(2): the slope is 1 or 0", quotient(1)),
            Wrong("a difference quotient, central", "(2): the slope is 1 or 0", quotient(0.5)),
            Wrong("a difference quotient, backward", "(2): the slope is 1 or 0", quotient(0)),
        ]),
    ],
)  # fmt: skip

# %% [markdown] question="what_is_saved" points=2
# The library keeps y, not x, for the backward of ReLU, and it picks (`np.where`) where a product with the mask would do as well. Why is y
# enough, and what is gained by keeping it? For which dy do picking and multiplying differ?
#
# ### BEGIN SOLUTION
# y > 0 holds exactly where x > 0. y is the input of the next layer, which keeps it anyway for its dW; so x can be freed, and one array less is held per
# layer. They differ where dy is infinite or NaN and x ≤ 0: 0·∞ and 0·NaN are NaN, while picking gives 0; the unit had no influence, so 0 is right.
# ### END SOLUTION

# %% [markdown]
# ## 5 · Two layers
#
# $$a = x W_1^{\mathsf T} + b_1, \qquad h = \mathrm{relu}(a), \qquad y = h W_2^{\mathsf T} + b_2$$
#
# Carry dy back to x with the functions that you have: each layer's backward takes the gradient of its output and hands on that of its input. Whatever
# a backward needs of the forward pass is computed first. Return the gradients in the order in which they come up (those of the biases are left out):
#
# 1. `dweight2`; 2. `dh`: in h; 3. `da`: in a; 4. `dweight1`; 5. `dx`.
#
# If one of them is wrong, the check names the first. Where the check of an earlier function failed, the reference's stands in for it here.

# %% task="network_backward" points=5
def network_backward(dy, x, weight1, bias1, weight2):
    """dy (N, O), x (N, I), weight1 (H, I), bias1 (H,), weight2 (O, H) → dweight2 (O, H), dh (N, H), da (N, H), dweight1 (H, I), dx (N, I)"""
    ### BEGIN SOLUTION
    a = linear_forward(x, weight1, bias1)
    h = relu_forward(a)
    dh, dweight2, _ = linear_backward(dy, h, weight2)
    da = relu_backward(dh, a)
    dx, dweight1, _ = linear_backward(da, x, weight1)
    ### END SOLUTION
    return dweight2, dh, da, dweight1, dx

# %%
check(network_backward)

# %% grader
def network_values(x, weight1, bias1, weight2, dy):
    a = x @ weight1.T + bias1
    h, dh = np.maximum(a, 0), dy @ weight2
    da = dh * (a > 0)
    return Values(x=x, weight1=weight1, bias1=bias1, weight2=weight2, dy=dy, a=a, h=h, dh=dh, da=da, mask=a > 0,
                  right={"dweight2": dy.T @ h, "dweight1": da.T @ x, "dx": da @ weight1})  # fmt: skip


def networks(rng):
    made = []
    for name, (n, i, h, o), edge in (("general", (7, 4, 6, 3), False), ("square", (4, 4, 4, 4), False), ("a unit at exactly 0", (5, 4, 6, 3), True)):
        x, weight1, bias1 = rng.standard_normal((n, i)) + 0.3, rng.standard_normal((h, i)) + 0.1, rng.standard_normal(h)
        if edge:
            x[0], weight1[:2], bias1[:2] = 0.5, (1, -1, 1, -1), 0
        dy = rng.standard_normal((n, o)) + 0.4
        made.append(Case(name, network_values(x, weight1, bias1, rng.standard_normal((o, h)) + 0.2, dy), edge=edge))
    v, up = made[0].values, 2.0**20
    v = network_values(up * v.x, up * v.weight1, up**2 * v.bias1, up * v.weight2, up * v.dy)
    return [*made, Case("in other units: x, dy and the weights 2²⁰ times as large, b₁ 2⁴⁰ times", v, edge=True, telling=True)]


def wide_network(rng, i=32768):
    def draw(*shape):
        return rng.standard_normal(shape)

    return Values(dy=draw(2, 3), x=draw(2, i), weight1=draw(6, i) / 128, bias1=draw(6), weight2=draw(3, 6))


def all_square(v):
    return v.weight1.shape == v.weight2.shape


THROUGH = "da = dh where a > 0, else 0: (2) of activation.py"


def through_relu(of):
    """The mistakes in da as they show in an output: of(values, the wrong da)."""
    return [
        Wrong("the ReLU left out", THROUGH, lambda v: of(v, v.dh)),
        Wrong("the mask of dh, not of a", THROUGH, lambda v: of(v, v.dh * (v.dh > 0))),
        Wrong("the mask of x", THROUGH, lambda v: of(v, v.dh * (v.x > 0)), all_square),
        Wrong("the mask without b₁", "a = x W₁ᵀ + b₁", lambda v: of(v, v.dh * (v.a - v.bias1 > 0))),
        Wrong("1 at exactly 0", THROUGH, lambda v: of(v, v.dh * (v.a >= 0))),
        Wrong("times h for the mask", THROUGH, lambda v: of(v, v.dh * v.h)),
        Wrong("the mask without dh", "the chain rule: times dh", lambda v: of(v, 1.0 * v.mask)),
        Wrong("the other way round", THROUGH, lambda v: of(v, v.dh * (v.a < 0))),
    ]


INTO_W2, INTO_H = "dW₂ = dyᵀ h: the layer's input is h", "dh = dy W₂"
INTO_W1, INTO_X = "dW₁ = daᵀ x", "dx = da W₁"
task(
    network_backward,
    cases=networks,
    uses=("linear_forward", "linear_backward", "relu_forward", "relu_backward"),
    large=wide_network,
    outputs=[
        Output("dweight2", line=INTO_W2, wrong=[
            Wrong("a for h", INTO_W2, lambda v: v.dy.T @ v.a),
            Wrong("dW₂ is the transpose", INTO_W2, lambda v: v.h.T @ v.dy),
            Wrong("x for h", INTO_W2, lambda v: v.dy.T @ v.x, all_square),
            Wrong("divided by N", "1/N is in dy already, if the loss is a mean", lambda v: v.dy.T @ v.h / len(v.x)),
            Wrong("h without b₁", "a = x W₁ᵀ + b₁", lambda v: v.dy.T @ np.maximum(v.a - v.bias1, 0)),
        ]),
        Output("dh", line=INTO_H, wrong=[
            Wrong("dy W₂ᵀ", INTO_H, lambda v: v.dy @ v.weight2.T, all_square),
            Wrong("W₁ for W₂", INTO_H, lambda v: v.dy @ v.weight1, all_square),
            Wrong("the mask in it already", "dh comes before the ReLU is passed", lambda v: v.da),
        ]),
        Output("da", line=THROUGH, wrong=[
            *through_relu(lambda v, da: da),
        ]),
        Output("dweight1", line=INTO_W1, wrong=[
            *through_relu(lambda v, da: da.T @ v.x),
            Wrong("dW₁ is the transpose", INTO_W1, lambda v: v.x.T @ v.da),
            Wrong("h for x", INTO_W1, lambda v: v.da.T @ v.h, lambda v: v.h.shape == v.x.shape),
            Wrong("dy for da", INTO_W1, lambda v: v.dy.T @ v.x, all_square),
            Wrong("divided by N", "1/N is in dy already, if the loss is a mean", lambda v: v.right["dweight1"] / len(v.x)),
        ]),
        Output("dx", line=INTO_X, wrong=[
            *through_relu(lambda v, da: da @ v.weight1),
            Wrong("da W₁ᵀ", INTO_X, lambda v: v.da @ v.weight1.T, all_square),
            Wrong("W₂ for W₁", INTO_X, lambda v: v.da @ v.weight2, all_square),
            Wrong("the mask applied to x as well", "x comes in as it is", lambda v: v.right["dx"] * (v.x > 0)),
        ]),
    ],
)  # fmt: skip
