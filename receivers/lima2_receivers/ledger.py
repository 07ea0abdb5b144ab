"""What became of every frame: kept as runs, so that a million frames cost little. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameIdx, LocalIdx, ReceiverIdx

from .errors import StateError
from .topology import NO_RECEIVER, Places, Topology


class FrameStatus(IntEnum):
    """What became of a frame. The numbers are those in the files (``frame_status``)."""

    PENDING = 0
    SAVED = 1
    VETOED = 2
    LOST = 3
    FAILED = 4
    UNKNOWN = 255


def has_data(statuses: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which frames have rows that were written and flushed; those of others may not be in the files (n,)."""
    return (statuses == FrameStatus.SAVED) | (statuses == FrameStatus.VETOED)


def recalled(status: FrameStatus) -> str:
    """Return the reason of a fate that an earlier conductor wrote down, which kept none."""
    return "" if status is FrameStatus.SAVED else f"{status.name.lower()} before the conductor was restarted"


class Run(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive rows with one fate.

    :param status: of all of them; never ``PENDING``.
    :param count: how many, at least 1.
    :param reason: why they are lost, vetoed or failed; empty for saved ones.
    """

    status: FrameStatus
    count: int
    reason: str = ""


class Counts(msgspec.Struct, frozen=True):
    """How many frames ended how."""

    saved: int = 0
    vetoed: int = 0
    lost: int = 0
    failed: int = 0

    @property
    def settled(self) -> int:
        """All that have a terminal status."""
        return self.saved + self.vetoed + self.lost + self.failed

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.saved + other.saved, self.vetoed + other.vetoed, self.lost + other.lost, self.failed + other.failed
        )

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.saved - other.saved, self.vetoed - other.vetoed, self.lost - other.lost, self.failed - other.failed
        )


class Ledger:
    """The fates of one receiver's rows. Rows may settle in any order; each settles once."""

    def __init__(self) -> None:
        self._runs: list[Run] = []
        self._starts: list[int] = []
        self._settled = 0
        self._ahead: dict[int, tuple[FrameStatus, str]] = {}
        self._tally = dict.fromkeys(FrameStatus, 0)
        self._reasons: dict[str, int] = {}

    @property
    def settled(self) -> int:
        """How many leading rows are settled."""
        return self._settled

    @property
    def counts(self) -> Counts:
        """How many rows ended how, those that settled ahead of others included."""
        tally = self._tally
        return Counts(
            tally[FrameStatus.SAVED], tally[FrameStatus.VETOED], tally[FrameStatus.LOST], tally[FrameStatus.FAILED]
        )

    @property
    def reasons(self) -> dict[str, int]:
        """How many of the leading settled rows were lost, vetoed or failed for each reason."""
        return dict(self._reasons)

    def is_settled(self, row: LocalIdx) -> bool:
        """Tell whether a row's fate is known."""
        return row < self._settled or row in self._ahead

    def settle(self, row: LocalIdx, status: FrameStatus, reason: str = "") -> None:
        """Write down the fate of a row.

        :raises StateError: the row is settled already, or the status is not a fate.
        """
        if status is FrameStatus.PENDING:
            raise StateError(f"row {row}: pending is not a fate")
        if self.is_settled(row):
            raise StateError(f"row {row} is settled already, can't become {status.name.lower()}")
        self._tally[status] += 1
        self._ahead[row] = (status, reason)
        while (fate := self._ahead.pop(self._settled, None)) is not None:
            self._append(Run(fate[0], 1, fate[1]))

    def settle_rest(self, rows: int, status: FrameStatus, reason: str) -> int:
        """Give every row below ``rows`` that is not settled yet one fate, and return how many those were."""
        missing = [row for row in range(self._settled, rows) if row not in self._ahead]
        for row in missing:
            self.settle(LocalIdx(row), status, reason)
        return len(missing)

    def runs(self, first: int = 0, last: int | None = None) -> tuple[Run, ...]:
        """Return the fates of the leading settled rows from ``first`` to ``last`` - 1; None: all of them."""
        end = self._settled if last is None else min(last, self._settled)
        if first >= end:
            return ()
        at, stop = bisect_right(self._starts, first) - 1, bisect_left(self._starts, end)
        found = self._runs[at:stop]
        tail = found[-1]
        found[-1] = Run(tail.status, end - self._starts[stop - 1], tail.reason)
        head = found[0]
        found[0] = Run(head.status, head.count - (first - self._starts[at]), head.reason)
        return tuple(found)

    def extend(self, first: int, runs: tuple[Run, ...]) -> None:
        """Append fates that another ledger reported.

        :param first: the row that ``runs`` begins at: where this ledger ends, or before, where they overlap.
        :raises StateError: there is a gap.
        """
        if first > self._settled:
            raise StateError(f"rows {self._settled} to {first - 1} are missing from the report")
        skip = self._settled - first
        for run in runs:
            fresh = run.count - min(skip, run.count)
            skip -= run.count - fresh
            if fresh:
                self._tally[run.status] += fresh
                self._append(Run(run.status, fresh, run.reason))

    def _append(self, run: Run) -> None:
        if run.reason:
            self._reasons[run.reason] = self._reasons.get(run.reason, 0) + run.count
        last = self._runs[-1] if self._runs else None
        if last is not None and (last.status, last.reason) == (run.status, run.reason):
            self._runs[-1] = Run(last.status, last.count + run.count, last.reason)
        else:
            self._starts.append(self._settled)
            self._runs.append(run)
        self._settled += run.count


class FrameLedger(Protocol):
    """The fates of all frames of an acquisition, put together from its receivers' reports."""

    @property
    def n_receivers(self) -> int:
        """How many receivers share the frames."""
        ...

    @property
    def counts(self) -> Counts:
        """How many frames ended how."""
        ...

    @property
    def unplaced(self) -> Counts:
        """How many frames that no receiver has ended how."""
        ...

    def part_counts(self, receiver: ReceiverIdx) -> Counts:
        """Return how many rows of a receiver ended how."""
        ...

    def doubles(self, receiver: ReceiverIdx) -> Counts:
        """Return how many of a receiver's rows, by their fates, have a frame that counts elsewhere."""
        ...

    def cursor(self, receiver: ReceiverIdx) -> int:
        """Return the first row of a receiver that is not known here."""
        ...

    def extend(self, receiver: ReceiverIdx, first: int, runs: tuple[Run, ...], frames: Sequence[int]) -> None:
        """Take what a receiver reported.

        :param first: the row that ``runs`` begins at.
        :param frames: the frame in each row of ``runs``; empty where the topology says.
        :raises StateError: there is a gap, or a row has no frame.
        """
        ...

    def leading(self, announced: int) -> int:
        """Return how many leading frames are settled, ``announced`` at most."""
        ...

    def statuses(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the statuses of the frames ``first`` to ``last`` - 1 (n,), ``PENDING`` where not settled."""
        ...

    def places(self, first: int, last: int) -> Places:
        """Return where the frames ``first`` to ``last`` - 1 are; one that no receiver has is nowhere."""
        ...

    def locate(self, frame: FrameIdx) -> tuple[ReceiverIdx, LocalIdx] | None:
        """Return which receiver and row hold a frame; None: no receiver has it."""
        ...

    def fate(self, frame: FrameIdx) -> Run | None:
        """Return what became of a frame; None: it is not settled."""
        ...

    def write_off(self, announced: int, dead: Sequence[int]) -> None:
        """Settle the frames below ``announced`` that nobody reported and nobody will.

        :param dead: receivers that did not report to the end.
        """
        ...

    def recall(self, receiver: int, statuses: NDArray[np.uint8], places: Places) -> None:
        """Take what an earlier ledger said of the leading frames, of those of one receiver that says it no more.

        :param receiver: whose; ``NO_RECEIVER``: those that no receiver has.
        :param statuses: of the leading frames (n,), none of them ``PENDING``.
        :param places: of the same frames.
        """
        ...

    def reasons(self) -> dict[str, int]:
        """Return how many frames were lost, vetoed or failed for each reason."""
        ...


class SystemLedger:
    """The ledger where the topology alone says which receiver has which frame.

    :param topology: which receiver and row hold a frame.
    """

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.parts = tuple(Ledger() for _ in range(topology.n_receivers))

    @property
    def n_receivers(self) -> int:
        """How many receivers share the frames."""
        return len(self.parts)

    @property
    def counts(self) -> Counts:
        """How many frames ended how, over all receivers."""
        return sum((part.counts for part in self.parts), Counts())

    @property
    def unplaced(self) -> Counts:
        """None: the topology gives each frame to a receiver."""
        return Counts()

    def part_counts(self, receiver: ReceiverIdx) -> Counts:
        """Return how many rows of a receiver ended how."""
        return self.parts[receiver].counts

    def doubles(self, receiver: ReceiverIdx) -> Counts:
        """Return none: the topology gives each frame to one receiver."""
        del receiver
        return Counts()

    def cursor(self, receiver: ReceiverIdx) -> int:
        """Return the first row of a receiver that is not known here."""
        return self.parts[receiver].settled

    def extend(self, receiver: ReceiverIdx, first: int, runs: tuple[Run, ...], frames: Sequence[int] = ()) -> None:
        """Take what a receiver reported; see ``FrameLedger.extend``."""
        del frames  # the topology knows
        self.parts[receiver].extend(first, runs)

    def leading(self, announced: int) -> int:
        """Return how many leading frames are settled on all receivers, ``announced`` at most."""
        firsts = (
            self.topology.frame_at(ReceiverIdx(rank), LocalIdx(part.settled)) for rank, part in enumerate(self.parts)
        )
        return min(announced, *firsts)

    def statuses(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the statuses of the frames ``first`` to ``last`` - 1 (n,), ``PENDING`` where not settled."""
        found = np.zeros(max(0, last - first), np.uint8)
        places = self.places(first, last)
        for rank, part in enumerate(self.parts):
            receiver = ReceiverIdx(rank)
            begin, end = self.topology.rows(receiver, first), self.topology.rows(receiver, last)
            mine = np.zeros(max(0, end - begin), np.uint8)
            row = begin
            for run in part.runs(begin):
                mine[row - begin : row - begin + run.count] = run.status
                row += run.count
                if row >= end:
                    break
            found[places.receivers == rank] = mine
        return found

    def places(self, first: int, last: int) -> Places:
        """Return where the frames ``first`` to ``last`` - 1 are."""
        return self.topology.places(first, last)

    def locate(self, frame: FrameIdx) -> tuple[ReceiverIdx, LocalIdx] | None:
        """Return which receiver and row hold a frame."""
        return self.topology.locate(frame)

    def fate(self, frame: FrameIdx) -> Run | None:
        """Return what became of a frame; None: it is not settled."""
        receiver, row = self.topology.locate(frame)
        fates = self.parts[receiver].runs(row)
        return fates[0] if fates else None

    def write_off(self, announced: int, dead: Sequence[int]) -> None:
        """Settle what dead receivers never reported; those that live settle all of their own."""
        for rank in dead:
            rows = self.topology.rows(ReceiverIdx(rank), announced)
            if self.parts[rank].settled < rows:
                self.parts[rank].settle_rest(rows, FrameStatus.FAILED, f"receiver {rank} was lost")

    def recall(self, receiver: int, statuses: NDArray[np.uint8], places: Places) -> None:
        """Take what an earlier ledger said of a receiver's frames; see ``FrameLedger.recall``."""
        if receiver != NO_RECEIVER:
            mine = statuses[places.receivers == receiver].tolist()
            self.parts[receiver].extend(0, tuple(Run(status, 1, recalled(status)) for status in map(FrameStatus, mine)))

    def reasons(self) -> dict[str, int]:
        """Return how many frames were lost, vetoed or failed for each reason."""
        tally: dict[str, int] = {}
        for part in self.parts:
            for reason, n in part.reasons.items():
                tally[reason] = tally.get(reason, 0) + n
        return tally
