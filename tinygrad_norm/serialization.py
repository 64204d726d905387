"""Files of tensors: NPZ, or safetensors where that package is installed. No pickle anywhere.

What is saved is a state_dict, or dicts, lists and tuples around several: {"model": …, "optimizer": …, "random": …}. The tensors go into
the file under the path to them ("model.fc1.weight"), which other libraries read as it stands; the rest (the nesting, numbers, strings)
goes beside them as JSON, in the place that either format has for it.

A file is written beside its place and then renamed, so that the old one or the new one is there whole, whenever the process is stopped.
A file is read with suspicion: nothing is allocated before its header agrees with the bytes that are there.
"""

from __future__ import annotations

import ast
import json
import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from .dtype import SUPPORTED
from .tensor import Tensor

__all__ = ["ENDINGS", "check_path", "load", "replacing", "save"]

Array = np.ndarray[Any, Any]
StrPath = str | os.PathLike[str]
ENDINGS = (".npz", ".safetensors")
STRUCTURE = "tinygrad_norm"  # the name of the JSON: a member of an NPZ, a key of a safetensors file's metadata
RESERVED = (STRUCTURE, "__metadata__")  # safetensors' own
MOST_INFLATED = 100  # an NPZ's arrays may take that many times the file's size, or 64 MiB


def check_path(path: StrPath, endings: tuple[str, ...] = ENDINGS) -> Path:
    """The path, if a file of one of these endings can be written there; ValueError, OSError or ImportError otherwise."""
    place = _with_ending(path, endings)
    folder = Path(os.path.realpath(place)).parent if place.is_symlink() else place.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r} to write {place.name} to")
    if place.is_dir():
        raise IsADirectoryError(f"{str(place)!r} is a folder")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"the folder {str(folder)!r} may not be written to")
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(f"the file {str(place)!r} may not be written to")
    if place.suffix == ".safetensors":
        _safetensors()
    return place


def _with_ending(path: StrPath, endings: tuple[str, ...]) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"expected the path of a file; got a {type(path).__name__}")
    place = Path(path)
    if place.suffix not in endings:
        raise ValueError(f"the file's name must end with {', '.join(endings[:-1])}{' or ' * bool(endings[1:])}{endings[-1]}; got {str(place)!r}")
    return place


# -- 1. Writing ------------------------------------------------------------------------------------------------------------------------


def save(state: Mapping[Any, Any], path: StrPath) -> None:
    """Writes a state_dict, or several in a dict with what else belongs to a run, to FILE.npz or FILE.safetensors.

    Args:
        state: dicts, lists and tuples of Tensors, NumPy arrays, numbers, strings, True, False and None; keys are strings or integers.
        path: where to; a file there is replaced at once when the new one is complete.
    Raises:
        TypeError: something else in it. ValueError: another ending, or two tensors under one path. Nothing is written then.
        OSError: the file cannot be written; the old one is untouched then.

    Example:
        >>> import tempfile, pathlib, tinygrad_norm as tg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = pathlib.Path(folder, "run.npz")
        ...     tg.save({"model": {"weight": tg.ones(2)}, "epoch": 3}, place)
        ...     tg.load(place)
        {'model': {'weight': tensor([1., 1.])}, 'epoch': 3}
    """
    place = check_path(path)
    if not isinstance(state, Mapping):
        raise TypeError(f"save: expected a dict, as state_dict() gives; got a {type(state).__name__}")
    arrays: dict[str, Array] = {}
    tree = _take_apart(state, "", arrays)
    plain = all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
    _write(place, arrays, None if plain else json.dumps(tree))


