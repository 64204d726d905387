"""Data sets, samplers, collating and the loader against torch: the same seed, the same batches, the same numbers afterwards."""

from __future__ import annotations

import builtins
import itertools
from collections import OrderedDict, UserList, defaultdict, namedtuple
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.data
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygrad_norm as tg
import tinygrad_norm.utils.data
from tinygrad_norm import data

BOTH = [pytest.param(tg, id="ours"), pytest.param(torch, id="torch")]
Point = namedtuple("Point", ["x", "y"])


def plain(value: Any) -> Any:
    """Tensors of either library as (element type, lists), the types of the containers kept."""
    if isinstance(value, (tg.Tensor, torch.Tensor)):
        return str(value.dtype), value.tolist()
    if isinstance(value, (dict, MappingProxyType)):
        return type(value).__name__, {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, UserList)):
        return type(value).__name__, [plain(v) for v in value]
    return value


def state(lib: Any, generator: Any = None) -> Any:
    """Where the random stream stands: the engine's position, and its 624 words."""
    generator = lib.default_generator if generator is None else generator
    if lib is tg:
        ours = generator.get_state()
        return ours["position"], ours["words"].tobytes()
    raw = generator.get_state().numpy()  # at byte 8 how many words are left (1: none), at 16 the position, from 24 on the words
    position = 624 if raw[8:12].view(np.int32)[0] == 1 else int(raw[16:24].view(np.int64)[0])
    return position, raw[24 : 24 + 624 * 8].view(np.uint64).astype(np.uint32).tobytes()


def pair(lib: Any, n: int) -> Any:
    return lib.utils.data.TensorDataset(lib.arange(n * 2.0).reshape(n, 2), lib.arange(n))


def subset(lib: Any, n: int) -> Any:
    return lib.utils.data.Subset(lib.utils.data.Subset(pair(lib, n + 3), list(range(n + 2, 0, -1))), range(n))


def listed(lib: Any, n: int) -> Any:
    return [(i, {"half": i / 2, "row": np.full(2, i, np.float32)}) for i in range(n)]


def needing_gradient(lib: Any, n: int) -> Any:
    return lib.utils.data.TensorDataset(lib.arange(float(n)).requires_grad_())


# -- The loader --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("make", [pair, subset, listed, needing_gradient])
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 70),
    batch_size=st.none() | st.integers(1, 40),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**32),
    stop=st.none() | st.integers(0, 4),
)
def test_the_same_batches_and_the_same_stream(
    make: Any, own_generator: bool, n: int, batch_size: int | None, shuffle: bool, drop_last: bool, seed: int, stop: int | None
) -> None:
    """Three epochs, the first perhaps left early; the stream is compared after every batch."""

    def run(lib: Any) -> list[Any]:
        lib.manual_seed(seed)
        generator = lib.Generator().manual_seed(seed + 1) if own_generator else None
        loader = lib.utils.data.DataLoader(
            make(lib, n), batch_size, shuffle, drop_last=drop_last and batch_size is not None, generator=generator
        )
        seen: list[Any] = [len(loader)]
        for epoch in range(3):
            batches = iter(loader)
            seen.append(state(lib))
            for batch in itertools.islice(batches, stop if epoch == 0 else None):
                seen.append((plain(batch), state(lib), state(lib, generator) if own_generator else None))
            seen.append((state(lib), lib.rand(1).tolist()))
        return seen

    assert run(tg) == run(torch)


@pytest.mark.parametrize("replacement", [False, True])
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), num=st.none() | st.integers(1, 130), seed=st.integers(0, 2**32), own=st.booleans(), take=st.integers(0, 200))
def test_random_sampler(replacement: bool, n: int, num: int | None, seed: int, own: bool, take: int) -> None:
    def run(lib: Any) -> Any:
        lib.manual_seed(seed)
        generator = lib.Generator().manual_seed(seed) if own else None
        sampler = lib.utils.data.RandomSampler(range(n), replacement, num, generator)
        return len(sampler), list(itertools.islice(sampler, take)), list(sampler), state(lib), state(lib, generator)

    assert run(tg) == run(torch)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(), max_size=12), st.integers(1, 5), st.booleans())
def test_batch_sampler(numbers: list[int], batch_size: int, drop_last: bool) -> None:
    def run(lib: Any) -> Any:
        sampler = lib.utils.data.BatchSampler(numbers, batch_size, drop_last)
        return len(sampler), list(sampler), list(lib.utils.data.BatchSampler(iter(numbers), batch_size, drop_last))

    assert run(tg) == run(torch)


