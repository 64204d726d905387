"""The same program with torch, side by side: outputs, gradients, buffers after several steps, second derivatives; by name, in ulps.

    ulps       the largest difference in units in the last place of the largest value of that tensor
    relative   the largest difference divided by the largest value

torch is imported in the functions that compare, and nowhere else in the package.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import random as stream
from ..grad_mode import no_grad
from ..nn.module import Module
from ..tensor import Tensor
from ..walk import grad
from .report import Report
from .target import Array, Named, Snapshot, function_name, modules_of, named_tensors, own_stream, plural, upstream_like

__all__ = ["Comparison", "Difference", "compare_with_torch", "torch_twin"]


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ImportError("comparing with torch needs torch: pip install torch==2.13.0 (the extra `test` has it)") from None
    return torch


class Difference(NamedTuple):
    """How far one tensor is from torch's."""

    step: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    absolute: float
    relative: float
    ulps: float
    tolerance: float
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is within the tolerance."""
        return not self.problem and self.relative <= self.tolerance


class Comparison(Report):
    """What compare_with_torch returns: `print` it, look at `differences`, or ask `.ok`.

    Attributes:
        name: of what was compared.
        differences: one Difference for each tensor and step.
    """

    header = ("tensor", "shape", "dtype", "", "ulps", "relative", "absolute", "worst step", "")

    def __init__(self, name: str, differences: list[Difference]) -> None:
        self.name, self.differences = name, differences

    @property
    def ok(self) -> bool:
        """Whether all are within their tolerance."""
        return all(d.ok for d in self.differences)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def worst(self) -> Difference:
        """The largest relative difference, or the first that could not be compared."""
        return max(self.differences, key=lambda d: (bool(d.problem), d.relative / (d.tolerance or 1e-300)))

    def __getitem__(self, name: str) -> Difference:
        """The worst of all steps, by name."""
        found = [d for d in self.differences if d.name == name]
        if not found:
            raise KeyError(f"{name!r} was not compared; there are {', '.join(dict.fromkeys(d.name for d in self.differences))}")
        return max(found, key=lambda d: (bool(d.problem), d.relative))

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table: each name with the worst of its steps."""
        rows: list[tuple[str, ...]] = []
        for name in dict.fromkeys(d.name for d in self.differences):
            d = self[name]
            figures = f"{d.ulps:.3g}", f"{d.relative:.1e}", f"{d.absolute:.1e}", str(d.step)
            rows.append((name, str(d.shape), d.dtype, "ok" if d.ok else "DIFFERS", *figures, d.problem))
        return rows

    @property
    def title(self) -> str:
        """What was compared, and whether it agrees."""
        steps = 1 + max((d.step for d in self.differences), default=0)
        return f"{self.name} against torch, {plural(steps, 'step')}: {'ok' if self.ok else 'DIFFERENT'}"

    def raise_for_failure(self) -> None:
        """Raises AssertionError with the table where something differs."""
        if not self.ok:
            raise AssertionError(str(self))


# -- 1. Finding torch's counterpart --------------------------------------------------------------------------------------------------------


def torch_twin(ours: Any) -> Any:
    """A torch.nn layer of the same class name, arguments, mode and state; or torch's function of the same name.

    Args:
        ours: a layer or container of tinygrad_norm.nn, or a function of tinygrad_norm or its nn.functional.
    Returns:
        The torch module, with copies of our parameters and buffers, or the torch function.
    Raises:
        ImportError: torch is not installed. ValueError: torch has nothing of that name, or it needs arguments that cannot be read off.
    """
    torch = _torch()
    if not isinstance(ours, Module):
        name = function_name(ours)
        for place in (torch.nn.functional, torch):
            if hasattr(place, name) and not name.startswith("<"):
                return getattr(place, name)
        raise ValueError(f"compare_with_torch: torch has no function called {name!r}: pass torch_counterpart=…, a function of torch tensors")
    theirs = _build(torch, ours, "", {})
    first: dict[int, str] = {}
    for name, p in ours.named_parameters(remove_duplicate=False):
        if first.setdefault(id(p), name) != name:  # two places that share one parameter
            owner, _, own = name.rpartition(".")
            setattr(theirs.get_submodule(owner), own, theirs.get_parameter(first[id(p)]))
    _equate(torch, ours, theirs)
    return theirs


def _equate(torch: Any, ours: Any, theirs: Any) -> None:
    """Gives torch's module copies of our parameters and buffers, and our modes."""
    theirs.load_state_dict({name: torch.from_numpy(np.array(value._data)) for name, value in ours.state_dict().items()})
    for mine, yours in zip(ours.modules(), theirs.modules()):
        yours.training = mine.training
    wanted = {name: p.requires_grad for name, p in ours.named_parameters()}
    for name, p in theirs.named_parameters():
        p.requires_grad_(wanted.get(name, p.requires_grad))


