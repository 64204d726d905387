"""How the bench and its contestants talk: frames over two pipes.

4 bytes, big-endian          length of the header
header                       JSON: the message, and under "arrays" the name and length of each array that follows
bytes of the arrays          each in NumPy's .npy format, without pickle
"""

from __future__ import annotations

import io
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
    bodies: dict[str, memoryview[int]] = {}
    for name, array in (arrays or {}).items():
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        bodies[name] = file.getbuffer()
    header = json.dumps({"message": dict(message), "arrays": [[name, len(body)] for name, body in bodies.items()]}).encode()
    if len(header) > LONGEST_HEADER:
        raise ValueError(f"a frame's header holds at most {LONGEST_HEADER} bytes; got {len(header)}: large values travel as arrays")
    stream.write(struct.pack(">I", len(header)) + header)
    for body in bodies.values():
        stream.write(body)
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
    arrays = {name: np.lib.format.read_array(io.BytesIO(_exactly(stream, size)), allow_pickle=False) for name, size in header["arrays"]}
    return header["message"], arrays


def _exactly(stream: BinaryIO, size: int) -> bytes:
    body = stream.read(size)  # of a buffered stream: all of it, or the stream's end
    if len(body) < size:
        raise EOFError(f"the stream ended {size - len(body)} bytes before the end of a frame")
    return body
