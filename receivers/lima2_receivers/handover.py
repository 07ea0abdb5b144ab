"""What an ingest and its receivers say to each other when they hand messages over, and how it is told in bytes.

A receiver joins and is admitted; it grants room and says which messages are done with, and says so now and then also
where nothing has changed. The ingest hands messages over. Whoever speaks of a session that is over is told so, and a
receiver joins anew.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from .errors import ProtocolError

HEARTBEAT = 0.5  # seconds after which a receiver reports, also where nothing has changed
INLINE = 4096  # bytes; a part of a message that has more goes through shared memory, where there is some


class Join(Struct, frozen=True, tag=True):
    """A receiver wants messages.

    :param rank: of the receiver.
    """

    rank: int


class Report(Struct, frozen=True, tag=True):
    """What a receiver has room for, and what became of the messages that it got.

    :param session: that it was admitted to.
    :param granted: messages that it has had room for, counted since then.
    :param done: numbers of messages that are safe, or that nobody needs.
    :param refused: numbers of messages of acquisitions that are not known here.
    """

    session: int
    granted: int
    done: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()


class Leave(Struct, frozen=True, tag=True):
    """A receiver ends: what it has not reported goes to others."""

    session: int


class SharedMemory(Struct, frozen=True):
    """Where the pixels lie, for receivers of the same host.

    :param process: that has made the memory.
    :param descriptor: of its file in that process.
    :param key: that the memory begins with.
    :param slots: how many.
    :param slot_bytes: of each.
    """

    process: int
    descriptor: int
    key: int
    slots: int
    slot_bytes: int


class Admit(Struct, frozen=True, tag=True):
    """A receiver may take messages.

    :param session: its number.
    :param memory: None: all comes through the socket.
    """

    session: int
    memory: SharedMemory | None = None


class Attached(Struct, frozen=True, tag=True):
    """A receiver can read the memory that it was told of."""

    session: int


class Hand(Struct, frozen=True, tag=True):
    """A message is handed over; those of its parts that are not in shared memory follow.

    :param number: of the message.
    :param slot: that parts of it are in.
    :param sizes: of the parts, in bytes, that lie in the slot one after the other; -1: the part follows.
    """

    session: int
    number: int
    slot: int
    sizes: tuple[int, ...]


class Over(Struct, frozen=True, tag=True):
    """A session is over: what was handed over in it and is not done with has gone to others."""

    session: int


ToIngest = Join | Report | Leave | Attached
ToReceiver = Admit | Hand | Over

_encoder = msgspec.msgpack.Encoder()
_to_ingest = msgspec.msgpack.Decoder(ToIngest)
_to_receiver = msgspec.msgpack.Decoder(ToReceiver)
T = TypeVar("T")


def encode(message: ToIngest | ToReceiver) -> bytes:
    """Return a message's bytes."""
    return _encoder.encode(message)


def decode_to_ingest(data: bytes | memoryview) -> ToIngest:
    """Decode what a receiver said.

    :raises ProtocolError: no receiver says such a thing.
    """
    return _decode(_to_ingest, data, "an ingest")


def decode_to_receiver(data: bytes | memoryview) -> ToReceiver:
    """Decode what an ingest said.

    :raises ProtocolError: no ingest says such a thing.
    """
    return _decode(_to_receiver, data, "a receiver")


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview, whom: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"hand-over to {whom}, {len(data)} bytes: {error}") from error
