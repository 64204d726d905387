"""How samples become batches: collating a list of them into one, and the loader that a training loop iterates over.

1. Collating   2. DataLoader
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSequence, Sequence
from copy import copy
from typing import Any, Generic, TypeVar

import numpy as np

from ..creation import as_tensor, tensor
from ..ops.shape import stack
from ..random import Generator
from ..tensor import Tensor
from .dataset import Indexed, Subset, TensorDataset
from .sampler import BatchSampler, RandomSampler, SequentialSampler, seed_from

T_co = TypeVar("T_co", covariant=True)

# -- 1. Collating ------------------------------------------------------------------------------------------------------------------------

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


# -- 2. DataLoader -----------------------------------------------------------------------------------------------------------------------


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
        dataset: Indexed[T_co],
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
        seed_from(self.generator)  # torch seeds its workers with this one
        return map(self._fetch, batches)

    def __len__(self) -> int:
        return len(self.sampler if self.batch_sampler is None else self.batch_sampler)  # type: ignore[arg-type]

    def _fetch(self, index: Any) -> Any:
        """The batch of these samples; or the sample of this number, where there are no batches."""
        if self.batch_sampler is None:
            return self.collate_fn(self.dataset[index])
        if not isinstance(index, Iterable):
            raise TypeError(f"DataLoader: batch_sampler must yield lists of numbers; got {type(index).__name__}")
        if isinstance(index, Iterator):
            index = list(index)  # it can be gone through once
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
