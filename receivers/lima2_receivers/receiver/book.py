"""What is known of the rows of one share: which are on their way, what became of the others. Any thread may ask."""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lima2_processing.frame import AcquisitionId, FrameIdx, LocalIdx

from ..acquisition import State
from ..errors import StateError
from ..ledger import FrameStatus, Ledger
from ..messages import ALL_MODULES, Progress

REMEMBERED_ROWS = 1024  # rows whose scalars can be asked for
REPORTED_ROWS = 50_000  # at once: a report must fit a message, also where a conductor begins again at row 0
MAX_LEAP = 1_000_000  # rows that a frame may be ahead of the one before: more is a broken frame number


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a row.

    :param reason: why it isn't saved.
    :param scalars: of a saved row, by output name.
    """

    row: LocalIdx
    status: FrameStatus
    reason: str = ""
    scalars: dict[str, float] | None = None


class Book:
    """Rows between intake and ledger, the ledger, and the counters of a share.

    :param name: of the acquisition, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._claimed: set[int] = set()  # rows on their way to the ledger
        self._next_row = 0  # rows below it came, or were overtaken
        self._held = 0  # of those on their way, the ones that were written and whose file is not closed
        self._due = 0  # rows that the detector has certainly sent
        self._ended = False
        self._closed = False
        self._progressed = time.monotonic()
        self._timestamps = array("d")  # by row, NaN where none came; kept, since another conductor may ask again
        self._modules: dict[int, int] = {}  # bitmaps, of rows that miss some; kept likewise
        self._scalars: OrderedDict[int, dict[str, float]] = OrderedDict()
        self._received = self._processed = self._hits = 0
        self._highest = -1

    @property
    def rows(self) -> int:
        """How many rows there are to be, as far as is known."""
        with self._lock:
            return max(self._due, self._ledger.settled)

    def claim(
        self, row: LocalIdx, frame: FrameIdx, timestamp: float, modules: int | None = None
    ) -> list[LocalIdx] | None:
        """Take a row for a frame that came.

        :param modules: bitmap of those that came; None: all did.
        :returns: the rows that it has overtaken, which are lost; None: the frame is not wanted, since it is a duplicate
            or a straggler, its number is absurd, or the share closes.
        """
        with self._lock:
            if self._closed or not self._is_open(row) or row - self._next_row > MAX_LEAP:
                return None
            overtaken = [at for at in map(LocalIdx, range(self._next_row, row)) if self._is_open(at)]
            self._claimed.add(row)
            self._claimed.update(overtaken)  # one that comes late all the same is not wanted any more
            self._next_row = max(self._next_row, row + 1)
            self._received += 1
            self._highest = max(self._highest, frame)
            self._timestamps.extend([math.nan] * (row + 1 - len(self._timestamps)))
            self._timestamps[row] = timestamp
            if modules is not None:
                self._modules[row] = modules
            self._progressed = time.monotonic()
            return overtaken

    def claim_missing(self, rows: int) -> list[LocalIdx]:
        """Take the rows below ``rows`` of which nothing is known; what comes for them now is not wanted."""
        with self._lock:
            found = [row for row in map(LocalIdx, range(self._ledger.settled, rows)) if self._is_open(row)]
            self._claimed.update(found)
            return found

    def count_processed(self, hit: bool) -> None:
        """Count a frame that left the pipeline."""
        with self._lock:
            self._processed += 1
            self._hits += hit

    def settle(self, fates: Iterable[Fate], held: int = 0) -> None:
        """Write down what became of rows, each once: later fates of a row are ignored.

        :param held: rows that were written, and are settled when their file is closed.
        """
        with self._lock:
            self._held = held
            for fate in fates:
                self._claimed.discard(fate.row)
                if self._ledger.is_settled(fate.row):
                    continue
                self._ledger.settle(fate.row, fate.status, fate.reason)
                if fate.scalars is not None:
                    self._scalars[fate.row] = fate.scalars
                    if len(self._scalars) > REMEMBERED_ROWS:
                        self._scalars.popitem(last=False)
            self._progressed = time.monotonic()

    def expect(self, rows: int) -> None:
        """Note that the detector has sent the rows below ``rows``."""
        with self._lock:
            self._due = max(self._due, rows)
            self._progressed = time.monotonic()

    def end(self) -> None:
        """Note that the detector says it has sent everything."""
        with self._lock:
            self._ended = True
            self._progressed = time.monotonic()

    def close(self) -> None:
        """Want no more frames."""
        with self._lock:
            self._closed = True

    def complete(self) -> bool:
        """Tell whether every row that is due is settled or waits for its file to be closed, and none is on its way."""
        with self._lock:
            return self._all_written()

    def holds_all(self) -> bool:
        """Tell whether rows wait for their file to be closed, and no other is due or on its way."""
        with self._lock:
            return self._held > 0 and self._next_row <= self._due and self._all_written()

    @property
    def progressed(self) -> float:
        """When a row last moved, monotonic seconds."""
        with self._lock:
            return self._progressed

    def overdue(self, draining: bool, patience: float) -> str:
        """Tell why the rows that are due and have not come are lost now; empty: they may still come.

        :param draining: nothing more will be sent.
        :param patience: seconds without progress after which they are lost.
        """
        with self._lock:
            if self._ledger.settled >= self._due or len(self._claimed) > self._held or self._all_written():
                return ""
            if self._ended and draining:
                why = "never arrived"
            elif time.monotonic() - self._progressed > patience:
                why = f"did not arrive within {patience:g} s of being due"
            else:
                return ""
            self._progressed = time.monotonic()  # settling them takes a moment; don't say it again at once
            return why

    def progress(self, acquisition: AcquisitionId, state: State, reason: str, first: int) -> Progress:
        """Return how far the share is.

        :param first: the first row that the asker does not know.
        """
        with self._lock:
            last = max(first, min(self._ledger.settled, first + REPORTED_ROWS))
            stamps = np.full(last - first, np.nan, "<f8")
            known = self._timestamps[first:last]
            stamps[: len(known)] = known
            rows = range(first, last)
            bitmaps = np.array([self._modules.get(row, ALL_MODULES) for row in rows], "<u8") if self._modules else None
            return Progress(
                acquisition=acquisition,
                state=state,
                first=first,
                runs=self._ledger.runs(first, last),
                timestamps=stamps.tobytes(),
                received=self._received,
                processed=self._processed,
                hits=self._hits,
                counts=self._ledger.counts,
                highest=self._highest,
                reason=reason,
                modules=bitmaps.tobytes() if bitmaps is not None else b"",
                held=self._held,
                more=last < self._ledger.settled,
            )

    def scalars(self, row: LocalIdx) -> dict[str, float]:
        """Return the scalars of a saved row; none where it was not saved.

        :raises StateError: the row is not settled, or so old that it is forgotten here.
        """
        with self._lock:
            if row in self._scalars:
                return self._scalars[row]
            if not self._ledger.is_settled(row):
                raise StateError(f"{self._name}: row {row} is not settled, {self._ledger.settled} rows are")
            oldest = next(iter(self._scalars), 0)
            if row < oldest and len(self._scalars) == REMEMBERED_ROWS:
                raise StateError(f"{self._name}: row {row} is no longer in memory, {oldest} is the oldest")
            return {}

    def _all_written(self) -> bool:
        if len(self._claimed) > self._held:
            return False
        return not any(self._is_open(LocalIdx(row)) for row in range(self._ledger.settled, self._due))

    def _is_open(self, row: LocalIdx) -> bool:
        """Tell whether nothing is known of a row: it is neither settled nor on its way to be."""
        return row not in self._claimed and not self._ledger.is_settled(row)
