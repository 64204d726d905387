"""Data in batches: what a Dataset is, in which order it is read, how samples become a batch, and a built-in data set.

    for x, y in DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True): ...

A DataLoader is three questions, each with an answer that can be replaced:

    which samples, in which order?    a sampler yields numbers; a BatchSampler makes lists of them
    what is sample number i?          dataset[i]
    how do samples become one batch?  collate_fn, by default `default_collate`, which stacks what can be stacked

The same seed gives torch's batches, and leaves the random stream where torch leaves it: a loader draws one number when its iteration
begins (torch's workers are seeded with it), and a shuffle without a generator of its own draws one more, at the first batch.

1. Datasets   2. Samplers   3. Collating   4. DataLoader   5. The digits
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from copy import copy
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from . import random as stream
from .creation import as_tensor, tensor
from .ops.shape import stack
from .random import Generator
from .tensor import Tensor

__all__ = [
    "BatchSampler",
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "TensorDataset",
    "default_collate",
    "default_convert",
    "load_digits",
    "random_split",
]

Array = np.ndarray[Any, Any]
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Indexed(Protocol[T_co]):
    """What can be read sample by sample: a Dataset, a list."""

    def __getitem__(self, index: Any, /) -> T_co: ...
    def __len__(self) -> int: ...


# -- 1. Datasets -------------------------------------------------------------------------------------------------------------------------


class Dataset(Generic[T_co]):
    """The base of data sets: define __getitem__(index), and __len__() where the loader is to know the number of samples.

    Example:
        >>> class Squares(Dataset[int]):
        ...     def __getitem__(self, index):
        ...         return index**2
        ...     def __len__(self):
        ...         return 4
        >>> [batch.tolist() for batch in DataLoader(Squares(), batch_size=3)]
        [[0, 1, 4], [9]]
    """

    def __getitem__(self, index: Any) -> T_co:
        raise NotImplementedError(f"Subclasses of Dataset should implement __getitem__; {type(self).__name__} does not")


class TensorDataset(Dataset[tuple[Tensor, ...]]):
    """Sample i is (tensors[0][i], tensors[1][i], …).

    Args:
        *tensors: of one length along the first axis.
    Raises:
        TypeError: something else than a Tensor. AssertionError: different lengths. ValueError: no tensors, or one without axes.

    Example:
        >>> import tinygrad_norm as tg
        >>> TensorDataset(tg.tensor([1.0, 2.0]), tg.tensor([0, 1]))[1]
        (tensor(2.), tensor(1))
    """

    def __init__(self, *tensors: Tensor) -> None:
        if not tensors:
            raise ValueError("TensorDataset needs at least one Tensor")
        for t in tensors:
            if not isinstance(t, Tensor):
                raise TypeError(f"TensorDataset holds Tensors; got {type(t).__name__}: make one with from_numpy(...) or tensor(...)")
            if t.ndim == 0:
                raise ValueError("TensorDataset: a tensor of shape () has no first axis to take samples from")
        if len({len(t) for t in tensors}) > 1:
            raise AssertionError(f"Size mismatch between tensors: their first axes have lengths {[len(t) for t in tensors]}")
        self.tensors = tensors

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)

    def __len__(self) -> int:
        return len(self.tensors[0])


class Subset(Dataset[T_co]):
    """The samples of a data set that have these numbers, in this order.

    Args:
        dataset: the whole.
        indices: numbers of its samples.

    Example:
        >>> Subset("abcd", [3, 0])[0]
        'd'
    """

    def __init__(self, dataset: _Indexed[T_co], indices: Sequence[int]) -> None:
        if not hasattr(indices, "__getitem__") or not hasattr(indices, "__len__"):
            raise TypeError(f"Subset: indices must be a sequence of numbers of samples; got {type(indices).__name__}")
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> T_co:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(dataset: _Indexed[T], lengths: Sequence[float], generator: Generator | None = None) -> list[Subset[T]]:
    """Deals the samples of a data set into parts at random, each sample into one part.

    Args:
        dataset: the whole.
        lengths: how many samples each part gets; or fractions that sum to 1, which are rounded down, and what remains is dealt out
            one each from the first part on.
        generator: where the order comes from; None: the default one.
    Raises:
        ValueError: the lengths do not sum to that of the data set, one is negative, or a fraction is not between 0 and 1.
        TypeError: they are neither integers nor fractions.

    Example:
        >>> [len(part) for part in random_split(range(10), [0.33, 0.33, 0.34])]
        [4, 3, 3]
    """
    counts: list[Any] = list(lengths)
    for n in counts:
        if isinstance(n, bool) or not isinstance(n, (int, float, np.number)):
            raise TypeError(f"random_split: lengths must be integers, or fractions that sum to 1; got {n!r}")
    size, total = len(dataset), sum(lengths)
    if math.isclose(total, 1) and total <= 1:
        for i, fraction in enumerate(lengths):
            if fraction < 0 or fraction > 1:
                raise ValueError(f"Fraction at index {i} is not between 0 and 1: {fraction}")
        counts = [math.floor(size * fraction) for fraction in lengths]
        for i in range(size - sum(counts)):
            counts[i % len(counts)] += 1
        for i, n in enumerate(counts):
            if n == 0:
                warnings.warn(f"Length of split at index {i} is 0. This might result in an empty dataset.", stacklevel=2)
    if sum(counts) != size:
        raise ValueError(f"Sum of input lengths does not equal the length of the input dataset! {total} is not {size}")
    for n in counts:
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise TypeError(f"random_split: lengths must be integers, or fractions that sum to 1; got {n!r}")
        if n < 0:
            raise ValueError(f"random_split: a length must not be negative; got {n}")
    order = _stream(generator).permutation(size).tolist()
    return [Subset(dataset, order[end - n : end]) for end, n in zip(itertools.accumulate(counts), counts)]


def _stream(generator: Generator | None) -> Generator:
    return stream.default_generator if generator is None else generator


def _seed_from(generator: Generator | None) -> int:
    """One int64 of the stream, as torch draws its seeds."""
    return int(_stream(generator).random((), np.int64))


# -- 2. Samplers -------------------------------------------------------------------------------------------------------------------------


class Sampler(Generic[T_co]):
    """The base of samplers: define __iter__(), which yields numbers of samples (or lists of them), and __len__()."""

    def __iter__(self) -> Iterator[T_co]:
        raise NotImplementedError(f"Subclasses of Sampler should implement __iter__; {type(self).__name__} does not")


class SequentialSampler(Sampler[int]):
    """0, 1, 2 … to the length of the data.

    Example:
        >>> list(SequentialSampler("abc"))
        [0, 1, 2]
    """

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class RandomSampler(Sampler[int]):
    """Numbers of samples in random order.

    Args:
        data_source: the data; only its length is asked for.
        replacement: each number is drawn from all, instead of each sample coming once before any comes again.
        num_samples: how many numbers; None: as many as there are samples.
        generator: where they come from; None: each iteration seeds a new one from the default one.
    Raises:
        TypeError: replacement is no bool. ValueError: num_samples is no positive integer, also where there are no data.

    Example:
        >>> from tinygrad_norm.random import Generator
        >>> list(RandomSampler("abcd", generator=Generator().manual_seed(0)))
        [0, 1, 3, 2]
    """

    def __init__(self, data_source: Any, replacement: bool = False, num_samples: int | None = None, generator: Generator | None = None) -> None:
        if num_samples is None and not hasattr(data_source, "__len__"):
            raise TypeError(f"RandomSampler: data_source must have a length; got {type(data_source).__name__}")
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        self.generator = generator
        if not isinstance(replacement, bool):
            raise TypeError(f"replacement should be a boolean value, but got replacement={replacement}")
        _check_positive("num_samples", self.num_samples)

    @property
    def num_samples(self) -> int:
        """How many numbers an iteration yields."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __iter__(self) -> Iterator[int]:
        n = len(self.data_source)
        generator = Generator().manual_seed(_seed_from(None)) if self.generator is None else self.generator
        if self.replacement:
            full, rest = divmod(self.num_samples, 32)  # by 32, as torch draws them
            for count in [32] * full + [rest]:
                yield from generator.integers(0, n, (count,)).tolist()
        else:
            full, rest = divmod(self.num_samples, n)
            for count in [n] * full + [rest]:  # torch draws the last permutation also where nothing is taken from it
                yield from generator.permutation(n).tolist()[:count]

    def __len__(self) -> int:
        return self.num_samples


