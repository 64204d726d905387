"""The rows in JAX: pure functions, compiled whole (jax.jit), waited for (block_until_ready).

There is no backward alone: JAX compiles forward and backward into one program, and that is how it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .work import Phase, Work, numbers, parameter

__all__ = ["build"]


def _norm(x: Any, axes: tuple[int, ...], shape: tuple[int, ...], p: dict[str, Any]) -> Any:
    import jax.numpy as jnp

    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["weight"].reshape(shape) + p["bias"].reshape(shape), mean, var


def _layer_norm(p: dict[str, Any], x: Any) -> Any:
    return _norm(x, (x.ndim - 1,), (-1,), p)[0], {}


def _batch_norm(p: dict[str, Any], x: Any) -> Any:
    axes = (0,) if x.ndim == 2 else (0, 2)
    y, mean, var = _norm(x, axes, (-1,) if x.ndim == 2 else (1, -1, 1), p)
    count = x.size // x.shape[1]
    return y, {"running_mean": 0.1 * mean.reshape(-1), "running_var": 0.9 + 0.1 * count / (count - 1) * var.reshape(-1)}


def _linear(p: dict[str, Any], x: Any) -> Any:
    return x @ p["weight"].T + p["bias"], {}


def _cross_entropy(logits: Any, target: Any) -> Any:
    import jax

    return -jax.nn.log_softmax(logits)[np.arange(len(target)), target].mean()


def _filled(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    import jax.numpy as jnp

    return {name: jnp.asarray(parameter(name, shape, seed)) for seed, (name, shape) in enumerate(shapes.items(), 100)}


def layer(*, module: str, arguments: list[Any], shape: list[int], mean: float = 0.0, options: dict[str, Any] | None = None) -> Work:
    """y = layer(x), and its gradients for a given dy."""
    import jax
    import jax.numpy as jnp

    if options or module not in ("Linear", "LayerNorm", "BatchNorm1d"):
        raise NotImplementedError(f"{module} is not written for JAX here")
    if module == "Linear":
        function, p = _linear, _filled({"weight": (arguments[1], arguments[0]), "bias": (arguments[1],)})
    else:
        function = _batch_norm if module == "BatchNorm1d" else _layer_norm
        p = _filled({"weight": (arguments[0],), "bias": (arguments[0],)})
    x = jnp.asarray(numbers(tuple(shape), 1, mean=mean))
    forward = jax.jit(function)
    dy = jnp.asarray(numbers(forward(p, x)[0].shape, 2))

    @jax.jit  # type: ignore[untyped-decorator, unused-ignore]
    def both(p: Any, x: Any, dy: Any) -> Any:
        y, pull, state = jax.vjp(function, p, x, has_aux=True)
        return y, *pull(dy), state

    def outputs() -> dict[str, Any]:
        y, dp, dx, state = both(p, x, dy)
        return _arrays({"y": y, "x.grad": dx, **{f"{name}.grad": g for name, g in dp.items()}, **state})

    return Work(outputs, _phases(forward=lambda: forward(p, x), both=lambda: both(p, x, dy)))


def cross_entropy(*, shape: list[int]) -> Work:
    """The mean cross-entropy and its gradient."""
    import jax
    import jax.numpy as jnp

    x, target = jnp.asarray(numbers(tuple(shape), 1)), jnp.asarray(np.random.default_rng(2).integers(0, shape[1], shape[0]))
    forward, both = jax.jit(_cross_entropy), jax.jit(jax.value_and_grad(_cross_entropy))
    return Work(
        lambda: _arrays(dict(zip(("loss", "x.grad"), both(x, target)))),
        _phases(forward=lambda: forward(x, target), both=lambda: both(x, target)),
    )


def optimizer(*, name: str, size: int, options: dict[str, Any], torch: dict[str, Any]) -> Work:
    """One update, in place (the old arrays are donated)."""
    import jax
    import jax.numpy as jnp

    lr, g = options["lr"], jnp.asarray(numbers((size,), 2))

    @partial(jax.jit, donate_argnums=0)
    def update(state: tuple[Any, ...], g: Any) -> tuple[Any, ...]:
        if name == "SGD":
            p, velocity, t = state
            velocity = options.get("momentum", 0.0) * velocity + g if velocity is not None else g
            return p - lr * velocity, (velocity if "momentum" in options else None), t + 1
        p, m, v, t = state
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        step = m / (1 - 0.9**t) / (jnp.sqrt(v / (1 - 0.999**t)) + 1e-8)
        return p * (1 - lr * options["weight_decay"]) - lr * step, m, v, t + 1

    p, one = jnp.asarray(numbers((size,), 1)), jnp.float32(1)
    zeros = partial(jnp.zeros, (size,))
    held: list[Any] = [(p, zeros() if "momentum" in options else None, one) if name == "SGD" else (p, zeros(), zeros(), one)]

    def step() -> Any:
        held[0] = update(held[0], g)
        return held[0]

    def outputs() -> dict[str, Any]:
        for _ in range(3):
            step()
        return {"parameter": np.array(held[0][0])}

    return Work(outputs, _phases(step=step))


def mlp(*, sizes: list[int], norm: str | None, batch: int) -> Work:
    """One step of training."""
    import jax
    import jax.numpy as jnp

    shapes: dict[str, tuple[int, ...]] = {}
    steps: list[tuple[Callable[..., Any] | None, tuple[str, str] | None]] = []  # (function, names of its parameters); None: ReLU
    for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        names = (f"{len(steps)}.weight", f"{len(steps)}.bias")
        shapes.update(zip(names, ((fan_out, fan_in), (fan_out,))))
        steps.append((_linear, names))
        if not last and norm:
            names = (f"{len(steps)}.weight", f"{len(steps)}.bias")
            shapes.update(zip(names, ((fan_out,), (fan_out,))))
            steps.append((_layer_norm if norm == "LayerNorm" else _batch_norm, names))
        if not last:
            steps.append((None, None))
    x = jnp.asarray(numbers((batch, sizes[0]), 1))
    y = jnp.asarray(np.random.default_rng(2).integers(0, sizes[-1], batch))

    def loss_of(p: dict[str, Any], x: Any) -> Any:
        for function, names in steps:
            x = jax.nn.relu(x) if function is None or names is None else function({"weight": p[names[0]], "bias": p[names[1]]}, x)[0]
        return _cross_entropy(x, y)

    @partial(jax.jit, donate_argnums=0)
    def update(p: dict[str, Any], x: Any) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(p, x)
        return jax.tree.map(lambda p, g: p - 0.01 * g, p, grads), loss

    held = [(_filled(shapes), jnp.float32(0))]

    def step() -> Any:
        held[0] = update(held[0][0], x)
        return held[0]

    def outputs() -> dict[str, Any]:
        for _ in range(3):
            step()
        return {name: np.array(a) for name, a in {"loss": held[0][1], **held[0][0]}.items()}

    return Work(outputs, _phases(step=step))


def example(*, sizes: list[int], batch: int) -> Work:
    """The source document's step: the same network under the document's names."""
    work = mlp(sizes=sizes, norm="LayerNorm", batch=batch)
    names = {"0": "fc1", "1": "norm1", "3": "fc2"}

    def outputs() -> dict[str, Any]:
        return {".".join([names.get(name.split(".")[0], name), *name.split(".")[1:]]): a for name, a in work.outputs().items()}

    return Work(outputs, work.phases)


def _arrays(values: dict[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(v) for name, v in values.items()}


def _phases(**calls: Callable[[], Any]) -> dict[str, Phase]:
    import jax

    def waited(call: Callable[[], Any]) -> Callable[[Any], Any]:
        return lambda _: jax.block_until_ready(call())  # type: ignore[no-untyped-call]

    return {name: Phase(waited(call)) for name, call in calls.items()}


BUILDERS: dict[str, Callable[..., Work]] = {"layer": layer, "cross_entropy": cross_entropy, "optimizer": optimizer, "mlp": mlp, "example": example}


def build(kind: str, arguments: dict[str, Any]) -> Work:
    """The work of a row for JAX.

    Raises:
        NotImplementedError: the row is not written for JAX.
    """
    return BUILDERS[kind](**arguments)
