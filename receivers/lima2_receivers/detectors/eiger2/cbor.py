"""Messages in CBOR (RFC 8949) from strangers: pixels are not copied, and nothing costs more than its bytes.

cbor2 decodes. Before it does, long byte strings are taken out of the message; views of them come back in their places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import cbor2

from ...errors import ProtocolError

MAX_DEPTH = 16  # of nested containers: real messages have 7
LONG = 4096  # bytes from which a byte string is not copied
MOST_ITEMS = 1000  # that are looked at for long strings: a real image has about 60
MOST_LONG = 24  # strings that are taken out: a real image has one a channel

_BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(2, 7)  # major types, in the upper 3 bits of an item's first byte
_ONE_BYTE, _RESERVED = 24, 28  # of its lower 5 bits: from the first on, the argument's size; from the second on, others
_PLACE = 0x4C324D56  # a tag that nobody has registered: [number of a string that was taken out]
_PLACE_HEAD = b"\xda" + _PLACE.to_bytes(4, "big")

# Tags by which a message repeats its own parts: some hundred bytes could fill the memory.
_REPEATING = (25, 28, 29, 256)
# Tags that cbor2 makes into objects that nobody needs here, such as a compiled regular expression. They stay tags.
_KEPT = (1, 4, 5, 30, 35, 36, 37, 52, 54, 100, 258, 260, 261, 1004, 43000)

_Decoder = Callable[[Any, bool], object]


def decode(message: memoryview) -> object:
    """Return what a message holds: as cbor2 does, but that long byte strings are views of the message.

    :raises ProtocolError: it is no CBOR, or not of the plain kind that detectors send, or there is more.
    """
    if (found := _take_out(message)) is not None:
        rest, taken = found
        try:
            return _decode(rest, {**_DECODERS, _PLACE: lambda number, _: taken[number]})
        except ProtocolError:  # such as a long string where CBOR wants a short one: cbor2 tells what it makes of it
            pass
    return _decode(message, _DECODERS)


def _decode(message: bytes | memoryview, decoders: Mapping[int, _Decoder]) -> object:
    stream = BytesIO(message)
    decoder = cbor2.CBORDecoder(
        stream,
        semantic_decoders=decoders,
        max_depth=MAX_DEPTH,
        allow_indefinite=False,
        strict_hashable_types=True,  # numbers as names can be chosen so that a map takes hours
    )
    try:
        content = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"CBOR: got no message ({error.__cause__ or error}), expected one") from error
    if stream.tell() != len(message):
        raise ProtocolError(f"CBOR: got {len(message)} bytes, expected {stream.tell()}, where the message ends")
    return content


def _take_out(message: memoryview) -> tuple[bytes, list[memoryview]] | None:
    """Return a message without its long byte strings, and these; None: there are none, or it is an unusual one."""
    pieces: list[bytes | memoryview] = []
    taken: list[memoryview] = []
    at = begin = 0  # of the item, and of what is not in pieces yet
    due = 1  # items that are still to come
    for _ in range(MOST_ITEMS):
        if not due or at >= len(message):
            break
        start, kind, argument = at, message[at] >> 5, message[at] & 0x1F
        at += 1
        if argument >= _RESERVED:
            return None
        if argument >= _ONE_BYTE:
            size = 1 << (argument - _ONE_BYTE)
            argument = int.from_bytes(message[at : at + size], "big")
            at += size
        due -= 1
        if kind in (_BYTES, _TEXT):
            end = at + argument
            if kind == _BYTES and argument >= LONG:
                pieces += (message[begin:start], _PLACE_HEAD, bytes((len(taken),)))
                taken.append(message[at:end])
                begin = end
            at = end
        elif kind in (_ARRAY, _MAP):
            due += argument * (2 if kind == _MAP else 1)
        elif kind == _TAG:
            if argument == _PLACE:
                return None
            due += 1
    if due or at != len(message) or not 0 < len(taken) <= MOST_LONG:
        return None
    return b"".join((*pieces, message[begin:])), taken


def _refuse(_: object, __: bool) -> object:
    raise ValueError("it repeats its own parts")


def _keep(tag: int) -> _Decoder:
    return lambda value, _: cbor2.CBORTag(tag, value)


_DECODERS: Mapping[int, _Decoder] = {**dict.fromkeys(_REPEATING, _refuse), **{tag: _keep(tag) for tag in _KEPT}}
