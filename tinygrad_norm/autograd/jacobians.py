"""The check behind gradcheck, step by step: call, backward, differences, verdicts.

    1. the function is called twice: the same result, its inputs untouched?
    2. one backward with random upstream gradients, twice: the same result, nothing written to?
    3. the Jacobians: one backward an output element, one extrapolated difference an input element
    4. is the backward of 2 the Jacobian of 3 times dy? are there outputs without a graph, inputs without effect?
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..function import Function
from ..tensor import Tensor
from ..walk import examiners, grad
from .explain import blind_spots, explain_pair
from .numeric import derivative, first_step, noise_level
from .report import GradcheckResult, PairResult
from .target import FAILURES, Array, GradcheckError, Named, Target, flat, own_stream, upstream_like

__all__ = ["check"]

TURNED = -3.7  # times dy: a backward that is linear gives as many times its gradients
LARGEST = 1 << 24  # elements of all Jacobians together: a dozen arrays of that size are a gigabyte
WHERE = 1 << 16  # up to so many are looked at where fast_mode finds something wrong, to say where


def check(
    target: Target,
    result: GradcheckResult,
    rng: np.random.RandomState,
    eps: float | None,
    nondet_tol: float,
    undefined: bool,
    fast: bool,
    allow_unused: bool,
) -> None:
    """Fills the result; the arguments are those of gradcheck.

    Raises:
        GradcheckError: where there is nothing to compare: no Tensor comes out, a backward raises, an input has no effect.
    """
    before = target.arrays()
    outputs = target.call()
    for n in target.changed_in_place(before):
        result.problems.append(f"{target.name} changes {n} in place, which is an input: work on a clone()")
    f0 = flat(outputs) if target.for_values is target.function else target.values()  # rounded as those that they are compared with
    with target.private_copies():
        again = target.values()
        if not _close(again, f0, nondet_tol):
            result.nondeterministic = f"{target.name} is not deterministic: {target.why_two_calls_differ()}"
    target.snapshot.restore()
    outputs = target.call()  # once more: the graph of the first may hold buffers that have been written to since
    target.changed_in_place(before)
    cotangents = [upstream_like(n.tensor, rng) for n in outputs]
    differentiable = [n.tensor.requires_grad for n in outputs]
    narrow: list[str] = []
    if any(differentiable):
        result.warnings += blind_spots(target, [n for n in outputs if n.tensor.requires_grad], [v for v, d in zip(cotangents, differentiable) if d])
        projected = _random_backward(target, result, outputs, cotangents, before, nondet_tol, narrow)
    else:
        projected = [None] * len(target.inputs)
    size = f0.size * sum(n.tensor._data.size for n in target.inputs)
    if fast:
        _fast_pairs(target, result, outputs, cotangents, f0, rng, eps)
        if undefined and not narrow:
            _check_joint(target, result, outputs, projected, cotangents, nondet_tol)
        if all(p.verdict in ("ok", "independent") for p in result.pairs) or size > WHERE:
            return
        result.pairs.clear()
    if size > LARGEST:
        raise ValueError(f"gradcheck: the Jacobians of {target.name} would have {size} elements: take smaller inputs, or fast_mode=True")
    pairs, numeric = _jacobians(target, result, outputs, f0, eps)
    if not narrow:  # in fewer digits everything is a little off, and nothing else can be told
        _check_linear(target, result, pairs, outputs, projected, cotangents, undefined, nondet_tol)
    for pair in pairs:
        explain_pair(pair, numeric[pair.input])
        result.pairs.append(pair)
    _check_connected(target, result, outputs, allow_unused)


def _close(a: Array, b: Array, tolerance: float) -> bool:
    if a.shape != b.shape:
        return False
    with np.errstate(invalid="ignore"):
        return bool(np.all((np.abs(a - b) <= tolerance) | (a == b) | (np.isnan(a) & np.isnan(b))))


def _backward(target: Target, outputs: list[Named], gradients: list[Array]) -> list[Array | None]:
    """The gradients of all checked inputs, as arrays; an error of the engine passes through with its message."""
    try:
        found = grad(
            [n.tensor for n in outputs], [n.tensor for n in target.inputs], [Tensor(g) for g in gradients], retain_graph=True, allow_unused=True
        )
    except FAILURES as error:
        raise GradcheckError(f"{target.name}: its backward raises {type(error).__name__}: {error}") from error
    return [None if g is None else g._data for g in found]


@contextlib.contextmanager
def _watch_types(narrow: list[str]) -> Iterator[None]:
    """Within: notes each gradient that has fewer digits than its input; the walk makes it as wide again, and nobody sees that they are lost."""

    def examine(node: Function, results: Any) -> None:
        for i, (edge, g) in enumerate(zip(node.edges, results if type(results) is tuple else (results,))):
            if edge is not None and isinstance(g, (Tensor, np.ndarray, np.generic)):
                kind = edge[0].outputs[edge[1]][1] if type(edge) is tuple else edge._data.dtype
                came = g._data.dtype if isinstance(g, Tensor) else g.dtype
                if came.itemsize < kind.itemsize and came.kind == "f":
                    what = f"{node.name} returns a {came} gradient for input {i}, which is {kind}"
                    narrow.append(f"{what}: the precision is lost on the way; compute it in {kind}")

    examiners.append(examine)
    try:
        yield
    finally:
        examiners.remove(examine)


def _random_backward(
    target: Target,
    result: GradcheckResult,
    outputs: list[Named],
    cotangents: list[Array],
    before: list[Array],
    nondet_tol: float,
    narrow: list[str],
) -> list[Array | None]:
    """One backward with random upstream gradients, twice; what it returns, and what it should have left alone.

    `narrow` is told which gradients on the way have fewer digits than what they are the gradients of.
    """
    chosen = [(n, v) for n, v in zip(outputs, cotangents) if n.tensor.requires_grad]
    names, copies = [n for n, _ in chosen], [v.copy() for _, v in chosen]
    with _watch_types(narrow):
        first = _backward(target, names, copies)
    result.problems += dict.fromkeys(narrow)
    for n, v, copy in zip(names, (v for _, v in chosen), copies):
        if not np.array_equal(v, copy):
            result.problems.append(f"the backward of {target.name} changes the gradient of {n.name} in place: it belongs to others as well")
    for n in target.changed_in_place(before):
        result.problems.append(f"the backward of {target.name} changes {n} in place: what was saved must stay as it was")
    second = _backward(target, names, [v.copy() for _, v in chosen])
    for n, a, b in zip(target.inputs, first, second):
        if (a is None) != (b is None) or (a is not None and b is not None and not _close(a, b, nondet_tol)):
            result.problems.append(
                f"Backward is not reentrant, i.e., running backward with same input and grad_output multiple times gives different values for "
                f"{n}, although analytical gradient matches numerical gradient: it keeps state, or writes to what it saved. nondet_tol is {nondet_tol:g}"
            )
    if narrow:
        return first
    third = _backward(target, names, [np.asarray(TURNED * v, v.dtype) for _, v in chosen])
    largest = max((np.abs(g).max(initial=0) for g in third if g is not None), default=0)
    for n, a, b in zip(target.inputs, first, third):
        unit = max(np.finfo(m.tensor._data.dtype).eps for m in (*names, n))
        slack = 1e4 * unit * largest + 1e-6 * result.atol - TURNED * nondet_tol  # all gradients may be rounding alone: atol measures them as well
        if a is not None and b is not None and not _close(np.asarray(TURNED * a), np.asarray(b), slack):
            j = np.unravel_index(int(np.argmax(np.abs(TURNED * a - b))), a.shape)
            index = [int(k) for k in j]
            result.problems.append(
                f"the backward of {target.name} is not linear in the upstream gradient dy: with {TURNED} dy, {n.name}{index} gets {b[j]:.6g}; "
                f"{TURNED} times what it gets with dy is {TURNED * a[j]:.6g}"
            )
            break
    return first


def _places(outputs: list[Named]) -> tuple[list[slice], Array]:
    """Where each output's elements stand among those of all, and the relative rounding of each element."""
    ends = np.cumsum([n.tensor._data.size for n in outputs])
    places = [slice(int(end) - n.tensor._data.size, int(end)) for n, end in zip(outputs, ends)]
    return places, np.concatenate([np.full(n.tensor._data.size, np.finfo(n.tensor._data.dtype).eps) for n in outputs])


