"""The built-in data set: handwritten digits."""

from __future__ import annotations

import numpy as np

from ..random import Generator
from ..tensor import Tensor
from .dataset import TensorDataset


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
