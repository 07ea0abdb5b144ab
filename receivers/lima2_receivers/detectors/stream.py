"""The byte stream of the simulated detectors, and its parser.

A frame is a message of two parts, header and pixels; the end of a series is a header alone. The header is 72 bytes,
little endian:

====== ====== =========================================================
offset type   field
====== ====== =========================================================
0      4s     magic ``L2SF``
4      u16    version, 1
6      u16    kind: 0 frame, 1 end of series
8      u64    series
16     u64    frame index; at the end of a series, its number of frames
24     u64    bitmap of the modules present
32     f64    time of the exposure's start, seconds since the epoch
40     u64    bytes of the pixels; 0 at the end of a series
48     4s     NumPy type string of the pixels, NUL padded, such as ``<u2``
52     u8     number of dimensions of the pixel array, at most 4
53     3 x    zero
56     4 u32  sizes of the dimensions, the slowest first; 0 where there is none
====== ====== =========================================================
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from enum import IntEnum
from math import isfinite
from typing import Generic, TypeVar

import msgspec
import numpy as np

from lima2_processing.frame import Frame, FrameIdx, FrameSpec

from ..errors import ProtocolError
from ..source import Item, SeriesEnd, Source, Stranger, Surveyed

P = TypeVar("P", bound=msgspec.Struct)

MAGIC = b"L2SF"
VERSION = 1
HEADER = struct.Struct("<4sHHQQQdQ4sB3x4I")
_TYPE = re.compile(rb"[<|](?:[iu][1248]|f[248])\0")
_DIMENSIONS = 4
_MAX_INDEX = 1 << 48  # more frames than any acquisition has: a broken header must not fill memory


class Kind(IntEnum):
    """What a message is."""

    FRAME = 0
    END = 1


def encode_frame_header(spec: FrameSpec, series: int, index: int, modules: int, timestamp: float) -> bytes:
    """Return the header of a frame that looks like ``spec``; see the module for the fields."""
    sizes = (*spec.shape, *(0,) * (_DIMENSIONS - len(spec.shape)))
    look = (spec.nbytes, spec.dtype.encode("ascii"), len(spec.shape), *sizes)
    return HEADER.pack(MAGIC, VERSION, Kind.FRAME, series, index, modules, timestamp, *look)


def encode_end(series: int, n_frames: int) -> bytes:
    """Return the header that ends a series of ``n_frames`` frames."""
    return HEADER.pack(MAGIC, VERSION, Kind.END, series, n_frames, 0, 0.0, 0, b"", 0, *(0,) * _DIMENSIONS)


class StreamSource(Source[P], Generic[P]):
    """Parses the stream above. Frames' data are views of the message, not copies."""

    @classmethod
    def survey(cls, settings: msgspec.Struct, message: Sequence[memoryview]) -> Surveyed | None:
        """Return the series and the look that a frame's header tells; how modules lie, it does not."""
        del settings
        if len(message) != 2 or len(message[0]) != HEADER.size:
            return None
        magic, version, kind, series, _, _, _, _, dtype, ndim, *sizes = HEADER.unpack(message[0])
        if (magic, version, kind) != (MAGIC, VERSION, Kind.FRAME):
            return None
        if not _TYPE.fullmatch(dtype):  # NumPy knows many more, such as pointers
            raise ProtocolError(f"type of the pixels: got {dtype!r}, expected one of numbers, such as b'<u2'")
        spec = FrameSpec(tuple(sizes[:ndim]), np.dtype(dtype.rstrip(b"\0").decode("ascii")).str)
        return Surveyed(series, spec) if spec.nbytes == message[1].nbytes else None

    def receive(self, message: Sequence[memoryview]) -> list[Item]:
        """Parse one message.

        :raises ProtocolError: it is not of this protocol, or a frame of another size than was agreed.
        """
        if not message or len(message[0]) != HEADER.size:
            got = len(message[0]) if message else 0
            raise ProtocolError(f"header: got {got} bytes, expected {HEADER.size}")
        magic, version, kind, series, index, modules, timestamp, nbytes, dtype, ndim, *sizes = HEADER.unpack(message[0])
        if (magic, version) != (MAGIC, VERSION):
            raise ProtocolError(f"header: got {magic!r} version {version}, expected {MAGIC!r} version {VERSION}")
        if series != self.series:
            return [Stranger(series)]
        if index > _MAX_INDEX:
            raise ProtocolError(f"frame index: got {index}, expected at most {_MAX_INDEX}")
        match kind:
            case Kind.END:
                _expect("parts of an end", len(message), 1)
                return [SeriesEnd(index)]
            case Kind.FRAME:
                _expect("parts of a frame", len(message), 2)
                _expect("type of the pixels", dtype.rstrip(b"\0"), self.spec.dtype.encode("ascii"))
                _expect("shape of a frame", tuple(sizes[:ndim]), self.spec.shape)
                _expect("bytes that the header promises", nbytes, self.spec.nbytes)
                _expect("bytes of a frame", message[1].nbytes, self.spec.nbytes)
                if not isfinite(timestamp):
                    raise ProtocolError(f"timestamp: got {timestamp}, expected seconds since the epoch")
                if modules & ~self.spec.all_modules:
                    raise ProtocolError(f"modules: got bitmap {modules:#x}, expected within {self.spec.all_modules:#x}")
                data = np.frombuffer(message[1], np.dtype(self.spec.dtype)).reshape(self.spec.shape)
                return [Frame(FrameIdx(index), data, modules, timestamp)]
            case _:
                raise ProtocolError(f"kind: got {kind}, expected 0 or 1")


def _expect(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise ProtocolError(f"{what}: got {got!r}, expected {expected!r}")
