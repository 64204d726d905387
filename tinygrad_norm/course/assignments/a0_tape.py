# %% [markdown]
# # A0 · The tape: how a gradient finds its way back
#
# An autograd library writes down each operation as it is done, and then goes through that list backwards. Afterwards you can write this walk
# yourself, undo a broadcast, and say why gradients are added up and never assigned. It is what `run_backward` in `tinygrad_norm/walk.py` and
# `sum_to` in `tinygrad_norm/ops/operands.py` do; every other assignment rests on it.
#
# Values are numbered in the order in which they were made: $v_0, v_1, v_2, \dots$, so that all inputs of $v_i$ have smaller numbers than $i$.
# Write $\bar v_j$ for the gradient of the result $L$ in $v_j$. A small change of $v_j$ reaches $L$ through every value that was computed
# from it, once for each time it was used:
#
# $$\bar v_j = \sum_{\text{uses of } v_j \text{ in } v_i} \bar v_i\,\frac{\partial v_i}{\partial v_j}, \qquad \bar L = 1 \tag{1}$$
#
# Under each step there is a check: run it as often as you like.

# %% setup
import numpy as np

from tinygrad_norm.course import load

check = load("a0").check

# %% [markdown]
# ## 1 · The walk, on numbers
#
# The tape is a list. `nodes[i]` is a list of pairs `(j, slope)`, one for each time that $v_i$ uses $v_j$, with the slope $\partial v_i/\partial v_j$;
# it is empty where $v_i$ was not computed from anything. For $L = x\cdot x + x\cdot w$ at $x = 3$, $w = 5$:

# %%
example = [
    [],  # 0: x = 3
    [],  # 1: w = 5
    [(0, 3.0), (0, 3.0)],  # 2: x·x, which uses x twice
    [(0, 5.0), (1, 3.0)],  # 3: x·w
    [(2, 1.0), (3, 1.0)],  # 4: L = v₂ + v₃
]

# %% [markdown]
# Return the gradient of `nodes[root]` in every node, as an array; in the example with root 4 it is [11, 3, 1, 1, 1]. Where the root does not
# depend on a node, the gradient is 0. A gradient may be handed on only when it is complete: use the numbering. Write a loop, not a
# recursion: a tape may be thousands of nodes long.

# %% task="walk" points=4
def walk(nodes, root):
    """nodes: nodes[i] a list of (j, slope), j < i; root: a number of a node → grads (len(nodes),)"""
    grads = np.zeros(len(nodes))
    ### BEGIN SOLUTION
    grads[root] = 1.0
    for i in range(root, -1, -1):  # the youngest first: every consumer of a value is younger than the value
        for j, slope in nodes[i]:
            grads[j] += grads[i] * slope
    ### END SOLUTION
    return grads

# %%
check(walk)

# %% grader
from tinygrad_norm.course.task import Case, Output, Values, Wrong, task
from tinygrad_norm.course.wrong_tapes import CHAIN, COPIED, WRONG_SUMS, WRONG_WALKS, wrong_tapes

def slopes(rng, wiring):
    """The wiring with slopes of both signs, no two alike."""
    return [[(j, float(rng.uniform(0.5, 1.7) * rng.choice([-1, 1]))) for j in inputs] for inputs in wiring]


def anyhow(rng, n):
    """A graph wired at random, in which every node but the last is used."""
    wiring = [[], []]
    for i in range(2, n):
        pair = [i - 1, int(rng.randint(i))]
        wiring.append(pair[:: rng.choice([-1, 1])])
    return wiring


WIRING = [[], [], [0, 1], [2, 2], [2, 0], [3, 4], [5, 2, 1], [6, 4]]
UNUSED = [*WIRING[:5], [4, 1, 2], [3, 4], [6, 2, 1], [7, 4], [8, 3], [2]]  # nobody uses 5; 9 and 10 are younger than the root, 8


def graphs(rng):
    return [
        Case("general", Values(nodes=slopes(rng, WIRING), root=7)),
        Case("with results that the root does not need", Values(nodes=slopes(rng, UNUSED), root=8)),
        Case("wired at random", Values(nodes=slopes(rng, anyhow(rng, 10)), root=9), hidden=True),
        Case("the root is an input", Values(nodes=slopes(rng, WIRING), root=1), edge=True),
    ]


