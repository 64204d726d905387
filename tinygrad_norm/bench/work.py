"""What is timed, written once for torch and for this project, whose names are the same: `api` is the module of either.

Numbers come from NumPy, so that every contestant computes on the same ones. A Work is what a worker holds of a row: the function whose
results are compared before anything is timed, and the calls that are timed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

__all__ = ["BUILDERS", "Phase", "Work", "build", "numbers", "parameter", "truth"]

Array = np.ndarray[Any, Any]


class Phase(NamedTuple):
    """One timed call, and what has to be done before each repetition of it (not timed); the call gets what that returns."""

    call: Callable[[Any], Any]
    before: Callable[[], Any] = lambda: None


class Work(NamedTuple):
    """A row as a worker holds it; `clear` gives back the gradients that the last call left."""

    outputs: Callable[[], dict[str, Array]]
    phases: dict[str, Phase]
    clear: Callable[[], None] = lambda: None


# -- 1. Numbers ----------------------------------------------------------------------------------------------------------------------------------


def numbers(shape: tuple[int, ...], seed: int, *, mean: float = 0.0, dtype: str = "float32") -> Array:
    """Normal numbers of that mean and deviation one."""
    drawn: Array = np.random.default_rng(seed).standard_normal(shape, np.dtype(dtype))  # type: ignore[arg-type]
    drawn += drawn.dtype.type(mean)
    return drawn


def parameter(name: str, shape: tuple[int, ...], seed: int, dtype: str = "float32") -> Array:
    """Values for a parameter: weights of a matrix scaled to keep variances, a norm's weight around one, a bias around zero."""
    drawn = numbers(shape, seed, dtype=dtype)
    kind = drawn.dtype.type
    drawn /= kind(np.sqrt(shape[-1])) if len(shape) > 1 else kind(10)
    if len(shape) == 1 and name.endswith("weight"):
        drawn += kind(1)
    return drawn


def _leaf(api: Any, values: Array) -> Any:
    return api.from_numpy(values).requires_grad_()


def _fill(api: Any, module: Any, dtype: str) -> dict[str, Any]:
    """The module's parameters by name, with the values that every contestant has."""
    named = dict(module.named_parameters())
    with api.no_grad():
        for seed, (name, p) in enumerate(named.items(), 100):
            p.copy_(api.from_numpy(parameter(name, tuple(p.shape), seed, dtype)))
    return named


def _arrays(tensors: dict[str, Any]) -> dict[str, Array]:
    return {name: t.detach().numpy() for name, t in tensors.items()}


# -- 2. A layer: forward, backward, both ---------------------------------------------------------------------------------------------------------


def layer(
    api: Any, *, module: str, arguments: list[Any], shape: list[int], mean: float = 0.0, dtype: str = "float32", options: dict[str, Any] | None = None
) -> Work:
    """y = layer(x) and the gradients of x and of the parameters, for a given dy."""
    made = getattr(api.nn, module)(*arguments, **(options or {}), dtype=getattr(api, dtype))
    named = _fill(api, made, dtype)
    x = _leaf(api, numbers(tuple(shape), 1, mean=mean, dtype=dtype))
    width = arguments[1] if module == "Linear" else shape[-1]
    dy = api.from_numpy(numbers((*shape[:-1], width), 2, dtype=dtype))
    leaves = {"x": x, **named}

    def clear() -> None:
        for leaf in leaves.values():
            leaf.grad = None

    def backward(y: Any) -> None:
        y.backward(dy)

    def both(_: Any) -> None:
        clear()
        made(x).backward(dy)

    def before_backward() -> Any:
        clear()
        return made(x)

    def outputs() -> dict[str, Array]:
        y = before_backward()
        y.backward(dy)
        found = {"y": y, **{f"{name}.grad": leaf.grad for name, leaf in leaves.items()}}
        return _arrays({**found, **{name: b for name, b in made.named_buffers() if b.ndim}})

    return Work(outputs, {"forward": Phase(lambda _: made(x)), "backward": Phase(backward, before_backward), "both": Phase(both)}, clear)


def cross_entropy(api: Any, *, shape: list[int]) -> Work:
    """The mean cross-entropy of logits (N, C) against class indices (N,), and its gradient."""
    x = _leaf(api, numbers(tuple(shape), 1))
    target = api.from_numpy(np.random.default_rng(2).integers(0, shape[1], shape[0]))
    loss = api.nn.functional.cross_entropy

    def before_backward() -> Any:
        x.grad = None
        return loss(x, target)

    def both(_: Any) -> None:
        before_backward().backward()

    def outputs() -> dict[str, Array]:
        y = before_backward()
        y.backward()
        return _arrays({"loss": y, "x.grad": x.grad})

    return Work(outputs, {"forward": Phase(lambda _: loss(x, target)), "backward": Phase(lambda y: y.backward(), before_backward), "both": Phase(both)})