def _jacobians(
    target: Target, result: GradcheckResult, outputs: list[Named], f0: Array, eps: float | None
) -> tuple[list[PairResult], dict[str, Array]]:
    """(1) and (2) of gradcheck.py for every pair, judged; and the values of the inputs."""
    analytic: list[list[Array | None]] = []  # by output, by input: (outputs, inputs) or None where the graph does not lead there
    for n in outputs:
        rows: list[list[Array | None]] = []
        for o in range(n.tensor._data.size if n.tensor.requires_grad else 0):
            one = np.zeros(n.tensor.shape, n.tensor._data.dtype)
            one.reshape(-1)[o] = 1
            rows.append(_backward(target, [n], [one]))
        if n.tensor.requires_grad and not n.tensor._data.size:  # no row, but the graph may lead there all the same
            reached = _backward(target, [n], [np.zeros(n.tensor.shape, n.tensor._data.dtype)])
            analytic.append([None if g is None else np.zeros((0, g.size)) for g in reached])
            continue
        per_input: list[Array | None] = []
        for i, leaf in enumerate(target.inputs):
            column = [row[i] for row in rows]
            if all(g is None for g in column):
                per_input.append(None)
            else:
                per_input.append(np.array([np.zeros(leaf.tensor._data.size) if g is None else g.reshape(-1) for g in column], np.float64))
        analytic.append(per_input)
    places, unit = _places(outputs)
    found: list[PairResult] = []
    held = {n.name: n.tensor._data.astype(np.float64) for n in target.inputs}
    with target.private_copies() as copies:
        for i, leaf in enumerate(target.inputs):
            x = copies[i]
            units = np.maximum(unit, np.finfo(x.dtype).eps)
            size = x.size
            parts = np.zeros((5, len(f0), size))
            flags = np.zeros((2, len(f0), size), bool)
            along = _direction(target, x, own_stream(i).standard_normal(x.shape), len(f0))
            noise = noise_level(along, _step(x) / 4096) if size and eps is None else np.zeros(len(f0))
            widest = max(first_step(x), 0.25) if size else 0.25
            steps = np.ravel(first_step(x, ...)).tolist() if size else []
            for j, (index, step) in enumerate(zip(np.ndindex(x.shape), steps)):
                d = derivative(_line(target, x, index, len(f0)), f0, step, units, noise, eps, widest)
                parts[:4, :, j] = d.value, d.error, d.left, d.right
                flags[:, :, j] = d.kink, d.jump
            for k, n in enumerate(outputs):
                pair = PairResult(n.name, leaf.name, tuple(n.tensor.shape), tuple(leaf.tensor.shape), result.atol, result.rtol)
                pair.numeric, pair.error, pair.left, pair.right = (p[places[k]] for p in parts[:4])
                pair.kink, pair.jump = (f[places[k]] for f in flags)
                a = analytic[k][i]
                pair.connected = a is not None
                pair.analytic = np.zeros_like(pair.numeric) if a is None else a
                pair.judge(result.nondeterministic)
                if pair.verdict in ("inconclusive", "wrong") and np.isfinite(pair.absolute_error) and eps is None:
                    place = places[k].start + pair.output_offset
                    pair.note_noise(float(noise[place]), float(np.abs(f0[place])), float(units[place]), _step(x))
                found.append(pair)
    found.sort(key=lambda p: [n.name for n in outputs].index(p.output))
    return found, held


