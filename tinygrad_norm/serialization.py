"""Files of tensors: NPZ, or safetensors where that package is installed. No pickle anywhere.

A file is written beside its place and then renamed, so that the old one or the new one is there whole, whenever the process is stopped.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .tensor import Tensor

__all__ = ["check_path", "load", "save"]


def check_path(path: str | Path, endings: tuple[str, ...]) -> Path:
    """The path, if a file of one of these endings can be written there; ValueError or OSError otherwise."""
    place = Path(path)
    if place.suffix not in endings:
        raise ValueError(f"the file's name must end with {' or '.join(endings)}; got {str(place)!r}")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(place.parent)!r} to write {place.name} to")
    if place.is_dir():
        raise IsADirectoryError(f"{str(place)!r} is a folder")
    return place


def save(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Writes a state_dict to FILE.npz or FILE.safetensors.

    Raises:
        ValueError: another ending.
        TypeError: something that is not a Tensor.

    Example:
        >>> import tempfile, pathlib, tinygrad_norm as tg
        >>> from tinygrad_norm.serialization import load, save
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = pathlib.Path(folder, "layer.npz")
        ...     save({"weight": tg.ones(2)}, place)
        ...     load(place)
        {'weight': tensor([1., 1.])}
    """
    place = check_path(path, (".npz", ".safetensors"))
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"save: {name!r} is a {type(value).__name__}; expected a Tensor")
        arrays[name] = np.ascontiguousarray(value._data).reshape(value._data.shape)
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=place.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            if place.suffix == ".npz":
                np.savez(file, **arrays)  # type: ignore[arg-type]
            else:
                file.write(_safetensors().save(arrays))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, place)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def load(path: str | Path) -> dict[str, Tensor]:
    """Reads what `save` wrote.

    Raises:
        ValueError: the file is not what its ending says, or is damaged.
    """
    place = Path(path)
    if place.suffix not in (".npz", ".safetensors"):
        raise ValueError(f"the file's name must end with .npz or .safetensors; got {str(place)!r}")
    try:
        if place.suffix == ".npz":
            with np.load(place, allow_pickle=False) as file:
                return {name: Tensor(np.array(file[name])) for name in file.files}
        return {name: Tensor(np.array(array)) for name, array in _safetensors().load(place.read_bytes()).items()}
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{str(place)!r} cannot be read as {place.suffix}: {error}") from None


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError('.safetensors files need the safetensors package: pip install "tinygrad_norm[safetensors]"; .npz needs nothing') from None
    return safetensors.numpy
