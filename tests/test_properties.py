"""Random programs, shapes and keys, run with both libraries: the same numbers and gradients, or an error in both."""

import functools
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tinygrad_norm as tg
from tinygrad_norm.testing import compare_arrays

LIBS = (tg, torch)
lengths = st.integers(0, 3)
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)


@functools.cache  # of a few shapes, thousands of times; a RandomState takes 50 µs
def values(shape, seed, low=0.2):
    """Numbers between low and 2, all different: no ties, nothing that overflows."""
    n = math.prod(shape)
    rng = np.random.RandomState(seed)
    array = ((rng.permutation(n) + rng.uniform(0.2, 0.8, n)) / max(n, 1) * (2 - low) + low).reshape(shape)
    array.flags.writeable = False
    return array


def tensor(lib, array, requires_grad=True):
    return lib.tensor(array.tolist(), dtype=lib.float64).reshape(array.shape).clone().requires_grad_(requires_grad)


def weights(lib, t):
    return lib.tensor(normal(tuple(t.shape)), dtype=lib.float64).reshape(tuple(t.shape))


@functools.cache
def normal(shape):
    return np.random.RandomState(5).standard_normal(shape).tolist()


def outcome(run, *args):
    """What run returns, or the error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(*args), None
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        return None, error


def same(run, tolerance=1e-12):
    """Runs with both; the arrays must agree, or both must raise, ours an error of torch's class or one it derives from."""
    (ours, our_error), (theirs, their_error) = (outcome(run, lib) for lib in LIBS)
    if their_error is not None or our_error is not None:
        assert our_error is not None, f"torch raises {their_error!r}"
        assert their_error is not None, f"ours raises {our_error!r}"
        two_wrong_at_once = isinstance(their_error, (IndexError, RuntimeError)) and isinstance(our_error, (IndexError, RuntimeError))
        assert isinstance(their_error, type(our_error)) or two_wrong_at_once, (our_error, their_error)
        return False
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        a, b = (t.detach().numpy(**({"force": True} if isinstance(t, torch.Tensor) else {})) for t in (a, b))
        assert compare_arrays(a, b) < tolerance or np.abs(a - b).max() < 1e-14, (a, b)
    return True


def with_gradients(lib, outs, leaves, orders=2):
    """The outputs, then the gradients of a weighted sum of them, then those of a weighted sum of the gradients."""
    outs = list(outs)
    found, level = list(outs), [o for o in outs if o.requires_grad]
    for order in range(orders):
        total = sum(((o * weights(lib, o)).sum() for o in level), lib.zeros((), dtype=lib.float64))
        grads = [lib.zeros_like(leaf) for leaf in leaves]  # where nothing depends on anything any more
        if total.requires_grad:
            grads = lib.autograd.grad(total, leaves, create_graph=order + 1 < orders, allow_unused=True, materialize_grads=True)
        found += grads
        level = [g for g in grads if g.requires_grad]
    return found


BINARY = {
    "add": lambda lib, a, b: a + b,
    "sub": lambda lib, a, b: a - b,
    "mul": lambda lib, a, b: a * b,
    "div": lambda lib, a, b: a / b,
    "pow": lambda lib, a, b: a**b,
    "maximum": lambda lib, a, b: lib.maximum(a, b),
    "minimum": lambda lib, a, b: lib.minimum(a, b),
    "where": lambda lib, a, b: lib.where(a > b, a, b),
    "matmul": lambda lib, a, b: a @ b,
    "add_": lambda lib, a, b: (a * 1).add_(b),
    "mul_": lambda lib, a, b: (a * 1).mul_(b),
    "div_": lambda lib, a, b: (a * 1).div_(b),
    "copy_": lambda lib, a, b: (a * 1).copy_(b),
    "masked_fill": lambda lib, a, b: a.masked_fill(b > 1, 3.0),
    "less": lambda lib, a, b: (a < b).double(),
}


