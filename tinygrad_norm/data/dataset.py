"""What a data set is: something that says how many samples it has, and what sample number i is."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..random import Generator
from ..tensor import Tensor
from .sampler import stream_of

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Indexed(Protocol[T_co]):
    """What can be read sample by sample: a Dataset, a list."""

    def __getitem__(self, index: Any, /) -> T_co: ...
    def __len__(self) -> int: ...


class Dataset(Generic[T_co]):
    """The base of data sets: define __getitem__(index), and __len__() where the loader is to know the number of samples.

    Example:
        >>> from tinygrad_norm.data import DataLoader
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

    def __init__(self, dataset: Indexed[T_co], indices: Sequence[int]) -> None:
        if not hasattr(indices, "__getitem__") or not hasattr(indices, "__len__"):
            raise TypeError(f"Subset: indices must be a sequence of numbers of samples; got {type(indices).__name__}")
        self.dataset = dataset
        self.indices = indices

    def __getitem__(self, index: Any) -> T_co:
        if isinstance(index, list):
            return self.dataset[[self.indices[i] for i in index]]
        return self.dataset[self.indices[index]]

    def __getitems__(self, indices: Iterable[int]) -> Any:
        """The samples of several numbers, as a DataLoader asks for them: all at once, where the whole can do that."""
        numbers = [self.indices[i] for i in indices]
        getitems = getattr(self.dataset, "__getitems__", None)
        return getitems(numbers) if getitems else [self.dataset[i] for i in numbers]

    def __len__(self) -> int:
        return len(self.indices)


def random_split(dataset: Indexed[T], lengths: Sequence[float], generator: Generator | None = None) -> list[Subset[T]]:
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
    order = stream_of(generator).permutation(size).tolist()
    return [Subset(dataset, order[end - n : end]) for end, n in zip(itertools.accumulate(counts), counts)]
