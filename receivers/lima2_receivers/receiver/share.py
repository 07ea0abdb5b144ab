"""One acquisition's share on one receiver: frames through the pipeline and the encoders into the files.

Frames move ``intake -> pipeline -> encoders -> writer``, each a thread or a few; a frame's ring slot goes along until
it is encoded, so that the ring bounds all of it. Only the writer thread touches files and ledger.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import numpy as np

from lima2_processing.errors import ProcessingError
from lima2_processing.frame import AcquisitionId, Frame, FrameResult, LocalIdx, Output, OutputKind, ReceiverIdx
from lima2_processing.pipeline import Pipeline

from ..acquisition import Acquisition, Event, State
from ..errors import ReceiverError, StateError
from ..ledger import FrameStatus, Ledger
from ..messages import Progress
from ..plan import RAW_STREAM
from ..saving.part import EncodedRow, PartFiles
from ..source import SeriesEnd, Source, Stranger
from ..topology import Topology
from .ring import FrameRing, Slot

log = logging.getLogger(__name__)

REMEMBERED_ROWS = 1024  # rows whose scalars can be asked for
FLUSH_ROWS = 32  # a flush at least every so many rows, so that a flood of small frames is counted in time


@dataclass(frozen=True, slots=True)
class _Fate:
    """What the writer is told about rows that are not saved."""

    row: LocalIdx
    status: FrameStatus
    reason: str


@dataclass(frozen=True, slots=True)
class _Missing:
    """The writer is to settle every row below ``rows`` that is not settled, as lost."""

    rows: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Saved:
    """An encoded frame on its way to the writer."""

    row: EncodedRow
    timestamp: float
    scalars: dict[str, float]


class Share:
    """One acquisition on this receiver.

    :param acquisition: its state machine.
    :param rank: of this receiver.
    :param topology: which frames are this receiver's.
    :param source: parses the data stream.
    :param pipeline: None: frames are saved as they came.
    :param outputs: all outputs, the raw frame's included.
    :param files: open, empty part files.
    :param ring: where frames wait.
    :param batch: frames that go through the pipeline together at most.
    :param encoders: threads that compress.
    :param flush_period: seconds between flushes at most.
    :param drain_timeout: seconds without any progress after which missing frames are lost.
    """

    def __init__(
        self,
        acquisition: Acquisition,
        rank: ReceiverIdx,
        topology: Topology,
        source: Source[msgspec.Struct],
        pipeline: Pipeline[msgspec.Struct] | None,
        outputs: Sequence[Output],
        files: PartFiles,
        ring: FrameRing,
        batch: int,
        encoders: int,
        flush_period: float,
        drain_timeout: float,
    ) -> None:
        self.acquisition = acquisition
        self.device = ""
        self._rank = rank
        self._topology = topology
        self._source = source
        self._pipeline = pipeline
        self._outputs = {output.name: output for output in outputs}
        self._files = files
        self._ring = ring
        self._batch = batch
        self._flush_period = flush_period
        self._drain_timeout = drain_timeout
        self._lock = threading.Lock()
        self._ledger = Ledger()
        self._timestamps: dict[int, float] = {}
        self._scalars: OrderedDict[int, dict[str, float]] = OrderedDict()
        self._accepted: set[int] = set()  # rows between intake and ledger
        self._next_row = 0  # rows below it came, or were overtaken
        self._due = 0  # rows that the detector has certainly sent
        self._ended = False
        self._progressed = time.monotonic()
        self._received = self._processed = self._hits = 0
        self._highest = -1
        self._closing = False
        self._refused_reason = ""  # why frames that still come are not saved
        self._to_pipeline: queue.SimpleQueue[tuple[Frame, Slot] | None] = queue.SimpleQueue()
        self._to_writer: queue.Queue[_Saved | _Fate | _Missing | None] = queue.Queue(maxsize=max(ring.slots, 4))
        self._pool = ThreadPoolExecutor(encoders, thread_name_prefix="encoder")
        self._threads = (
            threading.Thread(target=self._guard, args=(self._run_pipeline,), name="pipeline", daemon=True),
            threading.Thread(target=self._guard, args=(self._run_writer,), name="writer", daemon=True),
        )

    def start(self) -> None:
        """Start the threads: frames are welcome from now on."""
        for thread in self._threads:
            thread.start()

    # --- called by the intake thread ---

    def parse(self, message: Sequence[memoryview]) -> list[Frame | SeriesEnd | Stranger]:
        """Parse a message of the data stream."""
        return self._source.receive(message)

    def accept(self, frame: Frame, slot: Slot) -> bool:
        """Take a frame and its slot; False: it is a duplicate, a straggler, or another receiver's."""
        owner, row = self._topology.locate(frame.index)
        with self._lock:
            unwanted = owner != self._rank or row in self._accepted or self._ledger.is_settled(row)
            if unwanted or self._closing:
                return False
            self._accepted.add(row)
            self._received += 1
            self._highest = max(self._highest, frame.index)
            self._timestamps[row] = frame.timestamp
            overtaken = [at for at in map(LocalIdx, range(self._next_row, row)) if self._is_open(at)]
            self._accepted.update(overtaken)  # one that comes late all the same is not wanted any more
            self._next_row = max(self._next_row, row + 1)
            self._progressed = time.monotonic()
            fates = [_Fate(at, FrameStatus.LOST, "never arrived, later frames did") for at in overtaken]
            if self._refused_reason:
                fates.append(_Fate(row, FrameStatus.FAILED, self._refused_reason))
                wanted = False
            elif frame.modules != self._source.spec.all_modules:
                fates.append(_Fate(row, FrameStatus.LOST, "incomplete: modules are missing"))
                wanted = False
            else:
                self._to_pipeline.put((frame, slot))  # under the lock, so that nothing comes after close's end mark
                wanted = True
        for fate in fates:
            self._to_writer.put(fate)
        return wanted

    def series_ended(self, end: SeriesEnd) -> None:
        """Note that nothing more will come from the detector."""
        with self._lock:
            self._ended = True
            self._progressed = time.monotonic()
        log.debug("%s: detector sent all of %d frames", self.acquisition.name, end.n_frames)

    # --- called by the daemon ---

    def announce(self, n_frames: int, final: bool) -> None:
        """Take the number of frames that the detector was told to send, and has sent.

        :param final: there will be no more; the share drains and closes.
        """
        with self._lock:
            self._due = max(self._due, self._topology.rows(self._rank, n_frames))
            self._progressed = time.monotonic()
            if final and self.acquisition.state is not State.DRAINING:
                self.acquisition.handle(Event.ENDED)

    def fail(self, reason: str) -> None:
        """Fail the share: what is not saved yet is not saved any more, and says so."""
        with self._lock:
            if not self._refused_reason:
                log.error("%s: %s", self.acquisition.name, reason)
            self._refused_reason = self._refused_reason or reason
            self.acquisition.reason = self.acquisition.reason or reason

    def tick(self) -> bool:
        """Decide what time decides: missing frames are lost. True: all is settled and the files are to be closed."""
        with self._lock:
            if self.acquisition.state is State.CLOSED:
                return False
            draining = self.acquisition.state is State.DRAINING
            missing = self._ledger.settled < self._due
            quiet = time.monotonic() - self._progressed > self._drain_timeout
            if not missing:
                return draining and not self._accepted
            if self._accepted or not ((self._ended and draining) or quiet):
                return False
            why = self._refused_reason or (
                "never arrived" if self._ended else f"did not arrive within {self._drain_timeout:g} s of being due"
            )
            self._progressed = time.monotonic()  # the writer needs a moment; don't ask again at once
            due = self._due
        self._to_writer.put(_Missing(due, why))
        return False

    def close(self) -> None:
        """Finish what is under way, stop the threads and close the files. Blocks; idempotent."""
        with self._lock:
            self._closing = True
            self._to_pipeline.put(None)
        if self._threads[0].is_alive():
            self._threads[0].join()
        self._pool.shutdown(wait=True)
        self._to_writer.put(None)
        if self._threads[1].is_alive():
            self._threads[1].join()
        if self._pipeline is not None:
            self._pipeline.close()
        with self._lock:
            if self.acquisition.state is State.DRAINING:
                self.acquisition.handle(Event.SETTLED)

    def discard(self) -> None:
        """Stop the threads and remove the files."""
        self.close()
        self._files.discard()

    def progress(self, acquisition: AcquisitionId, first: int) -> Progress:
        """Return how far the share is.

        :param first: the first row that the asker does not know.
        """
        with self._lock:
            runs = self._ledger.runs(first)
            rows = range(first, max(first, self._ledger.settled))
            stamps = np.array([self._timestamps.get(row, np.nan) for row in rows], "<f8")
            for row in [row for row in self._timestamps if row < first]:
                del self._timestamps[row]  # the conductor has it in its file
            return Progress(
                acquisition=acquisition,
                state=self.acquisition.state,
                first=first,
                runs=runs,
                timestamps=stamps.tobytes(),
                received=self._received,
                processed=self._processed,
                hits=self._hits,
                counts=self._ledger.counts,
                highest=self._highest,
                reason=self.acquisition.reason,
            )

    def scalars(self, row: int) -> dict[str, float]:
        """Return the scalars of a saved row; none where it was not saved.

        :raises StateError: the row is not settled, or so old that it is forgotten here.
        """
        with self._lock:
            if row in self._scalars:
                return self._scalars[row]
            if not self._ledger.is_settled(LocalIdx(row)):
                raise StateError(f"{self.acquisition.name}: row {row} is not settled, {self._ledger.settled} rows are")
            oldest = next(iter(self._scalars), 0)
            if row < oldest and len(self._scalars) == REMEMBERED_ROWS:
                raise StateError(f"{self.acquisition.name}: row {row} is no longer in memory, {oldest} is the oldest")
            return {}

    # --- threads ---

    def _guard(self, run: Callable[[], None]) -> None:
        """Run a thread's loop; what it raises fails the share instead of vanishing with the thread."""
        try:
            run()
        except Exception as error:
            self._fail_by_bug(error)

    def _fail_by_bug(self, error: Exception) -> str:
        """Fail the share by an error that nobody meant to raise, and return the reason."""
        reason = f"internal error: {type(error).__name__}: {error}"
        log.error("%s: in thread %s", self.acquisition.name, threading.current_thread().name, exc_info=error)
        self.fail(reason)
        return reason

    def _run_pipeline(self) -> None:
        while (batch := self._next_batch()) is not None:
            frames = tuple(frame for frame, _ in batch)
            if self._pipeline is None:
                results = tuple(FrameResult(frame.index, {}) for frame in frames)
            else:
                try:
                    results = self._process(self._pipeline, frames)
                except ProcessingError as error:
                    self._fail_batch(batch, f"pipeline: {error}")
                    continue
                except Exception as error:  # a bug in a pipeline must not take rows and slots with it
                    self._fail_batch(batch, self._fail_by_bug(error))
                    continue
            for (frame, slot), result in zip(batch, results, strict=True):
                self._pool.submit(self._guard, lambda f=frame, s=slot, r=result: self._encode(f, s, r))

    def _process(self, pipeline: Pipeline[msgspec.Struct], frames: tuple[Frame, ...]) -> tuple[FrameResult, ...]:
        processed = pipeline.process(frames)
        got = [result.index for result in processed.frames]
        if got != (expected := [frame.index for frame in frames]):
            raise ValueError(f"got results of frames {got}, expected {expected}")
        self.device = processed.device
        return processed.frames

    def _fail_batch(self, batch: list[tuple[Frame, Slot]], reason: str) -> None:
        for frame, slot in batch:
            self._ring.give(slot)
            self._settle_later(frame, FrameStatus.FAILED, reason)

    def _next_batch(self) -> list[tuple[Frame, Slot]] | None:
        first = self._to_pipeline.get()
        if first is None:
            return None
        batch = [first]
        while len(batch) < self._batch:
            try:
                item = self._to_pipeline.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._to_pipeline.put(None)
                break
            batch.append(item)
        return batch

    def _settle_later(self, frame: Frame, status: FrameStatus, reason: str) -> None:
        self._to_writer.put(_Fate(self._topology.locate(frame.index)[1], status, reason))

    def _encode(self, frame: Frame, slot: Slot, result: FrameResult) -> None:
        row = self._topology.locate(frame.index)[1]
        try:
            scalars = {
                name: float(np.asarray(value))
                for name, value in result.values.items()
                if self._outputs[name].kind is OutputKind.SCALAR
            }
            with self._lock:
                self._processed += 1
                self._hits += bool(scalars.get("is_hit", 0))
            if result.vetoed:
                self._settle_later(frame, FrameStatus.VETOED, "not a hit")
                return
            values = self._files.encode({RAW_STREAM: frame.data, **result.values})
        except ReceiverError as error:
            self._settle_later(frame, FrameStatus.FAILED, str(error))
            return
        except Exception as error:  # a bug must not take the row with it
            self._settle_later(frame, FrameStatus.FAILED, self._fail_by_bug(error))
            return
        finally:
            self._ring.give(slot)
        self._to_writer.put(_Saved(EncodedRow(row, values), frame.timestamp, scalars))

    def _run_writer(self) -> None:
        pending: list[_Saved | _Fate] = []
        flushed = time.monotonic()
        while True:
            try:
                item = self._to_writer.get(timeout=self._flush_period)
            except queue.Empty:
                self._commit(pending)
                continue
            match item:
                case None:
                    break
                case _Missing(rows, reason):
                    self._commit(pending)
                    for row in self._claim_missing(rows):
                        self._note(_Fate(row, FrameStatus.LOST, reason), pending)
                case _Saved() | _Fate():
                    self._note(item, pending)
            now = time.monotonic()
            if self._to_writer.empty() or len(pending) >= FLUSH_ROWS or now - flushed > self._flush_period:
                self._commit(pending)
                flushed = now
        self._commit(pending)
        self._close_files()

    def _is_open(self, row: LocalIdx) -> bool:
        """Tell whether nothing is known of a row: it is neither settled nor on its way to be."""
        return row not in self._accepted and not self._ledger.is_settled(row)

    def _claim_missing(self, rows: int) -> list[LocalIdx]:
        """Return the rows below ``rows`` of which nothing is known; what comes for them now is not wanted."""
        with self._lock:
            found = [row for row in map(LocalIdx, range(self._ledger.settled, rows)) if self._is_open(row)]
            self._accepted.update(found)
            return found

    def _note(self, item: _Saved | _Fate, pending: list[_Saved | _Fate]) -> None:
        """Give an item to the files; it counts when they are flushed."""
        try:
            if isinstance(item, _Saved):
                if self._refused_reason:
                    item = _Fate(item.row.row, FrameStatus.FAILED, self._refused_reason)
                else:
                    self._files.write((item.row,))
            if isinstance(item, _Fate) and not self._refused_reason:
                self._files.skip(item.row)
        except ReceiverError as error:
            self._fail_rows(pending, error)
            row = item.row.row if isinstance(item, _Saved) else item.row
            item = _Fate(row, FrameStatus.FAILED, str(error))
        pending.append(item)

    def _fail_rows(self, pending: list[_Saved | _Fate], error: ReceiverError) -> None:
        """Fail the share; rows that were written but not flushed have failed too."""
        self.fail(str(error))
        pending[:] = [
            _Fate(item.row.row, FrameStatus.FAILED, str(error)) if isinstance(item, _Saved) else item
            for item in pending
        ]

    def _commit(self, pending: list[_Saved | _Fate]) -> None:
        """Flush, and only then write down what became of the rows."""
        if not pending:
            return
        if not self._refused_reason:
            try:
                self._files.flush()
            except ReceiverError as error:
                self._fail_rows(pending, error)
        with self._lock:
            for item in pending:
                match item:
                    case _Saved():
                        self._settle(item.row.row, FrameStatus.SAVED, "")
                        self._scalars[item.row.row] = item.scalars
                        if len(self._scalars) > REMEMBERED_ROWS:
                            self._scalars.popitem(last=False)
                    case _Fate():
                        self._settle(item.row, item.status, item.reason)
            self._progressed = time.monotonic()
        pending.clear()

    def _settle(self, row: LocalIdx, status: FrameStatus, reason: str) -> None:
        self._accepted.discard(row)
        if not self._ledger.is_settled(row):
            self._ledger.settle(row, status, reason)

    def _close_files(self) -> None:
        with self._lock:
            rows = max(self._due, self._ledger.settled)
        try:
            self._files.close(rows)
        except ReceiverError as error:
            self.fail(str(error))
