"""The formula of every op, forward and backward, in one table: what the pictures and the step-through print beside the numbers.

y is the op's output and g the gradient that comes in; the other names are those of its forward's arguments, and dx is the gradient of x.
A number in brackets is the equation of that name in the op's own room, where it is derived.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

from ..tensor import Function

__all__ = ["BROADCASTS", "FORMULAS", "Formula", "argument_names", "formula_of", "gradient_name"]

# Ops whose inputs broadcast: each gradient is summed over the axes along which its input was repeated.
BROADCASTS = frozenset({"Add", "Sub", "Rsub", "Mul", "Div", "Pow", "Maximum", "Minimum", "Where", "MaskedFill", "Copy", "Fill", "SetItem", "MSELossFunction"})


class Formula(NamedTuple):
    """What an op computes, what its backward gives, and what the array is that it keeps beside inputs and outputs."""

    forward: str
    backward: str
    between: str = "in between"


FORMULAS: dict[str, Formula] = {
    # ops/elementwise
    "Cast": Formula("y = x in another element type", "dx = g, in the element type of x"),
    "Clone": Formula("y = x, in memory of its own", "dx = g"),
    "Add": Formula("y = a + b", "da = g,  db = g"),
    "Sub": Formula("y = a − b", "da = g,  db = −g"),
    "Rsub": Formula("y = a − b", "da = g,  db = −g"),
    "Mul": Formula("y = a·b", "da = g·b,  db = g·a"),
    "Div": Formula("y = a/b", "da = g/b,  db = −g·a/b²"),
    "Pow": Formula("y = aᵇ", "da = g·b·aᵇ⁻¹,  db = g·y·ln a"),
    "Maximum": Formula("y = max(a, b)", "da = g where a > b,  db = g where b > a;  g/2 to each where they are equal"),
    "Minimum": Formula("y = min(a, b)", "da = g where a < b,  db = g where b < a;  g/2 to each where they are equal"),
    "Where": Formula("y = a where the condition holds, else b", "da = g where the condition holds,  db = g elsewhere"),
    "Neg": Formula("y = −x", "dx = −g"),
    "Exp": Formula("y = eˣ", "dx = g·y"),
    "Log": Formula("y = ln x", "dx = g/x"),
    "Sqrt": Formula("y = √x", "dx = g/(2y)"),
    "Rsqrt": Formula("y = x^(−½)", "dx = −½·g·y³"),
    "Abs": Formula("y = |x|", "dx = g·sign x   (0 at 0)"),
    "Tanh": Formula("y = tanh x", "dx = g·(1 − y²)"),
    "Sigmoid": Formula("y = 1/(1 + e⁻ˣ)", "dx = g·y·(1 − y)"),
    "Erf": Formula("y = erf x", "dx = g·2/√π·exp(−x²)"),
    "Clamp": Formula("y = x held between low and high", "dx = g where low ≤ x ≤ high, else 0"),
    "Fill": Formula("y = value, everywhere", "dx = 0,  dvalue = Σ g"),
    "Zero": Formula("y = 0, everywhere", "dx = 0"),
    "Copy": Formula("y = source, written over x", "dx = 0,  dsource = g"),
    # ops/matmul
    "MatMul": Formula("y = a b   (1)", "da = g bᵀ  (2),  db = aᵀ g  (3)"),
    # ops/reduction
    "Sum": Formula("y = Σ x", "dx = g, the same for every element of a sum"),
    "Mean": Formula("y = Σ x / n", "dx = g/n, the same for every element of a mean"),
    "Var": Formula("y = Σ (x − m)²/(n − c)", "dx = g·2(x − m)/(n − c)"),
    "Std": Formula("y = √(Σ (x − m)²/(n − c))", "dx = g·(x − m)/((n − c)·y)"),
    "Extreme": Formula("y = the largest (or smallest) x", "dx = g at the elements that equal y, in equal shares, else 0"),
    "ExtremeAlong": Formula("y = the largest (or smallest) x along one axis", "dx = g at the first place that has it, else 0", "that place"),
    "LogSumExp": Formula("y = ln Σ eˣ", "dx = g·e^(x − y)"),
    # ops/shape
    "Reshape": Formula("y = x in another shape", "dx = g in the shape of x"),
    "Permute": Formula("y = x with its axes in another order", "dx = g with its axes put back in order"),
    "Expand": Formula("y = x repeated along axes of length 1", "dx = g summed over those axes"),
    "Cat": Formula("y = the x one after the other along an axis", "each x gets its own piece of g"),
    "Stack": Formula("y = the x side by side along a new axis", "each x gets its own slice of g"),
    "Tril": Formula("y = the lower triangle of x, zeros above", "dx = the lower triangle of g"),
    # ops/indexing
    "GetItem": Formula("y = x[key]", "dx = zeros, with g added at key"),
    "Put": Formula("y = zeros, with x added at key", "dx = g[key]"),
    "SetItem": Formula("y = x, but value at the keys", "dx = g, but 0 at the keys;  dvalue = g at the keys"),
    "Gather": Formula("y = x[index] along one axis", "dx = zeros, with g added at index"),
    "MaskedFill": Formula("y = value where the mask holds, else x", "dx = 0 where the mask holds, else g;  dvalue = Σ g where it holds"),
    # nn/linear
    "LinearFunction": Formula("y = x Wᵀ + b   (1)", "dx = g W  (2),  dweight = gᵀ x  (3),  dbias = Σₙ g  (4)"),
    # nn/activation
    "ReLUFunction": Formula("y = max(x, 0)   (1)", "dx = g where y > 0, else 0   (4)"),
    "SoftmaxFunction": Formula("y = eˣ/Σ eˣ   (2)", "dx = y·(g − Σ g·y)   (8)"),
    "LogSoftmaxFunction": Formula("y = x − ln Σ eˣ   (3)", "dx = g − eʸ·Σ g   (7)"),
    # nn/layer_norm, nn/batch_norm: here dy is their word for g
    "LayerNormFunction": Formula(
        "y = γ·x̂ + β,  x̂ = (x − mean)·rstd,  in each row   (1–4)",
        "dx = rstd·(d − mean(d) − x̂·mean(d·x̂)),  d = γ·g  (8);  dweight = Σ g·x̂,  dbias = Σ g, over the rows  (5)",
        "mean, shift, rstd of each row",
    ),
    "LayerNormBackward": Formula(
        "dx, dγ, dβ of dy, x, γ   (5), (8)",
        "of dy: γ·Ju + a·x̂ + b  (9);  of γ: Σ dy·Ju  (10);  of x: Jq − rstd·x̂·mean(u·dx)  (12);  u, a, b come in for dx, dγ, dβ",
    ),
    "BatchNormFunction": Formula(
        "y = γ·x̂ + β,  x̂ = (x − mean)·rstd,  in each channel   (1–4)",
        "dweight = Σ g·x̂,  dbias = Σ g, over the M values of a channel  (8);  dx = γ·rstd·(g − dbias/M − x̂·dweight/M)  (9)",
        "means, shifts, rstds of the channels",
    ),
    "BatchNormBackward": Formula(
        "dx, dγ, dβ of dy, x, γ   (8), (9)",
        "of dy: γ·Ju + a·x̂ + b  (10);  of γ: Σ dy·Ju  (11);  of x: Jq − rstd·x̂·mean(u·dx)  (12);  u, a, b come in for dx, dγ, dβ",
    ),
    "BatchNormEval": Formula("y = γ·x̂ + β with the running statistics", "dx = g·γ·rstd,  dweight = Σ g·x̂,  dbias = Σ g   (13)"),
    # nn/loss
    "CrossEntropyFunction": Formula(
        "y = Σ q·ℓ,  ℓ = −ln softmax(x)   (1, 2)", "dx = g·(softmax(x)·Σq − q)   (5), divided by the weight of the batch for a mean"
    ),
    "CrossEntropyBackward": Formula("dx of dy and x   (5)", "of dy: Σ v·(p·Σq − q)  (6);  of x: dy·Σq·p·(v − Σ p·v)  (7);  v comes in for dx, p = softmax(x)"),
    "NLLLossFunction": Formula("y = −w[target]·x[target]", "dx = zeros, with −g·w at target, divided by the weight of the batch for a mean"),
    "MSELossFunction": Formula("y = (x − target)²", "dx = 2(x − target)·g,  dtarget = −dx   (8), divided by the number of elements for a mean"),
}


def formula_of(node: Function) -> Formula:
    """The node's formula; of a Function that is not the library's own, the first line of its docstring and the name of its backward."""
    for cls in type(node).__mro__:
        if cls.__name__ in FORMULAS and cls.__module__.startswith("tinygrad_norm."):
            return FORMULAS[cls.__name__]
    cls = type(node)
    said = inspect.cleandoc(cls.__dict__.get("__doc__") or "").split("\n")[0]
    return Formula(said or f"y = {cls.__name__}.forward(…)", f"what {cls.__name__}.backward returns")


def argument_names(node: Function) -> list[str]:
    """The names of its positional inputs, as its forward has them: one for each edge."""
    names: list[str] = []
    count = len(node.edges)
    try:
        parameters = list(inspect.signature(type(node).forward).parameters.values())[1:]  # without self, or ctx
    except (TypeError, ValueError):
        parameters = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"x{i}" for i in range(count - len(names))]
        elif p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD:
            names.append(p.name)
    return [*names, *(f"input {i}" for i in range(len(names), count))][:count]


def gradient_name(argument: str) -> str:
    """dx for x; d(dy) where the argument is a gradient itself, as in a second derivative."""
    return f"d({argument})" if " " in argument or (argument.startswith("d") and len(argument) < 4) else f"d{argument}"
