"""What a conductor writes down of an acquisition, so that another one can go on with it. Pure.

A journal begins with ``MAGIC`` and the version. Entries follow, each with its length and CRC32 before it: first an
``Opening``, a ``Made`` once all parts are prepared, then ``Facts`` as they change, of which the last counts, and
``Closed`` at the end. An entry that was cut off by a kill, and whatever is behind it, does not count.
"""

from __future__ import annotations

import struct
import zlib

import msgspec
from msgspec import Struct

from lima2_processing.frame import AcquisitionId, Output

from ..acquisition import State
from ..errors import SavingError
from ..messages import LedgerReport, Prepared
from ..plan import AcquisitionPlan
from ..published import AcquisitionState
from ..topology import Dispatch

MAGIC = b"LIMA2J"
VERSION = 1
_BEGIN = struct.Struct("<6sH")
_HEAD = struct.Struct("<II")  # length and CRC32 of an entry


class Opening(Struct, frozen=True, tag=True):
    """A prepare has begun.

    :param plan: resolved.
    :param series: the number that the detector was asked to stamp on the frames.
    :param endpoints: commands of the receivers, by rank.
    :param dispatch: how frames spread over them.
    :param files: absolute paths of what the conductor makes: master, ledger and, in dynamic dispatch, all frames.
    :param replaces: those of them that were there before.
    """

    acquisition: AcquisitionId
    plan: AcquisitionPlan
    series: int
    endpoints: tuple[str, ...]
    dispatch: Dispatch
    files: tuple[str, ...]
    replaces: tuple[str, ...] = ()


class Made(Struct, frozen=True, tag=True):
    """All parts are prepared.

    :param prepared: the reply to the client.
    :param series: the number that the detector stamps on the frames.
    :param outputs: everything that a frame gives.
    :param files: stream to part file name, one mapping a receiver.
    """

    prepared: Prepared
    series: int
    outputs: tuple[Output, ...]
    files: tuple[dict[str, str], ...]


class Facts(Struct, frozen=True, tag=True):
    """What changes while it lives and no receiver can tell.

    :param announced: frames that triggers have asked for, the trigger that is about to be given included.
    :param announced_by: see ``AcquisitionState``.
    :param finished: no more triggers come.
    :param stopped: it was stopped before its end.
    :param reason: why it fails; empty: it doesn't.
    """

    state: State = State.PREPARED
    announced: int = 0
    announced_by: str = "triggers"
    finished: bool = False
    stopped: bool = False
    reason: str = ""


class Closed(Struct, frozen=True, tag=True):
    """It is over: what clients may still ask for."""

    final: AcquisitionState
    report: LedgerReport


Entry = Opening | Made | Facts | Closed
_decoder = msgspec.msgpack.Decoder(Entry)


class Record(Struct, frozen=True):
    """A journal that was read.

    :param made: None: the prepare was under way.
    :param facts: the last that were written down.
    :param closed: None: it was not over.
    """

    opening: Opening
    made: Made | None = None
    facts: Facts = Facts()
    closed: Closed | None = None

    def entries(self) -> tuple[Entry, ...]:
        """Return the entries that say the same, as few as there can be."""
        if self.made is None:
            return (self.opening,)
        return (self.opening, self.made, self.facts, *(() if self.closed is None else (self.closed,)))


def begin() -> bytes:
    """Return what a journal begins with."""
    return _BEGIN.pack(MAGIC, VERSION)


def encode_entry(entry: Entry) -> bytes:
    """Return an entry's bytes."""
    body = msgspec.msgpack.encode(entry)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def decode_journal(data: bytes) -> Record:
    """Return what a journal says.

    :raises SavingError: it is no journal, of another version, or its first entry is damaged.
    """
    if len(data) < _BEGIN.size or not data.startswith(MAGIC):
        raise SavingError(f"journal of {len(data)} bytes: got {data[: len(MAGIC)]!r}, expected {MAGIC!r}")
    _, version = _BEGIN.unpack_from(data)
    if version != VERSION:
        raise SavingError(f"journal: got version {version}, expected {VERSION}")
    entries = _decode_entries(data)
    if not entries or not isinstance(entries[0], Opening):
        raise SavingError(f"journal of {len(data)} bytes: its first entry is damaged")
    record = Record(entries[0])
    for entry in entries[1:]:
        match entry:
            case Made():
                record = msgspec.structs.replace(record, made=entry)
            case Facts():
                record = msgspec.structs.replace(record, facts=entry)
            case Closed():
                record = msgspec.structs.replace(record, closed=entry)
            case Opening():
                raise SavingError("journal: it has two beginnings")
    return record


def _decode_entries(data: bytes) -> list[Entry]:
    """Return the entries up to the first that is damaged or cut off."""
    entries: list[Entry] = []
    at = _BEGIN.size
    while at + _HEAD.size <= len(data):
        length, crc = _HEAD.unpack_from(data, at)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        if len(body) != length or zlib.crc32(body) != crc:
            break
        try:
            entries.append(_decoder.decode(body))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SavingError(f"journal: entry {len(entries)}: {error}") from error
        at += _HEAD.size + length
    return entries