@settings(max_examples=300)
@given(st.sampled_from(list(BINARY)), st.data())
def test_two_shapes(name, data):
    if data.draw(st.booleans(), "fitting"):
        first, second = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, min_side=0, max_side=3)).input_shapes
    else:
        first, second = data.draw(shapes), data.draw(shapes)

    def run(lib):
        leaves = [tensor(lib, values(first, 1)), tensor(lib, values(second, 2))]
        return with_gradients(lib, [BINARY[name](lib, *leaves)], leaves)

    same(run)


@settings(max_examples=150)
@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.data())
def test_products_that_fit(m, k, n, data):
    stack = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=2, min_side=0, max_side=3)).input_shapes
    first = (*stack[0], m, k) if data.draw(st.booleans()) or stack[0] else (k,)
    second = (*stack[1], k, n) if data.draw(st.booleans()) or stack[1] else (k,)

    def run(lib):
        leaves = [tensor(lib, values(first, 1)), tensor(lib, values(second, 2))]
        return with_gradients(lib, [leaves[0] @ leaves[1]], leaves)

    assert same(run)


# -- Reductions ------------------------------------------------------------------------------------------------------------------------

REDUCED = {
    "sum": lambda x, d: [x.sum(**d)], "mean": lambda x, d: [x.mean(**d)], "amax": lambda x, d: [x.amax(**d)], "amin": lambda x, d: [x.amin(**d)],
    "var": lambda x, d: [x.var(**d)], "std": lambda x, d: [x.std(**d, correction=0)],
    "logsumexp": lambda x, d: [x.logsumexp(**d)],
    "max": lambda x, d: x.max(**d) if d else [x.max()], "min": lambda x, d: x.min(**d) if d else [x.min()],
    "argmax": lambda x, d: [x.argmax(**d)], "argmin": lambda x, d: [x.argmin(**d)], "all": lambda x, d: [(x > 1).all(**d)], "any": lambda x, d: [(x > 1).any(**d)],
    "softmax": lambda x, d: [x.softmax(d["dim"])], "log_softmax": lambda x, d: [x.log_softmax(d["dim"])],
}  # fmt: skip


@settings(max_examples=500)
@given(st.sampled_from(list(REDUCED)), shapes, st.data())
def test_reductions(name, shape, data):
    """Of empty tensors as well, over axes that may not be there."""
    some = st.integers(-len(shape) - 1, len(shape))
    one_only = name in ("max", "min", "argmax", "argmin", "softmax", "log_softmax")
    dim = data.draw(some if one_only else st.one_of(st.none(), some, st.lists(some, min_size=1, max_size=3).map(tuple)), "dim")
    arguments = {} if dim is None and name != "logsumexp" else {"dim": dim}
    if arguments and data.draw(st.booleans(), "keepdim"):
        arguments["keepdim"] = True
    twice = isinstance(dim, tuple) and len({d % max(len(shape), 1) for d in dim}) < len(dim)
    assume(not (twice and (name in ("all", "any") or 0 in shape)))  # torch lets it pass there, or finds the empty axis first
    assume(not (name == "logsumexp" and isinstance(dim, tuple) and not shape))
    tied = data.draw(st.booleans(), "tied")
    moved = data.draw(st.booleans(), "permuted")

    def run(lib):
        array = values(shape, 3)
        x = tensor(lib, np.round(array * 2) / 2 if tied else array)
        y = x.permute(tuple(reversed(range(len(shape))))) if moved else x
        outs = REDUCED[name](y, arguments)
        smooth = name not in ("std", "var") or (not tied and 3 in shape and len(set(shape)) == 1)  # not the spread of one or two
        return with_gradients(lib, outs, [x], orders=2 if smooth else 1)

    same(run, 1e-10)


# -- Keys ------------------------------------------------------------------------------------------------------------------------------