def doubled(rng, n=60, m=1100):
    """vᵢ = vᵢ₋₁ + vᵢ₋₁, n times: one node a step, and 2 to the power of n paths; beside it a chain longer than Python's stack."""
    double, chain = [[(i, 1.0), (i, 1.0)] for i in range(n)], [[(0 if i == n else i, 1.0)] for i in range(n, n + m)]
    return Values(nodes=[[], *double, *chain, [(n, 1.0), (n + m, 1.0)]], root=n + m + 1)


SLOW = (
    "every path walked anew",
    "each path from the root back to an input is walked by itself, and a graph of 60 nodes can have 2⁶⁰ of them (or the derivative is taken "
    "numerically); add up what arrives at a node, then hand it on once",
)
task(
    walk,
    cases=graphs,
    large=doubled,
    slow=SLOW,
    outputs=[
        Output("grads", line="v̄ⱼ = Σ v̄ᵢ ∂vᵢ/∂vⱼ, over all uses of vⱼ", wrong=WRONG_WALKS),
    ],
)

# %% [markdown] question="complete" points=2
# A friend writes the walk as a recursion: `visit(i)` adds `grads[i] * slope` to `grads[j]` for each input j of i, and calls `visit(j)` at once.
# On which graphs is that right, and what does it do wrong on the others? She then hands down only what has just arrived, and all numbers are right:
# what is wrong with it still?
#
# ### BEGIN SOLUTION
# It is right where every value is used once (a tree). Where a value has two consumers, it is visited after the first has spoken and again after
# the second; the second time it hands on the sum, and so the first contribution for a second time. With only the new part handed down every path from the
# root is counted exactly once, which is (1) multiplied out; but the number of paths doubles with each value that is used twice: 2⁶⁰ steps for 60 nodes.
# In order of the numbers, each node is visited once.
# ### END SOLUTION

# %% [markdown]
# ## 2 · The sum that undoes a broadcast
#
# Now the values are arrays. In `y = x + b` with x (4, 3) and b (3), NumPy uses each number of b four times. (1) says what its gradient is: the sum
# over all places that it was copied to. Shapes are aligned at their last axes; b is copied along the axes that it lacks, and along
# those where its length is 1 and the result's is not:
#
# $$\bar b_o = \sum_n \bar y_{no} \tag{2}$$
#
# Given the gradient `g` of the broadcast array, return that of the array of shape `shape`: with exactly this shape.

# %% task="unbroadcast" points=3
def unbroadcast(g, shape):
    """g (…), shape: a tuple that can be broadcast to g.shape → an array of this shape"""
    ### BEGIN SOLUTION
    lead = g.ndim - len(shape)
    axes = (*range(lead), *(lead + i for i, n in enumerate(shape) if n == 1))
    grad = g.sum(axis=axes, keepdims=True).reshape(shape)
    ### END SOLUTION
    return grad

# %%
check(unbroadcast)

# %% grader
def broadcasts(rng):
    def case(name, big, small, **more):
        return Case(name, Values(g=rng.standard_normal(big) + 0.3, shape=small), **more)

    return [
        case("an axis in front", (4, 3), (3,)),
        case("an axis of length 1", (4, 3), (4, 1)),
        case("both", (2, 4, 3), (4, 1)),
        case("square", (3, 3), (3,)),
        case("two axes of length 1", (2, 3, 4), (1, 3, 1), hidden=True),
        case("to a single number", (4, 3), (), edge=True),
        case("of one shape", (2, 3), (2, 3), edge=True),
    ]


task(
    unbroadcast,
    cases=broadcasts,
    outputs=[
        Output("grad", line=COPIED, wrong=WRONG_SUMS),
    ],
)

