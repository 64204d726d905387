"""Random programs of modules, optimizers, the backward walk, random numbers, data and files with both libraries (fuzzing.py).

How many: FUZZ_EXAMPLES=100000 for a night.
"""

import copy
import io
import math
import os
import warnings

import numpy as np
import pytest
import torch
from fuzzing import finding
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))

# -- Modules -------------------------------------------------------------------------------------------------------------------------------


def module(lib, r):
    """A module made from a seed, some steps of training and evaluation, its state at the end."""
    nn = lib.nn
    lib.manual_seed(r.int(0, 999))
    dtype = getattr(lib, r.kind)
    c = r.pick(2, 4)
    shape = r.pick((3, c), (2, c, 3), (4, c))
    name = r.pick("Linear", "LayerNorm", "BatchNorm1d", "GroupNorm", "InstanceNorm1d", "RMSNorm", "Dropout", "Flatten", "Softmax", "LogSoftmax", "GELU", "ReLU", "SiLU", "Sigmoid", "Tanh",
                  "Identity", "Sequential", "LSTMCell", "RNNCell", "Embedding", "MultiheadAttention", "TransformerEncoderLayer", "TransformerEncoder", "CrossEntropyLoss", "NLLLoss", "MSELoss")  # fmt: skip
    r.special = None
    flag = r.chance()
    if name.startswith("Transformer"):
        r.kind, dtype = "float64", lib.float64  # its norms of two numbers make much of little
    affine = {"affine": r.chance(0.7)}
    track = {"track_running_stats": r.chance(0.7), "momentum": r.pick(0.1, None, 0.5)}
    p = r.pick(0.0, 0.3)
    make = {
        "Linear": lambda: nn.Linear(shape[-1], r.pick(1, 3), bias=flag, dtype=dtype),
        "LayerNorm": lambda: nn.LayerNorm(r.pick(shape[-1], list(shape[1:])), eps=r.pick(1e-5, 0.1), elementwise_affine=affine["affine"], bias=flag, dtype=dtype),
        "BatchNorm1d": lambda: nn.BatchNorm1d(c, **affine, **track, dtype=dtype),
        "GroupNorm": lambda: nn.GroupNorm(r.pick(1, 2), c, **affine, dtype=dtype),
        "InstanceNorm1d": lambda: nn.InstanceNorm1d(c, **affine, track_running_stats=flag, dtype=dtype),
        "RMSNorm": lambda: nn.RMSNorm(shape[-1], eps=r.pick(None, 1e-3), elementwise_affine=flag, dtype=dtype),
        "Dropout": lambda: nn.Dropout(p, inplace=r.chance(0.2)),
        "Flatten": lambda: nn.Flatten(r.pick(0, 1), r.pick(-1, 1)),
        "Softmax": lambda: nn.Softmax(r.pick(0, 1, -1)),
        "LogSoftmax": lambda: nn.LogSoftmax(r.pick(0, 1, -1)),
        "ReLU": lambda: nn.ReLU(r.chance(0.2)),
        "SiLU": lambda: nn.SiLU(r.chance(0.2)),
        "Sequential": lambda: nn.Sequential(nn.Linear(shape[-1], 4, dtype=dtype), nn.LayerNorm(4, dtype=dtype), nn.GELU(), nn.Dropout(p), nn.Linear(4, shape[-1], bias=flag, dtype=dtype)),
        "LSTMCell": lambda: nn.LSTMCell(c, 3, flag, dtype=dtype),
        "RNNCell": lambda: nn.RNNCell(c, 3, flag, r.pick("tanh", "relu"), dtype=dtype),
        "Embedding": lambda: nn.Embedding(5, 3, r.pick(None, 0, -1), r.pick(None, 0.7), scale_grad_by_freq=flag, dtype=dtype),
        "MultiheadAttention": lambda: nn.MultiheadAttention(c, r.pick(1, 2), p, flag, r.chance(0.3), r.chance(0.3), batch_first=r.chance(), dtype=dtype),
        "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(c, r.pick(1, 2), 3, p, r.pick("relu", "gelu"), batch_first=r.chance(), norm_first=flag, bias=r.chance(0.8), dtype=dtype),
        "TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(c, 2, 3, p, batch_first=True, norm_first=True, dtype=dtype), 2, nn.LayerNorm(c, dtype=dtype) if flag else None, enable_nested_tensor=False),
        "CrossEntropyLoss": lambda: nn.CrossEntropyLoss(r.maybe((c,), special=False, grad=False), reduction=r.pick("mean", "sum", "none"), label_smoothing=p),
        "NLLLoss": lambda: nn.NLLLoss(reduction=r.pick("mean", "sum", "none")),
        "MSELoss": lambda: nn.MSELoss(reduction=r.pick("mean", "sum", "none")),
    }.get(name, lambda: getattr(nn, name)())  # fmt: skip
    layer = make()
    outs = [lib.rand(2), repr(layer).replace("NonDynamicallyQuantizable", "")]
    if r.chance(0.3):
        layer = copy.deepcopy(layer)
    inputs = []
    for _ in range(r.int(1, 3)):
        layer.train(r.chance(0.7))
        x = r.tensor(shape)
        if x.is_leaf and x.requires_grad and "inplace=True" in outs[1]:
            x = x * 1
        if name in ("LSTMCell", "RNNCell"):
            x = r.tensor((3, c) if r.chance() else (c,))
            state = r.tensor((*x.shape[:-1], 3)) if r.chance() else None
            y = layer(x, state if state is None or name == "RNNCell" else (state, state))
        elif name == "Embedding":
            y = layer(r.tensor(array=r.rng.randint(0, 5, r.shape(2))))
        elif name == "MultiheadAttention":
            n, t, s = 2, r.int(1, 3), r.int(1, 3)
            front = lambda m: ((n, m, c) if layer.batch_first else (m, n, c))  # noqa: E731
            padding = r.tensor(array=np.arange(s) >= np.array([s, r.int(1, s)])[:, None]) if r.chance(0.4) else None
            attn = r.tensor((t, s), grad=False) if padding is None and r.chance(0.4) else None
            need = r.chance()
            y = [o for o in layer(r.tensor(front(t)), *[r.tensor(front(s))] * 2, key_padding_mask=padding, attn_mask=attn, need_weights=need, average_attn_weights=r.chance()) if o is not None]
        elif name.startswith("TransformerEncoder"):
            x = r.tensor((2, 3, c))
            causal = r.chance(0.3)
            mask = lib.from_numpy(np.triu(np.full((x.shape[1], x.shape[1]) if name == "TransformerEncoder" or layer.self_attn.batch_first else (2, 2), -np.inf), 1)).to(dtype) if causal else None
            y = layer(x, mask)
        elif name in ("CrossEntropyLoss", "NLLLoss"):
            y = layer(x, lib.from_numpy(r.rng.randint(0, c, (shape[0], *shape[2:]))))
        elif name == "MSELoss":
            y = layer(x, r.tensor(shape))
        else:
            y = layer(x)
        y = list(y) if isinstance(y, (tuple, list)) else [y]
        outs += y
        inputs += r.gradients(y, [*r.leaves, *layer.parameters()])
        if r.chance(0.3):
            layer.load_state_dict(layer.state_dict())
    outs += inputs
    for key, value in layer.state_dict().items():
        outs += [key, value]
    return outs


