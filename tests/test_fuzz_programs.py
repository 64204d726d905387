"""Random programs of ops and layers with both libraries (fuzzing.py): values and gradients, at every layout of memory.

How many: FUZZ_EXAMPLES=100000 for a night.
"""

import math
import os

import numpy as np
import pytest
import torch
from fuzzing import finding
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))

# -- Ops ---------------------------------------------------------------------------------------------------------------------------------

ONE = ["neg", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "relu", "clone", "isnan", "isinf", "isfinite", "float", "double", "long", "bool", "contiguous",
       "isnan", "T", "__invert__", "detach", "gelu", "silu", "half up"]  # fmt: skip


def one(lib, r):
    name, x = r.pick(*ONE), r.tensor(kind=r.pick(None, None, None, "int64", "bool"))
    if name == "half up":
        return [lib.maximum(x, x), lib.minimum(x, x), x * x, x + x, x - x, lib.where(x > 0, x, x)]
    if name == "T":
        return [x.T] if x.ndim == 2 else []
    if name in ("gelu", "silu"):
        y = getattr(lib.nn.functional, name)(x)
    elif name in ("float", "double", "long", "bool", "contiguous", "__invert__", "detach") or (r.chance() and name != "half up"):
        if name == "long" and r.special:
            return []  # infinity as an integer is anything
        y = getattr(x, name)()
    else:
        y = getattr(lib, name)(x)
    return [y]


TWO = ["add", "sub", "mul", "div", "pow", "maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge", "__and__", "__or__", "alpha", "where", "add_", "sub_", "mul_", "div_", "copy_", "__radd__",
       "__rsub__", "__rmul__", "__rtruediv__", "__rpow__", "allclose", "masked_fill", "equal", "alpha_"]  # fmt: skip


def two(lib, r):
    name, shape = r.pick(*TWO), r.shape()
    kinds = (None, None, None, "int64", "bool", "float32", "float64")
    x = r.tensor(shape if (name.endswith("_") and not name.startswith("__")) or r.chance() else r.broadcast(shape), r.pick(*kinds))
    how = r.pick("tensor", "tensor", "tensor", "number", "itself", "turned", "part")
    y = {"tensor": lambda: r.tensor(r.broadcast(shape), r.pick(*kinds)), "number": r.number, "itself": lambda: x, "turned": lambda: x.transpose(0, -1) if x.ndim else x,
         "part": lambda: x[:1] if x.ndim else x}[how]()  # fmt: skip
    if name in ("maximum", "minimum", "copy_", "allclose", "equal", "pow") and not isinstance(y, lib.Tensor):
        return []
    if name.startswith("__r"):
        y = r.number()  # between two tensors it is the other one's method that is called
    if how == "itself" and name in ("div", "__rtruediv__", "div_"):
        return []  # zero, or what rounding left of it
    if name == "pow":
        return [lib.pow(x, y)]
    if name == "alpha":
        return [lib.add(x, y, alpha=r.pick(2, -1, 3, 0.5, 2.0)), lib.sub(x, y, alpha=r.pick(2, -1))]
    if name == "where":
        return [lib.where(r.tensor(r.broadcast(shape), "bool"), x, y), lib.where(r.tensor(r.broadcast(shape), "bool"), y, x)]
    if name == "masked_fill":
        return [x.masked_fill(r.tensor(r.broadcast(shape), "bool"), r.number() if r.chance() else r.tensor(()))]
    if name in ("add_", "sub_", "mul_", "div_", "copy_", "alpha_"):
        overlap = how in ("turned", "part")
        out = x * r.pick(1, 1, True) if x.requires_grad or r.chance() else x
        if overlap and out is x:
            return []  # torch refuses to read and write at once, or does both
        y = (out if lib is tg else out.clone()) if how == "itself" else y
        before = out.exp() if r.chance(0.3) and out.dtype in (lib.float32, lib.float64) else out * 2
        alpha = r.pick(2, -1)
        result = out.add_(y, alpha=alpha) if name == "alpha_" else getattr(out, name)(y)
        return [out, result, before]
    if name in ("maximum", "minimum", "eq", "allclose", "equal", "add", "sub", "mul", "div") and r.chance(0.4):
        return [getattr(lib, name)(x, y)]
    return [getattr(x, name)(y)]