# %% [markdown]
# ## 3 · One node backwards
#
# For each operation the tape needs what turns the gradient `g` of `y` into those of its two inputs. In the first four y has the broadcast shape
# of `a` and `b`, and your `unbroadcast` finishes the work (if its check failed, the reference's stands in for it here):
#
# | `op` | `y` | |
# |---|---|---|
# | `"add"`, `"sub"` | `a + b`, `a - b` | arrays of any shapes that fit |
# | `"mul"`, `"div"` | `a * b`, `a / b` | the same |
# | `"matmul"` | `a @ b` | a (N, K), b (K, M), y (N, M); no broadcasting |
#
# For the product of matrices write $y_{nm} = \sum_k a_{nk} b_{km}$, ask which $y$ a single $a_{nk}$ reaches, insert that in (1), and read the sum as a
# product of matrices again. The shapes leave little choice.

# %% task="op_backward" points=5
def op_backward(op, a, b, g):
    """op: a name of the table; a, b: its inputs; g: of the shape of y → da of the shape of a, db of that of b"""
    ### BEGIN SOLUTION
    if op == "add":
        da, db = g, g
    elif op == "sub":
        da, db = g, -g
    elif op == "mul":
        da, db = g * b, g * a
    elif op == "div":
        da, db = g / b, -g * a / b**2
    else:
        da, db = g @ b.T, a.T @ g
    ### END SOLUTION
    return unbroadcast(da, a.shape), unbroadcast(db, b.shape)

# %%
check(op_backward)

# %% grader
ELEMENTWISE = ("add", "sub", "mul", "div")


def operands(rng, shape):
    return rng.uniform(0.6, 1.8, shape) * rng.choice([-1, 1], shape)  # both signs, and none near 0


def nodes_alone(rng):
    made = []
    for op, a, b in (("add", (3,), (4, 3)), ("sub", (4, 3), (4, 1)), ("mul", (4, 1), (3,)), ("div", (3,), (4, 1)), ("mul", (3, 3), (3, 3)),
                     ("matmul", (4, 3), (3, 2)), ("matmul", (3, 3), (3, 3))):  # fmt: skip
        x, y = operands(rng, a), operands(rng, b)
        out = (a[0], b[1]) if op == "matmul" else np.broadcast_shapes(a, b)
        made.append(Case(f"{op} of {a} and {b}", Values(op=op, a=x, b=y, g=rng.standard_normal(out) + 0.3)))
    for op, up in (("add", 100), ("sub", 100), ("mul", 40), ("div", 40)):
        v = Values(op=op, a=2.0**40 * operands(rng, (4, 3)), b=2.0**up * operands(rng, (3,)), g=operands(rng, (4, 3)))
        made.append(Case(f"for {op} with a of 1e12 and b of 1e{up * 3 // 10}", v, edge=True, telling=True))
    x = operands(rng, (2, 3))
    made.append(Case("mul by a single number", Values(op="mul", a=x, b=operands(rng, ()), g=rng.standard_normal((2, 3)) + 0.3), edge=True))
    return made


def wide(rng, k=16384):
    return Values(op="matmul", a=rng.standard_normal((4, k)), b=rng.standard_normal((k, 4)), g=rng.standard_normal((4, 4)))


def of_op(*ops):
    return lambda v: v.op in ops


def square(v):
    return v.op == "matmul" and v.a.shape == v.b.shape


def whole(v):
    """da and db before any sum."""
    da, db = {"add": (v.g, v.g), "sub": (v.g, -v.g), "mul": (v.g * v.b, v.g * v.a), "div": (v.g / v.b, -v.g * v.a / v.b**2)}[v.op]
    return da + 0 * v.g, db + 0 * v.g


def undone(name, how):
    """A formula of an elementwise operation, with the sum done rightly."""
    return lambda v: unbroadcast(how(v) + 0 * v.g, v[name].shape)


def averaged(g, shape):
    return unbroadcast(g, shape) * max(int(np.prod(shape)), 1) / g.size


