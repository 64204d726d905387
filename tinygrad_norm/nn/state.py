"""What load_state_dict takes in and what it answers: a value fitted to a parameter or buffer, and the keys that found no place."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..tensor import Tensor

Array = np.ndarray[Any, Any]


class _Keys(NamedTuple):
    missing_keys: list[str]
    unexpected_keys: list[str]


class _IncompatibleKeys(_Keys):
    """What load_state_dict returns; the underscore is torch's, whose repr it shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return super().__repr__() if self.missing_keys or self.unexpected_keys else "<All keys matched successfully>"


def incoming(key: str, value: Any, target: Tensor) -> Array:
    """A copy of the value in the target's shape and element type; ValueError says in torch's words why there is none.

    A copy, because the value may be a view of this or another parameter of the same model, which is about to be written.
    """
    if not isinstance(value, Tensor) and not hasattr(value, "__array__"):
        raise ValueError(
            f'While copying the parameter named "{key}", expected torch.Tensor or Tensor-like object from checkpoint but received {type(value)}'
        )
    try:
        array = value._data if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"elements of type {array.dtype} are no real numbers")
        if not target._data.flags.writeable:
            raise TypeError("the model's own array cannot be written")
        copy = cast(array, target._data.dtype)
    except Exception as error:  # whatever __array__ raises: a torch tensor that requires gradients, bfloat16
        raise ValueError(
            f'While copying the parameter named "{key}", whose dimensions in the model are {target.shape}, an exception occurred : {error}'
        ) from error
    if target._data.ndim == 0 and copy.shape == (1,):
        copy = copy[0:1].reshape(())  # scalars were saved with one axis once
    if copy.shape != target._data.shape:
        raise ValueError(
            f"size mismatch for {key}: copying a param with shape torch.Size({list(copy.shape)}) from checkpoint, "
            f"the shape in current model is {target.shape}."
        )
    return copy


def cast(array: Array, kind: np.dtype[Any]) -> Array:
    with np.errstate(all="ignore"):  # what is beyond the range of float32 becomes inf, without a warning, as in torch
        return array.astype(kind)