def reduce(lib, r):
    x = r.tensor(kind=r.pick(None, None, None, "int64", "bool"))
    name = r.pick("sum", "mean", "var", "std", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp", "all", "any", "softmax", "log_softmax")
    n = x.ndim
    axis = r.int(-n, n - 1) if n else r.pick(0, -1)
    several = tuple(sorted({r.int(0, n - 1) for _ in range(2)})) if n else ()
    keep = r.chance()
    function = (lambda *a, **k: getattr(x, name)(*a, **k)) if r.chance() else (lambda *a, **k: getattr(lib, name)(x, *a, **k))
    if name in ("softmax", "log_softmax"):
        return [function(axis, dtype=r.pick(lib.float32, lib.float64)) if r.chance(0.3) else function(axis)]
    if name in ("argmax", "argmin"):
        return [function() if r.chance(0.3) else function(axis, keepdim=keep) if r.chance() else function(dim=axis)]
    if name in ("max", "min"):
        return list(function(axis, keepdim=keep)) if r.chance(0.6) else [function()]
    if name in ("var", "std"):
        options = r.pick({}, {"unbiased": False}, {"unbiased": True}, {"correction": r.pick(0, 1, 0.5)}, {"correction": 0})
        how = r.int(0, 2)
        return [function(**options) if how == 0 and "unbiased" not in options else function(dim=axis if how == 1 else several, keepdim=keep, **options)]
    if name == "logsumexp":
        return [function(axis if r.chance() or not several else several, keepdim=keep)]
    if r.chance(0.3):
        return [function()]
    return [function(axis if r.chance() or not several else several, keepdim=keep)]


def move(lib, r):
    x = r.tensor(kind=r.pick(None, None, "int64", "bool"), most=4, backwards=False)
    outs = []
    for _ in range(r.int(1, 4)):
        n = x.ndim
        axis, other = (r.int(-n, n - 1), r.int(-n, n - 1)) if n else (0, -1)
        step = r.pick("permute", "transpose", "squeeze", "unsqueeze", "reshape", "flatten", "expand", "getitem", "split", "chunk", "cat", "stack", "tril", "contiguous", "view", "index")
        if step == "permute":
            x = x.permute(tuple(int(i) for i in r.rng.permutation(n)))
        elif step == "transpose":
            x = x.transpose(axis, other)
        elif step == "squeeze":
            x = x.squeeze(axis) if r.chance() else x.squeeze()
        elif step == "unsqueeze":
            x = x.unsqueeze(r.int(-n - 1, n))
        elif step in ("reshape", "view"):
            shape = list(x.shape)
            if shape and r.chance():
                shape[axis] = -1
            if len(shape) > 1 and r.chance():
                shape[:2] = [-1 if -1 in shape[:2] else shape[0] * shape[1]]
            x = getattr(x, step)(r.pick(shape, tuple(shape)))
        elif step == "flatten":
            x = x.flatten(*sorted((axis % max(n, 1), other % max(n, 1))))
        elif step == "expand":
            x = x.expand([2] * r.int(0, 1) + [r.pick(m, -1, 3 if m == 1 else m) for m in x.shape])  # fmt: skip
            if x.numel() > 3000:
                break
        elif step == "getitem" and n:
            x = x[r.pick(0, slice(None, None, 2), slice(1, None), (..., slice(0, 2)), (None, ...), (..., None), (slice(None), None), slice(-2, None), -1, ..., (0, ...))]
        elif step == "split" and n:
            outs += x.split(r.int(1, 3), axis)[1:]
            x = x.split(r.int(1, 3), axis)[0]
        elif step == "chunk" and n:
            x = x.chunk(r.int(1, 3), axis)[-1]
        elif step == "cat" and n:
            x = lib.cat([x, x, x * 2][: r.int(1, 3)], axis)
        elif step == "stack":
            x = lib.stack([x, x], axis)
        elif step == "tril" and n > 1:
            x = x.tril(r.int(-3, 3))
        elif step == "contiguous":
            x = x.contiguous()
        elif step == "index" and n and x.shape[axis]:
            index = r.rng.randint(0, x.shape[axis], r.int(0, 4))
            x = x.index_select(axis, lib.from_numpy(index)) if r.chance() else x.transpose(0, axis)[lib.from_numpy(index - r.int(0, 1) * x.shape[axis])]
        outs.append(x)
    return outs


def gather(lib, r):
    x = r.tensor(most=3, kind=r.pick(None, None, "int64", "bool"))
    n = x.ndim
    axis = r.int(-n, n - 1) if n else r.pick(0, -1)
    shape = tuple(m if r.chance() else r.int(0, m) for m in x.shape)
    high = x.shape[axis] if n else 1
    if not high:
        return []
    if n:
        shape = tuple(r.int(0, 4) if i == axis % n else m for i, m in enumerate(shape))
    return [x.gather(axis, r.tensor(array=r.rng.randint(0, high, shape), grad=False))]


def set_items(lib, r):
    x = r.tensor(most=3, least=1, kind=r.pick(None, None, None, "int64", "bool"))
    y = x * 1 if x.requires_grad or x.dtype == lib.bool else x
    used = y * 2 if r.chance() else y.exp() if r.chance(0.3) and y.requires_grad else y
    for _ in range(r.int(1, 3)):
        key = r.pick(0, -1, slice(None), slice(0, 2), ..., (..., 0), (slice(None, None, 2),), "mask", "index", (None, 0), "mask rows")
        n = y.shape[0]
        if isinstance(key, str):
            key = {"mask": lambda: r.tensor(tuple(y.shape), "bool"), "index": lambda: lib.from_numpy(r.rng.permutation(n)[: r.int(0, n)]), "mask rows": lambda: r.tensor((n,), "bool")}[key]()
        y[key] = r.number() if r.chance() else r.tensor((), kind=str(y.dtype).split(".")[1]) if r.chance() else y[key].clone() * 1
    return [y, used]


def product(lib, r):
    stack = r.shape(2)
    m, k, n = (r.pick(1, 2, 3, 4, 0 if r.chance(0.2) else 2) for _ in range(3))
    kind = r.pick(None, None, None, "int64")
    a = r.tensor((*r.broadcast(stack), m, k) if r.chance(0.7) else (k,), kind)
    b = r.tensor((*r.broadcast(stack), k, n) if r.chance(0.7) else (k,), kind)
    if r.chance(0.2) and a.ndim > 1:
        return [a @ a.transpose(-1, -2)]
    return [lib.matmul(a, b) if r.chance() else a @ b]


# -- Layers ----------------------------------------------------------------------------------------------------------------------------------


def infinite(x):
    return not bool(x.isfinite().all())


def norms(lib, r):
    functions, name = lib.nn.functional, r.pick("layer", "batch", "batch eval", "batch stats", "group", "instance", "instance stats", "rms")
    eps = r.pick(1e-5, 1e-5, 1e-3, 0.1)
    mean = r.pick(0.0, 0.0, 100.0) if r.kind == "float64" else 0.0
    r.special = r.special and [0.0, 1.0, math.nan, math.inf, 1e-42, 50.0]  # no squares that overflow: there it matters in which order one adds
    if name in ("layer", "rms"):
        x, shape = r.tensor(r.shape(4, 1)), None
        shape = tuple(x.shape[r.int(0, x.ndim - 1) :])
        if name == "rms":
            x = x if not infinite(x) else x[:0]  # a finite number over the root of infinity: 0 or NaN
            return [functions.rms_norm(x + mean, shape, r.maybe(shape, special=False), r.pick(None, eps))]
        return [functions.layer_norm(x + mean, shape, r.maybe(shape, special=False), r.maybe(shape, special=False), eps)]
    x = r.tensor((r.int(1, 4), r.pick(2, 4, 6), *[r.int(1, 4)] * r.int(0, 1)))
    c = x.shape[1]
    weight, bias = (None if v is None else v.contiguous() for v in (r.maybe((c,), special=False), r.maybe((c,), special=False)))  # torch reads others wrongly
    if name == "group":
        return [functions.group_norm(x + mean, r.pick(1, 2, c), weight, bias, eps)]
    running = [r.tensor((c,), grad=False, special=False).contiguous(), r.tensor(array=np.abs(r.array((c,), special=False)) + 0.5, grad=False).contiguous()]
    momentum = r.pick(0.1, 0.0, 1.0, 0.3)
    if name.startswith("instance"):
        x = x if x.ndim == 3 else x[:, :, None] + r.tensor((3,))
        stats = running if "stats" in name else [None, None]
        use = r.chance(0.7) or "stats" not in name
        return [functions.instance_norm(x + mean, *stats, weight, bias, use, momentum, eps), *[s for s in stats if s is not None]]
    if infinite(x) and "stats" in name:
        return []  # is the mean with an infinity infinite or NaN?
    if name == "batch":
        return [functions.batch_norm(x + mean, None, None, weight, bias, True, momentum, eps)]
    return [functions.batch_norm(x, *running, weight, bias, "eval" not in name, momentum, eps), *running]


def other_norms(lib, r):
    """Those that torch has not: there the formula in its primitives."""
    name = r.pick("masked", "masked batch", "keras", "unbiased")
    ours, functions = lib is tg, lib.nn.functional
    r.special = None
    if name == "unbiased":
        x = r.tensor(r.shape(3, 1))
        n = x.shape[-1]
        gamma, beta = r.tensor((n,)), r.tensor((n,))
        if ours:
            return [functions.unbiased_layer_norm(x, gamma, beta, 0.01)] if n > 1 else []
        return [gamma * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 0.01) + beta] if n > 1 else []
    if name == "keras":
        x = r.tensor(r.shape(4, 1))
        axes = sorted({r.int(0, x.ndim - 1) for _ in range(r.int(1, 2))})
        shape = tuple(x.shape[a] for a in axes)
        gamma, beta, eps = r.maybe(shape), r.maybe(shape), r.pick(1e-3, 0.1)
        given = axes[0] - x.ndim * r.int(0, 1) if len(axes) == 1 and r.chance() else [a - x.ndim * r.int(0, 1) for a in axes]
        if ours:
            return [functions.layer_normalization(x, gamma, beta, given, eps)]
        wide = [m if a in axes else 1 for a, m in enumerate(x.shape)]
        y = (x - x.mean(axes, keepdim=True)) / (x.var(axes, keepdim=True, unbiased=False) + eps).sqrt()
        y = y * gamma.reshape(wide) if gamma is not None else y
        return [y + beta.reshape(wide) if beta is not None else y]
    if name == "masked":
        x = r.tensor(r.shape(4, 1))
        axes = r.int(1, x.ndim)
        shape = tuple(x.shape[-axes:])
        mask, w, b = r.tensor(r.broadcast(tuple(x.shape)), "bool"), r.maybe(shape), r.maybe(shape)
        if ours:
            return [functions.masked_layer_norm(x, mask, shape, w, b, 1e-3)]
        mask, dims = mask.expand(x.shape), tuple(range(-axes, 0))
        n = mask.sum(dims, keepdim=True).clamp(min=1)
        x = torch.where(mask, x, torch.zeros((), dtype=x.dtype))
        centred = torch.where(mask, x - x.sum(dims, keepdim=True) / n, torch.zeros((), dtype=x.dtype))
        y = centred / ((centred**2).sum(dims, keepdim=True) / n + 1e-3).sqrt()
        y = y * w if w is not None else y
        return [torch.where(mask, y + b if b is not None else y, torch.zeros((), dtype=x.dtype))]
    x = r.tensor((r.int(1, 3), r.int(1, 3), r.int(1, 4)))
    mask = r.array((x.shape[0], x.shape[2]), "bool")
    c = x.shape[1]
    w, b, training = r.maybe((c,)), r.maybe((c,)), r.chance(0.7)
    w, b = (None if v is None else v.contiguous() for v in (w, b))
    running = [r.tensor((c,), grad=False).contiguous(), r.tensor(array=np.abs(r.array((c,))) + 0.5, grad=False).contiguous()]
    running = running if r.chance() or not training else [None, None]
    if training and mask.sum() < 2:
        return []
    mask = r.tensor(array=mask)
    if ours:
        y = functions.masked_batch_norm(x, mask, *running, w, b, training)
    else:
        rows = torch.nn.functional.batch_norm(x.transpose(1, 2)[mask], *running, w, b, training)
        y = torch.zeros(x.shape[0], x.shape[2], c, dtype=x.dtype)
        y[mask] = rows
        y = y.transpose(1, 2)
    return [y, *[s for s in running if s is not None]]