def filled(lib, r):
    shape = r.shape(3, 2) if r.chance(0.9) else r.shape(1)
    t = lib.zeros(shape, dtype=getattr(lib, r.kind))
    lib.manual_seed(r.int(0, 99))
    init = lib.nn.init
    name = r.pick("uniform_", "normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "constant_", "ones_", "zeros_", "gain")
    if name == "gain":
        kind = r.pick("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu")
        return [init.calculate_gain(kind, r.pick(None, 0.2)) if kind == "leaky_relu" else init.calculate_gain(kind)]
    args = {"uniform_": (-1.0, 2.0), "normal_": (1.0, 3.0), "constant_": (0.3,)}.get(name, ())
    if name.startswith("kaiming"):
        args = (r.pick(0, 0.3, math.sqrt(5)), r.pick("fan_in", "fan_out"), r.pick("relu", "leaky_relu", "tanh", "linear"))
    if name.startswith("xavier"):
        args = (r.pick(1.0, 2.0),)
    return [getattr(init, name)(t, *args), t, lib.rand(2)]


# -- Training ------------------------------------------------------------------------------------------------------------------------------


def trained(lib, r):
    """An optimizer and a schedule, over some steps with gradients that are given, absent or clipped."""
    r.special = None
    name = r.pick("SGD", "Adam", "AdamW")
    decay = r.pick(0.0, 0.1)
    if name == "SGD":
        momentum = r.pick(0.0, 0.9)
        options = {"lr": r.pick(0.1, 1e-3, 0.0), "momentum": momentum, "weight_decay": decay, "nesterov": bool(momentum) and r.chance(0.3), "maximize": r.chance(0.2)}
        if not options["nesterov"]:
            options["dampening"] = r.pick(0.0, 0.3)
    else:
        options = {"lr": r.pick(0.1, 1e-3), "betas": r.pick((0.9, 0.999), (0.0, 0.5)), "eps": r.pick(1e-8, 0.1), "weight_decay": decay, "amsgrad": r.chance(0.3), "maximize": r.chance(0.2)}
    params = []
    for _ in range(r.int(1, 3)):
        t = r.tensor(grad=False).clone() if r.chance() else r.tensor(grad=False)
        params.append(t.requires_grad_())
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.03}] if len(params) > 1 and r.chance() else params
    optimizer = getattr(lib.optim, name)(groups, **options)
    schedules = lib.optim.lr_scheduler
    kind = r.pick(None, "step", "cosine", "lambda")
    size, gamma, most, low = r.int(1, 3), r.pick(0.1, 0.5, 1.0), r.int(1, 5), r.pick(0.0, 0.01)
    schedule = {None: lambda: None, "step": lambda: schedules.StepLR(optimizer, size, gamma), "cosine": lambda: schedules.CosineAnnealingLR(optimizer, most, low),
                "lambda": lambda: schedules.LambdaLR(optimizer, lambda e: 1 / (1 + e))}[kind]()  # fmt: skip
    outs = []
    for _ in range(r.int(1, 6)):
        for p in params:
            if r.chance(0.15):
                p.grad = None
            else:
                g = r.tensor(tuple(p.shape), grad=False)
                p.grad = g.clone() if r.chance() else g
        if r.chance(0.3):
            outs.append(lib.nn.utils.clip_grad_norm_(params, r.pick(0.1, 1.0, 100.0), r.pick(2.0, 1.0, math.inf, 3.0, 0.5, 0.0, -math.inf)))
            outs += [p.grad for p in params]
        optimizer.step()
        if schedule is not None:
            schedule.step()
            outs += schedule.get_last_lr()
        if r.chance(0.15):
            state, where = copy.deepcopy(optimizer.state_dict()), None if schedule is None else copy.deepcopy(schedule.state_dict())
            optimizer.load_state_dict(state)
            if where is not None and kind != "lambda":
                schedule.load_state_dict(where)
        if r.chance(0.2):
            optimizer.zero_grad(r.chance())
        outs += [p.detach().clone() for p in params]
    state = optimizer.state_dict()
    outs += [sorted(state["state"])]
    for number in sorted(state["state"]):
        for key, value in sorted(state["state"][number].items()):
            outs += [key, value if isinstance(value, lib.Tensor) and value.ndim else float(value) if value is not None else None]
    return outs


