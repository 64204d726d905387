"""Random programs from a seed, the same for both libraries: what tests/test_fuzz_programs.py and test_fuzz_training.py draw and judge by.

A program is a function of a library and a `Draw`, from which it takes its tensors, at any layout of memory, and its choices. Its results are
compared, and the gradients of its results; what torch refuses must be refused, and what raises must raise in words meant for people.
"""

import math
import warnings

import numpy as np
import torch
from test_fuzz import EXPECTED, FROM_BELOW, GAPS

import tinygrad_norm as tg

SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, 1e4, -1e4, 1e30, -1e30, math.inf, -math.inf, math.nan, 1e-30, 1e-42, -1e-42, 88.8, -104.0, 710.0]


class Draw:
    """Random choices of a program, and tensors for its library."""

    def __init__(self, lib, seed):
        self.lib, self.rng, self.leaves = lib, np.random.RandomState(seed), []
        self.kind = self.pick("float32", "float64", "float64")
        self.special = self.pick(None, None, None, "few")
        self.exact = self.special is None and self.kind == "float64"

    def pick(self, *options):
        return options[self.rng.randint(len(options))]

    def chance(self, p=0.5):
        return self.rng.uniform() < p

    def int(self, low, high):
        return int(self.rng.randint(low, high + 1))

    def shape(self, most=3, least=0):
        return tuple(self.pick(1, 2, 3, 4, 5, 2, 3, 0 if self.chance(0.3) else 2) for _ in range(self.int(least, most)))

    def broadcast(self, shape):
        shape = tuple(1 if self.chance(0.25) else n for n in shape)
        return shape[self.int(0, len(shape)) :] if self.chance(0.3) else shape

    def array(self, shape, kind=None, special=True):
        kind = kind or self.kind
        n = math.prod(shape)
        if kind == "bool":
            return np.asarray(self.rng.uniform(size=shape) < 0.5)
        if kind == "int64":
            return np.asarray(self.rng.randint(-3, 5, shape), np.int64)
        a = self.rng.standard_normal(n) * self.pick(0.5, 2.0, 2.0, 30.0) + self.pick(0.0, 0.0, 5.0)
        if self.chance(0.2):
            a = np.round(a)  # ties
        if special and self.special and n:
            a[self.rng.randint(0, n, 1 + n // 5)] = self.rng.choice(SPECIAL if self.special == "few" else self.special)
        return a.reshape(shape).astype(kind)

    def layout(self, array, backwards=True):
        """The same values at another layout of memory."""
        how = self.pick("as it is", "as it is", "turned", "strided", "huge", "backwards" if backwards else "offset", "offset")
        if how == "turned":
            return np.array(array.T, order="C").T
        if how == "strided" and array.ndim:
            base = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
            base[..., ::2] = array
            return base[..., ::2]
        if how == "huge" and array.ndim:
            base = np.zeros((*array.shape, 997), array.dtype)
            base[..., 13] = array
            return base[..., 13]
        if how == "offset" and array.ndim:
            base = np.zeros((array.shape[0] + 2, *array.shape[1:]), array.dtype)
            base[1:-1] = array
            return base[1:-1]
        if how == "backwards" and array.ndim:
            return np.array(array[::-1], order="C")[::-1]
        return array.copy()

    def tensor(self, shape=None, kind=None, grad=None, special=True, most=3, least=0, array=None, backwards=True):
        array = self.array(self.shape(most, least) if shape is None else shape, kind, special) if array is None else array
        array = self.layout(np.asarray(array), backwards)
        back = any(s < 0 for s in array.strides)
        t = self.lib.from_numpy(array.copy() if back and self.lib is torch else array)
        grad = self.chance(0.7) if grad is None else grad
        if grad and t.dtype in (self.lib.float32, self.lib.float64):
            t.requires_grad_()
            self.leaves.append(t)
            if self.chance(0.2):
                t = t * 1  # not a leaf
        return t

    def maybe(self, shape, kind=None, **options):
        return self.tensor(shape, kind, **options) if self.chance(0.7) else None

    def number(self):
        return self.pick(2, -1, 0, 3, 0.5, -1.5, 2.0, 0.0, True, 1e30, math.inf, math.nan) if self.special else self.pick(2, 3, 0.5, -1.5, 2.0, 1)

    def like(self, t):
        """Fixed weights for the sum of t that is differentiated."""
        values = np.random.RandomState(5).standard_normal(tuple(t.shape))
        return self.lib.from_numpy(np.asarray(values)).to(t.dtype)

    def gradients(self, outs, leaves=None, orders=1):
        """Those of a weighted sum of outs, and where asked of a weighted sum of them in turn."""
        leaves = self.leaves if leaves is None else leaves
        found, level = [], [o for o in outs if isinstance(o, self.lib.Tensor) and o.requires_grad]
        for order in range(orders):
            grads = [self.lib.zeros_like(leaf) for leaf in leaves]  # where nothing depends on anything any more
            if level and leaves:
                total = sum((o * self.like(o)).sum().double() for o in level)
                grads = self.lib.autograd.grad(total, leaves, create_graph=order + 1 < orders, allow_unused=True, materialize_grads=True)
            found += grads
            level = [g for g in grads if g is not None and g.requires_grad]
        return found

    def orders(self):
        return 2 if self.exact and self.chance(0.4) else 1


# -- The comparison ------------------------------------------------------------------------------------------------------------------------


def plain(value):
    """Tensors as arrays; everything else as it is."""
    if isinstance(value, tg.Tensor):
        return np.asarray(value.detach()._data).copy()
    if isinstance(value, torch.Tensor):
        return value.detach().resolve_neg().numpy().copy()
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def run(lib, program, seed, folder=".", own_gradients=False):
    """The results as arrays, or the error; and how exact they can be."""
    r = Draw(lib, seed)
    r.folder = folder
    lib.set_grad_enabled(True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outs = program(lib, r)
            results = [plain(o) for o in outs]
            if not own_gradients:
                results += [plain(g) for g in r.gradients(outs, orders=r.orders())]
            return results, None, r
        except (*EXPECTED, ZeroDivisionError) as error:
            return None, error, r


def unlike(a, b, rough):
    """What is different between two values, or None."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{a.dtype}{a.shape} and {b.dtype}{b.shape}"
        if a.dtype.kind != "f":
            return None if np.array_equal(a, b) else f"{a} and {b}"
        finite = np.abs(b[np.isfinite(b)])
        size = float(finite.max()) if finite.size else 0.0
        tolerance = rough if a.dtype == np.float32 or rough > 1e-3 else 1e-7
        with np.errstate(all="ignore"):
            good = (np.abs(a - b) <= tolerance * (size + 1)) | (a == b) | (np.isnan(a) & np.isnan(b))
        return None if good.all() else f"{a} and {b}"
    if isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            return f"{a} and {b}"
        return next((u for u in (unlike(*p, rough) for p in zip(a, b)) if u), None)
    if isinstance(a, float) and isinstance(b, float):
        return None if math.isclose(a, b, rel_tol=max(rough, 1e-5), abs_tol=1e-12) or (math.isnan(a) and math.isnan(b)) else f"{a} and {b}"
    same = type(a) is type(b) or {type(a), type(b)} <= {int, float, bool} or (isinstance(a, (tuple, tg.Size)) and isinstance(b, tuple))
    return None if same and a == b else f"{a!r} and {b!r}"


REFUSED = ("Integers to negative integer powers", "cannot take a value that requires a gradient", "argument alpha must not be a floating", "was taken before its base was changed in place",
           "tensors would be written as", "is not implemented for torch.bool", "is not implemented for torch.int64")  # fmt: skip
ALLOWED = ("Autograd not support", "Boolean alpha", "Subtraction, the `-` operator, with a bool tensor", "on an empty tensor because the operation", "Expected a proper Tensor but got None", "tensor does not have a device",
           "grad_input must be contiguous", "index 0 out of range for tensor of size [0]", "shape '[0]' is invalid for input", "derivative for aten::_scaled")  # fmt: skip
  # what torch refuses and we do not  # what torch takes and we do not, on purpose


def finding(program, seed, folder=".", own_gradients=False):
    """A sentence on what is wrong with this program, or None."""
    theirs, their_error, _ = run(torch, program, seed, folder, own_gradients)
    ours, error, r = run(tg, program, seed, folder, own_gradients)
    if error is not None:
        if FROM_BELOW.search(str(error)) or len(str(error)) < 8:
            return f"an error from below: {type(error).__name__}: {error}"
        if their_error is None and not any(text in str(error) for text in REFUSED):
            return f"we refuse: {type(error).__name__}: {error}"
        return None
    if their_error is not None:
        return None if GAPS.search(str(their_error)) or any(text in str(their_error) for text in ALLOWED) else f"torch refuses: {type(their_error).__name__}: {str(their_error)[:200]}"
    if len(ours) != len(theirs):
        return f"{len(ours)} results and {len(theirs)}"
    rough = 2e-4 if r.kind == "float64" else 2e-3
    for i, (a, b) in enumerate(zip(ours, theirs)):
        found = unlike(a, b, rough)
        if found:
            return f"result {i} of {len(ours)}, ours and torch's: {found}"
    return None
