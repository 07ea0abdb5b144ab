"""Stream2 of DECTRIS: one CBOR message each (github.com/dectris/documentation, ``stream_v2``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import cbor2
import numpy as np

from ...errors import ProtocolError
from ...packing import PackedImage, Packing
from .cbor import decode
from .events import StreamEnd, StreamEvent, StreamImage, StreamStart

SELF_DESCRIBED = 55799  # tag that a message may begin with: what follows is CBOR
ROW_MAJOR = 40  # tag of an array: [shape, typed array] (RFC 8746)
# tags of typed arrays, little endian (RFC 8746)
TYPED = {64: "|u1", 69: "<u2", 70: "<u4", 72: "|i1", 77: "<i2", 78: "<i4", 85: "<f4"}
PACKED = 56500  # DECTRIS' tag for packed bytes: [algorithm, element size, bytes]
MAX_CHANNELS = 8
MAX_UNIQUE = 1000  # characters of the id of a series
MAX_USER_DATA = 1024 * 1024  # bytes of an image
_ALGORITHMS = {"bslz4": Packing.BSLZ4, "lz4": Packing.LZ4}


def parse_stream2(message: memoryview) -> StreamEvent:
    """Parse one message.

    :raises ProtocolError: it is not what Stream2 allows.
    """
    return to_event(decode_map(message), message)


def decode_map(message: memoryview) -> Mapping[str, Any]:
    """Return what a message holds.

    :raises ProtocolError: it is no map in CBOR, or there is more.
    """
    content = decode(message)
    if not isinstance(content, Mapping):
        raise ProtocolError(f"stream2: got {type(content).__name__}, expected a map")
    return content


def to_event(content: Mapping[str, Any], message: memoryview) -> StreamEvent:
    """Return what a message says.

    :param content: of the message.
    :raises ProtocolError: it is not what Stream2 allows.
    """
    series = _whole(content, "series_id")
    match content.get("type"):
        case "start":
            return StreamStart(series, _unique(content), bytes(message))
        case "end":
            return StreamEnd(series, _unique(content), bytes(message))
        case "image":
            return _image(content, series)
        case other:
            raise ProtocolError(f"stream2: got type {_short(other)}, expected start, image or end")


def _image(content: Mapping[str, Any], series: int) -> StreamImage:
    data = content.get("data")
    if not isinstance(data, Mapping) or not 1 <= len(data) <= MAX_CHANNELS:
        raise ProtocolError(f"stream2: data: got {_short(data)}, expected a map of 1 to {MAX_CHANNELS} channels")
    if not all(isinstance(name, str) for name in data):
        raise ProtocolError(f"stream2: data: got channels {_short(list(data))}, expected names")
    channels = [parse_channel(name, data[name]) for name in sorted(data, key=_order)]
    kinds = {(shape, dtype) for shape, dtype, _ in channels}
    if len(kinds) > 1:
        raise ProtocolError(f"stream2: data: got channels of {sorted(kinds)}, expected all alike")
    ((shape, dtype),) = kinds
    packed = tuple(image for _, _, image in channels)
    index, unique = _whole(content, "image_id"), _unique(content)
    return StreamImage(series, index, shape, dtype, packed, _begin(content), unique, _extra(content))


def _extra(content: Mapping[str, Any]) -> bytes:
    """Return the user's own words on an image; none where there are none, or too many."""
    if content.get("user_data") in (None, "", b"", {}):
        return b""
    said = {name: content.get(name) for name in ("type", "series_id", "image_id", "user_data")}
    try:
        data = cbor2.dumps(said, encoders={memoryview: _encode_view})
    except (cbor2.CBOREncodeError, ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"stream2: user_data: {error}; expected what CBOR holds") from error
    if len(data) > MAX_USER_DATA:
        raise ProtocolError(f"stream2: user_data: got {len(data)} bytes, expected {MAX_USER_DATA} at most")
    return data


def _encode_view(encoder: cbor2.CBOREncoder, value: memoryview) -> None:
    """Encode a byte string that is a view of its message, which cbor2 would take for a list."""
    encoder.encode(bytes(value))


