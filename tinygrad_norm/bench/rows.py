"""The table of rows: what is compared, and what is asked of each figure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = ["CONTESTANTS", "Row", "chosen", "table"]

CONTESTANTS = ("torch", "ours", "serial", "numpy", "jax")
"""torch; this project; this project on one thread; its NumPy references; JAX where it is installed."""


class Row(NamedTuple):
    """One piece of work that every contestant does.

    Attributes:
        name: what the reader sees; also what --only looks into.
        kind, arguments: of the builder in work.py (and work_jax.py).
        asked: phase to the least ratio of torch's time over ours that the project asks of itself.
        threads: the least ratio of one thread's time over two threads' that is asked, for forward and backward together.
        measure: "time", "memory", "accuracy", "linear" (time over size), or "start" (processes: no worker holds it).
        quick: whether it belongs to the short run.
        contestants: who takes part.
    """

    name: str
    kind: str
    arguments: dict[str, Any]
    asked: dict[str, float] = {}
    threads: float | None = None
    measure: str = "time"
    quick: bool = False
    contestants: tuple[str, ...] = CONTESTANTS


NORM_SHAPES = [(32, 64), (100, 20), (256, 1024), (4096, 768), (32, 128, 768), (65536, 64), (8192, 4096)]
CHANNEL_SHAPES = [(32, 768, 128), (64, 64, 1024)]  # (N, C, L): BatchNorm's own three axes
LARGE = 3_000_000  # elements from which two threads must gain
SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000]


def _layer(module: str, shape: tuple[int, ...], arguments: list[Any], asked: dict[str, float], **more: Any) -> Row:
    return Row(f"{module} {shape}", "layer", {"module": module, "arguments": arguments, "shape": list(shape)}, asked, **more)


def table() -> Iterator[Row]:
    """All rows, in the order in which they are printed."""
    for shape in NORM_SHAPES:
        least = 1.2 if shape in ((4096, 768), (32, 128, 768)) else 1.5
        threads = 1.6 if math.prod(shape) >= LARGE else None
        yield _layer("LayerNorm", shape, [shape[-1]], {"both": least}, threads=threads, quick=shape in NORM_SHAPES[:4])
    for shape in [*NORM_SHAPES, *CHANNEL_SHAPES]:
        asked = {"both": 1.5, **({"forward": 2.5} if len(shape) == 3 else {})}
        threads = 1.6 if math.prod(shape) >= LARGE else None
        yield _layer("BatchNorm1d", shape, [shape[1]], asked, threads=threads, quick=shape in (*NORM_SHAPES[:3], CHANNEL_SHAPES[0]))
    for n, c in ((100, 2), (4096, 1000), (8192, 32000)):
        contestants = CONTESTANTS if n < 8192 else ("torch", "ours", "serial")  # a gigabyte an array: five contestants would fill the memory
        yield Row(f"cross-entropy ({n}, {c})", "cross_entropy", {"shape": [n, c]}, {"both": 2.5}, quick=n < 8192, contestants=contestants)
    arguments: dict[str, Any]
    for n, i, o in ((128, 784, 512), (4096, 768, 3072)):
        arguments = {"module": "Linear", "arguments": [i, o], "shape": [n, i]}
        yield Row(f"Linear ({n}, {i}→{o})", "layer", arguments, {"both": 0.95}, quick=n == 128)
    yield from _optimizers()
    yield Row("MLP example", "example", {"sizes": [10, 20, 2], "batch": 100}, {"step": 6.0}, quick=True)
    for norm in ("LayerNorm", "BatchNorm1d"):
        for batch in (128, 1024):
            arguments = {"sizes": [784, 512, 512, 10], "norm": norm, "batch": batch}
            yield Row(f"MLP 784-512-512-10, {norm}, batch {batch}", "mlp", arguments, {"step": 1.0}, quick=batch == 128)
    arguments = {"module": "TransformerEncoderLayer", "arguments": [256, 8, 1024], "shape": [16, 64, 256], "options": {"dropout": 0.0, "batch_first": True}}
    yield Row("TransformerEncoderLayer (16, 64, 256)", "layer", arguments, quick=True)
    for what, least in (("import", 1.5), ("cold start of train", 3.0), ("warm start of train", 1.0)):
        yield Row(what, what.split()[0], {}, {"seconds": least}, measure="start", quick=True)
    arguments = {"module": "LayerNorm", "arguments": [4096], "shape": [8192, 4096]}
    yield Row("peak memory, LayerNorm (8192, 4096)", "layer", arguments, {"both": 1.0}, measure="memory", quick=True, contestants=("torch", "ours"))
    for module, shape in (("LayerNorm", (256, 1024)), ("BatchNorm1d", (256, 1024)), ("BatchNorm1d", (32, 64, 256))):
        arguments = {"module": module, "arguments": [shape[-1] if module == "LayerNorm" else shape[1]], "shape": list(shape), "mean": 1e4}
        name = f"accuracy at mean 1e4, {module} {shape}"
        yield Row(name, "layer", arguments, {"y": 100.0}, measure="accuracy", quick=True, contestants=("torch", "ours", "numpy"))
    for module in ("LayerNorm", "BatchNorm1d"):
        for size in SIZES:
            arguments = {"module": module, "arguments": [1000], "shape": [size // 1000, 1000]}
            name = f"linear in size, {module} {size:.0e}".replace("e+0", "e")
            yield Row(name, "layer", arguments, measure="linear", contestants=("torch", "ours"))


def _optimizers() -> Iterator[Row]:
    for name, label, options in (
        ("AdamW", "AdamW", {"lr": 1e-3, "weight_decay": 0.01}),
        ("SGD", "SGD", {"lr": 1e-3}),
        ("SGD", "SGD with momentum", {"lr": 1e-3, "momentum": 0.9}),
    ):
        for size, shown in ((2_000, "2k"), (1_000_000, "1M"), (16_000_000, "16M")):
            for option in ("fused", "foreach"):
                asked = {"step": 1.5} if option == "fused" and size == 1_000_000 else {}
                arguments: dict[str, Any] = {"name": name, "size": size, "options": options, "torch": {option: True}}
                contestants = CONTESTANTS if option == "fused" else ("torch", "ours")  # the others' times would be the same again
                quick = option == "fused" and size == 1_000_000
                yield Row(f"{label} {shown}, torch's {option}", "optimizer", arguments, asked, quick=quick, contestants=contestants)


def chosen(only: str | None = None, *, quick: bool = False) -> list[Row]:
    """The rows whose name has `only` in it, whatever its case and punctuation; of the short run alone if quick.

    Raises:
        ValueError: there is none.

    Example:
        >>> from tinygrad_norm.bench.rows import chosen
        >>> [row.name for row in chosen("layer_norm (32, 64)")]
        ['LayerNorm (32, 64)']
    """
    rows = [row for row in table() if not quick or row.quick]
    found = [row for row in rows if only is None or _plain(only) in _plain(row.name)]
    if not found:
        names = sorted({row.name.split(" (")[0].split(",")[0] for row in rows})
        raise ValueError(f"no row{' of the quick run' if quick else ''} has {only!r} in its name; there are {', '.join(names)}")
    return found


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())
