"""One-sided transfers: what a ring that a detector writes into offers to either side, and its completion records.

A receiver registers a ring of slots, and an *event ring* of completion records beside it. The detector writes pixels
into a slot, **then** a record that says so; the receiver polls for records. Nobody waits for the receiver: one that is
late has its slots overwritten, and must find that out by itself. ``transport.shared_ring`` does this in shared memory,
where the transfer is simulated; RDMA verbs would do it behind the same two protocols.
"""

from __future__ import annotations

import struct
import zlib
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import ProtocolError

_FIELDS = struct.Struct("<QQQQIIQd")
_CHECK = struct.Struct("<Q")
RECORD_BYTES = _FIELDS.size + _CHECK.size  # a cache line


class Registration(msgspec.Struct, frozen=True):
    """What the detector has to know of a ring to write into it.

    :param key: of this ring alone: one that is made again, in the same place, has another.
    :param slots: how many frames it holds.
    :param slot_bytes: bytes of the largest frame that fits.
    :param events: how many completion records it holds, more than slots.
    """

    key: int
    slots: int
    slot_bytes: int
    events: int


class Completion(msgspec.Struct, frozen=True):
    """A transfer is complete.

    :param sequence: of the transfer, counted over the life of the ring from 1.
    :param series: the number that the detector stamps on an acquisition.
    :param frame: the detector's number of the frame, counted in its series from 0.
    :param channel: which stream of the series it belongs to.
    :param slot: where the pixels are.
    :param nbytes: how many bytes they have.
    :param time: when the frame was taken, seconds since the epoch.
    """

    sequence: int
    series: int
    frame: int
    channel: int
    slot: int
    nbytes: int
    time: float


def encode_record(number: int, completion: Completion) -> bytes:
    """Return a completion record (``RECORD_BYTES`` bytes): its number, the completion, a check sum.

    :param number: of the record, counted over the life of the ring from 1.
    """
    c = completion
    fields = _FIELDS.pack(number, c.sequence, c.series, c.frame, c.channel, c.slot, c.nbytes, c.time)
    return fields + _CHECK.pack(zlib.crc32(fields))


def decode_record(record: bytes) -> tuple[int, Completion]:
    """Return the number of a completion record, and the completion.

    :raises ProtocolError: it is not whole: it has another length, or was overwritten while it was read.
    """
    if len(record) != RECORD_BYTES:
        raise ProtocolError(f"completion record: got {len(record)} bytes, expected {RECORD_BYTES}")
    (check,) = _CHECK.unpack_from(record, _FIELDS.size)
    if check != (expected := zlib.crc32(record[: _FIELDS.size])):
        raise ProtocolError(f"completion record: got check sum {check:#x}, expected {expected:#x}")
    number, *fields = _FIELDS.unpack_from(record)
    return number, Completion(*fields)


class TransferTarget(Protocol):
    """The receiver's side of a ring; used by one thread."""

    registration: Registration
    missed: int  # completion records that were overwritten before they were read

    def poll(self) -> Completion | None:
        """Return the next completion, or None where there is none; it does not wait.

        :raises ProtocolError: the next record is none; it is skipped.
        """
        ...

    def read(self, completion: Completion, into: NDArray[np.uint8]) -> bool:
        """Copy the pixels of a completed transfer.

        :param into: where to (nbytes,); of no meaning where False is returned.
        :returns: False: the slot is another transfer's by now, or was when the copy ended.
        :raises ProtocolError: the ring has no such slot, or the slot not so many bytes.
        """
        ...

    def close(self) -> None:
        """Withdraw the registration and free the memory. Idempotent."""
        ...


class TransferInitiator(Protocol):
    """The detector's side of a ring; used by one thread. Nothing of it waits for the receiver."""

    registration: Registration

    @property
    def alive(self) -> bool:
        """Whether the registration still holds, as far as is known."""
        ...

    def write(self, pixels: memoryview) -> tuple[int, int]:
        """Write pixels into the next slot, whatever is there.

        :returns: the sequence of this transfer, and the slot.
        :raises ProtocolError: they do not fit a slot.
        """
        ...

    def post(self, completion: Completion) -> None:
        """Tell that a transfer is complete, after all of its pixels."""
        ...

    def close(self) -> None:
        """Let go of the ring, which stays. Idempotent."""
        ...