@pytest.mark.parametrize("lib", BOTH)
def test_samplers_of_ones_own(lib: Any) -> None:
    loader, d = lib.utils.data.DataLoader, pair(lib, 6)

    def numbers(batches: Any) -> list[list[int]]:
        return [y.tolist() for _, y in batches]

    assert numbers(loader(d, sampler=[5, 0, -1, 0], batch_size=3)) == [[5, 0, 5], [0]]
    assert numbers(loader(d, batch_sampler=[[1, 2], [], [-1]][::2])) == [[1, 2], [5]]
    assert numbers(loader(d, batch_sampler=[(3, 3), np.array([4])])) == [[3, 3], [4]]
    assert [y.item() for _, y in loader(d, sampler=[2, 1], batch_size=None)] == [2, 1]
    assert len(loader(d, batch_sampler=[[1], [2]])) == 2
    assert len(loader(d, 4)) == 2
    assert len(loader(d, 4, drop_last=True)) == 1

    class Odd(lib.utils.data.Sampler):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Any:
            return iter([1, 3, 5])

    assert numbers(loader(d, 2, sampler=Odd())) == [[1, 3], [5]]
    with pytest.raises(TypeError, match="has no len"):
        len(loader(d, 2, sampler=Odd()))


@pytest.mark.parametrize("lib", BOTH)
def test_collate_fn_getitems_and_errors_on_the_way(lib: Any) -> None:
    loader = lib.utils.data.DataLoader
    assert list(loader([1, 2, 3], 2, collate_fn=tuple)) == [(1, 2), (3,)]
    assert list(loader([1, 2, 3], None, collate_fn=lambda x: x * 10)) == [10, 20, 30]
    assert [len(b) for b in loader(pair(lib, 3), 2, collate_fn=list)] == [2, 1]

    class AtOnce(lib.utils.data.Dataset):  # type: ignore[misc,name-defined]
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> int:
            if i == 1:
                raise OSError("unreadable")
            return i

    batches = iter(loader(AtOnce(), 1))
    assert next(batches).tolist() == [0]
    with pytest.raises(OSError, match="unreadable"):
        next(batches)
    assert next(batches).tolist() == [2]  # one bad sample does not end the epoch
    AtOnce.__getitems__ = lambda self, indices: [i * 10 for i in indices]
    assert next(iter(loader(AtOnce(), 3))).tolist() == [0, 10, 20]


def test_batches_do_not_share_memory_with_the_data() -> None:
    x = tg.zeros(4)
    for make in (lambda: data.TensorDataset(x), lambda: data.Subset(data.TensorDataset(x), [0, 1])):
        for (batch,) in data.DataLoader(make(), batch_size=2):
            batch.fill_(7.0)
    assert x.tolist() == [0.0] * 4


def test_gradients_flow_through_a_batch() -> None:
    x = tg.arange(4.0).requires_grad_()
    (batch,) = next(iter(data.DataLoader(data.TensorDataset(x), batch_size=3)))
    (batch * 2).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2.0, 2.0, 2.0, 0.0]


