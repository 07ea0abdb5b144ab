"""The ledger where any frame can land on any receiver: a table says which receiver and row hold it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameIdx, LocalIdx, ReceiverIdx

from .errors import StateError
from .ledger import Counts, FrameStatus, Ledger, Run, recalled
from .topology import NO_RECEIVER, NO_ROW, Places

_STEP = 4096  # frames that are looked through together
_FIRST_ROOM = 1024  # frames; it doubles as they come
NEVER = "never arrived at any receiver"


class TableLedger:
    """The fates of all frames of an acquisition whose frames go to whichever receiver takes them.

    Receivers number their rows in the order of arrival, and say which frame each row is. A frame that was lost on its
    way belongs to none of them; it is settled here, once no receiver takes it any more.

    :param n_receivers: how many receivers share the frames.
    """

    def __init__(self, n_receivers: int) -> None:
        self._doubles = [Counts()] * n_receivers  # rows of frames that another row has: the first that came counts
        self._parts = tuple(Ledger() for _ in range(n_receivers))
        self._recalled = [Counts()] * n_receivers  # fates that an earlier ledger knew, of receivers that are gone
        self._counts = Counts()
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
        return self._counts

    @property
    def unplaced(self) -> Counts:
        """How many frames that no receiver has ended how."""
        fates = [FrameStatus(int(self._status[frames[0]])) for _, frames in self._written_off]
        sizes = [len(frames) for _, frames in self._written_off]
        lost = sum(n for fate, n in zip(fates, sizes, strict=True) if fate is FrameStatus.LOST)
        return Counts(lost=lost, failed=sum(sizes) - lost)

    def part_counts(self, receiver: ReceiverIdx) -> Counts:
        """Return how many rows of a receiver ended how."""
        return self._parts[receiver].counts + self._recalled[receiver]

    def doubles(self, receiver: ReceiverIdx) -> Counts:
        """Return how many of a receiver's rows, by their fates, have a frame that counts elsewhere."""
        return self._doubles[receiver]

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
        skip = row - first
        numbers = np.asarray(frames, np.int64)[skip:]
        statuses = np.repeat([run.status for run in runs], [run.count for run in runs]).astype(np.uint8)[skip:]
        if not len(numbers):
            return
        self._make_room(int(numbers.max()) + 1)
        fresh = np.zeros(len(numbers), np.bool_)
        fresh[np.unique(numbers, return_index=True)[1]] = True
        fresh &= self._status[numbers] == FrameStatus.PENDING
        new = numbers[fresh]
        self._receiver[new], self._row[new] = receiver, np.arange(row, row + len(numbers))[fresh]
        self._status[new] = statuses[fresh]  # last: whoever sees it sees the others
        self._counts += _counts(statuses[fresh])
        self._doubles[receiver] += _counts(statuses[~fresh])

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
        self._counts += Counts(failed=len(missing)) if dead else Counts(lost=len(missing))

    def recall(self, receiver: int, statuses: NDArray[np.uint8], places: Places) -> None:
        """Take what an earlier ledger said of a receiver's frames; see ``FrameLedger.recall``."""
        self._make_room(len(statuses))
        fresh = self._status[: len(statuses)] == FrameStatus.PENDING
        frames = np.flatnonzero(fresh & (places.receivers == receiver))
        if not len(frames):
            return
        counts = _counts(statuses[frames])
        if receiver == NO_RECEIVER:
            for status in np.unique(statuses[frames]).tolist():
                why = NEVER if status == FrameStatus.LOST else recalled(FrameStatus(status))
                self._written_off.append((why, frames[statuses[frames] == status]))
        else:
            self._receiver[frames], self._row[frames] = receiver, places.rows[frames]
            self._recalled[receiver] += counts
        self._status[frames] = statuses[frames]  # last: whoever sees it sees the others
        self._counts += counts

    def leading(self, announced: int) -> int:
        """Return how many leading frames are settled, ``announced`` at most."""
        status = self._status
        at = self._leading
        while at < len(status):
            pending = np.flatnonzero(status[at : at + _STEP] == FrameStatus.PENDING)
            if len(pending):
                at += int(pending[0])
                break
            at += _STEP
        self._leading = at = min(at, len(status))
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
            fates = self._parts[place[0]].runs(place[1])
            status = FrameStatus(int(self._status[frame]))
            return fates[0] if fates else Run(status, 1, recalled(status))
        for reason, frames in self._written_off:
            at = int(np.searchsorted(frames, frame))
            if at < len(frames) and frames[at] == frame:
                return Run(FrameStatus(int(self._status[frame])), 1, reason)
        return None

    def reasons(self) -> dict[str, int]:
        """Return how many frames were lost, vetoed or failed for each reason."""
        tally: dict[str, int] = {}
        for part in self._parts:
            for reason, n in part.reasons.items():
                tally[reason] = tally.get(reason, 0) + n
        for reason, frames in self._written_off:
            tally[reason] = tally.get(reason, 0) + len(frames)
        return tally


def _counts(statuses: NDArray[np.uint8]) -> Counts:
    """Return how many there are of each fate."""
    n = np.bincount(statuses, minlength=FrameStatus.FAILED + 1).tolist()
    return Counts(n[FrameStatus.SAVED], n[FrameStatus.VETOED], n[FrameStatus.LOST], n[FrameStatus.FAILED])


def _stretch(values: NDArray, n: int, fill: int) -> NDArray:
    """Return a copy of ``n`` values, filled up where there are fewer."""
    found = np.full(n, fill, values.dtype)
    found[: len(values)] = values
    return found