PRODUCT, QUOTIENT, MATRIX = "∂(ab)/∂a = b, ∂(ab)/∂b = a", "∂(a/b)/∂a = 1/b, ∂(a/b)/∂b = −a/b²", "āₙₖ = Σₘ gₙₘ bₖₘ and b̄ₖₘ = Σₙ aₙₖ gₙₘ"
task(
    op_backward,
    cases=nodes_alone,
    uses=("unbroadcast",),
    large=wide,
    outputs=[
        Output("da", line="ā = Σ g ∂y/∂a", wrong=[
            Wrong("da not summed", COPIED, lambda v: whole(v)[0], lambda v: v.op != "matmul"),
            Wrong("da: a mean for the sum", COPIED, lambda v: averaged(whole(v)[0], v.a.shape), lambda v: v.op != "matmul"),
            Wrong("add: times the other one", "∂(a + b)/∂a = 1", undone("a", lambda v: v.g * v.b), of_op("add")),
            Wrong("sub: sign", "∂(a − b)/∂a = 1", undone("a", lambda v: -v.g), of_op("sub")),
            Wrong("mul: its own value for the other's", PRODUCT, undone("a", lambda v: v.g * v.a), of_op("mul")),
            Wrong("mul: g forgotten", CHAIN, undone("a", lambda v: v.b), of_op("mul")),
            Wrong("mul: g for g·b", PRODUCT, undone("a", lambda v: v.g), of_op("mul")),
            Wrong("div: g·b for g/b", QUOTIENT, undone("a", lambda v: v.g * v.b), of_op("div")),
            Wrong("div: g/b² for g/b", QUOTIENT, undone("a", lambda v: v.g / v.b**2), of_op("div")),
            Wrong("matmul: b not transposed", MATRIX, lambda v: v.g @ v.b, square),
            Wrong("matmul: bᵀ g for g bᵀ", MATRIX, lambda v: v.b.T @ v.g, square),
            Wrong("matmul: elementwise", MATRIX, lambda v: v.g * v.b, square),
            Wrong("matmul: da is the transpose", MATRIX, lambda v: v.b @ v.g.T, of_op("matmul")),
        ]),
        Output("db", line="b̄ = Σ g ∂y/∂b", wrong=[
            Wrong("db not summed", COPIED, lambda v: whole(v)[1], lambda v: v.op != "matmul"),
            Wrong("db: a mean for the sum", COPIED, lambda v: averaged(whole(v)[1], v.b.shape), lambda v: v.op != "matmul"),
            Wrong("add: times the other one", "∂(a + b)/∂b = 1", undone("b", lambda v: v.g * v.a), of_op("add")),
            Wrong("sub: sign", "∂(a − b)/∂b = −1", undone("b", lambda v: v.g), of_op("sub")),
            Wrong("mul: its own value for the other's", PRODUCT, undone("b", lambda v: v.g * v.b), of_op("mul")),
            Wrong("mul: g forgotten", CHAIN, undone("b", lambda v: v.a), of_op("mul")),
            Wrong("mul: g for g·a", PRODUCT, undone("b", lambda v: v.g), of_op("mul")),
            Wrong("div: sign", QUOTIENT, undone("b", lambda v: v.g * v.a / v.b**2), of_op("div")),
            Wrong("div: b for b²", QUOTIENT, undone("b", lambda v: -v.g * v.a / v.b), of_op("div")),
            Wrong("div: a forgotten", QUOTIENT, undone("b", lambda v: -v.g / v.b**2), of_op("div")),
            Wrong("div: as if it were mul", QUOTIENT, undone("b", lambda v: v.g * v.a), of_op("div")),
            Wrong("matmul: a not transposed", MATRIX, lambda v: v.a @ v.g, square),
            Wrong("matmul: g aᵀ for aᵀ g", MATRIX, lambda v: v.g @ v.a.T, square),
            Wrong("matmul: elementwise", MATRIX, lambda v: v.g * v.a, square),
            Wrong("matmul: db is the transpose", MATRIX, lambda v: v.g.T @ v.a, of_op("matmul")),
        ]),
    ],
)  # fmt: skip

# %% [markdown]
# ## 4 · The whole tape
#
# Put the three together. Now a node is a tuple `(op, inputs, value)`: `("leaf", (), array)` for what was not computed, else
# `(op, (i, j), array)` for an operation on nodes i and j. The first three nodes are always leaves: x, w and b. Here is $y = x w + b$:

# %%
linear = [
    ("leaf", (), np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])),  # 0: x (3, 2)
    ("leaf", (), np.array([[1.0], [2.0]])),  # 1: w (2, 1)
    ("leaf", (), np.array([0.5])),  # 2: b (1)
    ("matmul", (0, 1), np.array([[5.0], [11.0], [17.0]])),  # 3: x w (3, 1)
    ("add", (3, 2), np.array([[5.5], [11.5], [17.5]])),  # 4: y (3, 1)
]

