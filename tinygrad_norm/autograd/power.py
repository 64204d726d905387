"""How much a check of a backward is worth: which wrong backward passes it would let through.

A check is only as good as its inputs. Through the loss sum(y) a norm with γ = 1 has gradient 0, whatever most mistakes do to it.
`gradcheck_power` runs a bank of wrong backwards (wrong_norms.py, wrong_layers.py) on the inputs of several *recipes* and says which
of them come out within the tolerance of the right gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .report import Report
from .target import Array, function_name
from .wrong_layers import CROSS_ENTROPY, LINEAR, RELU, cross_entropy_values, linear_values, relu_values
from .wrong_norms import BATCH_NORM_EVAL_DX, NORM_DX, NORM_PARAMETERS, RUNNING, Values, Wrong, norm_values

__all__ = ["BANK", "RECIPES", "Part", "PowerResult", "Recipe", "gradcheck_power", "lets_through"]


class Part(NamedTuple):
    """One quantity of an op: how the bank calls it, the right value, and the wrong ones."""

    right: Callable[[Values], Array]
    wrong: list[Wrong]


class Recipe(NamedTuple):
    """Inputs of a check: a name, and a function from a random generator to one or more cases; a mistake must pass all to pass."""

    name: str
    cases: Callable[[np.random.RandomState], list[Values]]


def _name_starts(wrong: list[Wrong], start: str) -> list[Wrong]:
    return [w for w in wrong if w.name.startswith(start)]


BANK: dict[str, Part] = {
    "layer_norm dx": Part(lambda v: v.dx, [w for w in NORM_DX if w.applies(Values(op="layer_norm", x=np.zeros((5, 5))))]),
    "layer_norm dγ": Part(lambda v: v.dgamma, _name_starts(NORM_PARAMETERS, "dγ")),
    "layer_norm dβ": Part(lambda v: v.dbeta, _name_starts(NORM_PARAMETERS, "dβ")),
    "batch_norm dx": Part(lambda v: v.dx, [w for w in NORM_DX if any(w.applies(Values(op="batch_norm", x=np.zeros(s))) for s in ((5, 5), (2, 3, 4)))]),
    "batch_norm dγ": Part(lambda v: v.dgamma, [w for w in _name_starts(NORM_PARAMETERS, "dγ") if "statistics'" not in w.name]),
    "batch_norm dβ": Part(lambda v: v.dbeta, [w for w in _name_starts(NORM_PARAMETERS, "dβ") if "statistics'" not in w.name]),
    "batch_norm eval dx": Part(lambda v: v.d / np.sqrt(v.running_var + v.eps), BATCH_NORM_EVAL_DX),
    "batch_norm running_var": Part(lambda v: (1 - v.momentum) * v.running_var + v.momentum * v.var * v.M / (v.M - 1), RUNNING),
    "linear dx": Part(lambda v: v.dx, _name_starts(LINEAR, "dx")),
    "linear dW": Part(lambda v: v.dW, _name_starts(LINEAR, "dW")),
    "linear db": Part(lambda v: v.db, _name_starts(LINEAR, "db")),
    "relu dx": Part(lambda v: v.dx, RELU),
    "cross_entropy dz": Part(lambda v: v.dz, CROSS_ENTROPY),
}

# -- 1. Recipes -------------------------------------------------------------------------------------------------------------------------


def _signs(rng: np.random.RandomState, *shape: int) -> Array:
    """Random numbers of both signs and none near 0, with a mean that is not 0."""
    values = rng.uniform(0.5, 1.8, shape) * rng.choice([-1.0, 1.0, 1.0], shape)
    if values.size > 1:
        values.reshape(-1)[:2] = 0.7, -1.3
    return np.asarray(values)


def _norm(op: str, loss: str, gamma: str, eps: float, shape: tuple[int, ...] = (6, 5), plain: bool = False) -> Callable[[np.random.RandomState], Values]:
    def make(rng: np.random.RandomState) -> Values:
        c = shape[-1] if op == "layer_norm" else shape[1]
        x = rng.standard_normal(shape) + 0.3
        if not plain:  # with another scale for each row and column
            x *= rng.uniform(0.7, 2, (shape[0], *(1,) * (len(shape) - 1)))
            x *= rng.uniform(0.7, 2, (1, *shape[1:]))
        ones = gamma == "1"
        weight, bias = (np.ones(c), np.zeros(c)) if ones else (_signs(rng, c), rng.standard_normal(c) + 0.5)
        running = (1, c, *(1,) * (len(shape) - 2)) if op == "batch_norm" else (1, c)
        more = {"running_mean": rng.standard_normal(running), "running_var": rng.uniform(0.3, 2, running), "momentum": 0.2}
        dy = rng.standard_normal(shape) + 0.4
        if loss != "random":
            y = norm_values(op, x, weight, bias, dy, eps, **more).y
            dy = np.ones(shape) if loss == "sum" else 2 * y
        return norm_values(op, x, weight, bias, dy, eps, **more)

    return make


def _one(make: Callable[[np.random.RandomState], Values]) -> Callable[[np.random.RandomState], list[Values]]:
    return lambda rng: [make(rng)]


def _norm_recipes(op: str) -> list[Recipe]:
    good = [
        _norm(op, "random", "random", 0.3), _norm(op, "random", "random", 1e-5), _norm(op, "random", "random", 0.3, (5, 5)),
        _norm(op, "random", "random", 0.3, (4, 3, 5)), _norm(op, "random", "random", 0.3, (7, 2)),
    ]  # fmt: skip
    return [
        Recipe("sum(y), γ = 1", _one(_norm(op, "sum", "1", 1e-5, plain=True))),
        Recipe("sum(y²), γ = 1", _one(_norm(op, "square", "1", 1e-5, plain=True))),
        Recipe("random dy, γ = 1", _one(_norm(op, "random", "1", 1e-5))),
        Recipe("random dy, γ", _one(_norm(op, "random", "random", 1e-5))),
        Recipe("random dy, γ; eps 0.3", _one(_norm(op, "random", "random", 0.3))),
        Recipe("several shapes and eps", lambda rng: [make(rng) for make in good]),
    ]


def _linear(loss: str, shape: tuple[int, ...], out: int, before: bool = False) -> Callable[[np.random.RandomState], Values]:
    def make(rng: np.random.RandomState) -> Values:
        x, w, b = rng.standard_normal(shape) + 0.3, rng.standard_normal((out, shape[-1])) + 0.2, rng.standard_normal(out) + 0.5
        y = x @ w.T + b
        dy = {"sum": np.ones_like(y), "square": 2 * y}.get(loss, rng.standard_normal(y.shape) + 0.4)
        return linear_values(x, w, b, dy, rng.standard_normal(w.shape) if before else None)

    return make


def _linear_recipes() -> list[Recipe]:
    good = [_linear("random", (5, 4), 3, True), _linear("random", (4, 4), 4), _linear("random", (2, 5, 4), 3)]
    return [
        Recipe("sum(y), one sample", _one(_linear("sum", (1, 4), 3))),
        Recipe("sum(y)", _one(_linear("sum", (5, 4), 3))),
        Recipe("sum(y²)", _one(_linear("square", (5, 4), 3))),
        Recipe("random dy", _one(_linear("random", (5, 4), 3))),
        Recipe("several shapes, two calls", lambda rng: [make(rng) for make in good]),
    ]


def _relu(loss: str, good: bool) -> Callable[[np.random.RandomState], Values]:
    def make(rng: np.random.RandomState) -> Values:
        x = rng.standard_normal((6, 5)) * (4 if good else 1)
        if good:
            x[0, :4] = 0.0, -0.0, 0.5, 7.0
        dy = {"sum": np.ones_like(x), "square": 2 * np.maximum(x, 0)}.get(loss, rng.standard_normal(x.shape) + 0.4)
        if good:
            dy[0, :4] = 0.7, -1.2, -0.6, 0.9
        return relu_values(x, dy)

    return make


def _relu_recipes() -> list[Recipe]:
    return [
        Recipe("sum(y)", _one(_relu("sum", False))),
        Recipe("sum(y²)", _one(_relu("square", False))),
        Recipe("random dy", _one(_relu("random", False))),
        Recipe("random dy; 0, −0, 0.5 and 7 in x", _one(_relu("random", True))),
    ]


def _entropy(u: float, shape: tuple[int, int], ignored: bool = False, scale: float = 1.0) -> Callable[[np.random.RandomState], Values]:
    def make(rng: np.random.RandomState) -> Values:
        z, t = rng.standard_normal(shape) * scale + 0.3, rng.randint(0, shape[1], shape[0])
        if scale > 100:
            # A confident wrong answer: all of p on one class, and another one true. There 1e-9 beside p hides the gradient.
            z[:] = rng.standard_normal(shape)
            z[:, 0], t[:] = scale, 1
        if ignored:
            t[0] = -100
        return cross_entropy_values(z, t, u)

    return make


def _entropy_recipes() -> list[Recipe]:
    good = [_entropy(1.7, (6, 5)), _entropy(0.6, (5, 5), ignored=True), _entropy(-1.3, (4, 3), scale=1000.0)]
    return [
        Recipe("one sample, u = 1", _one(_entropy(1.0, (1, 5)))),
        Recipe("a batch, u = 1", _one(_entropy(1.0, (6, 5)))),
        Recipe("a batch, random u", _one(_entropy(1.7, (6, 5)))),
        Recipe("ignored rows, logits of 1000", lambda rng: [make(rng) for make in good]),
    ]


RECIPES: dict[str, list[Recipe]] = {
    "layer_norm": _norm_recipes("layer_norm"),
    "batch_norm": _norm_recipes("batch_norm"),
    "linear": _linear_recipes(),
    "relu": _relu_recipes(),
    "cross_entropy": _entropy_recipes(),
}

# -- 2. The measurement -------------------------------------------------------------------------------------------------------------------


def lets_through(wrong: Wrong, right: Callable[[Values], Array], cases: Sequence[Values], atol: float = 1e-5, rtol: float = 1e-3) -> bool | None:
    """Whether a comparison on these cases accepts the wrong gradient; None where it cannot be written for any of them.

    A gradient of another shape is rejected, and so is one whose computation changed its inputs.
    """
    tried = False
    for values in cases:
        if not wrong.applies(values):
            continue
        tried = True
        mine = values.copied()
        expected = right(values)
        with np.errstate(all="ignore"):
            got = np.asarray(wrong.gradient(mine))
        changed = any(isinstance(a, np.ndarray) and not np.array_equal(a, values[k]) for k, a in mine.items())
        if changed or got.shape != expected.shape or not np.allclose(got, expected, rtol=rtol, atol=atol):
            return False
    return True if tried else None


class PowerResult(Report):
    """Which wrong backwards pass which recipe.

    Attributes:
        op: what was measured.
        recipes: the names of the recipes, the columns.
        passes: (part, name of the mistake) → for each recipe True (passes), False (caught), None (cannot be made there).
        breaks: (part, name of the mistake) → the line of the derivation that it breaks.
    """

    def __init__(self, op: str, recipes: list[str], passes: dict[tuple[str, str], list[bool | None]], breaks: dict[tuple[str, str], str]) -> None:
        self.op, self.recipes, self.passes, self.breaks = op, recipes, passes, breaks
        self.header = ("wrong backward", *recipes)

    def _outcomes(self, recipe: str | int, part: str | None) -> list[tuple[str, bool | None]]:
        """The mistakes of all parts or of one ("dx"), and what became of each in a recipe."""
        k = recipe if isinstance(recipe, int) else self.recipes.index(recipe)
        return [(name, row[k]) for (p, name), row in self.passes.items() if part is None or p == part or p.endswith(" " + part)]

    def let_through(self, recipe: str | int, part: str | None = None) -> list[str]:
        """The mistakes that pass a recipe, of all parts or of one ("dx")."""
        return [name for name, passes in self._outcomes(recipe, part) if passes]

    def count(self, recipe: str | int, part: str | None = None) -> tuple[int, int]:
        """How many pass, of how many that can be made there."""
        made = [passes for _, passes in self._outcomes(recipe, part) if passes is not None]
        return sum(made), len(made)

    @property
    def title(self) -> str:
        """Above the table."""
        return f"which wrong backwards of {self.op} a check lets through"

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table: the mistakes, and how many pass each recipe."""
        rows: list[tuple[str, ...]] = []
        for (part, name), row in self.passes.items():
            op, _, quantity = part.partition(" ")
            full = f"{op} {name}" if name.startswith(f"{quantity}: ") else f"{part}: {name}"  # the names of some mistakes begin with the quantity
            rows.append((full, *({True: "PASSES", False: "caught", None: "–"}[passes] for passes in row)))
        totals = [self.count(k) for k in range(len(self.recipes))]
        return [*rows, ("passes, of", *(f"{a} of {b}" for a, b in totals))]


