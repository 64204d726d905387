"""How the bench and its contestants talk: frames over two pipes.

4 bytes, big-endian          length of the header
header                       JSON: the message, and under "arrays" the name and length of each array that follows
bytes of the arrays          each in NumPy's .npy format, without pickle
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

__all__ = ["LONGEST_HEADER", "receive", "send"]

Array = np.ndarray[Any, Any]
LONGEST_HEADER = 1 << 20  # bytes; more is not a frame of ours


def send(stream: BinaryIO, message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
    """Writes one frame.

    Raises:
        ValueError: an array of objects, which would need pickle.

    Example:
        >>> import io, numpy as np
        >>> from tinygrad_norm.bench.protocol import receive, send
        >>> pipe = io.BytesIO()
        >>> send(pipe, {"do": "compare"}, {"y": np.ones(2)})
        >>> _ = pipe.seek(0)
        >>> receive(pipe)
        ({'do': 'compare'}, {'y': array([1., 1.])})
    """
    header = json.dumps({"message": dict(message), "arrays": list(arrays or {})}).encode()
    if len(header) > LONGEST_HEADER:
        raise ValueError(f"a frame's header holds at most {LONGEST_HEADER} bytes; got {len(header)}: large values travel as arrays")
    stream.write(struct.pack(">I", len(header)) + header)
    for array in (arrays or {}).values():
        np.lib.format.write_array(_Pipe(stream), np.asarray(array), allow_pickle=False)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, Array]]:
    """Reads one frame; waits for it, asleep.

    Raises:
        EOFError: the other side is gone.
        ValueError: what came is not a frame.
    """
    (length,) = struct.unpack(">I", _exactly(stream, 4))
    if length > LONGEST_HEADER:
        raise ValueError(f"not a frame: a header of {length} bytes; at most {LONGEST_HEADER} are sent")
    header = json.loads(_exactly(stream, length))
    return header["message"], {name: np.lib.format.read_array(_Pipe(stream), allow_pickle=False) for name in header["arrays"]}


class _Pipe:
    """A stream that NumPy reads and writes piece by piece: it takes an open file for one on disk, and a gigabyte wants no second copy."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def read(self, size: int = -1, /) -> bytes:
        return _exactly(self.stream, size)

    def write(self, body: bytes) -> int:
        return self.stream.write(body)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    body = stream.read(size)  # of a buffered stream: all of it, or the stream's end
    if len(body) < size:
        raise EOFError(f"the stream ended {size - len(body)} bytes before the end of a frame")
    return body