def test_the_short_cut_is_only_for_what_it_knows() -> None:
    class Shifted(data.TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            return tuple(t + 1 for t in super().__getitem__(index))

    (batch,) = next(iter(data.DataLoader(Shifted(tg.zeros(3)), batch_size=3)))
    assert batch.tolist() == [1.0, 1.0, 1.0]


BAD_LOADERS: list[tuple[Callable[[Any, Any], Any], type[Exception], str]] = [
    (lambda u, d: u.DataLoader(d, batch_size=0), ValueError, "batch_size should be a positive integer value, but got batch_size=0"),
    (lambda u, d: u.DataLoader(d, batch_size=2.5), ValueError, "batch_size should be a positive integer value, but got batch_size=2.5"),
    (lambda u, d: u.DataLoader(d, batch_size=True), ValueError, "but got batch_size=True"),
    (lambda u, d: u.DataLoader(d, shuffle=True, sampler=[1]), ValueError, "sampler option is mutually exclusive with shuffle"),
    (lambda u, d: u.DataLoader(d, batch_sampler=[[1]], batch_size=3), ValueError, "batch_sampler option is mutually exclusive with batch_size"),
    (lambda u, d: u.DataLoader(d, batch_sampler=[[1]], drop_last=True), ValueError, "batch_sampler option is mutually exclusive with batch_size"),
    (lambda u, d: u.DataLoader(d, batch_size=None, drop_last=True), ValueError, "batch_size=None option disables auto-batching"),
    (lambda u, d: u.DataLoader(d, drop_last=3), ValueError, "drop_last should be a boolean value, but got drop_last=3"),
    (lambda u, d: u.DataLoader([], shuffle=True), ValueError, "num_samples should be a positive integer value, but got num_samples=0"),
    (lambda u, d: u.DataLoader(d, num_workers=-1), ValueError, "num_workers"),
    (lambda u, d: setattr(u.DataLoader(d), "batch_size", 3), ValueError, "batch_size attribute should not be set after DataLoader is initialized"),
    (lambda u, d: u.RandomSampler(d, replacement=3), TypeError, "replacement should be a boolean value, but got replacement=3"),
    (lambda u, d: u.RandomSampler(d, num_samples=0), ValueError, "num_samples should be a positive integer value, but got num_samples=0"),
    (lambda u, d: u.RandomSampler(d, num_samples=2.0), ValueError, "but got num_samples=2.0"),
    (lambda u, d: u.BatchSampler([1], 0, False), ValueError, "batch_size should be a positive integer value"),
    (lambda u, d: u.BatchSampler([1], 1, 0), ValueError, "drop_last should be a boolean value, but got drop_last=0"),
    (lambda u, d: iter(u.Sampler()), NotImplementedError, ""),
    (lambda u, d: u.Dataset()[0], NotImplementedError, "Subclasses of Dataset should implement __getitem__"),
    (lambda u, d: len(u.Dataset()), TypeError, "object of type 'Dataset' has no len()"),
    (lambda u, d: d[10], IndexError, "out of bounds"),
    (lambda u, d: list(u.DataLoader(d, sampler=[10])), IndexError, "out of bounds"),
    (lambda u, d: u.Subset(d, [1, 2])[5], IndexError, ""),
    (lambda u, d: u.random_split(d, [3, 4]), ValueError, "Sum of input lengths does not equal the length of the input dataset!"),
    (lambda u, d: u.random_split(d, [0.5, 0.6]), ValueError, "Sum of input lengths does not equal the length of the input dataset!"),
    (lambda u, d: u.random_split(d, [-0.5, 1.5]), ValueError, "Fraction at index 0 is not between 0 and 1"),
    (lambda u, d: u.random_split(d, []), ValueError, "Sum of input lengths does not equal"),
    (lambda u, d: u.random_split(d, [5.5, 4.5]), TypeError, ""),
]  # fmt: skip


@pytest.mark.parametrize("lib", BOTH)
@pytest.mark.parametrize(("run", "error", "phrase"), BAD_LOADERS, ids=range(len(BAD_LOADERS)))
def test_bad_input_raises_as_torch_and_draws_nothing(lib: Any, run: Any, error: type[Exception], phrase: str) -> None:
    d = pair(lib, 10)
    before = lib.default_generator.get_state()
    with pytest.raises(error) as caught:
        run(lib.utils.data, d)
    assert phrase in str(caught.value)
    if error is not IndexError:  # an iteration that has begun has drawn its number
        after = lib.default_generator.get_state()
        assert repr(plain(before)) == repr(plain(after))


@pytest.mark.parametrize(("run", "error", "phrase"), [
    (lambda: data.DataLoader([1], num_workers=2), ValueError, "num_workers must be 0: batches are made in this process here; got 2"),
    (data.TensorDataset, ValueError, "at least one Tensor"),
    (lambda: data.TensorDataset(tg.tensor(1.0)), ValueError, r"shape \(\) has no first axis"),
    (lambda: data.TensorDataset(np.ones(2)), TypeError, "holds Tensors; got ndarray"),
    (lambda: data.TensorDataset(tg.ones(2), [1, 2]), TypeError, "got list"),
    (lambda: data.TensorDataset(tg.ones(2), tg.ones(3)), AssertionError, r"Size mismatch between tensors: .*\[2, 3\]"),
    (lambda: data.random_split(range(3), [-1, 4]), ValueError, "must not be negative; got -1"),
    (lambda: data.random_split(range(4), [2.0, 2.0]), TypeError, "lengths must be integers, or fractions that sum to 1; got 2.0"),
    (lambda: data.load_digits(0.0), ValueError, "test_fraction must be between 0 and 1"),
    (lambda: data.load_digits(1.0), ValueError, "got 1.0"),
    (lambda: data.load_digits(1e-5), ValueError, "leave both parts a sample"),
])  # fmt: skip
def test_bad_input_where_the_words_are_ours(run: Any, error: type[Exception], phrase: str) -> None:
    before = state(tg)
    with pytest.raises(error, match=phrase):
        run()
    assert state(tg) == before


def test_a_loader_that_refuses_a_change_is_unchanged() -> None:
    loader = data.DataLoader(data.TensorDataset(tg.arange(4)), batch_size=2)
    for name in ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset"):
        before = getattr(loader, name)
        with pytest.raises(ValueError, match=f"{name} attribute should not be set"):
            setattr(loader, name, None)
        assert getattr(loader, name) is before
    loader.collate_fn = list
    assert len(next(iter(loader))) == 2


# -- Splitting ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Length of split at index")
@settings(max_examples=80, deadline=None)
@given(n=st.integers(0, 50), cuts=st.lists(st.integers(0, 50), max_size=3), fractions=st.booleans(), seed=st.integers(0, 2**32), own=st.booleans())
def test_random_split(n: int, cuts: list[int], fractions: bool, seed: int, own: bool) -> None:
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    lengths: list[float] = [b - a for a, b in itertools.pairwise(edges)]
    if fractions and n:
        lengths = [length / n for length in lengths]

    def run(lib: Any) -> Any:
        lib.manual_seed(seed)
        generator = lib.Generator().manual_seed(seed + 1)
        try:
            parts = lib.utils.data.random_split(range(n), lengths, **({"generator": generator} if own else {}))
        except ValueError:
            return "refused"
        firsts = [part[0] for part in parts if len(part)]
        return [list(part.indices) for part in parts], [len(part) for part in parts], firsts, state(lib), state(lib, generator)

    assert run(tg) == run(torch)


@pytest.mark.parametrize("lib", BOTH)
def test_an_empty_part_warns(lib: Any) -> None:
    with pytest.warns(UserWarning, match="Length of split at index 1 is 0. This might result in an empty dataset.") as caught:
        lib.utils.data.random_split(range(3), [0.999, 0.001])
    assert caught[0].filename == __file__


# -- Collating ---------------------------------------------------------------------------------------------------------------------------

SAMPLES: list[Callable[[Any], list[Any]]] = [
    lambda lib: [np.float32(1), np.float32(2)], lambda lib: [np.float64(1)] * 2, lambda lib: [np.int64(2)] * 2, lambda lib: [np.True_, np.False_],
    lambda lib: [1, 2], lambda lib: [True, False], lambda lib: [1.5, 2.5], lambda lib: [2.5, 1], lambda lib: ["a", "b"], lambda lib: [b"a"],
    lambda lib: [np.ones((2, 2)), np.zeros((2, 2))], lambda lib: [np.array(1.0), np.array(2.0)], lambda lib: [np.ones(2, np.float32)],
    lambda lib: [np.array([True])] * 2, lambda lib: [lib.ones(2), lib.zeros(2)], lambda lib: [lib.tensor(1), lib.tensor(2)],
    lambda lib: [lib.ones(0)],
    lambda lib: [(1, 2.0), (3, 4.0)], lambda lib: [[1, 2.0], [3, 4.0]], lambda lib: [{"a": 1, "b": [2.0]}, {"b": [3.0], "a": 4}],
    lambda lib: [Point(1, lib.ones(2)), Point(2, lib.zeros(2))], lambda lib: [(), ()], lambda lib: [[], []], lambda lib: [{}],
    lambda lib: [defaultdict(list, a=1)], lambda lib: [MappingProxyType({"a": 1})], lambda lib: [OrderedDict(z=1, a="t")],
    lambda lib: [UserList([1, 2])] * 2,
    lambda lib: [range(2), range(2, 4)], lambda lib: [((1, "a"), {"x": (2,)})] * 2, lambda lib: [(np.ones(2), 0), (np.zeros(2), 1)],
    # what is refused
    lambda lib: [], lambda lib: [None], lambda lib: [1j], lambda lib: [np.array(["a"])], lambda lib: [np.array([None])], lambda lib: [{1, 2}],
    lambda lib: [lib.ones(2), lib.ones(3)], lambda lib: [np.ones(2), np.ones(3)], lambda lib: [(1, 2), (1,)], lambda lib: [1, "a"],
    lambda lib: [{"a": 1}, {"b": 1}], lambda lib: [(1, None)], lambda lib: [object()],
]  # fmt: skip


@pytest.mark.parametrize("make", SAMPLES, ids=range(len(SAMPLES)))
def test_default_collate(make: Callable[[Any], list[Any]]) -> None:
    def run(lib: Any) -> Any:
        try:
            return plain(lib.utils.data.default_collate(make(lib)))
        except Exception as error:
            return type(error)

    assert run(tg) == run(torch)


@pytest.mark.parametrize("value", [
    np.float32(1), np.ones(2), np.ones((0, 2), np.float32), 1, 1.5, "a", b"a", None, (1, np.ones(1)), [np.ones(1), "a"], {"a": np.ones(1), "b": (1,)},
    Point(np.ones(1), 2), defaultdict(list, a=np.ones(1)), MappingProxyType({"a": np.ones(1)}), UserList([np.ones(1)]), range(3), np.True_,
], ids=repr)  # fmt: skip
def test_default_convert(value: Any) -> None:
    assert plain(data.default_convert(value)) == plain(torch.utils.data.default_convert(value))


def test_text_arrays_are_left_alone() -> None:
    words = np.array(["a"])
    assert data.default_convert(words) is words


def test_samples_are_not_changed_by_collating() -> None:
    samples = [{"a": [1, 2]}, {"a": [3, 4]}]
    data.default_collate(samples)
    assert samples == [{"a": [1, 2]}, {"a": [3, 4]}]


# -- Names, and the digits ---------------------------------------------------------------------------------------------------------------


def test_torchs_place_has_the_same_things() -> None:
    for name in tinygrad_norm.utils.data.__all__:
        assert getattr(tg.utils.data, name) is getattr(data, name)
        assert hasattr(torch.utils.data, name)
    assert set(data.__all__) - set(tinygrad_norm.utils.data.__all__) == {"load_digits"}


@pytest.mark.parametrize("fraction", [0.2, 0.5])
def test_digits(fraction: float) -> None:
    before = state(tg)
    train, held_out = data.load_digits(test_fraction=fraction, seed=1)
    assert len(train) + len(held_out) == 1797
    assert len(held_out) == int(1797 * fraction)
    for part in (train, held_out):
        x, y = part.tensors
        assert (x.dtype, y.dtype, x.shape[1:]) == (tg.float32, tg.int64, (64,))
        assert sorted(set(y.tolist())) == list(range(10))
    x = train.tensors[0].numpy()
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(x.std(), 1.0, atol=1e-5)
    assert np.abs(held_out.tensors[0].numpy()).max() < 5.0
    again, _ = data.load_digits(test_fraction=fraction, seed=1)
    other, _ = data.load_digits(test_fraction=fraction, seed=2)
    assert again.tensors[0].equal(train.tensors[0])
    assert not other.tensors[0].equal(train.tensors[0])
    assert state(tg) == before  # the split has a stream of its own


def test_digits_are_dealt_out_without_loss() -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    train, held_out = data.load_digits()
    got = np.concatenate([train.tensors[0].numpy(), held_out.tensors[0].numpy()])
    labels = np.concatenate([train.tensors[1].numpy(), held_out.tensors[1].numpy()])
    order = tg.Generator().manual_seed(0).permutation(len(x))
    order = np.concatenate([order[len(held_out) :], order[: len(held_out)]])
    np.testing.assert_array_equal(labels, y[order])
    rows = x[order]
    scale = (rows[: len(train)] - rows[: len(train)].mean(axis=0)).std()
    np.testing.assert_allclose(got * scale + rows[: len(train)].mean(axis=0), rows, atol=1e-4)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "tinygrad_norm\[digits\]"'):
        data.load_digits()


class _AtOnce:
    """A data set that gives several samples at once."""

    def __len__(self) -> int:
        return 4

    def __getitems__(self, indices: list[int]) -> list[int]:
        return [100 + i for i in indices]


@pytest.mark.parametrize("lib", [tg.utils.data, torch.utils.data], ids=["ours", "torch"])
def test_a_subset_asks_its_data_set_for_several_samples_at_once(lib: Any) -> None:
    subset = lib.Subset(lib.Subset(_AtOnce(), [3, 1, 0]), [2, 0])
    assert [batch.tolist() for batch in lib.DataLoader(subset, 2)] == [[100, 103]]
    assert [batch.tolist() for batch in lib.DataLoader(lib.Subset([5, 6, 7], [2, 0]), 2)] == [[7, 5]]


@pytest.mark.parametrize("lib", [tg.utils.data, torch.utils.data], ids=["ours", "torch"])
def test_a_batch_may_be_an_iterator(lib: Any) -> None:
    loader = lib.DataLoader(lib.Subset(list(range(10)), [5, 6, 7]), batch_sampler=[[1, 2]])
    loader.__dict__["batch_sampler"] = [iter([1, 2])]
    assert [batch.tolist() for batch in loader] == [[6, 7]]
