"""The formula of every op, forward and backward, in one table: what the pictures and the step-through print beside the numbers.

y is the op's output and g the gradient that comes in; the other names are those of its forward's arguments, and dx is the gradient of x.
A number in brackets is the equation of that name in the op's own room, where it is derived.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

from ..function import Function

__all__ = ["BROADCASTS", "FORMULAS", "Formula", "argument_names", "formula_of", "gradient_name"]

# Ops whose inputs broadcast: each gradient is summed over the axes along which its input was repeated.
BROADCASTS = frozenset({"Add", "Sub", "Rsub", "Mul", "Div", "Pow", "Maximum", "Minimum", "Where", "MaskedFill", "Copy", "Fill", "SetItem"})


class Formula(NamedTuple):
    """What an op computes, what its backward gives, and what the array is that it keeps beside inputs and outputs."""

    forward: str
    backward: str
    between: str = "in between"


FORMULAS: dict[str, Formula] = {
    # ops/arithmetic
    "Add": Formula("y = a + b", "da = g,  db = g"),
    "Sub": Formula("y = a − b", "da = g,  db = −g"),
    "Rsub": Formula("y = a − b", "da = g,  db = −g"),
    "Mul": Formula("y = a·b", "da = g·b,  db = g·a"),
    "Div": Formula("y = a/b", "da = g/b,  db = −g·a/b²"),
    "Pow": Formula("y = aᵇ", "da = g·b·aᵇ⁻¹,  db = g·y·ln a"),
    "Maximum": Formula("y = max(a, b)", "da = g where a > b,  db = g where b > a;  g/2 to each where they are equal"),
    "Minimum": Formula("y = min(a, b)", "da = g where a < b,  db = g where b < a;  g/2 to each where they are equal"),
    "Where": Formula("y = a where the condition holds, else b", "da = g where the condition holds,  db = g elsewhere"),
    # ops/unary
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
    # ops/operands, ops/copying
    "Cast": Formula("y = x in another element type", "dx = g, in the element type of x"),
    "Clone": Formula("y = x, in memory of its own", "dx = g"),
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
    "Split": Formula("y₁, y₂ … = the pieces of x along an axis", "dx = their gradients one after the other, zeros where there is none"),
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
    "ReLUFunction": Formula("y = max(x, 0)   (1)", "dx = g where y > 0, else 0   (2)"),
    "SoftmaxFunction": Formula("y = eˣ/Σ eˣ   (1)", "dx = y·(g − Σ g·y)   (6)"),
    "LogSoftmaxFunction": Formula("y = x − ln Σ eˣ   (2)", "dx = g − eʸ·Σ g   (5)"),
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
    # nn/cross_entropy, nn/loss
    "CrossEntropyFunction": Formula(
        "y = Σ q·ℓ,  ℓ = −ln softmax(x)   (1, 2)", "dx = g·(softmax(x)·Σq − q)   (5), divided by the weight of the batch for a mean"
    ),
    "CrossEntropyBackward": Formula("dx of dy and x   (5)", "of dy: Σ v·(p·Σq − q)  (6);  of x: dy·Σq·p·(v − Σ p·v)  (7);  v comes in for dx, p = softmax(x)"),
    "NLLLossFunction": Formula("y = −w[target]·x[target]", "dx = zeros, with −g·w at target, divided by the weight of the batch for a mean"),
    "MSELossFunction": Formula("y = (x − target)²", "dx = 2(x − target)·g,  dtarget = −dx   (1), divided by the number of elements for a mean"),
    # nn/rms_norm, nn/group_norm, nn/masked_norm
    "RMSNormFunction": Formula(
        "y = γ·x̂,  x̂ = x·r,  r = (mean(x²) + eps)^(−½),  in each row   (1–3)",
        "dx = r·(d − x̂·mean(d·x̂)),  d = γ·g  (7);  dweight = Σ g·x̂, over the rows  (4)",
        "r of each row",
    ),
    "RMSNormBackward": Formula(
        "dx, dγ of dy, x, γ   (4), (7)", "of dy: γ·Ju + a·x̂  (8);  of γ: Σ dy·Ju  (9);  of x: Jq − r·x̂·mean(u·dx)  (10);  u, a come in for dx, dγ"
    ),
    "GroupNormFunction": Formula(
        "y = γ·x̂ + β,  x̂ = (x − mean)·rstd,  in each group of channels of each sample   (1–4)",
        "dx = rstd·(d − mean(d) − x̂·mean(d·x̂)),  d = γ·g  (7), (8);  dweight = Σ g·x̂,  dbias = Σ g  (6)",
        "mean, shift, rstd of each group",
    ),
    "GroupNormBackward": Formula(
        "dx, dγ, dβ of dy, x, γ   (6–8)",
        "of dy: γ·Ju + a·x̂ + b  (9);  of γ: Σ dy·Ju  (10);  of x: Jq − rstd·x̂·mean(u·dx)  (11);  u, a, b come in for dx, dγ, dβ",
    ),
    "MaskedLayerNormFunction": Formula(
        "y = γ·x̂ + β,  x̂ = (x − mean)·rstd, over what counts in each row; else 0   (1), (2)",
        "dx = rstd·(d − Σd/n − x̂·Σ(d·x̂)/n),  d = γ·g, where it counts  (4);  dweight = Σ g·x̂,  dbias = Σ g  (3)",
    ),
    "MaskedLayerNormBackward": Formula(
        "dx, dγ, dβ of dy, x, γ   (3), (4)",
        "of dy: γ·Ju + a·x̂ + b, where it counts  (5);  of γ: Σ dy·Ju  (6);  of x: Jq − rstd·x̂·Σ(u·dx)/n  (7);  u, a, b come in for dx, dγ, dβ",
    ),
    # nn/recurrent, nn/sequences
    "MemoryFunction": Formula(
        "c′ = σ(f)·c + σ(i)·tanh(g)   (3), and σ(o)",
        "into the gates: g₀·g·i(1 − i), g₀·c·f(1 − f), g₀·i·(1 − g²), g₁·o(1 − o)  (7);  dc = g₀·f  (8);  g₀, g₁ come in for c′, σ(o)",
    ),
    "TakeSteps": Formula("y = the rows of x, one output for each step", "dx = each step's g back in its place, zeros elsewhere"),
    "PutSteps": Formula("y = the steps in their places, zeros elsewhere", "each step gets g at its places"),
    # nn/activation, nn/attention, nn/embedding, nn/dropout
    "GELUFunction": Formula("y = x·Φ(x)   (3)", "dx = g·(Φ(x) + x·φ(x))   (3)"),
    "TanhGELUFunction": Formula("y = ½x·(1 + tanh u),  u = √(2/π)·(x + 0.044715 x³)   (5)", "dx = g·(½(1 + tanh u) + ½x·(1 − tanh² u)·u′)   (5)"),
    "SiLUFunction": Formula("y = x·σ(x)   (6)", "dx = g·σ(x)·(1 + x·(1 − σ(x)))   (6)"),
    "AttentionFunction": Formula(
        "y = A V,  A = P·M,  P = softmax(c Q Kᵀ + B)   (1–4)", "dv = Aᵀ g  (5);  dZ = P·(dP − Σ dP·P)  (6);  dq = c dZ K,  dk = c dZᵀ Q,  dbias = dZ  (7)"
    ),
    "WeightsFunction": Formula("P = softmax(c Q Kᵀ + B)   (1), (2)", "dZ = P·(g − Σ g·P)  (6);  dq = c dZ K,  dk = c dZᵀ Q,  dbias = dZ  (7)"),
    "EmbeddingFunction": Formula("y = W[i]   (1)", "dweight = at each row v, Σ g over the places where i = v   (2)"),
    "EmbeddingBackward": Formula("dW of dy   (2)", "of dy: the incoming gradient's row i   (1)"),
    "DropoutFunction": Formula("y = x·m/(1 − p),  m = 1 or 0   (1)", "dx = g·m/(1 − p)   (1)"),
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