class BatchSampler(Sampler[list[int]]):
    """Lists of batch_size numbers from another sampler.

    Args:
        sampler: yields the numbers.
        batch_size: how many to a list.
        drop_last: leave out the last list where it would be shorter.
    Raises:
        ValueError: batch_size is no positive integer, or drop_last no bool.

    Example:
        >>> list(BatchSampler(range(5), batch_size=2, drop_last=False))
        [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[int], batch_size: int, drop_last: bool) -> None:
        _check_positive("batch_size", batch_size)
        if drop_last is not True and drop_last is not False:
            raise ValueError(f"drop_last should be a boolean value, but got drop_last={drop_last}")
        self.sampler = sampler
        self.batch_size = batch_size
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[int]]:
        numbers = iter(self.sampler)
        while batch := list(itertools.islice(numbers, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                break
            yield batch

    def __len__(self) -> int:
        n = len(self.sampler)  # type: ignore[arg-type]  # where the sampler has a length
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise ValueError(f"{name} should be a positive integer value, but got {name}={value}")


# -- 3. Collating ------------------------------------------------------------------------------------------------------------------------

_CANNOT = "default_collate: batch must contain tensors, numpy arrays, numbers, dicts or lists; found {}"


def default_collate(batch: Sequence[Any]) -> Any:
    """One batch from a list of samples, by what a sample is.

    Tensors and arrays are stacked along a new first axis; floats become one float64 Tensor, ints one of int64, bools of bool; text
    stays a list; of tuples, lists and dicts of these every place is collated by itself (a tuple becomes a list).

    Args:
        batch: the samples, all alike.
    Raises:
        TypeError: samples of another kind, or of different kinds. RuntimeError: shapes or lengths differ. IndexError: no samples.

    Example:
        >>> default_collate([(0, [1.0, 2.0]), (1, [3.0, 4.0])])
        [tensor([0, 1]), [tensor([1., 3.], dtype=torch.float64), tensor([2., 4.], dtype=torch.float64)]]
    """
    if not len(batch):
        raise IndexError("default_collate: the batch has no samples")
    sample = batch[0]
    if isinstance(sample, Tensor):
        return stack(list(batch))
    if isinstance(sample, np.ndarray):
        if sample.dtype.kind not in "fiubc":
            raise TypeError(_CANNOT.format(sample.dtype))
        return stack([as_tensor(array) for array in batch])
    if isinstance(sample, (np.bool_, np.number)):
        return as_tensor(np.array(batch, dtype=sample.dtype))
    if isinstance(sample, float):
        return tensor(batch, dtype="float64")
    if isinstance(sample, int):
        return tensor(batch)
    if isinstance(sample, (str, bytes)):
        return batch
    if isinstance(sample, Mapping):
        for s in batch:
            if not isinstance(s, Mapping) or not s.keys() >= sample.keys():
                raise KeyError(f"default_collate: the samples have different keys: {list(sample)} and {list(s) if isinstance(s, Mapping) else s!r}")
        return _like_mapping(sample, {key: default_collate([s[key] for s in batch]) for key in sample})
    if isinstance(sample, Sequence):
        if any(len(s) != len(sample) for s in batch):
            raise RuntimeError(f"each element in list of batch should be of equal size; got lengths {sorted({len(s) for s in batch})}")
        return _like_sequence(sample, [default_collate(place) for place in zip(*batch)])
    raise TypeError(_CANNOT.format(type(sample)))


def default_convert(data: Any) -> Any:
    """Arrays as Tensors, alone or inside of tuples, lists and dicts; all else as it is. What a loader without batches does to a sample.

    Example:
        >>> default_convert((1, np.array([2.0], dtype=np.float32)))
        [1, tensor([2.])]
    """
    if isinstance(data, (np.ndarray, np.generic)) and data.dtype.kind in "fiub":
        return as_tensor(data)
    if isinstance(data, Mapping):
        return _like_mapping(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _like_sequence(data, [default_convert(value) for value in data])
    return data


def _like_mapping(sample: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """The values in a mapping of the sample's own type, or in a dict where such a one cannot be made."""
    try:
        if not isinstance(sample, MutableMapping):
            return type(sample)(values)  # type: ignore[call-arg]
        clone = copy(sample)  # keeps what the type has besides, as a defaultdict's factory
        clone.update(values)
    except TypeError:
        return values
    return clone


