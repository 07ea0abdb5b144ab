"""What receivers say of each row beside its fate: when it was taken, and which modules came. Pure."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import ReceiverIdx
from lima2_processing.parts import module_shares

from ..ledger import FrameLedger, has_data
from ..ledger_parts import PartsLedger
from ..messages import ALL_MODULES, Progress
from ..topology import EVERY_RECEIVER, Places


class Marks:
    """The timestamps and modules of the rows of all receivers.

    :param n_receivers: how many receivers there are.
    """

    def __init__(self, n_receivers: int) -> None:
        self._timestamps = tuple(array("d") for _ in range(n_receivers))
        self._modules: tuple[dict[int, int], ...] = tuple({} for _ in range(n_receivers))  # of rows that miss some

    def extend(self, rank: int, progress: Progress, known: int) -> None:
        """Take a receiver's report.

        :param known: rows of it that are known here already.
        """
        skip = known - progress.first
        if skip < 0:
            return
        self._timestamps[rank].extend(np.frombuffer(progress.timestamps, "<f8")[skip:].tolist())
        if progress.modules:
            bitmaps = np.frombuffer(progress.modules, "<u8")[skip:]
            for at in np.flatnonzero(bitmaps != ALL_MODULES).tolist():
                self._modules[rank][known + at] = int(bitmaps[at])

    def recall(self, rank: int, places: Places, timestamps: NDArray[np.float64]) -> None:
        """Take timestamps that an earlier ledger has, of rows that are not known here.

        :param rank: of the receiver.
        :param places: where the leading frames are.
        :param timestamps: of the same frames (n,).
        """
        mine = np.isin(places.receivers, (rank, EVERY_RECEIVER))
        rows, timestamps = places.rows[mine].astype(np.int64), timestamps[mine]
        stamps = self._timestamps[rank]
        fresh = rows >= len(stamps)
        if fresh.any():
            longer = np.full(int(rows.max()) + 1 - len(stamps), np.nan)
            longer[rows[fresh] - len(stamps)] = timestamps[fresh]
            stamps.extend(longer.tolist())

    def timestamps(self, places: Places) -> NDArray[np.float64]:
        """Return when frames were taken (n,), NaN where it is not known; of parts, the first that is known."""
        found = np.full(len(places.rows), np.nan)
        for rank, stamps in enumerate(self._timestamps):
            wanted = (places.receivers == rank) | ((places.receivers == EVERY_RECEIVER) & np.isnan(found))
            mine = np.flatnonzero(wanted)
            rows = places.rows[mine].astype(np.int64)
            known = rows < len(stamps)
            found[mine[known]] = [stamps[row] for row in rows[known]]
        return found

    def modules(self, ledger: FrameLedger, first: int, last: int, n_modules: int) -> NDArray[np.uint64]:
        """Return the bitmaps of the modules of frames ``first`` to ``last`` - 1 that are saved (n,), uint64.

        :param n_modules: of the whole detector.
        """
        places = ledger.places(first, last)
        found = np.zeros(max(0, last - first), np.uint64)
        if isinstance(ledger, PartsLedger):
            for rank, own in enumerate(module_shares(n_modules, ledger.n_receivers)):
                there = has_data(ledger.part_statuses(ReceiverIdx(rank), first, last))
                found |= self._of_rows(rank, places.rows, there, len(own)) << np.uint64(own.start)
            return found
        there = has_data(ledger.statuses(first, last))
        for rank in range(ledger.n_receivers):
            mine = places.receivers == rank
            found[mine] = self._of_rows(rank, places.rows[mine], there[mine], n_modules)
        return found

    def _of_rows(
        self, rank: int, rows: NDArray[np.uint64], there: NDArray[np.bool_], n_modules: int
    ) -> NDArray[np.uint64]:
        found = np.where(there, np.uint64((1 << n_modules) - 1), np.uint64(0))
        if flawed := self._modules[rank]:
            for at in np.flatnonzero(there & np.isin(rows, np.fromiter(flawed, np.uint64))).tolist():
                found[at] = flawed[int(rows[at])]
        return found