def _values(target: Target, size: int) -> Array:
    """All outputs; NaN where they have other shapes than before, as x[x > 0] may have, or there are none: then a smaller step is taken."""
    try:
        values = target.values()
    except (RuntimeError, ValueError, ArithmeticError):
        return np.full(size, np.nan)
    return values if values.size == size else np.full(size, np.nan)


def _line(target: Target, x: Array, index: tuple[int, ...], size: int) -> Callable[[float], tuple[float, Array]]:
    """The outputs as a function of a step along one element of an input."""
    start = x[index].copy()

    def line(t: float) -> tuple[float, Array]:
        x[index] = start + x.dtype.type(t)
        taken = float(x[index].astype(np.float64) - start.astype(np.float64))
        try:
            return taken, _values(target, size)
        finally:
            x[index] = start

    return line


def _step(x: Array) -> float:
    """A first step for all elements at once: that of the smallest."""
    return float(np.min(first_step(x, ...))) if x.size else 0.25


def _direction(target: Target, x: Array, u: Array, size: int) -> Callable[[float], tuple[float, Array]]:
    """The outputs as a function of a step along u, all elements of an input at once."""
    start = x.copy()

    def line(t: float) -> tuple[float, Array]:
        x[...] = start + t * u
        try:
            return t, _values(target, size)
        finally:
            x[...] = start

    return line