def _order(channel: str) -> tuple[bool, str]:
    """Return what channels are sorted by: thresholds by their numbers, then their difference."""
    return channel.startswith("difference"), channel


def _unique(content: Mapping[str, Any]) -> str:
    unique = content.get("series_unique_id", "")
    if not isinstance(unique, str) or len(unique) > MAX_UNIQUE:
        raise ProtocolError(f"stream2: series_unique_id: got {_short(unique)}, expected a text")
    return unique


def parse_channel(name: str, value: object) -> tuple[tuple[int, int], str, PackedImage]:
    """Return shape, type and packed pixels of a channel.

    :param name: of the channel, for the error.
    :raises ProtocolError: it is no array.
    """
    place = f"stream2: data.{_short(name)}"
    if not isinstance(value, cbor2.CBORTag) or value.tag != ROW_MAJOR:
        raise ProtocolError(f"{place}: got {_kind(value)}, expected a row-major array (tag {ROW_MAJOR})")
    parts = value.value
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise ProtocolError(f"{place}: got {_kind(parts)}, expected a shape and an array")
    shape, array = parts
    if not isinstance(shape, list | tuple) or len(shape) != 2 or not all(_is_size(size) for size in shape):
        raise ProtocolError(f"{place}: got shape {_short(shape)}, expected (rows, cols)")
    if not isinstance(array, cbor2.CBORTag) or array.tag not in TYPED:
        tags = ", ".join(map(str, TYPED))
        raise ProtocolError(f"{place}: got {_kind(array)}, expected a typed array (tag {tags})")
    dtype = TYPED[array.tag]
    return (shape[0], shape[1]), dtype, _packed(place, array.value, np.dtype(dtype).itemsize)


def _packed(place: str, value: object, itemsize: int) -> PackedImage:
    if isinstance(value, bytes | memoryview):
        return PackedImage(Packing.NONE, value)
    parts = value.value if isinstance(value, cbor2.CBORTag) and value.tag == PACKED else None
    if not isinstance(parts, list | tuple) or len(parts) != 3:
        raise ProtocolError(f"{place}: got {_kind(value)}, expected bytes, or packed ones (tag {PACKED})")
    algorithm, size, data = parts
    packing = _ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    if packing is None:
        raise ProtocolError(f"{place}: got {_short(algorithm)}, expected one of {', '.join(_ALGORITHMS)}")
    if packing is Packing.BSLZ4 and size != itemsize:
        raise ProtocolError(f"{place}: got elements of {_short(size)} bytes, expected {itemsize}")
    if not isinstance(data, bytes | memoryview):
        raise ProtocolError(f"{place}: got {_kind(data)}, expected bytes")
    return PackedImage(packing, data)


def _begin(content: Mapping[str, Any]) -> float:
    """Return when the exposure began: ``series_date`` and the fraction ``start_time``; NaN where they are not there."""
    date, fraction = content.get("series_date"), content.get("start_time")
    if not isinstance(date, datetime) or not isinstance(fraction, list | tuple) or len(fraction) != 2:
        return math.nan
    ticks, rate = fraction
    if not (_is_number(ticks) and _is_number(rate) and rate):
        return math.nan
    began = date.timestamp() + ticks / rate
    return began if math.isfinite(began) else math.nan


def _whole(content: Mapping[str, Any], name: str) -> int:
    value = content.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ProtocolError(f"stream2: {name}: got {_short(value)}, expected a whole number")
    return value


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def _kind(value: object) -> str:
    return f"tag {value.tag}" if isinstance(value, cbor2.CBORTag) else type(value).__name__


def _short(value: object) -> str:
    """Return a value for a message, cut short, whatever a stranger sent."""
    match value:
        case str():
            return repr(value if len(value) <= 40 else f"{value[:37]}...")
        case None | bool() | float():
            return repr(value)
        case int():
            return repr(value) if abs(value) < 2**64 else "a huge number"
        case list() | tuple() | Mapping():
            return f"{len(value)} items"
        case _:
            return _kind(value)