def _like_sequence(sample: Sequence[Any], values: list[Any]) -> Any:
    """The values in a sequence of the sample's own type; of a plain tuple, in a list, as torch has it."""
    if isinstance(sample, tuple):
        return type(sample)(*values) if hasattr(sample, "_fields") else values
    try:
        if not isinstance(sample, MutableSequence):
            return type(sample)(values)  # type: ignore[call-arg]
        clone = copy(sample)
        for i, value in enumerate(values):
            clone[i] = value
    except TypeError:
        return values
    return clone


# -- 4. DataLoader -----------------------------------------------------------------------------------------------------------------------


class DataLoader(Generic[T_co]):
    """Iterates over a data set in batches, anew at every `for`.

    Args:
        dataset: what has __getitem__ and __len__.
        batch_size: samples to a batch; None: single samples, not collated.
        shuffle: a new random order every time.
        sampler: yields the numbers of the samples, instead of shuffle.
        batch_sampler: yields lists of them, instead of batch_size, shuffle, sampler and drop_last.
        num_workers: 0; there are no worker processes here.
        collate_fn: makes a batch of a list of samples; None: `default_collate`.
        drop_last: leave out the last batch where it would be smaller.
        generator: where the order comes from; None: the default one.
    Raises:
        ValueError: a value that has no meaning, or two that exclude each other.

    Example:
        >>> import tinygrad_norm as tg
        >>> data = TensorDataset(tg.arange(5), tg.arange(5) * 10)
        >>> for x, y in DataLoader(data, batch_size=2):
        ...     print(x.tolist(), y.tolist())
        [0, 1] [0, 10]
        [2, 3] [20, 30]
        [4] [40]
    """

    _FIXED = frozenset({"batch_size", "batch_sampler", "sampler", "drop_last", "dataset"})
    _ready = False

    def __init__(
        self,
        dataset: _Indexed[T_co],
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Sequence[Any]] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        *,
        drop_last: bool = False,
        generator: Generator | None = None,
    ) -> None:
        if not hasattr(dataset, "__getitem__") and not hasattr(dataset, "__getitems__"):
            raise TypeError(f"DataLoader: the data set must have __getitem__ and __len__; got {type(dataset).__name__}")
        if generator is not None and not isinstance(generator, Generator):
            raise TypeError(f"DataLoader: generator must be a Generator; got {type(generator).__name__}")
        if num_workers != 0:
            raise ValueError(f"num_workers must be 0: batches are made in this process here; got {num_workers}")
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError("batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last")
            batch_size = None
        elif batch_size is None and drop_last:
            raise ValueError("batch_size=None option disables auto-batching and is mutually exclusive with drop_last")
        if sampler is None:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_size is not None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.drop_last = drop_last
        self.generator = generator
        self.collate_fn: Callable[[Any], Any] = collate_fn or (default_convert if batch_sampler is None else default_collate)
        self._ready = True

    def __setattr__(self, name: str, value: Any) -> None:
        if self._ready and name in self._FIXED:
            raise ValueError(f"{name} attribute should not be set after {type(self).__name__} is initialized: make a new one")
        super().__setattr__(name, value)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.sampler if self.batch_sampler is None else self.batch_sampler)
        _seed_from(self.generator)  # torch seeds its workers with this one
        return map(self._fetch, batches)

    def __len__(self) -> int:
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]

    def _fetch(self, index: Any) -> Any:
        """The batch of these samples; or the sample of this number, where there are no batches."""
        if self.batch_sampler is None:
            return self.collate_fn(self.dataset[index])
        if not isinstance(index, Iterable):
            raise TypeError(f"DataLoader: batch_sampler must yield lists of numbers; got {type(index).__name__}")
        if self.collate_fn is default_collate:
            rows = _rows(self.dataset, index)
            if rows is not None:
                return rows
        getitems = getattr(self.dataset, "__getitems__", None)
        return self.collate_fn(getitems(index) if getitems else [self.dataset[i] for i in index])