def _fast_pairs(
    target: Target, result: GradcheckResult, outputs: list[Named], cotangents: list[Array], f0: Array, rng: np.random.RandomState, eps: float | None
) -> None:
    """v·J·u for random v and u, one number a pair: the analytic one by a backward with v, the numeric one by a step along u."""
    places, unit = _places(outputs)
    rows = [_backward(target, [n], [v.copy()]) if n.tensor.requires_grad else [None] * len(target.inputs) for n, v in zip(outputs, cotangents)]
    with target.private_copies() as copies:
        for i, leaf in enumerate(target.inputs):
            x = copies[i]
            u = rng.standard_normal(x.shape)
            line = _direction(target, x, u, len(f0))
            noise = noise_level(line, _step(x) / 4096) if eps is None else None
            d = derivative(line, f0, _step(x) / 4, np.maximum(unit, np.finfo(x.dtype).eps), noise, eps)
            for k, n in enumerate(outputs):
                part, v = places[k], cotangents[k].reshape(-1).astype(np.float64)
                g = rows[k][i]
                pair = PairResult(n.name, leaf.name, (), (), result.atol, result.rtol)
                pair.projected = True
                pair.connected = g is not None
                pair.analytic = np.array([[0.0 if g is None else float(np.sum(g.astype(np.float64) * u))]])
                pair.numeric, pair.error = np.array([[v @ d.value[part]]]), np.array([[np.abs(v) @ d.error[part]]])
                pair.left, pair.right = pair.numeric, pair.numeric
                # A step along u moves every element at once; a kink of any of them is for the full check to look at.
                pair.kink, pair.jump = np.array([[bool(d.kink[part].any())]]), np.array([[bool(d.jump[part].any())]])
                pair.judge(result.nondeterministic)
                result.pairs.append(pair)


def _check_joint(
    target: Target, result: GradcheckResult, outputs: list[Named], projected: list[Array | None], cotangents: list[Array], nondet_tol: float
) -> None:
    """The gradients of several outputs add: what comes back with all of them is the sum of what comes back with each alone."""
    chosen = [(n, v) for n, v in zip(outputs, cotangents) if n.tensor.requires_grad]
    if len(chosen) < 2:
        return
    alone = [_backward(target, [n], [v.copy()]) for n, v in chosen]
    for i, leaf in enumerate(target.inputs):
        parts = [np.asarray(g[i], np.float64) for g in alone if g[i] is not None]
        got = np.zeros(leaf.tensor.shape) if projected[i] is None else np.asarray(projected[i], np.float64)
        unit = max(np.finfo(n.tensor._data.dtype).eps for n in (*outputs, leaf))
        largest = max((np.abs(p).max(initial=0) for p in parts), default=0)
        if not _close(got, np.asarray(sum(parts, np.zeros(got.shape))), 1e4 * unit * largest + 2 * nondet_tol):
            result.problems.append(
                f"the backward of {target.name} is wrong where all outputs have a gradient, or only some have one: {leaf.name} gets something else "
                "than the sum of what it gets from each"
            )


