"""Documents as MessagePack: what numbers and arrays they hold comes out as it went in. No pickle."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
import numpy as np

log = logging.getLogger(__name__)

ARRAY = 1
"""Extension type of a NumPy array: the bytes of an ``.npy`` file."""


def encode_document(name: str, document: Mapping[str, Any]) -> bytes:
    """Return a document's bytes.

    Numbers of NumPy become plain ones; what no type of MessagePack stands for becomes text, with a warning.

    :param name: of its kind, such as ``event``.
    :param document: the document.
    """
    return _encoder.encode((name, document))


def decode_document(data: bytes) -> tuple[str, dict[str, Any]]:
    """Return the name and the document that ``encode_document`` packed.

    :raises msgspec.MsgspecError: they are no document.
    """
    return _decoder.decode(data)


def _encode_other(value: Any) -> Any:
    match value:
        case np.ndarray() if value.dtype != object:
            buffer = io.BytesIO()
            np.save(buffer, value, allow_pickle=False)
            return msgspec.msgpack.Ext(ARRAY, buffer.getvalue())
        case np.ndarray():
            return value.tolist()
        case np.generic():
            return value.item()
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case Mapping():
            return dict(value)
        case PurePath():
            return str(value)
        case _:
            log.warning("a document holds a %s, which is sent as text: %r", type(value).__name__, value)
            return str(value)


def _decode_extension(code: int, data: memoryview) -> Any:
    if code != ARRAY:
        raise ValueError(f"got extension type {code}, expected {ARRAY}")
    return np.load(io.BytesIO(bytes(data)), allow_pickle=False)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_other)
_decoder = msgspec.msgpack.Decoder(tuple[str, dict[str, Any]], ext_hook=_decode_extension)