# %% [markdown]
# `dy` is the gradient that arrives at the root from above, of the root's shape: an array in the place of the 1 of part 1. Return the gradients of x,
# w and b. What could go wrong with numbers can go wrong here, and two things more: a gradient that has another shape than its value, and `+=` on an array
# that another node holds as well.

# %% task="tape_backward" points=4
def tape_backward(graph, root, dy):
    """graph: a list of (op, inputs, value); root: a number of a node; dy: of its shape → dx, dw, db: the gradients of nodes 0, 1, 2"""
    ### BEGIN SOLUTION
    grads = [np.zeros_like(value) for _, _, value in graph]
    grads[root] = dy
    for i in range(root, -1, -1):
        op, inputs, _ = graph[i]
        if op != "leaf":
            values = [graph[j][2] for j in inputs]
            for j, grad in zip(inputs, op_backward(op, *values, grads[i])):
                grads[j] = grads[j] + grad  # a new array: the old one may be another node's as well
    dx, dw, db = grads[:3]
    ### END SOLUTION
    return dx, dw, db

# %%
check(tape_backward)

# %% grader
NUMPY = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "matmul": np.matmul}
STEPS = [("matmul", 0, 1), ("add", 3, 2), ("mul", 4, 4), ("mul", 3, 2), ("add", 5, 6), ("matmul", 7, 1), ("sub", 8, 0), ("add", 9, 7),
         ("add", 4, 3), ("mul", 11, 10)]  # fmt: skip


def recorded(leaves, steps):
    graph = [("leaf", (), a) for a in leaves]
    for op, i, j in steps:
        graph.append((op, (i, j), NUMPY[op](graph[i][2], graph[j][2])))
    return graph


def tapes(rng):
    made = []
    for name, shapes, more in (
        ("general", ((4, 3), (3, 3), (3,)), {}),
        ("square", ((3, 3), (3, 3), (3, 1)), {}),
        ("b of one number", ((4, 3), (3, 3), ()), {"edge": True}),
        ("one row", ((1, 3), (3, 3), (1, 1)), {"edge": True, "hidden": True}),
    ):
        graph = recorded([operands(rng, shape) for shape in shapes], [*STEPS, ("add", 12, 12)])  # the last one is younger than the root
        made.append(Case(name, Values(graph=graph, root=12, dy=rng.standard_normal(graph[12][2].shape) + 0.4), **more))
    graph = recorded([2.0**15 * operands(rng, shape) for shape in ((4, 3), (3, 3), (3,))], STEPS)
    large = Values(graph=graph, root=12, dy=rng.standard_normal(graph[12][2].shape) + 0.4)
    made.append(Case("with x, w and b 2¹⁵ times as large", large, edge=True, telling=True))
    return made


def doubling_tape(rng, n=60, k=8192):
    leaves = [rng.standard_normal((4, k)), rng.standard_normal((k, 4)), rng.standard_normal(4)]
    steps = [("matmul", 0, 1), ("add", 3, 2), *(("add", i, i) for i in range(4, n + 4))]
    return Values(graph=recorded(leaves, steps), root=n + 4, dy=rng.standard_normal((4, 4)))


task(
    tape_backward,
    cases=tapes,
    uses=("unbroadcast", "op_backward"),
    large=doubling_tape,
    slow=SLOW,
    outputs=[Output(name, line="(1), node by node, the youngest first", wrong=wrong_tapes(k, op_backward)) for k, name in enumerate(("dx", "dw", "db"))],
)

# %% [markdown] question="one_rule" points=1
# In `tape_backward` gradients are added at two places: where a value has several consumers, and in `unbroadcast`. Why are these one and the same rule?
# What would broadcasting look like as operations on single numbers?
#
# ### BEGIN SOLUTION
# Both are (1): one term for each use. As operations on single numbers, y = x + b with x (4, 3) and b (3) is twelve additions, and each number of b is
# an input of four of them: it has four consumers, whose contributions are added. unbroadcast does this sum at once for uses that happened in one node.
# ### END SOLUTION