def _build(torch: Any, ours: Any, path: str, built: dict[int, Any]) -> Any:
    """`built`: the twins so far, by the id of ours; a module that is used twice has one twin."""
    if id(ours) not in built:
        built[id(ours)] = _build_anew(torch, ours, path, built)
    return built[id(ours)]


def _build_anew(torch: Any, ours: Any, path: str, twins: dict[int, Any]) -> Any:
    name = type(ours).__name__
    kind = getattr(torch.nn, name, None)
    where = f" (at {path})" if path else ""
    if kind is None or not type(ours).__module__.startswith("tinygrad_norm."):
        raise ValueError(
            f"compare_with_torch: no torch.nn.{name} to compare with{where}: pass torch_counterpart=…, a torch module with the same state_dict keys"
        )
    built = {n: _build(torch, m, f"{path}.{n}" if path else n, twins) for n, m in ours._modules.items() if m is not None}
    if name == "Sequential":
        twin = kind()
        for n, m in built.items():
            twin.add_module(n, m)
        return twin
    if name in ("ModuleList", "ModuleDict"):
        return kind(list(built.values()) if name == "ModuleList" else built)
    arguments: dict[str, Any] = {}
    for p in inspect.signature(kind.__init__).parameters.values():
        if p.name in ("self", "device", "dtype", "inplace") or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        if p.name == "bias":
            arguments["bias"] = any(getattr(ours, n, None) is not None for n in ("bias", "in_proj_bias", "bias_ih"))
        elif hasattr(ours, p.name):
            value = getattr(ours, p.name)
            arguments[p.name] = torch.from_numpy(np.array(value._data)) if isinstance(value, Tensor) else value
        elif p.default is p.empty:
            raise ValueError(f"compare_with_torch: torch.nn.{name} takes {p.name!r}, which ours{where} does not keep: pass torch_counterpart=…")
    if name in ("LayerNorm", "BatchNorm1d") and getattr(ours, "weight", None) is None:
        arguments["bias"] = True  # torch's default; there is none either way
    twin = kind(**arguments)
    floating = [p for p in (*ours.parameters(), *ours.buffers()) if p.dtype.is_floating_point]
    return twin.to(getattr(torch, floating[0]._data.dtype.name)) if floating else twin


# -- 2. Comparing -----------------------------------------------------------------------------------------------------------------------------


def _compare(step: int, name: str, ours: Array | None, theirs: Any, rtol: float | None, around: float = 0.0) -> Difference:
    """`around` is the largest value of all tensors of this kind: a difference that is rounding beside it is taken relative to it.

    Gradients cancel: that of a bias before a BatchNorm is 0, that of a LayerNorm over two elements nearly so, and what is left is rounding.
    """
    other = None if theirs is None else theirs.detach().numpy()
    if ours is None or other is None:
        return Difference(step, name, (), "", np.inf, np.inf, np.inf, 1.0, f"None {'here' if ours is None else 'in torch'}, but not in the other")
    kind = str(ours.dtype)
    if ours.shape != other.shape or ours.dtype != other.dtype:
        return Difference(step, name, ours.shape, kind, np.inf, np.inf, np.inf, 1.0, f"torch has {other.dtype} {other.shape}")
    if ours.dtype.kind != "f":
        off = float(np.abs(ours.astype(np.float64) - other.astype(np.float64)).max(initial=0))
        return Difference(step, name, ours.shape, kind, off, off, off, 0.0 if off else 1.0)
    finite = np.isfinite(other)
    if not np.array_equal(finite, np.isfinite(ours)) or not np.array_equal(ours[~finite], other[~finite], equal_nan=True):
        return Difference(step, name, ours.shape, kind, np.inf, np.inf, np.inf, 1.0, "NaN or infinity in other places")
    largest = np.abs(other[finite]).max(initial=0)
    off = float(np.abs(ours[finite].astype(np.float64) - other[finite].astype(np.float64)).max(initial=0))
    eps = float(np.finfo(ours.dtype).eps)
    scale = float(largest if off > 64 * eps * around else max(largest, around))
    unit = float(np.spacing(ours.dtype.type(scale))) or 1.0
    bound = 4096 * eps if rtol is None else rtol
    return Difference(step, name, ours.shape, kind, off, off / scale if scale else np.inf if off else 0.0, off / unit if off else 0.0, bound)