def walked(lib, r):
    """The engine: backward from several roots, twice, into inputs, with hooks, under create_graph."""
    r.special = None
    x, y = r.tensor((2, 3), grad=True), r.tensor((3,), grad=True)
    leaves = list(r.leaves)
    seen, outs = [], []
    a = x * y
    b = (a.tanh() + a.exp() * 0.1) * r.pick(x, y, 2.0)
    c = r.pick(lambda: b.sum(0), lambda: b.mean(1), lambda: b @ y, lambda: b * b, lambda: b[0])()
    if r.chance(0.4):
        handle = r.pick(a, b, leaves[0]).register_hook(lambda g: seen.append(g.detach().clone()) if r else None)
        if r.chance(0.3):
            handle.remove()
    if r.chance(0.3):
        r.pick(a, b).register_hook(lambda g: g * 2)
    kept = r.pick(a, b, c)
    if r.chance(0.4):
        kept.retain_grad()
    for _ in range(r.int(1, 3)):
        how = r.pick("backward", "backward", "grad", "inputs", "roots", "create", "no gradient", "detach", "write", "silent write")
        retain = r.chance(0.8)
        if how == "backward":
            c.backward(lib.ones_like(c), retain_graph=retain)
        elif how == "grad":
            outs += lib.autograd.grad(c, r.pick([x, y], [a], [b], [y]), lib.ones_like(c), retain_graph=retain, allow_unused=r.chance())
        elif how == "inputs":
            c.backward(lib.ones_like(c), retain_graph=retain, inputs=r.pick([x], [y], [x, y]))
        elif how == "roots":
            lib.autograd.backward([c, b.sum()], [lib.ones_like(c), None], retain_graph=retain)
        elif how == "create":
            (g,) = lib.autograd.grad(c.sum(), [r.pick(x, y)], create_graph=True)
            outs += [g, *lib.autograd.grad((g * g).sum(), [x, y], allow_unused=True, retain_graph=True)]
        elif how == "no gradient":
            with lib.no_grad():
                d = c * 2
                outs += [d, d.requires_grad, d.is_leaf]
        elif how == "detach":
            d = c.detach()
            outs += [d, d.requires_grad]
        elif how == "write":
            r.pick(a, b).mul_(2)
            kept = x  # torch fills .grad of a root also where nothing that is asked for lies below
        elif how == "silent write":
            with lib.no_grad():
                r.pick(*leaves).add_(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outs += [x.grad if x.is_leaf else None, y.grad if y.is_leaf else None, kept.grad, *seen]
    return outs + [leaf.grad for leaf in leaves]


# -- Data, random numbers, files ---------------------------------------------------------------------------------------------------------------


def drawn(lib, r):
    lib.manual_seed(r.int(0, 10**6))
    outs = []
    for _ in range(r.int(1, 4)):
        shape, dtype = r.shape(3), getattr(lib, r.pick("float32", "float64"))
        any_type = getattr(lib, r.pick("float32", "float64", "int64"))
        name = r.pick("rand", "randn", "randint", "randperm", "bernoulli", "uniform_", "normal_", "random_", "rand_like", "randn_like", "randint_like", "big", "seeded")
        like = r.tensor(kind=r.pick("float32", "float64"), grad=False, special=False, backwards=False)
        low = r.pick(-5, 0, -(2**40), 2**33)
        high = low + r.pick(1, 7, 256, 2**31, 2**32, 2**32 + 5, 2**45)
        small = high - low < 2**24 and abs(low) < 100
        if name in ("rand", "randn"):
            outs.append(getattr(lib, name)(shape, dtype=dtype))
        elif name == "big":
            outs.append(getattr(lib, r.pick("rand", "randn"))(r.int(14, 40), dtype=dtype))
        elif name == "randint":
            outs.append(lib.randint(low, high, shape, dtype=any_type if small else lib.int64))
        elif name == "randperm":
            outs.append(lib.randperm(r.pick(0, 1, 2, 10, 33), dtype=r.pick(lib.int64, lib.float32)))
        elif name == "bernoulli":
            outs.append(lib.bernoulli(lib.rand(shape, dtype=dtype)))
        elif name == "uniform_":
            outs.append(like.uniform_(*r.pick((), (-3, 2), (0.1, 0.7), (5.0, 5.0))))
        elif name == "normal_":
            outs.append(like.normal_(*r.pick((), (3.0, 0.5), (0.0, 0.0))))
        elif name == "random_":
            outs.append(r.tensor(kind=r.pick("int64", "float32", "float64"), grad=False, special=False, backwards=False).random_(*r.pick((), (7,), (-3, 9))))
        elif name == "randint_like":
            outs.append(lib.randint_like(like, *r.pick((5,), (-2, 9))))
        elif name == "seeded":
            g = lib.Generator().manual_seed(r.int(0, 99))
            outs += [lib.rand(2, generator=g), lib.randn(3, generator=g), lib.randperm(4, generator=g), g.initial_seed()]
        else:
            outs.append(getattr(lib, name)(like))
        if r.chance(0.2):
            state = lib.random.get_rng_state()
            outs.append(lib.randn(r.int(1, 3)))
            lib.random.set_rng_state(state)
    return outs + [lib.rand(1)]


def loaded(lib, r):
    lib.manual_seed(r.int(0, 999))
    tools = lib.utils.data
    n = r.int(1, 9)
    x = r.tensor(array=r.array((n, *r.shape(1))), grad=False)
    data = tools.TensorDataset(x, lib.arange(n)) if r.chance(0.7) else [{"a": i, "b": [float(i), (i, "s")]} for i in range(n)]
    outs = []
    if r.chance(0.4):
        whole = r.pick([n // 2, n - n // 2], [0.5, 0.5], [0.3, 0.3, 0.4], [1.0])
        parts = tools.random_split(data, whole, *([lib.Generator().manual_seed(4)] if r.chance() else []))
        outs += [list(map(int, p.indices)) for p in parts]
        data = parts[0] if len(parts[0]) else data
    how = r.pick("shuffle", "plain", "sampler", "batch sampler", "replacement", "single")
    size, drop = r.int(1, 4), r.chance()
    m = len(data)
    if how in ("shuffle", "plain"):
        generator = lib.Generator().manual_seed(7) if r.chance(0.4) else None
        loader = tools.DataLoader(data, batch_size=size, shuffle=how == "shuffle", drop_last=drop, generator=generator)
    elif how == "sampler":
        loader = tools.DataLoader(data, size, sampler=tools.SequentialSampler(data), drop_last=drop)
    elif how == "replacement":
        loader = tools.DataLoader(data, size, sampler=tools.RandomSampler(data, r.chance(), r.pick(None, 3, m + 5, 70)), drop_last=drop)
    elif how == "single":
        loader = tools.DataLoader(data, batch_size=None, shuffle=r.chance())
    else:
        loader = tools.DataLoader(data, batch_sampler=tools.BatchSampler(tools.RandomSampler(data), size, drop))
    outs.append(len(loader))

    def flat(v):
        if isinstance(v, dict):
            return [k for key, w in v.items() for k in (key, *flat(w))]
        return [k for w in v for k in flat(w)] if isinstance(v, (list, tuple)) else [v]

    for _ in range(r.int(1, 2)):
        for batch in loader:
            outs += flat(batch)
    return outs + [lib.rand(1)]


def made(lib, r):
    """tensor, as_tensor, full, arange and the rest, with types."""
    kinds = [None, "float32", "float64", "int64", "bool"]
    dtype = r.pick(*kinds)
    dtype = None if dtype is None else getattr(lib, dtype)
    number = r.pick(0, 1, -3, 2.5, -0.0, True, False, 1e300, 2**53 + 1, 1e-50, math.inf, math.nan, 2**62)
    shape = r.shape()
    name = r.pick("tensor", "nested", "numpy", "full", "full_like", "arange", "zeros", "ones_like", "like", "as_tensor", "scalar", "convert")
    if name == "tensor":
        return [lib.tensor(number, dtype=dtype)] if not (isinstance(number, float) and dtype is lib.int64) else []
    if name == "nested":
        values = r.array(shape, r.pick("float64", "int64", "bool"), special=dtype is not lib.int64).tolist()
        return [lib.tensor(values, dtype=dtype), lib.as_tensor(values, dtype=dtype)]
    if name == "numpy":
        a = r.layout(r.array(shape, r.pick("float32", "float64", "int64", "bool"), special=dtype is not lib.int64))
        return [lib.tensor(a.copy(), dtype=dtype), lib.as_tensor(a.copy(), dtype=dtype)]
    if name in ("full", "full_like"):
        if isinstance(number, float) and dtype is lib.int64:
            return []
        t = lib.full(shape, number, dtype=dtype)
        return [t] if name == "full" else [lib.full_like(r.tensor(shape, special=False), number, dtype=dtype)]
    if name == "arange":
        a, b, c = r.pick(0, 1, -3, 0.5), r.pick(4, 7.5, -2, 10), r.pick(1, 2, 0.3, -1, 0.1)
        return [lib.arange(b, dtype=None if dtype is lib.bool else dtype)] if r.chance(0.4) else [lib.arange(a, b, c, dtype=None if dtype in (lib.bool, lib.int64) else dtype)]
    if name == "zeros":
        return [lib.zeros(*shape or [()], dtype=dtype), lib.ones(shape, dtype=dtype), list(lib.empty(shape, dtype=dtype).shape)]
    if name in ("ones_like", "like"):
        t = r.tensor(shape)
        return [lib.ones_like(t, dtype=dtype), lib.zeros_like(t), list(lib.empty_like(t).shape)]
    if name == "scalar":
        t = r.tensor(r.pick((), (1,), (1, 1)), r.pick("float32", "float64", "int64", "bool"), special=False)
        return [t.item(), t.tolist(), float(t), int(t), bool(t), t.numel(), t.dim(), t.size(), len(t) if t.ndim else 0, f"{t.detach().reshape(()):.3f}" if t.dtype != lib.bool else ""]
    if name == "convert":
        x = r.tensor(kind=r.pick(None, "int64", "bool"), special=False)
        return [x.to(r.pick(lib.float32, lib.float64)), x.to(lib.zeros(1, dtype=lib.float64)), x.float(), x.double(), x.bool(), x.tolist() if not x.requires_grad else 0, list(x.shape), x.numel()]
    return [lib.as_tensor(r.tensor(special=False), dtype=dtype if dtype in (lib.float32, lib.float64) else None)]


def exchanged(lib, r):
    """from_dlpack and from_numpy: the memory is shared, whatever its layout."""
    x = r.layout(r.array(r.shape(), r.pick("float32", "float64", "int64", "bool")), backwards=False)
    t = lib.from_dlpack(x) if r.chance() else lib.from_dlpack(torch.from_numpy(x)) if r.chance() else lib.from_numpy(x)
    if x.size:
        x[(0,) * x.ndim] = 1
    outs = [t, t + t if t.dtype != lib.bool else t, t.is_contiguous()]
    t.fill_(0)
    return outs + [bool((x == 0).all())]


def saved(lib, r):
    """Any state comes back from a file as it was (with torch.save on the other side)."""

    def node(depth):
        kind = r.pick("tensor", "tensor", "number", "text", "list", "dict", "none", "tuple") if depth else "dict"
        if kind == "tensor":
            return r.tensor(kind=r.pick("float32", "float64", "int64", "bool"), grad=False)
        if kind == "number":
            return r.pick(1, 2.5, True, -7, math.inf, 2**60, 1e-300, math.nan)
        if kind == "text":
            return r.pick("a", "", "grün", "a.b", "x/y", " ", "\n")
        if kind in ("list", "tuple"):
            return [node(depth + 1) for _ in range(r.int(0, 3))] if depth < 3 else []
        if kind == "dict":
            keys = [r.pick("a", "b", "weight", "a.b", 0, 1, 7, "0") for _ in range(r.int(0, 3))]
            return {k: node(depth + 1) for k in keys} if depth < 3 else {}
        return None

    state = node(0)
    if lib is torch:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        back = torch.load(file)
    else:
        path = f"{r.folder}/state.{r.pick('npz', 'safetensors')}"
        tg.save(state, path)
        back = tg.load(path)

    def flat(v):
        if isinstance(v, dict):  # safetensors has an order of its own
            return ["{", *[p for key, w in sorted(v.items(), key=str) for p in (key, *flat(w))], "}"]
        return ["[", *[p for w in v for p in flat(w)], "]"] if isinstance(v, (list, tuple)) else [v]

    return flat(back)


PROGRAMS = [module, filled, trained, walked, drawn, loaded, made, exchanged, saved]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda f: f.__name__)
@settings(max_examples=max(EXAMPLES // 20, 5), deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_programs(program, seed, tmp_path_factory):
    found = finding(program, seed, tmp_path_factory.getbasetemp(), own_gradients=True)
    assert found is None, found