_OPS = {"LayerNorm": "layer_norm", "BatchNorm1d": "batch_norm", "Linear": "linear", "ReLU": "relu", "CrossEntropyLoss": "cross_entropy"}


def gradcheck_power(op: Any, recipes: Sequence[Recipe] | None = None, *, atol: float = 1e-5, rtol: float = 1e-3, seed: int = 0) -> PowerResult:
    """Which of a bank of wrong backwards a recipe for a check would let through.

    Args:
        op: "layer_norm", "batch_norm", "linear", "relu" or "cross_entropy", all parts of it or one ("layer_norm dx"); or such a
            layer, its class, or its function.
        recipes: the inputs to try; those of `RECIPES` if None, from the naive to the good.
        atol, rtol: what the check takes for equal; gradcheck's by default.
        seed: of the random inputs.
    Returns:
        A PowerResult: print it.
    Raises:
        ValueError: an op that the bank does not know.

    Example:
        >>> import tinygrad_norm as tg
        >>> power = tg.autograd.gradcheck_power("relu")
        >>> power.let_through("sum(y)")[:3]
        ['>= at 0', '½ at 0', '(x > 0) without dy']
        >>> power.let_through("random dy; 0, −0, 0.5 and 7 in x")
        []
    """
    if not isinstance(op, str):
        name = getattr(op, "__name__", None) or type(op).__name__
        op = _OPS.get(name, _OPS.get(type(op).__name__, function_name(op)))
    parts = {name: part for name, part in BANK.items() if name == op or name.startswith(op + " ")}
    if not parts:
        raise ValueError(f"gradcheck_power: no bank of wrong backwards for {op!r}; there are {', '.join(RECIPES)}, and the parts {', '.join(BANK)}")
    chosen = RECIPES[op.split()[0]] if recipes is None else recipes
    cases = [recipe.cases(np.random.RandomState(seed)) for recipe in chosen]
    passes: dict[tuple[str, str], list[bool | None]] = {}
    breaks: dict[tuple[str, str], str] = {}
    for part_name, part in parts.items():
        for wrong in part.wrong:
            passes[part_name, wrong.name] = [lets_through(wrong, part.right, c, atol, rtol) for c in cases]
            breaks[part_name, wrong.name] = wrong.breaks
    return PowerResult(op, [r.name for r in chosen], passes, breaks)