def pieces(length):
    bound = st.one_of(st.none(), st.integers(-length - 1, length + 1))
    index = st.integers(-length - 1, length)  # now and then out of bounds
    inside = st.integers(-length, length - 1) if length else st.nothing()
    several = st.lists(inside, max_size=3).map(lambda v: ("tensor", v)) if length else st.just(("tensor", []))
    return st.one_of(
        index,
        st.builds(slice, bound, bound, st.one_of(st.none(), st.integers(1, 3))),
        several,
        several.map(lambda v: ("grid", v[1])),
        st.lists(st.booleans(), min_size=length, max_size=length).map(lambda v: ("mask", v)),
        inside.map(lambda v: ("0-d", v)) if length else index,
    )


def keys(shape):
    def with_extras(parts):
        return st.tuples(
            st.just(tuple(parts)), st.integers(0, len(parts)), st.sampled_from(["no", "no", "none", "ellipsis"]),
        ).map(lambda t: (*t[0][: t[1]], *({"no": (), "none": (None,), "ellipsis": (...,)}[t[2]]), *t[0][t[1] :]))  # fmt: skip

    return st.integers(0, len(shape)).flatmap(lambda n: st.tuples(*(pieces(m) for m in shape[:n]))).flatmap(with_extras)


def picks_nothing(shape, key):
    """Whether there are indices, and the result has no elements: torch does not look at them then, ours checks them all the same."""
    counts = {len(k[1]) for k in key if isinstance(k, tuple) and k[0] in ("tensor", "grid")}
    return counts - {0} and (0 in shape or 0 in counts)


def made(lib, key):
    def one(part):
        if not isinstance(part, tuple):
            return part
        kind, content = part
        if kind == "mask":
            return lib.tensor(content, dtype=lib.bool)
        t = lib.tensor(content, dtype=lib.int64)
        return t.reshape(-1, 1) if kind == "grid" else t

    return tuple(one(part) for part in key)


@settings(max_examples=600)
@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3), st.data())
def test_keys_read(shape, data):
    key = data.draw(keys(shape), "key")
    assume(not picks_nothing(shape, key))

    def run(lib):
        x = tensor(lib, values(shape, 1))
        y = x[made(lib, key)]
        if lib is tg:
            assert np.shares_memory(y._data, x._data) or not y._data.size or any(isinstance(k, tuple) and k[0] != "0-d" for k in key)
        return with_gradients(lib, [y, y**3], [x])

    same(run)


@settings(max_examples=400)
@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3), st.booleans(), st.data())
def test_keys_assigned(shape, recorded, data):
    key = data.draw(keys(shape), "key")
    assume(not picks_nothing(shape, key))
    places, _ = outcome(lambda: tg.zeros(shape)[made(tg, key)])
    wanted = () if places is None else places.shape
    # a shape that broadcasts to the places: axes dropped from the front, lengths made 1
    dropped = data.draw(st.integers(0, len(wanted)), "dropped")
    small = tuple(1 if data.draw(st.booleans()) else n for n in wanted[dropped:])
    if data.draw(st.integers(0, 9), "wrong") == 0:
        small = (*small[:-1], 5)
    number = data.draw(st.booleans(), "number")
    indices = [k[1] for k in key if isinstance(k, tuple) and k[0] in ("tensor", "grid")]
    lists = [[v % m for v in k[1]] for k, m in zip([k for k in key if k is not None and k is not ...], shape) if isinstance(k, tuple) and k[0] in ("tensor", "grid")]
    twice = any(len(set(v)) < len(v) for v in (lists if ... not in key else indices)) or (... in key and bool(indices))
    assume(not (twice and not number))  # which of two values wins is open

    def run(lib):
        x, w = tensor(lib, values(shape, 1), recorded), tensor(lib, values(small, 2), recorded)
        y = x * 1
        y[made(lib, key)] = 2.5 if number else w
        return with_gradients(lib, [y, y**2], [x, w])

    same(run)


# -- Expression graphs -----------------------------------------------------------------------------------------------------------------

