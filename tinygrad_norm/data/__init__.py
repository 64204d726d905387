"""Data in batches: what a Dataset is, in which order it is read, how samples become a batch, and a built-in data set.

    for x, y in DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True): ...

A DataLoader is three questions, each with an answer that can be replaced:

    which samples, in which order?    a sampler yields numbers; a BatchSampler makes lists of them
    what is sample number i?          dataset[i]
    how do samples become one batch?  collate_fn, by default `default_collate`, which stacks what can be stacked

The same seed gives torch's batches, and leaves the random stream where torch leaves it: a loader draws one number when its iteration
begins (torch's workers are seeded with it), and a shuffle without a generator of its own draws one more, at the first batch.

In reading order: dataset.py, sampler.py, loader.py (with collating), digits.py.
"""

from .dataset import Dataset, Subset, TensorDataset, random_split
from .digits import load_digits
from .loader import DataLoader, default_collate, default_convert
from .sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

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