def _take_apart(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    """The value as JSON knows it: tensors by their names in `arrays`, dicts with keys of any kind, tuples as such."""
    if isinstance(value, (Tensor, np.ndarray)):
        array = value._data if isinstance(value, Tensor) else value
        if array.dtype.kind not in "fiub":
            raise TypeError(f"save: {path!r} has elements of type {array.dtype}; expected numbers or bool")
        _check_name(path, "save")
        if path in arrays:
            raise ValueError(f"save: two tensors would be written as {path!r}: rename one of their keys")
        arrays[path] = np.ascontiguousarray(array).reshape(array.shape)
        return {"tensor" if isinstance(value, Tensor) else "array": path}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        items = []
        for key, item in value.items():
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise TypeError(f"save: the keys must be strings or integers; got {key!r}{f' in {path!r}' if path else ''}")
            items.append([key, _take_apart(item, f"{path}.{key}" if path else str(key), arrays)])
        return {"dict": items}
    if isinstance(value, (list, tuple)):
        parts = [_take_apart(item, f"{path}.{i}", arrays) for i, item in enumerate(value)]
        return parts if isinstance(value, list) else {"tuple": parts}
    raise TypeError(f"save: {path!r} is a {type(value).__name__}; expected a Tensor, an array, a number, a string, None, or dicts and lists of these")


def _check_name(name: str, op: str) -> None:
    """A name is only ever a key here, but other programs make files of it."""
    parts = name.replace("\\", "/").split("/")
    if not name or name in RESERVED or ".." in parts or "" in parts or not name.isprintable() or ":" in parts[0]:
        raise ValueError(f"{op}: {name!r} cannot be the name of a tensor: a name is printable, no path out of a folder, and not of {RESERVED}")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which stands in the place of the old one when the block has ended well, and never half written."""
    real = Path(os.path.realpath(path))  # a link stays one
    temporary = real.with_name(f".{real.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with open(temporary, "xb") as file:
            yield file
        os.replace(temporary, real)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _write(place: Path, arrays: dict[str, Array], structure: str | None) -> None:
    if place.suffix == ".safetensors":
        content = _safetensors().numpy.save(arrays, None if structure is None else {STRUCTURE: structure})
    with replacing(place) as file:
        if place.suffix == ".npz":
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, array in arrays.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
                if structure is not None:
                    archive.writestr(f"{STRUCTURE}.json", structure)
        else:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError('.safetensors files need the safetensors package: pip install "tinygrad_norm[safetensors]"; .npz needs nothing') from None
    return safetensors


# -- 2. Reading ------------------------------------------------------------------------------------------------------------------------


def load(path: StrPath) -> dict[Any, Any]:
    """Reads what `save` wrote; of NumPy's, torch's and other programs' NPZ and safetensors files, the tensors by name.

    Raises:
        ValueError: the file is not what its ending says, is damaged, would take far more memory than its size, or has element types other
            than float32, float64, int64 and bool. OSError: it is not there, or cannot be read.
    """
    place = _with_ending(path, ENDINGS)
    try:
        with open(place, "rb") as file:
            arrays, structure = _read_npz(file) if place.suffix == ".npz" else _read_safetensors(place)
        return _put_together(structure, arrays)
    except (OSError, ImportError):
        raise
    except Exception as error:  # whatever a damaged file brings zlib, zipfile, json or safetensors to
        raise ValueError(f"{str(place)!r} cannot be read as {place.suffix}: {error or type(error).__name__}") from None


def _put_together(structure: str | None, arrays: dict[str, Array]) -> dict[Any, Any]:
    for name in arrays:
        _check_name(name, "load")
    if structure is None:
        return {name: _as_tensor(name, array) for name, array in arrays.items()}

    def build(node: Any) -> Any:
        if isinstance(node, list):
            return [build(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((kind, held),) = node.items()
        if kind == "dict":
            return {key: build(item) for key, item in held}
        if kind == "tuple":
            return tuple(build(item) for item in held)
        if kind in ("tensor", "array"):
            return _as_tensor(held, arrays.pop(held)) if kind == "tensor" else arrays.pop(held)
        raise KeyError(kind)

    try:
        whole = build(json.loads(structure))
    except _RefusedError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError):
        _refuse("what it says of its own structure does not hold")
    if not isinstance(whole, dict) or arrays:
        _refuse("what it says of its own structure does not hold")
    return whole


def _as_tensor(name: str, array: Array) -> Tensor:
    if array.dtype not in SUPPORTED:
        _refuse(f"{name!r} has elements of type {array.dtype}; a Tensor has float32, float64, int64 or bool: convert it where it was made")
    return Tensor(array)


class _RefusedError(ValueError):
    pass


def _refuse(why: str) -> NoReturn:
    raise _RefusedError(why)


def _read_npz(file: Any) -> tuple[dict[str, Array], str | None]:
    """The arrays, and the JSON if there is one."""
    arrays: dict[str, Array] = {}
    structure = None
    size = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > max(MOST_INFLATED * size, 1 << 26):
            _refuse(f"it would take more than {MOST_INFLATED} times its size in memory, as no file of weights does")
        for member in members:
            name, dot, ending = member.filename.rpartition(".")
            if member.filename == f"{STRUCTURE}.json":
                structure = _content(archive, member).decode()
                continue
            if not dot or ending != "npy":
                _refuse(f"{member.filename!r} in it is no .npy array; an NPZ has nothing else")
            if name in arrays:
                _refuse(f"{name!r} is in it twice")
            arrays[name] = _array_of(name, _content(archive, member))
    return arrays, structure


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes, never more of them than the archive's directory says; zipfile checks their CRC."""
    with archive.open(member) as stream:
        content = stream.read(member.file_size)
    if len(content) != member.file_size:
        _refuse(f"{member.filename!r} ends after {len(content)} bytes of {member.file_size}")
    return content


def _array_of(name: str, content: bytes) -> Array:
    """An array from the bytes of a .npy file (NumPy Enhancement Proposal 1), with a header that is believed only where the bytes agree."""
    if content[:6] != b"\x93NUMPY" or len(content) < 12:
        _refuse(f"{name!r} has no .npy header")
    wide = content[6] > 1
    start = 12 if wide else 10
    length = int.from_bytes(content[8:start], "little")
    if length > 10_000 or start + length > len(content):
        _refuse(f"the header of {name!r} says that it has {length} bytes; {len(content)} are there, and 10000 are the most")
    header = ast.literal_eval(content[start : start + length].decode("utf-8" if content[6] > 2 else "latin-1"))
    if not isinstance(header, dict) or header.keys() != {"descr", "fortran_order", "shape"} or not isinstance(header["descr"], str):
        _refuse(f"the header of {name!r} does not describe an array of numbers")
    kind, shape = np.dtype(header["descr"]), header["shape"]
    if kind.kind not in "fiub" or not isinstance(shape, tuple):
        _refuse(f"{name!r} has elements of type {kind}; expected numbers or bool")
    if len(shape) > 32 or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in shape):
        _refuse(f"{name!r} has shape {shape}; expected lengths >= 0")
    body = content[start + length :]
    if math.prod(shape) * kind.itemsize != len(body):
        _refuse(f"{name!r} has {len(body)} bytes; {kind} elements of shape {shape} take {math.prod(shape) * kind.itemsize}")
    flat = np.frombuffer(body, kind).astype(kind.newbyteorder("="))  # a copy: bytes cannot be written to
    return flat.reshape(shape, order="F" if header["fortran_order"] else "C")


def _read_safetensors(place: Path) -> tuple[dict[str, Array], str | None]:
    """The arrays, and the JSON if there is one. The package checks that header and bytes agree."""
    numpy_names = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
    arrays: dict[str, Array] = {}
    with _safetensors().safe_open(place, framework="numpy") as file:
        structure = (file.metadata() or {}).get(STRUCTURE)
        for name in file.keys():  # noqa: SIM118  not a mapping
            kind = file.get_slice(name).get_dtype()
            if kind not in numpy_names:
                _refuse(f"{name!r} has elements of type {kind}; a Tensor has float32, float64, int64 or bool: convert it where it was made")
            arrays[name] = np.array(file.get_tensor(name))
    return arrays, structure