def losses(lib, r):
    functions, name = lib.nn.functional, r.pick("cross", "cross", "cross shares", "nll", "mse")
    reduction = r.pick("mean", "sum", "none")
    n, c, rest = r.int(0, 5), r.int(1, 5), tuple(r.int(1, 3) for _ in range(r.pick(0, 0, 1, 2)))
    shape = (c,) if r.chance(0.15) else (n, c, *rest)
    if name == "mse":
        return [functions.mse_loss(r.tensor(shape), r.tensor(shape), reduction=reduction)]
    x, weight = r.tensor(shape), r.maybe((c,), special=False, grad=False)
    weight = None if weight is None else weight.abs() + 0.1
    if name == "cross shares":
        target = r.tensor(shape, special=False, grad=False) if r.chance() else r.tensor(shape, special=False).softmax(0 if len(shape) == 1 else 1)
        return [functions.cross_entropy(x, target, weight, reduction=reduction, label_smoothing=r.pick(0.0, 0.1, 1.0))]
    ignore = r.pick(-100, 0, 1)
    if r.special:  # of a place that is ignored torch has the gradient NaN where its numbers are, ours 0
        x = lib.where(x.isfinite(), x, lib.zeros((), dtype=x.dtype))
    target = r.rng.randint(0, c, shape[:1] + shape[2:] if len(shape) > 1 else ()).astype(np.int64)
    target = np.where(r.rng.uniform(size=target.shape) < 0.2, ignore, target)
    target = r.tensor(array=np.asarray(target))
    if name == "nll":
        return [functions.nll_loss(x, target, weight, ignore_index=ignore, reduction=reduction)]
    return [functions.cross_entropy(x, target, weight, ignore_index=ignore, reduction=reduction, label_smoothing=r.pick(0.0, 0.0, 0.2, 1.0))]