UNARY = {
    "exp": lambda lib, x: (-x).exp(), "tanh": lambda lib, x: x.tanh(), "sigmoid": lambda lib, x: lib.sigmoid(x), "square": lambda lib, x: x**2, "sqrt": lambda lib, x: (x * x + 1).sqrt(),
    "log": lambda lib, x: (x * x + 1).log(), "neg": lambda lib, x: -x, "erf": lambda lib, x: lib.erf(x), "halve": lambda lib, x: x / 2, "reciprocal": lambda lib, x: 1 / (x * x + 2),
    "relu": lambda lib, x: lib.relu(x), "abs": lambda lib, x: abs(x), "clamp": lambda lib, x: x.clamp(-0.5, 0.7), "sum": lambda lib, x: x.sum(0, keepdim=True),
    "mean": lambda lib, x: x.mean(-1, keepdim=True), "softmax": lambda lib, x: x.softmax(-1), "var": lambda lib, x: x.var(0, keepdim=True, unbiased=False),
    "logsumexp": lambda lib, x: x.logsumexp(-1, keepdim=True), "first": lambda lib, x: x[:1], "turn": lambda lib, x: x.transpose(0, 1).transpose(1, 0),
    "flip by index": lambda lib, x: x[list(range(x.shape[0]))[::-1]], "rsqrt": lambda lib, x: (x * x + 1).rsqrt(), "max": lambda lib, x: x.amax(0, keepdim=True),
    "double": lambda lib, x: lib.cat([x[:1], x[:1]]), "expand": lambda lib, x: x[:1].expand(2, -1), "fill": lambda lib, x: x.masked_fill(x > 0.5, 0.1),
}  # fmt: skip
JOINED = {
    "add": lambda lib, a, b: a + b, "mul": lambda lib, a, b: a * b, "sub": lambda lib, a, b: a - b, "div": lambda lib, a, b: a / (b * b + 1), "maximum": lambda lib, a, b: lib.maximum(a, b),
    "where": lambda lib, a, b: lib.where(a > 0.3, a, b), "matmul": lambda lib, a, b: (a @ b.transpose(0, 1)).sum(1, keepdim=True) if a.shape[1] == b.shape[1] else a * b,
}  # fmt: skip
steps = st.lists(st.one_of(st.tuples(st.sampled_from(list(UNARY)), st.integers(0, 9)), st.tuples(st.sampled_from(list(JOINED)), st.integers(0, 9), st.integers(0, 9))), min_size=1, max_size=10)


@settings(max_examples=300)
@given(steps)
def test_graphs_with_shared_parts(program):
    """Every step takes any values made before it, so parts are used once, often or never."""

    def run(lib):
        leaves = [tensor(lib, values((2, 3), 1, -1.5)), tensor(lib, values((1, 3), 2, -1.5)), tensor(lib, values((2, 1), 3, -1.5))]
        pool = list(leaves)
        for name, *picks in program:
            args = [pool[-1 - p % len(pool)] for p in picks]
            pool.append((UNARY[name] if len(args) == 1 else JOINED[name])(lib, *args))
        return with_gradients(lib, pool[3:], leaves)

    assert same(run, 1e-9)


# -- Views and writes in place ---------------------------------------------------------------------------------------------------------

