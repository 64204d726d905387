"""Random calls of the public functions, right and wrong ones, beside torch: the same numbers, or an error that is meant for people.

A call that torch refuses and that we take is a finding, as are other numbers, element types or shapes, an argument that was changed, and
an error out of the depths of NumPy or Python. How long it looks: HYPOTHESIS_PROFILE, or FUZZ_EXAMPLES=100000 for a night.
"""

import os
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))
KINDS = ["float32", "float64", "int64", "bool"]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e4, -3.7, float("inf"), float("-inf"), float("nan"), 1e-30]

shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4]), max_size=3).map(tuple)


@st.composite
def tensors(draw, kinds=KINDS):
    """("tensor", an array, whether it is transposed): built anew for either library."""
    shape, kind = draw(shapes), draw(st.sampled_from(kinds))
    count = int(np.prod(shape))
    seed = draw(st.integers(0, 2**16))
    rng = np.random.RandomState(seed)
    values = rng.standard_normal(count) * 2
    if draw(st.booleans()) and count and kind.startswith("float"):
        values[rng.randint(0, count, 1 + count // 4)] = rng.choice(SPECIAL)
    if kind == "int64":
        values = rng.randint(-3, 5, count)
    elif kind == "bool":
        values = values > 0
    return "tensor", np.asarray(values).reshape(shape).astype(kind), draw(st.booleans())


numbers = st.one_of(st.integers(-4, 5), st.sampled_from([0.5, -1.5, 2.0, 0.0, float("inf"), float("nan")]), st.booleans())
odd = st.sampled_from([None, "a", [1, 2], (0, 1), (0, 0), [], (), {}, 1j, 2**70, -(2**63), [[1.0]], (1, None), b"x", [0.5]])
dims = st.one_of(st.integers(-4, 4), st.integers(-4, 4), st.lists(st.integers(-3, 3), max_size=3).map(tuple), odd)
floats = tensors(["float32", "float64"])
anything = st.one_of(tensors(), tensors(), tensors(), numbers, odd)
indices = tensors(["int64"])
flag = st.booleans()
key = st.one_of(st.integers(-4, 4), st.sampled_from([None, Ellipsis, True, False, "a", 0.5]), st.tuples(st.integers(-5, 5), st.integers(-5, 5), st.integers(1, 3)).map(lambda t: slice(*t)),
                tensors(["int64", "bool"]), st.lists(st.integers(-3, 3), max_size=3))  # fmt: skip
lengths = st.lists(st.integers(-2, 6), max_size=4)

F = "nn.functional."
CALLS = {
    **dict.fromkeys(("neg", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid", "erf", "relu", "clone", "isnan", "isinf", "isfinite"), (anything,)),
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "maximum", "minimum", "eq", "equal", "matmul"), (anything, anything)),
    **dict.fromkeys(("sum", "mean", "amax", "amin", "logsumexp", "all", "any"), (anything, dims, flag)),
    **dict.fromkeys(("var", "std", "max", "min", "argmax", "argmin"), (anything, dims)),
    "all of": (st.just("sum"), tensors()),
    "add alpha": (anything, anything, numbers),
    "where": (anything, anything, anything),
    "clamp": (anything, st.one_of(numbers, odd), st.one_of(numbers, st.none())),
    "softmax": (anything, dims),
    "log_softmax": (anything, dims),
    "allclose": (anything, anything),
    "reshape": (anything, st.one_of(lengths, dims)),
    "flatten": (anything, dims, dims),
    "permute": (anything, st.one_of(lengths, dims)),
    "transpose": (anything, dims, dims),
    "squeeze": (anything, dims),
    "unsqueeze": (anything, dims),
    "expand": (tensors(), lengths),
    "view": (tensors(), lengths),
    "cat": (st.lists(anything, max_size=3), dims),
    "stack": (st.lists(anything, max_size=3), dims),
    "split": (anything, st.one_of(numbers, lengths, odd), dims),
    "chunk": (anything, st.one_of(numbers, odd), dims),
    "tril": (anything, st.one_of(numbers, odd)),
    "gather": (anything, dims, st.one_of(indices, anything)),
    "index_select": (anything, dims, st.one_of(indices, anything)),
    "masked_fill": (anything, tensors(["bool", "int64"]), anything),
    "getitem": (tensors(), st.one_of(key, st.lists(key, max_size=3).map(tuple))),
    "setitem": (tensors(), st.one_of(key, st.lists(key, max_size=3).map(tuple)), anything),
    "add_": (tensors(), anything),
    "mul_": (tensors(), anything),
    "div_": (tensors(), anything),
    "copy_": (tensors(), anything),
    "fill_": (tensors(), anything),
    "zeros": (st.one_of(lengths, dims),),
    "full": (st.one_of(lengths, dims), anything),
    "arange": (numbers, numbers, numbers),
    F + "linear": (anything, anything, st.one_of(st.none(), tensors())),
    F + "layer_norm": (anything, st.one_of(lengths, dims), st.one_of(st.none(), floats), st.one_of(st.none(), floats)),
    F + "batch_norm": (floats, st.none(), st.none(), st.one_of(st.none(), floats), st.one_of(st.none(), floats), flag),
    F + "cross_entropy": (anything, st.one_of(indices, anything)),
    F + "nll_loss": (anything, st.one_of(indices, anything)),
    F + "mse_loss": (anything, anything),
    F + "one_hot": (anything, numbers),
    **dict.fromkeys((F + "gelu", F + "silu", F + "relu", F + "sigmoid", F + "tanh"), (anything,)),
    **dict.fromkeys(("ones", "empty shape"), (st.one_of(lengths, dims),)),
    **dict.fromkeys(("zeros_like", "ones_like", "as_tensor"), (anything,)),
    **dict.fromkeys(("contiguous", "double", "bool", "numel", "dim", "detach", "zero_"), (tensors(),)),
    **dict.fromkeys(("ne", "lt", "le", "gt", "ge", "sub_"), (tensors(), anything)),
    "size": (tensors(), dims),
    "full_like": (anything, anything),
    F + "softmax": (anything, dims),
    F + "log_softmax": (anything, dims),
    F + "dropout": (anything, st.one_of(st.just(0.0), numbers, odd), st.just(False)),
    F + "embedding": (st.one_of(indices, anything), anything, st.one_of(st.none(), numbers, odd)),
    F + "group_norm": (floats, st.one_of(numbers, odd), st.one_of(st.none(), floats), st.one_of(st.none(), floats)),
    F + "instance_norm": (floats, st.none(), st.none(), st.one_of(st.none(), floats), st.one_of(st.none(), floats)),
    F + "rms_norm": (anything, st.one_of(lengths, dims), st.one_of(st.none(), floats)),
    F + "scaled_dot_product_attention": (floats, floats, floats, st.one_of(st.none(), tensors())),
    "randperm": (st.one_of(numbers, odd),),
    "randint": (st.one_of(numbers, odd), st.one_of(numbers, odd), st.one_of(lengths, dims)),
    "bernoulli": (anything,),
    "lstm_cell": (floats, st.lists(floats, min_size=2, max_size=2), floats, floats),
    "rnn_tanh_cell": (floats, floats, floats, floats),
}
METHODS = {"contiguous", "double", "bool", "numel", "dim", "detach", "zero_", "ne", "lt", "le", "gt", "ge", "sub_", "size", "expand", "view", "add_", "mul_", "div_", "copy_", "fill_", "getitem", "setitem"}


def built(lib, value):
    """The drawn value with tensors of that library."""
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], str) and value[0] == "tensor":
        t = lib.from_numpy(value[1].copy()) if value[1].ndim else lib.tensor(value[1].item(), dtype=getattr(lib, str(value[1].dtype)))
        return t.permute(*reversed(range(t.ndim))) if value[2] and t.ndim > 1 else t
    if isinstance(value, (list, tuple)):
        return type(value)(built(lib, item) for item in value)
    return value


