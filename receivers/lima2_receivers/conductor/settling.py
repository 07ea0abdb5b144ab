"""Which frames no receiver takes any more, in dynamic dispatch: those of them that are nowhere are lost. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lima2_processing.frame import ReceiverIdx

from ..ledger_table import TableLedger


class Settling:
    """What became of the ``Settle`` that receivers were asked for.

    :param ledger: of the acquisition.
    """

    def __init__(self, ledger: TableLedger) -> None:
        self._ledger = ledger
        self._below = 0  # no receiver takes frames below it any more, and what is missing of them is lost
        self._asked = 0  # the same, once ``_rows`` are reported
        self._rows: dict[int, int] = {}  # that receivers have, by rank

    def wanted(self, announced: int) -> bool:
        """Tell whether receivers still take some of the frames below ``announced``, and were not asked not to."""
        return max(self._below, self._asked if self._rows else 0) < announced

    def begin(self, n_frames: int, rows: dict[int, int]) -> None:
        """Note that receivers take no more frames below a number.

        :param rows: that each of them has, by rank, all of which it will still report.
        """
        self._asked, self._rows = n_frames, rows

    def complete(self, dead: Sequence[int]) -> bool:
        """Settle what is missing once all is reported; True: that is done now.

        :param dead: receivers that report nothing any more.
        """
        waiting = {rank: rows for rank, rows in self._rows.items() if rank not in dead}
        if not self._rows or any(self._ledger.cursor(ReceiverIdx(rank)) < rows for rank, rows in waiting.items()):
            return False
        self._rows, self._below = {}, self._asked
        self._ledger.write_off(self._below, dead)
        return True