def _check_linear(
    target: Target,
    result: GradcheckResult,
    pairs: list[PairResult],
    outputs: list[Named],
    projected: list[Array | None],
    cotangents: list[Array],
    undefined: bool,
    nondet_tol: float,
) -> None:
    """The backward with random dy against dy·analytic: it must be linear, and the outputs' gradients must simply add."""
    largest = max((np.abs(g).max(initial=0) for g in projected if g is not None), default=0)
    for i, leaf in enumerate(target.inputs):
        mine = [p for p in pairs if p.input == leaf.name]
        expected = sum(v.reshape(-1).astype(np.float64) @ p.analytic for p, v in zip(mine, cotangents))
        scale = sum(np.abs(v.reshape(-1).astype(np.float64)) @ np.abs(p.analytic) for p, v in zip(mine, cotangents))
        back = projected[i]
        got = np.zeros(leaf.tensor._data.size) if back is None else back.reshape(-1).astype(np.float64)
        unit = max(np.finfo(n.tensor._data.dtype).eps for n in (*outputs, leaf))
        # A gradient that is only rounding, as that of a bias before a BatchNorm, is measured by the others and by the numeric error.
        slack = sum(np.abs(v.reshape(-1).astype(np.float64)) @ np.where(np.isfinite(p.error), p.error, 0) for p, v in zip(mine, cotangents))
        with np.errstate(invalid="ignore"):
            off = np.abs(got - expected) > 1e4 * unit * (scale + np.max(scale, initial=0)) + 256 * unit * largest + slack + 1e-6 * result.atol + 2 * nondet_tol
        if not off.any():
            continue
        j = int(np.argmax(np.abs(got - expected)))
        index = tuple(int(n) for n in np.unravel_index(j, leaf.tensor.shape))
        where = f"at {leaf.name}{list(index)} a random dy gives {got[j]:.6g}, dy·Jacobian is {np.asarray(expected)[j]:.6g}"
        if len(outputs) > 1 and undefined:
            alone = [_backward(target, [n], [v.copy()])[i] for n, v in zip(outputs, cotangents) if n.tensor.requires_grad]
            total = sum(g.reshape(-1).astype(np.float64) for g in alone if g is not None)
            if np.all(np.abs(total - expected) <= 1e4 * unit * (scale + np.max(scale))):
                result.problems.append(f"the backward of {target.name} is wrong where all outputs have a gradient, or only some have one: {where}")
                continue
        if len(outputs) > 1 and not undefined:
            continue
        result.problems.append(f"the backward of {target.name} is not linear in the upstream gradient dy: {where}")


def _check_connected(target: Target, result: GradcheckResult, outputs: list[Named], allow_unused: bool) -> None:
    """Inputs without any effect, and outputs that lost their graph."""
    for n in outputs:
        mine = [p for p in result.pairs if p.output == n.name]
        if not any(p.connected for p in mine):
            moved = [p.input for p in mine if np.any(p.numeric != 0)]
            if moved:
                result.problems.append(
                    f"{n} changes with {', '.join(moved)} but its graph does not lead there: a detach(), .data, numpy() or no_grad() cuts it"
                )
            elif not (allow_unused and any(p.connected for p in result.pairs)):
                raise GradcheckError(f"{target.name}: {n} does not depend on any input that requires a gradient")
    for leaf in target.inputs:
        mine = [p for p in result.pairs if p.input == leaf.name]
        if not allow_unused and all(p.verdict == "independent" for p in mine):
            raise GradcheckError(
                f"{target.name}: no output depends on the input {leaf}, so its gradient says nothing: leave it out, or set requires_grad=False"
            )