def called(lib, name, args):
    """The result, as a list of arrays and others; the first argument afterwards."""
    lib.manual_seed(5)
    if name == "empty shape":
        result = tuple(lib.empty(*args).shape)
    elif name == "getitem":
        result = args[0][args[1]]
    elif name == "setitem":
        args[0][args[1]] = args[2]
        result = args[0]
    elif name == "add alpha":
        result = lib.add(args[0], args[1], alpha=args[2])
    elif name == "all of":
        result = getattr(lib, args[0])(args[1])
    elif name in METHODS:
        result = getattr(args[0], name)(*args[1:])
    else:
        function = lib
        for part in name.split("."):
            function = getattr(function, part)
        result = function(*args)
    return list(result) if isinstance(result, (tuple, list)) else [result]


def arrays(results):
    return [np.asarray(r.detach()) if isinstance(r, (tg.Tensor, torch.Tensor)) else r for r in results]


GAPS = re.compile(r"not implemented for|too big to convert|Overflow when unpacking|index 0 out of range for tensor of size|got input size torch.Size\(\[1, 0, 1")  # of torch's CPU kernels and number parser
FROM_BELOW = re.compile(
    r"object (is not|has no|does not)|unsupported operand|not supported between|could not broadcast|ufunc|unexpected keyword|cannot reshape array|"
    r"setting an array element|invalid literal|could not convert|list index|tuple index|axes don't match|need at least one array|_ArrayMemoryError|operands could|__\w+__|not iterable|can't multiply"
)
EXPECTED = (TypeError, ValueError, RuntimeError, IndexError, NotImplementedError, KeyError, MemoryError, OverflowError)