def truth(arguments: dict[str, Any]) -> dict[str, Array]:
    """y and x.grad of a row of `layer` that is a LayerNorm or a BatchNorm1d, in float64, from the numbers that the contestants have in float32."""
    shape = tuple(arguments["shape"])
    if arguments["module"] == "LayerNorm":
        axes, features = (len(shape) - 1,), (shape[-1],)
    else:
        axes, features = (0, *range(2, len(shape))), (shape[1], *[1] * (len(shape) - 2))
    count = shape[-1] if arguments["module"] == "LayerNorm" else shape[1]
    weight, bias = (parameter(name, (count,), seed).astype(np.float64).reshape(features) for seed, name in enumerate(("weight", "bias"), 100))
    x, dy = numbers(shape, 1, mean=arguments.get("mean", 0.0)).astype(np.float64), numbers(shape, 2).astype(np.float64)
    centred = x - x.mean(axes, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(axes, keepdims=True) + 1e-5)
    xhat, d = centred * rstd, dy * weight
    dx = rstd * (d - d.mean(axes, keepdims=True) - xhat * (d * xhat).mean(axes, keepdims=True))
    return {"y": xhat * weight + bias, "x.grad": dx}


# -- 3. An optimizer, and a step of training -----------------------------------------------------------------------------------------------------


def optimizer(api: Any, *, name: str, size: int, options: dict[str, Any], torch: dict[str, Any]) -> Work:
    """One update of a parameter of `size` elements; `torch` holds the options that only torch's optimizer has (fused, foreach)."""
    p = _leaf(api, numbers((size,), 1))
    p.grad = api.from_numpy(numbers((size,), 2))
    made = getattr(api.optim, name)([p], **options, **(torch if api.__name__ == "torch" else {}))

    def outputs() -> dict[str, Array]:
        for _ in range(3):
            made.step()
        return {"parameter": p.detach().numpy().copy()}

    return Work(outputs, {"step": Phase(lambda _: made.step())})


def mlp(api: Any, *, sizes: list[int], norm: str | None, batch: int) -> Work:
    """One step of training: forward, cross-entropy, backward, SGD. Every layer but the last is followed by a norm and a ReLU."""
    layers = []
    for fan_in, fan_out in pairwise(sizes[:-1]):
        layers += [api.nn.Linear(fan_in, fan_out), *([getattr(api.nn, norm)(fan_out)] if norm else []), api.nn.ReLU()]
    model = api.nn.Sequential(*layers, api.nn.Linear(*sizes[-2:]))
    named = _fill(api, model, "float32")
    return _training(api, model, named, sizes, batch)


def example(api: Any, *, sizes: list[int], batch: int) -> Work:
    """A step of the source document's training, its model written as the document writes it."""
    fan_in, hidden, classes = sizes

    class MLP(api.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.norm1, self.fc2 = api.nn.Linear(fan_in, hidden), api.nn.LayerNorm(hidden), api.nn.Linear(hidden, classes)

        def forward(self, x: Any) -> Any:
            return self.fc2(api.relu(self.norm1(self.fc1(x))))

    model = MLP()
    return _training(api, model, _fill(api, model, "float32"), sizes, batch)


def _training(api: Any, model: Any, named: dict[str, Any], sizes: list[int], batch: int) -> Work:
    x = api.from_numpy(numbers((batch, sizes[0]), 1))
    y = api.from_numpy(np.random.default_rng(2).integers(0, sizes[-1], batch))
    criterion = api.nn.CrossEntropyLoss()
    descent = api.optim.SGD(model.parameters(), lr=0.01)

    def step(_: Any = None) -> Any:
        loss = criterion(model(x), y)
        descent.zero_grad()
        loss.backward()
        descent.step()
        return loss

    def outputs() -> dict[str, Array]:
        losses = [step() for _ in range(3)]
        return {name: a.copy() for name, a in _arrays({"loss": losses[-1], **named}).items()}

    return Work(outputs, {"step": Phase(step)})


BUILDERS: dict[str, Callable[..., Work]] = {"layer": layer, "cross_entropy": cross_entropy, "optimizer": optimizer, "mlp": mlp, "example": example}


def build(api: Any, kind: str, arguments: dict[str, Any]) -> Work:
    """The work of a row for torch or this project."""
    return BUILDERS[kind](api, **arguments)