def compare_with_torch(
    module_or_function: Any,
    inputs: Any,
    *,
    steps: int = 3,
    torch_counterpart: Any = None,
    second_order: bool = True,
    lr: float = 0.05,
    rtol: float | None = None,
    seed: int = 0,
) -> Comparison:
    """Runs a layer or function here and in torch on the same numbers, and compares all that comes out.

    In each step both get the inputs (in later steps moved by the same random numbers), both draw the same random numbers where they drop
    out, both carry back the same random upstream gradients, and the parameters of both move by −lr·gradient: buffers and parameters are
    compared after every step. In the first step the gradients are differentiated once more, contracted with random numbers.

    Args:
        module_or_function: a Module or a function; the caller's own state is as before when this returns.
        inputs: a Tensor or NumPy array, or a tuple or list of them; floating point ones are differentiated.
        steps: how many, at least 1.
        torch_counterpart: what to run in torch, called with torch tensors; found by name if None (see torch_twin).
        second_order: whether second derivatives are compared, where torch has them.
        lr: of the parameters' movement.
        rtol: what relative difference is allowed; 4096 roundings (9e-13 in float64, 5e-4 in float32) if None.
        seed: of the random numbers.
    Returns:
        A Comparison: the differences of "output", "grad input[0]", "grad weight", "running_mean", "second grad input[0]" … by name.
    Raises:
        ImportError: torch is not installed; says how to get it.
        ValueError: no counterpart; inputs or steps that make no sense; the two draw different amounts of random numbers.

    Example:
        >>> import tinygrad_norm as tg
        >>> x = tg.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]], dtype=tg.float64)
        >>> comparison = tg.autograd.compare_with_torch(tg.nn.LayerNorm(3).double(), x)
        >>> comparison.ok, comparison["grad weight"].ulps < 10
        (True, True)
    """
    torch = _torch()
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"compare_with_torch: steps must be an integer of at least 1; got {steps!r}")
    arguments = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
    for i, value in enumerate(arguments):
        if not isinstance(value, (Tensor, np.ndarray, int, float, str, type(None))):
            raise ValueError(f"compare_with_torch: input[{i}] is a {type(value).__name__}; give Tensors or NumPy arrays, and plain numbers")
    if not callable(module_or_function):
        raise TypeError(f"compare_with_torch: expected a module or a function; got {type(module_or_function).__name__}")
    arrays = [v._data if isinstance(v, Tensor) else v for v in arguments]
    theirs = torch_twin(module_or_function) if torch_counterpart is None else torch_counterpart
    ours = copy.deepcopy(module_or_function) if isinstance(module_or_function, Module) else module_or_function
    if isinstance(ours, Module) and torch_counterpart is not None:
        theirs = copy.deepcopy(theirs)
        _equate(torch, ours, theirs)
    snapshot = Snapshot([] if isinstance(ours, Module) else modules_of(ours))
    rng = own_stream(seed)
    found: list[Difference] = []
    before, torch_before = stream.get_rng_state(), torch.get_rng_state()
    try:
        for step in range(steps):
            stream.manual_seed(seed + step)
            torch.manual_seed(seed + step)
            if step:
                arrays = [_moved(a, rng) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]
            found += _step(torch, ours, theirs, arrays, step, rng, lr, rtol, second_order and step == 0)
    finally:
        snapshot.restore()
        stream.set_rng_state(before)
        torch.set_rng_state(torch_before)
    return Comparison(function_name(module_or_function), found)


def _moved(a: Array, rng: np.random.RandomState) -> Array:
    return np.asarray(a + 0.1 * np.asarray(rng.standard_normal(a.shape)), a.dtype)


def _step(
    torch: Any, ours: Any, theirs: Any, arrays: Sequence[Any], step: int, rng: np.random.RandomState, lr: float, rtol: float | None, second: bool
) -> Iterator[Difference]:
    mine = [Tensor(a.copy(), a.dtype.kind == "f") if isinstance(a, np.ndarray) else a for a in arrays]
    yours = [torch.from_numpy(a.copy()).requires_grad_(a.dtype.kind == "f") if isinstance(a, np.ndarray) else a for a in arrays]
    own = dict(ours.named_parameters()) if isinstance(ours, Module) else {}
    other = dict(theirs.named_parameters()) if own else {}
    for name, p in own.items():
        if name not in other:
            yield Difference(step, name, p.shape, "", np.inf, np.inf, np.inf, 1.0, "a parameter here, and none in torch")
            return
    own = {name: p for name, p in own.items() if p.requires_grad}
    leaves = [Named(f"input[{i}]", t) for i, t in enumerate(mine) if isinstance(t, Tensor) and t.requires_grad] + [Named(n, p) for n, p in own.items()]
    torch_leaves = [t for t in yours if isinstance(t, torch.Tensor) and t.requires_grad] + [other[name] for name in own]

    outputs, torch_outputs = list(named_tensors(ours(*mine), "output")), _torch_tensors(torch, theirs(*yours))
    if len(outputs) != len(torch_outputs):
        yield Difference(step, "output", (), "", np.inf, np.inf, np.inf, 1.0, f"{len(outputs)} tensors here, {len(torch_outputs)} in torch")
        return
    compared = [_compare(step, n.name, n.tensor._data, t, rtol) for n, t in zip(outputs, torch_outputs)]
    if not all(d.ok for d in compared) and stream.default_generator.uniform((1,))[0] != torch.rand(1).item():
        raise ValueError(
            f"compare_with_torch: {function_name(ours)} and its counterpart must draw as many random numbers as each other; they do not, so "
            "their masks differ and nothing can be compared. Call eval(), or set the dropout to 0"
        )
    yield from compared
    if any("torch has" in d.problem for d in compared):
        return  # of other shapes or types: there is no gradient to give to both
    pairs = [(n.tensor, t) for n, t in zip(outputs, torch_outputs) if n.tensor.requires_grad and t.requires_grad]
    for n, t in zip(outputs, torch_outputs):
        if n.tensor.requires_grad != t.requires_grad:
            yield Difference(step, n.name, (), "", np.inf, np.inf, np.inf, 1.0, f"requires_grad is {n.tensor.requires_grad} here, {t.requires_grad} in torch")
    if pairs and leaves:
        yield from _gradients(torch, own, other, leaves, torch_leaves, pairs, step, rng, lr, rtol, second)
    if isinstance(ours, Module):
        torch_state = theirs.state_dict()
        for name, value in ours.state_dict().items():
            yield _compare(step, name, value._data, torch_state.get(name), rtol)