def attention(lib, r):
    front = r.shape(2)
    front = front if math.prod(front) else ()
    length, keys, e, d = r.int(1, 4), r.int(1, 4), r.int(1, 3), r.int(1, 3)
    q, k, v = r.tensor((*front, length, e), special=False), r.tensor((*front, keys, e), special=False), r.tensor((*front, keys, d), special=False)
    mask = r.pick(None, "bool", "number", "infinite")
    shape = (*r.broadcast(front), length, keys) if r.chance() else (length, keys)
    if mask == "bool":
        mask = r.tensor(shape, "bool")
    elif mask == "number":
        mask = r.tensor(shape, special=False)
    elif mask == "infinite":
        mask = r.tensor(array=np.where(r.rng.uniform(size=shape) < 0.5, -np.inf, 0.0).astype(r.kind), grad=False)
    p = r.pick(0.0, 0.0, 0.0, 0.4)
    lib.manual_seed(r.int(0, 9))
    return [lib.nn.functional.scaled_dot_product_attention(q, k, v, mask, p, mask is None and r.chance(), scale=r.pick(None, 0.3, 2.0))]


def dropped(lib, r):
    x = r.tensor()
    lib.manual_seed(r.int(0, 99))
    return [lib.nn.functional.dropout(x, r.pick(0.0, 0.5, 0.3, 1.0), r.chance(0.8)), lib.rand(3)]


