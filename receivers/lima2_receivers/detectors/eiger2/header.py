"""What an Eiger2 said beside its pixels, read back from the file that a receiver kept it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import numpy as np

from ...errors import ProtocolError, SavingError
from ...packing import unpack
from ...saving.remarks import read_remarks
from .stream2 import ROW_MAJOR, parse_channel


@dataclass(frozen=True, slots=True)
class SeriesHeader:
    """What was said of a series.

    :param start: when it began, by DECTRIS' names; arrays such as ``flatfield`` and ``pixel_mask`` are NumPy's, by
        channel. Of Stream v1, ``parts`` holds the message's parts.
    :param end: when it was over; empty: it was not.
    :param images: what users said of images, by their number.
    """

    start: Mapping[str, Any] = field(default_factory=dict)
    end: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[int, object] = field(default_factory=dict)


def read_header(*paths: Path) -> SeriesHeader:
    """Read ``PREFIX_header_RANK.cbor`` of all receivers: start and end of a series came to one of them.

    :raises SavingError: it can't be read, or holds something else.
    """
    start: Mapping[str, Any] = {}
    end: Mapping[str, Any] = {}
    images: dict[int, object] = {}
    for path in paths:
        for said in _read(path):
            match said.get("type"):
                case "start":
                    start = said
                case "end":
                    end = said
                case _:
                    images[said["image_id"]] = said["user_data"]
    return SeriesHeader(start, end, images)


def _read(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        for item in read_remarks(path):
            said = _plain(item)
            if not isinstance(said, dict):
                raise SavingError(f"{path}: got {type(said).__name__}, expected a map")
            if said.get("type") not in ("start", "end"):
                said = {"type": "image", "image_id": int(said["image_id"]), "user_data": said["user_data"]}
            found.append(said)
    except (ProtocolError, KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise SavingError(f"{path}: {error}; expected what an Eiger2's receiver wrote") from error
    return found


def _plain(value: object) -> object:
    """Return a value with arrays instead of tags."""
    match value:
        case cbor2.CBORTag(tag=tag) if tag == ROW_MAJOR:
            shape, dtype, packed = parse_channel("header", value)
            array = np.empty(shape, dtype)
            unpack(packed, array)
            return array
        case cbor2.CBORTag():
            return _plain(value.value)
        case Mapping():
            return {str(name): _plain(each) for name, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
