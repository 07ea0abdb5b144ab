"""What is found in the files of a killed writer, and what follows from it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..ledger import Counts, FrameStatus, has_data
from ..topology import EVERY_RECEIVER, NO_ROW

FRAME_PTR = "frame_ptr"  # of sparse frames: one row more than there are frames
PIXELS = ("index", "intensity")  # of sparse frames: a row a pixel
CONDUCTOR_KILLED = "the conductor was killed"
NOT_RECORDED = f"not recorded: {CONDUCTOR_KILLED}"
BY_LEDGER = "ledger"  # ``announced_by``, where the ledger's length is all that is known
_WINDOWS = "accumulated"  # the stream whose rows are no frames


class Kind(StrEnum):
    """Which of our files one is."""

    MASTER = "master"
    LEDGER = "ledger"
    FRAMES = "frames"
    PART = "part"
    REMARKS = "remarks"
    PACKETS = "packets"
    OTHER = "other"


class State(StrEnum):
    """How a file was found, or what became of it."""

    WHOLE = "whole"  # there was nothing to do
    REPAIRED = "repaired"
    REPAIRABLE = "repairable"  # it would have been repaired, but for ``dry_run``
    EMPTY = "empty"  # its writer was killed before it began
    BUSY = "being written"
    FAILED = "failed"


class FileReport(msgspec.Struct, frozen=True):
    """What ``lima2 repair`` says of a file.

    :param why: what was done, or why nothing could be; empty: there is nothing to say.
    :param rows: of each dataset that grows; of sparse frames, ``index`` and ``intensity`` have a row a pixel.
    :param complete: frames, or windows of accumulated ones, that all datasets hold; -1: it has none.
    :param acknowledged: frames of it that the ledger counts as saved or vetoed; -1: no ledger is known.
    :param missing: of those, how many are not there.
    :param beyond: frames in it that the ledger does not have.
    :param counts: of a ledger.
    """

    path: str
    kind: Kind
    state: State
    why: str = ""
    rows: dict[str, int] = {}
    complete: int = -1
    acknowledged: int = -1
    missing: int = 0
    beyond: int = 0
    counts: Counts | None = None

    @property
    def bad(self) -> bool:
        """Whether it is not as it should be, now or after a repair."""
        return self.state in (State.BUSY, State.FAILED) or self.missing > 0


@dataclass(frozen=True, slots=True)
class Column:
    """A dataset that grows.

    :param rows: that it has.
    :param chunk_rows: rows of a chunk.
    :param chunks: first row of each chunk that there is, ascending (n,).
    """

    rows: int
    chunk_rows: int
    chunks: NDArray[np.int64]

    def holds(self, rows: NDArray[np.int64], images: bool) -> NDArray[np.bool_]:
        """Tell which rows are there (n,).

        :param images: also ask for data where a chunk is one row; without, it reads as fill.
        """
        there = rows < self.rows
        return there & np.isin(rows, self.chunks) if images and self.chunk_rows == 1 else there


@dataclass(frozen=True, slots=True)
class Contents:
    """What an HDF5 file of ours holds.

    :param stream: of a part file.
    :param acquisition: its id; empty: it does not say.
    :param columns: by name.
    :param end: the byte behind its last data.
    :param pixels: of sparse frames, the last of ``frame_ptr``.
    """

    kind: Kind
    stream: str
    acquisition: str
    columns: Mapping[str, Column]
    end: int
    pixels: int = 0

    @property
    def by_row(self) -> dict[str, Column]:
        """The datasets of a row a frame."""
        return {name: column for name, column in self.columns.items() if name not in (FRAME_PTR, *PIXELS)}

    @property
    def complete(self) -> int:
        """How many rows all datasets have; -1: there are none that grow."""
        lengths = [column.rows for column in self.by_row.values()]
        if FRAME_PTR in self.columns:
            lengths.append(max(0, self.columns[FRAME_PTR].rows - 1))
        return min(lengths, default=-1)


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """What a ledger file says of its leading frames, as far as all is known of them; arrays are (n,)."""

    statuses: NDArray[np.uint8]
    receivers: NDArray[np.uint16]
    rows: NDArray[np.uint64]

    @property
    def counts(self) -> Counts:
        """How many frames ended how."""
        n = np.bincount(self.statuses, minlength=FrameStatus.FAILED + 1).tolist()
        return Counts(n[FrameStatus.SAVED], n[FrameStatus.VETOED], n[FrameStatus.LOST], n[FrameStatus.FAILED])


@dataclass(frozen=True, slots=True)
class Compared:
    """How a part file and the ledger fit; see ``FileReport``."""

    acknowledged: int
    missing: int
    beyond: int
    first_missing: int


def leading(columns: Mapping[str, NDArray]) -> LedgerTable:
    """Return the frames that a ledger file has whole: a kill may have come between two of its columns.

    :param columns: ``frame_status``, ``receiver`` and ``row``, of any lengths.
    """
    n = min(len(column) for column in columns.values())
    status = columns["frame_status"][:n]
    unknown = np.flatnonzero((status < FrameStatus.SAVED) | (status > FrameStatus.FAILED))
    n = int(unknown[0]) if len(unknown) else n
    return LedgerTable(status[:n], columns["receiver"][:n], columns["row"][:n])


def compare(contents: Contents, rank: int, ledger: LedgerTable) -> Compared | None:
    """See whether a part file holds what the ledger acknowledges; None: its rows are no frames.

    :param rank: of the receiver.
    """
    if contents.stream == _WINDOWS:
        return None
    mine = np.isin(ledger.receivers, (rank, EVERY_RECEIVER)) & (ledger.rows != NO_ROW)
    known = ledger.rows[mine].astype(np.int64)
    status = ledger.statuses[mine]
    rows, saved = known[has_data(status)], status[has_data(status)] == FrameStatus.SAVED
    there = np.ones(len(rows), bool)
    for column in contents.by_row.values():
        there &= np.where(saved, column.holds(rows, images=True), column.holds(rows, images=False))
    if FRAME_PTR in contents.columns:
        short = any(contents.columns[name].rows < contents.pixels for name in PIXELS if name in contents.columns)
        there &= (rows < contents.columns[FRAME_PTR].rows - 1) & (not short)
    missing = np.flatnonzero(~there)
    end = int(known.max()) + 1 if len(known) else 0
    images = [column for column in contents.by_row.values() if column.chunk_rows == 1]
    beyond = [int(np.count_nonzero((column.chunks >= end) & (column.chunks < contents.complete))) for column in images]
    return Compared(
        acknowledged=len(rows),
        missing=len(missing),
        beyond=max(beyond) if beyond else max(0, contents.complete - end),
        first_missing=int(rows[missing[0]]) if len(missing) else -1,
    )


def rank_in(name: str) -> int:
    """Return the rank in the name of a part file; -1: there is none."""
    found = re.search(r"_(\d+)\.h5$", name)
    return int(found[1]) if found else -1


def prefix_in(name: str, kind: Kind, stream: str = "") -> str | None:
    """Return the prefix in a file's name; None: it is not named as ours are.

    :param stream: of a part file.
    """
    ends = {
        Kind.MASTER: r"_master\.h5",
        Kind.LEDGER: r"_ledger\.h5",
        Kind.FRAMES: r"_frames\.h5",
        Kind.PART: rf"_{re.escape(stream)}_\d+\.h5",
    }
    found = re.fullmatch(f"(.+){ends[kind]}", name) if kind in ends else None
    return found[1] if found else None


def family(prefix: str, names: Sequence[str], links: Sequence[str] = ()) -> list[str]:
    """Return the names of all files of an acquisition.

    :param names: of all files in its folder.
    :param links: that its master file has.
    """
    mine = re.escape(prefix)
    loose = re.compile(rf"{mine}_(header_\d+\.cbor|\d+_d\d+_f\d+_\d+\.raw|\d+_master_\d+\.json|[^_]+_\d+\.h5)")
    fixed = {f"{prefix}_{end}.h5" for end in ("master", "ledger", "frames")}
    found = {name for name in names if name in fixed or loose.fullmatch(name)}
    return sorted(found | set(links))