def _gradients(
    torch: Any,
    own: dict[str, Any],
    other: dict[str, Any],
    leaves: list[Named],
    torch_leaves: list[Any],
    pairs: list[tuple[Tensor, Any]],
    step: int,
    rng: np.random.RandomState,
    lr: float,
    rtol: float | None,
    second: bool,
) -> Iterator[Difference]:
    """The first gradients, and the second ones; then the parameters of both have moved."""
    weights = [upstream_like(o, rng) for o, _ in pairs]
    upstream, torch_upstream = [Tensor(w, True) for w in weights], [torch.from_numpy(w.copy()).requires_grad_() for w in weights]
    first = grad([o for o, _ in pairs], [n.tensor for n in leaves], upstream, create_graph=second, allow_unused=True)
    torch_first = torch.autograd.grad([t for _, t in pairs], torch_leaves, torch_upstream, create_graph=second, allow_unused=True)
    around = _largest(first)
    for n, g, t in zip(leaves, first, torch_first):
        if g is None and t is None:
            continue
        yield _compare(step, f"grad {n.name}", None if g is None else g._data, t, rtol, around)
    if second:
        yield from _second(torch, leaves, torch_leaves, upstream, torch_upstream, first, torch_first, step, rng, rtol)
    with no_grad():
        for n, g in zip(leaves, first):
            if n.name in own and g is not None:
                n.tensor._data[...] -= n.tensor._data.dtype.type(lr) * g._data
    with torch.no_grad():
        for p, g in zip(torch_leaves, torch_first):
            if g is not None and any(p is q for q in other.values()):
                p -= lr * g


def _largest(tensors: Sequence[Tensor | None]) -> float:
    return float(max((np.abs(t._data).max(initial=0) for t in tensors if t is not None), default=0))


def _second(
    torch: Any,
    leaves: list[Named],
    torch_leaves: list[Any],
    upstream: list[Tensor],
    torch_upstream: list[Any],
    first: Sequence[Tensor | None],
    torch_first: Sequence[Any],
    step: int,
    rng: np.random.RandomState,
    rtol: float | None,
) -> Iterator[Difference]:
    """The gradients of Σ c⊙(first gradients) by the inputs, the parameters and the upstream gradients."""
    both = [(g, t) for g, t in zip(first, torch_first) if g is not None and t is not None and g.requires_grad and t.requires_grad]
    if not both:
        return
    c = [upstream_like(g, rng) for g, _ in both]
    wanted = [*leaves, *(Named(f"grad_output[{i}]", u) for i, u in enumerate(upstream))]
    mine = grad([g for g, _ in both], [n.tensor for n in wanted], [Tensor(v) for v in c], allow_unused=True)
    yours = torch.autograd.grad([t for _, t in both], [*torch_leaves, *torch_upstream], [torch.from_numpy(v) for v in c], allow_unused=True)
    around = _largest(mine)
    for n, g, t in zip(wanted, mine, yours):
        if g is None and t is not None and not t.any():
            g = Tensor(np.zeros(n.tensor.shape, n.tensor._data.dtype))  # torch fills in zeros where we know that there is nothing
        if t is None and g is not None and not g._data.any():
            t = torch.zeros(tuple(g.shape), dtype=getattr(torch, g._data.dtype.name))
        if g is None and t is None:
            continue
        yield _compare(step, f"second grad {n.name}", None if g is None else g._data, t, rtol, around)


def _torch_tensors(torch: Any, value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _torch_tensors(torch, v)]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in _torch_tensors(torch, v)]
    return []