def differs(mine, yours):
    """What is different between two results, or None."""
    if len(mine) != len(yours):
        return f"{len(mine)} results and {len(yours)}"
    for a, b in zip(mine, yours):
        if isinstance(a, np.ndarray) != isinstance(b, np.ndarray):
            return f"{type(a).__name__} and {type(b).__name__}"
        if not isinstance(a, np.ndarray):
            if a != b:
                return f"{a} and {b}"
        elif a.shape != b.shape or a.dtype != b.dtype:
            return f"{a.dtype}{a.shape} and {b.dtype}{b.shape}"
        elif a.dtype.kind == "f":
            scale = 1e-4 if a.dtype == np.float32 else 1e-9
            if not np.allclose(a, b, rtol=scale, atol=scale, equal_nan=True):
                return f"{a} and {b}"
        elif not np.array_equal(a, b):
            return f"{a} and {b}"
    return None


def finding(name, drawn):
    """A sentence on what is wrong with this call, or None."""
    first = drawn[0]
    if (name in ("all", "any", "logsumexp") and drawn[1] in ((), [])) or (name == "eq" and isinstance(first, (bool, int, float))):
        return None  # no axis is every axis here, in torch's sum as well; a number may stand first
    if name.endswith("mse_loss") and all(isinstance(d, tuple) and len(d) == 3 for d in drawn) and np.ndim(drawn[0][1]) != np.ndim(drawn[1][1]):
        return None  # torch warns, and promotes the types of what it has expanded: of 0-d and 1-d not as everywhere else
    if name in ("add alpha", "split", "chunk") and any(isinstance(d, bool) for d in drawn):
        return None  # True is 1
    if (name in ("max", "min", "squeeze") and drawn[1] is None) or (name in ("reshape", "permute") and type(drawn[1]) is int):
        return None  # dim=None is no dim, as in torch's mean; one length needs no brackets, as in the method
    if name in (F + "gelu", F + "rms_norm", F + "group_norm") and any(isinstance(d, tuple) and len(d) == 3 and not np.isfinite(d[1]).all() for d in drawn):
        return None  # of infinity torch's float32 gelu makes NaN; in a norm it depends on the order of the products
    mine, yours = built(tg, list(drawn)), built(torch, list(drawn))
    before = [a._data.tobytes() if isinstance(a, tg.Tensor) else None for a in mine]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theirs, their_error = arrays(called(torch, name, yours)), None
        except Exception as error:
            theirs, their_error = None, error
        try:
            ours, error = arrays(called(tg, name, mine)), None
        except EXPECTED as raised:
            ours, error = None, raised
    if error is not None:
        if FROM_BELOW.search(str(error)) or len(str(error)) < 8:
            return f"an error from below: {type(error).__name__}: {error}"
        if [a._data.tobytes() if isinstance(a, tg.Tensor) else None for a in mine] != before:
            return f"an argument was changed by a call that raised {error}"
        return None
    if their_error is not None:
        return None if GAPS.search(str(their_error)) else f"torch refuses: {type(their_error).__name__}: {str(their_error)[:200]}; ours: {ours}"
    changed = differs(ours, theirs)
    if changed:
        return f"ours and torch's: {changed}"
    if not name.endswith("_") and name != "setitem" and [a._data.tobytes() if isinstance(a, tg.Tensor) else None for a in mine] != before:
        return "an argument was changed"
    return None