def _rows(dataset: Any, indices: Any) -> list[Tensor] | None:
    """What collating these samples would give, in one step: rows of arrays. None where it is not so simple."""
    while type(dataset) is Subset:
        indices = [dataset.indices[i] for i in indices]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or any(t.requires_grad for t in dataset.tensors):
        return None
    rows = np.array(indices)
    if rows.ndim != 1 or rows.dtype.kind != "i":
        return None
    return [Tensor(t._data[rows]) for t in dataset.tensors]


# -- 5. The digits -----------------------------------------------------------------------------------------------------------------------


def load_digits(test_fraction: float = 0.2, seed: int = 0) -> tuple[TensorDataset, TensorDataset]:
    """1797 handwritten digits of 8 × 8 pixels (Alpaydin & Kaynak 1998, UCI; from scikit-learn), as training and held-out data.

    Each pixel's mean is taken off, and all are divided by one deviation, both of the training part. One for all, because some pixels
    are blank but for a sample or two: divided by their own deviation these would be far off.

    Args:
        test_fraction: how much of the data is held out, between 0 and 1; samples are dealt out at random.
        seed: of that; the same seed gives the same parts.
    Returns:
        (training, held-out): features float32 (N, 64), labels int64 (N,), 0 to 9.
    Raises:
        ImportError: scikit-learn is not installed. ValueError: test_fraction would leave a part empty.

    Example:
        >>> train, held_out = load_digits()
        >>> len(train), len(held_out), train.tensors[0].shape
        (1438, 359, torch.Size([1438, 64]))
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise ImportError('load_digits needs scikit-learn: pip install "tinygrad_norm[digits]"') from error
    x, y = load(return_X_y=True)
    held = int(len(x) * test_fraction) if 0 < test_fraction < 1 else 0
    if not 0 < held < len(x):
        raise ValueError(f"load_digits: test_fraction must be between 0 and 1 and leave both parts a sample of {len(x)}; got {test_fraction}")
    order = Generator().manual_seed(seed).permutation(len(x))
    train, test = order[held:], order[:held]
    mean = x[train].mean(axis=0)
    x = ((x - mean) / (x[train] - mean).std()).astype(np.float32)
    y = y.astype(np.int64)
    return TensorDataset(Tensor(x[train]), Tensor(y[train])), TensorDataset(Tensor(x[test]), Tensor(y[test]))