VIEWS = {
    "first": lambda t: t[0], "part": lambda t: t[..., 1:], "flat": lambda t: t.reshape(-1), "turned": lambda t: t.transpose(0, -1), "in front": lambda t: t.unsqueeze(0),
    "expand": lambda t: t.expand(2, *t.shape), "detach": lambda t: t.detach(), "all": lambda t: t[:], "column": lambda t: t[..., 0],
}  # fmt: skip
WRITES = {
    "add_ number": lambda t, u: t.add_(0.5), "mul_ number": lambda t, u: t.mul_(1.5), "add_": lambda t, u: t.add_(u), "mul_": lambda t, u: t.mul_(u), "sub_": lambda t, u: t.sub_(u, alpha=2),
    "div_": lambda t, u: t.div_(u * u + 1), "zero_": lambda t, u: t.zero_(), "copy_": lambda t, u: t.copy_(u), "set number": lambda t, u: t.__setitem__(0, 0.25),
    "set": lambda t, u: t.__setitem__(0, u), "set indices": lambda t, u: t.__setitem__([0], 1.25), "set mask": lambda t, u: t.__setitem__(t.detach() > 0.9, 0.1),
    "detached": lambda t, u: t.detach().mul_(1.1), "fill_": lambda t, u: t.fill_(0.3),
}  # fmt: skip
USES = {
    "exp": lambda t, u: (-t).exp(), "product": lambda t, u: t * u, "sum": lambda t, u: t + u, "square": lambda t, u: t * t, "tanh": lambda t, u: t.tanh(), "root": lambda t, u: (t * t + 1).sqrt(),
    "mean": lambda t, u: t.mean(), "scale": lambda t, u: t * 2, "clone": lambda t, u: t.clone(),
}  # fmt: skip
picks = st.integers(0, 11)
instructions = st.lists(
    st.one_of(
        st.tuples(st.just("view"), st.sampled_from(list(VIEWS)), picks, st.just(0)),
        st.tuples(st.just("use"), st.sampled_from(list(USES)), picks, picks),
        st.tuples(st.just("write"), st.sampled_from(list(WRITES)), picks, picks),
        st.tuples(st.just("silent write"), st.sampled_from(list(WRITES)), picks, picks),
        st.tuples(st.just("silent view"), st.sampled_from(list(VIEWS)), picks, st.just(0)),
    ),
    min_size=2,
    max_size=12,
)
REFUSED = ("view of a tensor in a graph is not supported", "was taken before its base was changed in place", "several elements are one place in memory")
AMBIGUOUS = "created in no_grad mode"  # torch forbids such a view once its memory was written to


@settings(max_examples=1200)
@given(instructions)
def test_views_and_writes(program):
    """A random program of views, uses and writes in place. Ours may refuse what it cannot record, loudly; it may not differ."""
    pools = [[tensor(lib, values((2, 3), 1)), tensor(lib, values((3,), 2)), tensor(lib, values((2, 3), 3), False)] for lib in LIBS]
    leaves = [pool[:2] for pool in pools]
    pools = [[a, b, c, a * 1.0, b * 1.0] for a, b, c in pools]
    for kind, name, first, second in program:
        n = len(pools[0])
        first, second = n - 1 - first % n, n - 1 - second % n
        if "write" in kind and np.shares_memory(pools[0][first]._data, pools[0][second]._data) and name in ("add_", "mul_", "sub_", "div_", "copy_", "set"):
            continue  # torch reads and writes at once there, or refuses
        results = []
        for lib, pool in zip(LIBS, pools):
            t, u = pool[first], pool[second]
            with lib.set_grad_enabled("silent" not in kind):
                if "view" in kind:
                    results.append(outcome(lambda t=t: VIEWS[name](t)))
                else:
                    results.append(outcome(lambda t=t, u=u: {**USES, **WRITES}[name](t, u)))
        (ours, our_error), (theirs, their_error) = results
        note(f"{kind} {name} {first} {second}: {our_error!r}; {their_error!r}")
        if AMBIGUOUS in str(their_error):
            return
        if our_error is not None:
            if their_error is None:  # refused by ours alone: there the comparison ends
                assert any(text in str(our_error) for text in REFUSED), our_error
                return
            continue
        assert their_error is None, f"torch raises {their_error!r}"
        if "write" not in kind:
            for pool, made_now in zip(pools, (ours, theirs)):
                pool.append(made_now)
        for a, b in zip(*pools):
            a, b = a._data, b.detach().numpy()
            if not np.array_equal(a, b):  # as they nearly always are
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-300)
    found = []
    for lib, pool, ends in zip(LIBS, pools, leaves):

        def run(lib=lib, pool=pool, ends=ends):
            total = sum(((t * weights(lib, t)).sum() for t in pool), lib.zeros((), dtype=lib.float64))
            return lib.autograd.grad(total, ends, allow_unused=True, materialize_grads=True)

        found.append(outcome(run))
    (ours, our_error), (theirs, their_error) = found
    note(f"gradients: {our_error!r}; {their_error!r}")
    if AMBIGUOUS in str(their_error):
        return
    if our_error is not None:
        if any(text in str(our_error) for text in REFUSED):
            return
        assert their_error is not None, our_error
        assert "modified by an inplace operation" in str(our_error)
        assert "modified by an inplace operation" in str(their_error)
        return
    assert their_error is None, their_error
    for a, b in zip(ours, theirs):
        assert compare_arrays(a.numpy(), b.numpy(force=True)) < 1e-11