ZERO_D, ROWS = ("tensor", np.array(1.0), False), ("tensor", np.ones((2, 3), np.int64), False)
FOUND = [  # by the fuzzer, and mended since
    ("add alpha", ZERO_D, ROWS, 2.0),  # float32 instead of float64
    ("add alpha", ROWS, [[1.0]], 2.0),  # an error from below
    ("add alpha", ROWS, None, 2),
    ("zeros", b"x"),  # a tensor of 120 zeros
    ("full", b"x", -3),
    ("full", (), ("tensor", np.ones(1), False)),
    ("arange", 4, True, float("inf")),  # an empty tensor
    (F + "cross_entropy", ("tensor", np.ones(0), False), ("tensor", np.array(0), False)),  # NaN
    *((name, ("tensor", np.ones((1, 1)), False), b"\0") for name in ("permute", "squeeze", "sum", "expand", "reshape", "split", "chunk")),  # took bytes for lengths
    (F + "layer_norm", ("tensor", np.ones(1), False), b"\1", None, None),
    *(("fill_", ("tensor", np.ones(2, kind), False), number) for kind in ("float32", "float64") for number in (1e300, -1e39, float("inf"), float("nan"))),  # became infinite
    *(("full", (2,), number) for number in (1e300, -1e39, float("-inf"), 3.4e38)),
    ("masked_fill", ("tensor", np.ones(2, np.float32), False), ("tensor", np.array([True, False]), False), 1e300),
    *(("masked_fill", ROWS, ("tensor", np.array(True), False), ("tensor", np.array(number), False)) for number in (np.inf, np.nan, 1e300, 2.5)),  # became −2⁶³
    ("clamp", ("tensor", np.ones(2, np.float32), False), 1e300, None),
    ("clamp", ("tensor", np.ones(2, np.float32), False), None, 1e300),  # NumPy's warning, not ours
    ("where", ("tensor", np.array([True]), False), ("tensor", np.ones(1, np.float32), False), 1e300),
    ("getitem", ("tensor", np.ones(2), False), b"\1"),
]


@pytest.mark.parametrize("call", FOUND, ids=str)
def test_what_was_found_stays_mended(call):
    assert finding(call[0], list(call[1:])) is None


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=max(EXAMPLES // 20, 5), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_calls(name, data):
    drawn = [data.draw(strategy) for strategy in CALLS[name]]
    assume(not (name == "matmul" and any(isinstance(d, tuple) and len(d) == 3 and isinstance(d[1], np.ndarray) and d[1].dtype == bool for d in drawn)))
    found = finding(name, drawn)
    assert found is None, f"{name}{tuple(drawn)}: {found}"
