"""The ledger where every receiver has a part of each frame: a frame's fate is the worst of its parts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameIdx, LocalIdx, ReceiverIdx

from .ledger import Counts, FrameStatus, Ledger, Run, recalled
from .topology import EVERY_RECEIVER, NO_RECEIVER, Places

_WORST = (FrameStatus.FAILED, FrameStatus.LOST, FrameStatus.VETOED, FrameStatus.SAVED)  # the worst first


class PartsLedger:
    """The fates of all frames of an acquisition of which each receiver has some modules: frame i is everyone's row i.

    A frame is saved if all of its parts are. Else it is what the worst of them is, failed before lost before vetoed,
    and the reason names the receivers, unless it is that of all.

    :param n_receivers: how many receivers have a part.
    """

    def __init__(self, n_receivers: int) -> None:
        self.parts = tuple(Ledger() for _ in range(n_receivers))
        self._whole = Ledger()

    @property
    def n_receivers(self) -> int:
        """How many receivers have a part of each frame."""
        return len(self.parts)

    @property
    def counts(self) -> Counts:
        """How many frames ended how."""
        return self._whole.counts

    @property
    def unplaced(self) -> Counts:
        """None: every receiver has a part of each frame."""
        return Counts()

    def part_counts(self, receiver: ReceiverIdx) -> Counts:
        """Return how many parts of a receiver ended how."""
        return self.parts[receiver].counts

    def doubles(self, receiver: ReceiverIdx) -> Counts:
        """Return none: a receiver has its part of a frame once."""
        del receiver
        return Counts()

    def cursor(self, receiver: ReceiverIdx) -> int:
        """Return the first row of a receiver that is not known here."""
        return self.parts[receiver].settled

    def extend(self, receiver: ReceiverIdx, first: int, runs: tuple[Run, ...], frames: Sequence[int] = ()) -> None:
        """Take what a receiver reported; see ``FrameLedger.extend``."""
        del frames  # row i is frame i
        self.parts[receiver].extend(first, runs)
        self._combine()

    def leading(self, announced: int) -> int:
        """Return how many leading frames are settled on all receivers, ``announced`` at most."""
        return min(announced, self._whole.settled)

    def statuses(self, first: int, last: int) -> NDArray[np.uint8]:
        """Return the statuses of the frames ``first`` to ``last`` - 1 (n,), ``PENDING`` where not settled."""
        return statuses_of(self._whole, first, last)

    def part_statuses(self, receiver: ReceiverIdx, first: int, last: int) -> NDArray[np.uint8]:
        """Return the statuses of a receiver's parts of these frames (n,), likewise."""
        return statuses_of(self.parts[receiver], first, last)

    def places(self, first: int, last: int) -> Places:
        """Return where the frames ``first`` to ``last`` - 1 are: everywhere, in the row of their number."""
        rows = np.arange(first, max(first, last), dtype=np.uint64)
        return Places(np.full(len(rows), EVERY_RECEIVER, np.uint16), rows)

    def locate(self, frame: FrameIdx) -> tuple[ReceiverIdx, LocalIdx] | None:
        """Return None: no receiver has all of a frame."""
        del frame

    def fate(self, frame: FrameIdx) -> Run | None:
        """Return what became of a frame; None: it is not settled."""
        fates = self._whole.runs(frame)
        return fates[0] if fates else None

    def write_off(self, announced: int, dead: Sequence[int]) -> None:
        """Settle what dead receivers never reported; those that live settle all of their own."""
        for rank in dead:
            if self.parts[rank].settled < announced:
                self.parts[rank].settle_rest(announced, FrameStatus.FAILED, f"receiver {rank} was lost")
        self._combine()

    def recall(self, receiver: int, statuses: NDArray[np.uint8], places: Places) -> None:
        """Take what an earlier ledger said of all frames for what it said of a receiver's parts."""
        del places
        if receiver != NO_RECEIVER:
            fates = [Run(status, 1, recalled(status)) for status in map(FrameStatus, statuses.tolist())]
            self.parts[receiver].extend(0, tuple(fates))
            self._combine()

    def reasons(self) -> dict[str, int]:
        """Return how many frames were lost, vetoed or failed for each reason."""
        return self._whole.reasons

    def _combine(self) -> None:
        """Settle the frames whose parts are all known."""
        first, last = self._whole.settled, min(part.settled for part in self.parts)
        if last <= first:
            return
        fates = [part.runs(first) for part in self.parts]
        at = [0] * len(fates)  # the run of each part
        left = [runs[0].count for runs in fates]  # of that run
        found: list[Run] = []
        while first < last:
            count = min(*left, last - first)
            found.append(whole_fate([runs[i] for runs, i in zip(fates, at, strict=True)], count))
            first += count
            for rank, runs in enumerate(fates):
                left[rank] -= count
                if not left[rank] and at[rank] + 1 < len(runs):
                    at[rank] += 1
                    left[rank] = runs[at[rank]].count
        self._whole.extend(self._whole.settled, tuple(found))


def whole_fate(parts: Sequence[Run], count: int) -> Run:
    """Return the fate of ``count`` frames from those of their parts, by rank."""
    status = next(worst for worst in _WORST if any(part.status is worst for part in parts))
    reasons = {rank: part.reason for rank, part in enumerate(parts) if part.status is status and part.reason}
    if len(reasons) == len(parts) and len(set(reasons.values())) == 1:
        return Run(status, count, parts[0].reason)
    told = [
        reason if f"receiver {rank} " in reason else f"receiver {rank}: {reason}" for rank, reason in reasons.items()
    ]
    return Run(status, count, "; ".join(told))


def statuses_of(ledger: Ledger, first: int, last: int) -> NDArray[np.uint8]:
    """Return the statuses of the rows ``first`` to ``last`` - 1 (n,), ``PENDING`` where not settled."""
    found = np.zeros(max(0, last - first), np.uint8)
    row = 0
    for run in ledger.runs(first):
        if row >= len(found):
            break
        found[row : row + run.count] = run.status
        row += run.count
    return found
