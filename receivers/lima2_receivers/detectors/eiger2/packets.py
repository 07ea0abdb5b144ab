"""An Eiger2's messages, made: for the simulated one and for tests.

Formats: see ``stream2`` and ``stream1``. What no receiver of ours reads is left out, or has a fixed value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

import cbor2
import numpy as np
from numpy.typing import NDArray

from ...packing import Packing
from ...plan import Compression
from ...saving.codecs import encode
from .stream2 import PACKED, ROW_MAJOR, SELF_DESCRIBED, TYPED

RATE = 50_000_000  # ticks a second of the detector's clock
_TAGS = {dtype: tag for tag, dtype in TYPED.items()}
_NAMES = {"|u1": "uint8", "<u2": "uint16", "<u4": "uint32", "<i2": "int16", "<i4": "int32"}


def pack(image: NDArray[np.generic], packing: Packing) -> bytes:
    """Return the bytes of an image.

    :raises ValueError: images are not made in that packing.
    """
    match packing:
        case Packing.NONE:
            return image.tobytes()
        case Packing.BSLZ4:
            return bytes(encode(Compression.BSHUF_LZ4, image))
        case Packing.LZ4:
            raise ValueError("got packing lz4, expected none or bslz4")


# --- Stream2 ---


def start2(
    series: int,
    image: NDArray[np.generic],
    channels: tuple[str, ...],
    n_images: int,
    when: datetime,
    arrays: Mapping[str, Mapping[str, NDArray[np.generic]]] | None = None,
    appendix: str = "",
) -> bytes:
    """Return the start of a series.

    :param image: one like those that will come.
    :param when: the detector was armed, with its time zone.
    :param arrays: ``flatfield`` and ``pixel_mask``, each by channel; None: no details.
    :param appendix: the user's own words.
    """
    rows, columns = image.shape
    about = {
        "arm_date": when,
        "channels": list(channels),
        "image_dtype": _NAMES[image.dtype.str],
        "image_size_x": columns,
        "image_size_y": rows,
        "number_of_images": n_images,
        **{
            what: {channel: _channel(array, Packing.NONE) for channel, array in by_channel.items()}
            for what, by_channel in (arrays or {}).items()
        },
        "user_data": appendix,
    }
    return _stream2("start", series, about)


def image2(
    series: int,
    index: int,
    images: Mapping[str, NDArray[np.generic]],
    packing: Packing,
    when: datetime,
    begin: float = 0.0,
    appendix: str = "",
) -> bytes:
    """Return the message of an image.

    :param images: of each channel, by its name.
    :param when: the series began, with its time zone.
    :param begin: of the exposure, seconds after that.
    :param appendix: the user's own words.
    """
    about = {
        "image_id": index,
        "series_date": when,
        "start_time": [round(begin * RATE), RATE],
        "data": {name: _channel(image, packing) for name, image in images.items()},
        "user_data": appendix,
    }
    return _stream2("image", series, about)


def end2(series: int) -> bytes:
    """Return the end of a series."""
    return _stream2("end", series, {})


def _stream2(kind: str, series: int, about: Mapping[str, object]) -> bytes:
    content = {"type": kind, "series_id": series, "series_unique_id": f"SIMULATED{series:016d}", **about}
    return cbor2.dumps(cbor2.CBORTag(SELF_DESCRIBED, content))


def _channel(image: NDArray[np.generic], packing: Packing) -> cbor2.CBORTag:
    data: bytes | cbor2.CBORTag = pack(image, packing)
    if packing is not Packing.NONE:
        data = cbor2.CBORTag(PACKED, [str(packing), image.itemsize, data])
    return cbor2.CBORTag(ROW_MAJOR, [list(image.shape), cbor2.CBORTag(_TAGS[image.dtype.str], data)])


# --- Stream v1 ---


def start1(series: int) -> list[bytes]:
    """Return the start of a series, without details."""
    return [_json(htype="dheader-1.0", series=series, header_detail="none")]


def image1(series: int, index: int, image: NDArray[np.generic], packing: Packing, appendix: str = "") -> list[bytes]:
    """Return the message of an image.

    :param appendix: the user's own words.
    """
    data = pack(image, packing)
    rows, columns = image.shape
    encoding = f"bs{8 * image.itemsize}-lz4<" if packing is Packing.BSLZ4 else "<"
    name = _NAMES[image.dtype.str]
    return [
        _json(htype="dimage-1.0", series=series, frame=index, hash="0"),
        _json(htype="dimage_d-1.0", shape=[columns, rows], type=name, encoding=encoding, size=len(data)),
        data,
        _json(htype="dconfig-1.0", start_time=0, stop_time=0, real_time=0),
        *([appendix.encode()] if appendix else []),
    ]


def end1(series: int) -> list[bytes]:
    """Return the end of a series."""
    return [_json(htype="dseries_end-1.0", series=series)]


def _json(**content: object) -> bytes:
    return json.dumps(content).encode()
