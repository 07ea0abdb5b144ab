"""The ledger where any frame can land on any receiver: a table says which receiver and row hold it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameIdx, LocalIdx, ReceiverIdx

from .errors import StateError
from .ledger import Counts, FrameLedger, FrameStatus, Ledger, Run, SystemLedger
from .topology import NO_RECEIVER, NO_ROW, Dispatch, Places, RoundRobin

_FIRST_ROOM = 1024  # frames; it doubles as they come
NEVER = "never arrived at any receiver"


class TableLedger:
    """The fates of all frames of an acquisition whose frames go to whichever receiver takes them.

    Receivers number their rows in the order of arrival, and say which frame each row is. A frame that was lost on its
    way belongs to none of them; it is settled here, once no receiver takes it any more.

    :param n_receivers: how many receivers share the frames.
    """

    def __init__(self, n_receivers: int) -> None:
        self.duplicates = 0  # rows of frames that another row has: the first that was reported counts
        self._parts = tuple(Ledger() for _ in range(n_receivers))
        self._tally = dict.fromkeys(FrameStatus, 0)
        self._leading = 0
        self._written_off: list[tuple[str, NDArray[np.int64]]] = []  # reasons, and frames that no receiver has
        self._status = np.zeros(_FIRST_ROOM, np.uint8)
        self._receiver = np.full(_FIRST_ROOM, NO_RECEIVER, np.uint16)
        self._row = np.full(_FIRST_ROOM, NO_ROW, np.uint64)

    @property
    def n_receivers(self) -> int:
        """How many receivers share the frames."""
        return len(self._parts)

    @property
    def counts(self) -> Counts:
        """How many frames ended how."""
        tally = self._tally
        return Counts(
            tally[FrameStatus.SAVED], tally[FrameStatus.VETOED], tally[FrameStatus.LOST], tally[FrameStatus.FAILED]
        )

    @property
    def unplaced(self) -> Counts:
        """How many frames that no receiver has ended how."""
        fates = [FrameStatus(int(self._status[frames[0]])) for _, frames in self._written_off]
        sizes = [len(frames) for _, frames in self._written_off]
        lost = sum(n for fate, n in zip(fates, sizes, strict=True) if fate is FrameStatus.LOST)
        return Counts(lost=lost, failed=sum(sizes) - lost)

    def part_counts(self, receiver: ReceiverIdx) -> Counts:
        """Return how many rows of a receiver ended how."""
        return self._parts[receiver].counts

    def cursor(self, receiver: ReceiverIdx) -> int:
        """Return the first row of a receiver that is not known here."""
        return self._parts[receiver].settled

    def extend(self, receiver: ReceiverIdx, first: int, runs: tuple[Run, ...], frames: Sequence[int]) -> None:
        """Take what a receiver reported.

        :param first: the row that ``runs`` begins at.
        :param frames: the frame in each row of ``runs``.
        :raises StateError: there is a gap, or a row has no frame.
        """
        part = self._parts[receiver]
        row, n_rows = part.settled, sum(run.count for run in runs)
        if len(frames) != n_rows:
            raise StateError(f"receiver {receiver}: got the frames of {len(frames)} rows, expected {n_rows}")
        part.extend(first, runs)
        numbers = np.asarray(frames, np.int64)
        statuses = np.repeat([run.status for run in runs], [run.count for run in runs]).astype(np.uint8)
        for at in range(row - first, n_rows):
            self._note(int(numbers[at]), statuses[at], receiver, first + at)

    def _note(self, frame: int, status: int, receiver: int, row: int) -> None:
        self._make_room(frame + 1)
        if self._status[frame] != FrameStatus.PENDING:
            self.duplicates += 1
            return
        self._receiver[frame], self._row[frame], self._status[frame] = receiver, row, status
        self._tally[FrameStatus(status)] += 1

    def _make_room(self, frames: int) -> None:
        room = len(self._status)
        if frames <= room:
            return
        more = max(frames, 2 * room) - room
        self._receiver = np.append(self._receiver, np.full(more, NO_RECEIVER, np.uint16))
        self._row = np.append(self._row, np.full(more, NO_ROW, np.uint64))
        self._status = np.append(self._status, np.zeros(more, np.uint8))  # last: whoever sees it sees the others

    def write_off(self, announced: int, dead: Sequence[int]) -> None:
        """Settle the frames below ``announced`` that no receiver has reported: none will any more.

        :param dead: receivers that did not report to the end; a frame may have been theirs.
        """
        self._make_room(announced)
        missing = np.flatnonzero(self._status[:announced] == FrameStatus.PENDING)
        if not len(missing):
            return
        status = FrameStatus.FAILED if dead else FrameStatus.LOST
        lost = ", ".join(f"receiver {rank}" for rank in dead)
        self._written_off.append((f"{lost} was lost" if dead else NEVER, missing))
        self._status[missing] = status
        self._tally[status] += len(missing)

    def leading(self, announced: int) -> int:
        """Return how many leading frames are settled, ``announced`` at most."""
        status = self._status
        at = self._leading
        while at < len(status) and status[at] != FrameStatus.PENDING:
            at += 1
        self._leading = at
        return min(announced, at)

    def statuses(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the statuses of the frames ``first`` to ``last`` - 1 (n,), ``PENDING`` where not settled."""
        return _stretch(self._status[first:last], max(0, last - first), FrameStatus.PENDING)

    def places(self, first: int, last: int) -> Places:
        """Return where the frames ``first`` to ``last`` - 1 are; one that no receiver has is nowhere."""
        n = max(0, last - first)
        return Places(_stretch(self._receiver[first:last], n, NO_RECEIVER), _stretch(self._row[first:last], n, NO_ROW))

    def locate(self, frame: FrameIdx) -> tuple[ReceiverIdx, LocalIdx] | None:
        """Return which receiver and row hold a frame; None: no receiver has it."""
        if frame >= len(self._status) or self._receiver[frame] == NO_RECEIVER:
            return None
        return ReceiverIdx(int(self._receiver[frame])), LocalIdx(int(self._row[frame]))

    def fate(self, frame: FrameIdx) -> Run | None:
        """Return what became of a frame; None: it is not settled."""
        place = self.locate(frame)
        if place is not None:
            return self._parts[place[0]].runs(place[1])[0]
        for reason, frames in self._written_off:
            at = int(np.searchsorted(frames, frame))
            if at < len(frames) and frames[at] == frame:
                return Run(FrameStatus(int(self._status[frame])), 1, reason)
        return None

    def reasons(self) -> dict[str, int]:
        """Return how many frames were lost, vetoed or failed for each reason."""
        tally: dict[str, int] = {}
        for part in self._parts:
            for run in part.runs():
                if run.reason:
                    tally[run.reason] = tally.get(run.reason, 0) + run.count
        for reason, frames in self._written_off:
            tally[reason] = tally.get(reason, 0) + len(frames)
        return tally


def _stretch(values: NDArray, n: int, fill: int) -> NDArray:
    """Return a copy of ``n`` values, filled up where there are fewer."""
    found = np.full(n, fill, values.dtype)
    found[: len(values)] = values
    return found


def new_ledger(dispatch: Dispatch, n_receivers: int) -> FrameLedger:
    """Return the ledger of an acquisition, of no frames yet."""
    match dispatch:
        case Dispatch.ROUND_ROBIN:
            return SystemLedger(RoundRobin(n_receivers))
        case Dispatch.DYNAMIC:
            return TableLedger(n_receivers)
        case _:
            assert_never(dispatch)
