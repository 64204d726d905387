"""In which order samples are read: a sampler yields numbers, a BatchSampler makes lists of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from .. import random as stream
from ..random import Generator

T_co = TypeVar("T_co", covariant=True)


def stream_of(generator: Generator | None) -> Generator:
    """The generator itself; for None the default one."""
    return stream.default_generator if generator is None else generator


def seed_from(generator: Generator | None) -> int:
    """One int64 of the stream, as torch draws its seeds."""
    return int(stream_of(generator).random((), np.int64))


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
        generator = Generator().manual_seed(seed_from(None)) if self.generator is None else self.generator
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