def embedded(lib, r):
    symbols, d = r.int(1, 5), r.int(1, 4)
    weight = r.tensor((symbols, d), special=False)
    index = r.tensor(array=r.rng.randint(0, symbols, r.shape(2)))
    padding = r.pick(None, 0, -1)
    lib_weight = weight * 1 if weight.requires_grad else weight
    max_norm = r.pick(None, None, 1.0) if not weight.requires_grad else None
    y = lib.nn.functional.embedding(index, lib_weight, padding, max_norm, r.pick(2.0, 1.0), r.chance(0.3))
    return [y, lib_weight, lib.nn.functional.one_hot(index, symbols) if index.numel() else y]


def linear(lib, r):
    i, o = r.int(1, 4), r.int(1, 4)
    x, w = r.tensor((*r.shape(2), i)), r.tensor((o, i))
    return [lib.nn.functional.linear(x, w, r.maybe((o,)))]


def cells(lib, r):
    n, i, h = r.int(1, 3), r.int(1, 3), r.int(1, 3)
    kind = r.pick("lstm_cell", "rnn_tanh_cell", "rnn_relu_cell")
    k = 4 if kind == "lstm_cell" else 1
    r.special = None
    x, hx, cx = r.tensor((n, i)), r.tensor((n, h)), r.tensor((n, h))
    bias = r.chance()
    args = [r.tensor((k * h, i)), r.tensor((k * h, h)), *([r.tensor((k * h,)), r.tensor((k * h,))] if bias else [])]
    out = getattr(lib, kind)(x, (hx, cx) if k == 4 else hx, *args)
    return list(out) if k == 4 else [out]


PROGRAMS = [one, two, reduce, move, gather, set_items, product, norms, other_norms, losses, attention, dropped, embedded, linear, cells]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
@settings(max_examples=max(EXAMPLES // 20, 5), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_programs(program, seed):
    found = finding(program, seed)
    assert found is None, found
