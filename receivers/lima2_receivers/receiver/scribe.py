"""The thread that writes a share's files, and settles rows when they are safe."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..ledger import FrameStatus
from ..saving.remarks import RemarkFile
from ..saving.row_files import EncodedRow, RowFiles
from ..source import Remark
from .book import Book, Fate

FLUSH_ROWS = 32  # a flush at least every so many rows, so that a flood of small frames is counted in time


@dataclass(frozen=True, slots=True)
class Saving:
    """An encoded frame on its way to the files.

    :param row: its values.
    :param scalars: of them, those that can be asked for.
    :param vetoed: True: it counts as vetoed; False: as saved.
    :param reason: why it was vetoed, or what is missing of a frame that was saved all the same.
    """

    row: EncodedRow
    scalars: dict[str, float]
    vetoed: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SavingWindow:
    """Encoded values of a window, on their way to the files."""

    row: EncodedRow


@dataclass(frozen=True, slots=True)
class Missing:
    """Every row below ``rows`` of which nothing is known is lost."""

    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Every row that was written is to be readable, also in files that have room for more."""


_Item = Saving | SavingWindow | Fate | Missing | Publish | Remark


class Scribe:
    """Writes what it is handed, flushes, and only then writes into the book what became of the rows.

    Once something failed, nothing more is written: what still comes is settled as failed, so that nobody waits for it.

    :param files: open and empty; used by this thread alone.
    :param remarks: likewise; None: there are none to keep.
    :param book: of the share.
    :param room: items that may wait: those who hand over more have to wait themselves.
    :param flush_period: seconds between flushes at most.
    :param fail: called with the first error, from this thread; returns the reason.
    :param written: called with each row that was written, from this thread.
    """

    def __init__(
        self,
        files: RowFiles,
        remarks: RemarkFile | None,
        book: Book,
        room: int,
        flush_period: float,
        fail: Callable[[Exception], str],
        written: Callable[[EncodedRow], None] = lambda _: None,
    ) -> None:
        self._files = files
        self._remarks = remarks
        self._book = book
        self._flush_period = flush_period
        self._fail = fail
        self._written = written
        self._refused = ""  # why nothing is written any more
        self._pending: list[Fate] = []  # rows that are written but not flushed
        self._held: list[Fate] = []  # rows that are flushed, and whose file is not closed
        self._items: queue.Queue[_Item | None] = queue.Queue(maxsize=room)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    @property
    def refused(self) -> str:
        """Why nothing is written any more; empty: all is well."""
        return self._refused

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def hand(self, item: _Item) -> None:
        """Hand over a row, or what became of it. Waits while there is no room."""
        self._items.put(item)

    def hand_if_room(self, item: Missing | Publish) -> None:
        """Hand over what can be said again later; where there is no room, do nothing."""
        try:
            self._items.put_nowait(item)
        except queue.Full:
            return

    def refuse(self, reason: str) -> None:
        """Write nothing any more."""
        self._refused = self._refused or reason

    def finish(self) -> None:
        """Write what was handed over, close the files and end the thread. Idempotent."""
        if self._thread.is_alive():
            self._items.put(None)
            self._thread.join()

    def _run(self) -> None:
        flushed = time.monotonic()
        while True:
            try:
                item = self._items.get(timeout=self._flush_period)
            except queue.Empty:
                self._commit()
                continue
            if item is None:
                break
            self._take(item)
            now = time.monotonic()
            if self._items.empty() or len(self._pending) >= FLUSH_ROWS or now - flushed > self._flush_period:
                self._commit()
                flushed = now
        self._commit()
        self._attempt(lambda: self._files.close(self._book.rows))
        self._settle()
        if self._remarks is not None:
            self._attempt(self._remarks.close)

    def _take(self, item: _Item) -> None:
        match item:
            case Missing(rows, reason):
                self._commit()
                for row in self._book.claim_missing(rows):
                    self._take(Fate(row, FrameStatus.LOST, self._refused or reason))
            case Publish():
                self._commit()
                if not self._refused:
                    self._attempt(lambda: self._files.flush(partly=True))
                self._settle()
            case Remark(data):
                if self._remarks is not None and not self._refused:
                    self._attempt(lambda: self._write_remark(data))
            case SavingWindow(row):
                if not self._refused:
                    self._attempt(lambda: self._files.write_accumulated(row))
            case Fate():
                if not self._refused:
                    self._attempt(lambda: self._files.skip(item.row))
                self._pending.append(item)
            case Saving(row, scalars, vetoed, reason):
                if self._refused or not self._attempt(lambda: self._files.write((row,))):
                    self._pending.append(Fate(row.row, FrameStatus.FAILED, self._refused))
                else:
                    self._written(row)
                    status = FrameStatus.VETOED if vetoed else FrameStatus.SAVED
                    self._pending.append(Fate(row.row, status, reason, scalars))

    def _write_remark(self, data: bytes) -> None:
        if self._remarks is not None:
            self._remarks.write(data)

    def _commit(self) -> None:
        """Flush, and only then settle the rows."""
        if not self._pending:
            return
        if any(fate.scalars is not None for fate in self._pending):  # written; also before something else failed
            self._attempt(self._files.flush)
        self._settle()

    def _settle(self) -> None:
        """Settle the rows that were flushed, but for those whose file is not closed."""
        written = self._held + self._pending
        held = [fate.scalars is not None and self._files.holds_back(fate.row) for fate in written]
        self._held = [fate for fate, waits in zip(written, held, strict=True) if waits]
        self._book.settle([fate for fate, waits in zip(written, held, strict=True) if not waits], len(self._held))
        self._pending = []

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Do something to the files; an error ends all writing, and rows that were not flushed have failed."""
        try:
            work()
        except Exception as error:  # also a bug must not end the thread: others wait for it
            self.refuse(self._fail(error))
            self._pending = [
                Fate(fate.row, FrameStatus.FAILED, self._refused) if fate.scalars is not None else fate
                for fate in self._held + self._pending
            ]
            self._held = []
            return False
        return True