# -- Shapes ----------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), st.data())
def test_other_shapes(shape, data):
    axis = st.integers(-len(shape) - 1, len(shape))
    new = st.lists(st.integers(-1, 4), max_size=4)
    expression = data.draw(
        st.one_of(
            new.map(lambda s: lambda lib, x: [x.reshape(s)]),
            new.map(lambda s: lambda lib, x: [x.permute(tuple(reversed(range(len(shape))))).view(*s)] if s else [x]),
            st.permutations(range(len(shape))).map(lambda p: lambda lib, x: [x.permute(p)]),
            st.tuples(axis, axis).map(lambda p: lambda lib, x: [x.transpose(*p)]),
            st.tuples(axis, axis).map(lambda p: lambda lib, x: [x.flatten(*p)]),
            axis.map(lambda a: lambda lib, x: [x.squeeze(a)]),
            axis.map(lambda a: lambda lib, x: [x.unsqueeze(a)]),
            st.lists(axis, max_size=2).map(lambda a: lambda lib, x: [x.squeeze(tuple(a))]),
            st.lists(st.integers(-1, 3), max_size=5).map(lambda s: lambda lib, x: [x.expand(s)]),
            st.tuples(st.integers(-1, 4), axis).map(lambda p: lambda lib, x: x.split(*p)),
            st.tuples(st.lists(st.integers(0, 3), min_size=1, max_size=3), axis).map(lambda p: lambda lib, x: x.split(*p)),
            st.tuples(st.integers(0, 5), axis).map(lambda p: lambda lib, x: x.chunk(*p)),
            axis.map(lambda a: lambda lib, x: [lib.cat([x, x * 2], a if x.shape != (0,) else 0)]),
            axis.map(lambda a: lambda lib, x: [lib.stack([x, x * 2], a)]),
            st.integers(-4, 4).map(lambda k: lambda lib, x: [x.tril(k)]),
        ),
        "expression",
    )

    def run(lib):
        x = tensor(lib, values(shape, 1))
        outs = list(expression(lib, x))
        return with_gradients(lib, [*outs, *(o**2 for o in outs)], [x])

    same(run)


@settings(max_examples=200)
@given(st.lists(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=2), min_size=1, max_size=3), st.integers(-3, 3), st.sampled_from(["cat", "stack"]))
def test_joined_shapes(several, dim, name):
    assume(any(shape != (0,) for shape in several))

    def run(lib):
        leaves = [tensor(lib, values(shape, i)) for i, shape in enumerate(several)]
        return with_gradients(lib, [getattr(lib, name)(leaves, dim)], leaves)

    same(run)


@pytest.mark.parametrize("pair", list(itertools.product(["float32", "float64", "int64", "bool"], repeat=2)), ids="-".join)
@given(first=shapes, second=shapes)
@settings(max_examples=15)
def test_types_of_results(pair, first, second):
    def run(lib):
        a, b = (lib.ones(shape, dtype=getattr(lib, kind)) for shape, kind in zip((first, second), pair))
        return [a + b, a * b, (a / b), lib.where(a > 0, a, b)]

    same(run)
