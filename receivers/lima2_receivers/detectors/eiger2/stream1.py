"""Stream v1 of DECTRIS: messages of several parts, JSON and blobs (SIMPLON API reference 1.8, ZeroMQ interface).

Senders differ in which parts there are besides those that matter: what an image needs is looked for by its ``htype``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import cbor2
import msgspec

from ...errors import ProtocolError
from ...packing import PackedImage, Packing
from .events import StreamEnd, StreamEvent, StreamImage, StreamStart

T = TypeVar("T", bound=msgspec.Struct)
MAX_JSON_BYTES = 1024 * 1024
MAX_SAID_BYTES = 1024 * 1024 * 1024  # of a start: two arrays of four bytes a pixel are in it
_PARTS = 4  # of an image without an appendix
_Whole = Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
_Size = Annotated[int, msgspec.Meta(gt=0, lt=2**31)]
_TYPES = {"uint8": ("|u1", 8), "uint16": ("<u2", 16), "uint32": ("<u4", 32)}


class _Header(msgspec.Struct):
    htype: str
    series: _Whole


class _Image(msgspec.Struct):
    series: _Whole
    frame: _Whole


class _Data(msgspec.Struct):
    htype: Literal["dimage_d-1.0"]
    shape: tuple[_Size, _Size]  # (x, y)
    type: Literal["uint8", "uint16", "uint32"]
    encoding: str
    size: _Whole


def parse_stream1(message: Sequence[memoryview]) -> StreamEvent:
    """Parse one message.

    :raises ProtocolError: it is not what Stream v1 allows.
    """
    if not message:
        raise ProtocolError("stream v1: got no part, expected a header")
    header = _decode(message[0], _Header, "header")
    match header.htype:
        case "dheader-1.0":
            return StreamStart(header.series, content=_said("start", header.series, message))
        case "dseries_end-1.0":
            return StreamEnd(header.series, content=_said("end", header.series, message))
        case "dimage-1.0":
            return _image(message)
        case other:
            expected = "dheader-1.0, dimage-1.0 or dseries_end-1.0"
            raise ProtocolError(f"stream v1: got htype {other[:40]!r}, expected {expected}")


def _image(message: Sequence[memoryview]) -> StreamImage:
    if len(message) < 3:
        raise ProtocolError(f"stream v1: got an image of {len(message)} parts, expected header, shape and pixels")
    header, data = _decode(message[0], _Image, "dimage"), _decode(message[1], _Data, "dimage_d")
    dtype, bits = _TYPES[data.type]
    encodings = {
        "<": Packing.NONE,
        "lz4<": Packing.LZ4,
        f"bs{bits}-lz4<": Packing.BSLZ4,
    }
    if data.encoding not in encodings:
        expected = ", ".join(map(repr, encodings))
        raise ProtocolError(f"stream v1: got encoding {data.encoding[:40]!r} of {data.type}, expected {expected}")
    if message[2].nbytes != data.size:
        raise ProtocolError(f"stream v1: got {message[2].nbytes} bytes of pixels, expected {data.size}")
    columns, rows = data.shape
    packed = PackedImage(encodings[data.encoding], message[2])
    extra = _said("image", header.series, message[4:], header.frame) if len(message) > _PARTS else b""
    return StreamImage(header.series, header.frame, (rows, columns), dtype, (packed,), math.nan, extra=extra)


def _said(kind: str, series: int, parts: Sequence[memoryview], frame: int | None = None) -> bytes:
    """Return parts of a message as a CBOR item, in the manner of Stream2; an image's appendix is its ``user_data``."""
    if sum(part.nbytes for part in parts) > MAX_SAID_BYTES:
        raise ProtocolError(f"stream v1: {kind}: got more than {MAX_SAID_BYTES} bytes beside the pixels")
    said: dict[str, object] = {"type": kind, "series_id": series}
    if frame is None:
        said["parts"] = [bytes(part) for part in parts]
    else:
        said |= {"image_id": frame, "user_data": [bytes(part) for part in parts]}
    return cbor2.dumps(said)


def _decode(part: memoryview, kind: type[T], what: str) -> T:
    if part.nbytes > MAX_JSON_BYTES:
        raise ProtocolError(f"stream v1: {what}: got {part.nbytes} bytes, expected JSON of {MAX_JSON_BYTES} at most")
    try:
        return msgspec.json.decode(part, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"stream v1: {what}: {error}; expected its JSON") from error
