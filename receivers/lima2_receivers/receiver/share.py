"""One acquisition's share on one receiver: frames through the pipeline and the encoders into the files.

Frames move ``intake -> pipeline -> encoders -> writer``, each a thread or a few; a frame's ring slot goes along until
it is encoded, so that the ring bounds all of it.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from lima2_processing.errors import ProcessingError
from lima2_processing.failover import Failover
from lima2_processing.frame import (
    Accumulated,
    AcquisitionId,
    Frame,
    FrameIdx,
    FrameResult,
    LocalIdx,
    Output,
    OutputKind,
    Results,
)

from ..acquisition import Acquisition, Event, State
from ..errors import ProtocolError, ReceiverError
from ..ledger import FrameStatus
from ..messages import Progress
from ..plan import RAW_STREAM, Compression
from ..saving.remarks import RemarkFile
from ..saving.row_files import EncodedRow, RowFiles
from ..source import Item, PackedFrame, PacketSource, Remark, SeriesEnd, Source, TransferSource
from .book import Book, Fate
from .recent import RecentImages
from .ring import FrameRing, Slot
from .rows import Rows
from .scribe import Missing, Publish, Saving, SavingWindow, Scribe
from .unpacking import Ready, Taken, Unpacker

if TYPE_CHECKING:
    from .packets import Packets
    from .transfers import Transfers

log = logging.getLogger(__name__)

VETOED = "vetoed by the pipeline"
WAITING = 4  # encoded frames that may wait for the writer: they are no longer bounded by the ring


class Share:
    """One acquisition on this receiver.

    :param acquisition: its state machine.
    :param rows: which frames are this receiver's, and where they go.
    :param source: parses the data stream.
    :param pipeline: None: frames are saved as they came.
    :param outputs: all outputs, the raw frame's included.
    :param files: open, empty part files.
    :param ring: where frames wait.
    :param batch: frames that the pipeline is given together at most.
    :param encoders: threads that compress.
    :param flush_period: seconds between flushes at most.
    :param drain_timeout: seconds without any progress after which missing frames are lost.
    :param remarks: what the detector says beside its pixels goes there; None: nowhere.
    :param nb_frames: of the acquisition; 0: any number.
    """

    def __init__(
        self,
        acquisition: Acquisition,
        rows: Rows,
        source: Source[msgspec.Struct] | PacketSource | TransferSource,
        pipeline: Failover | None,
        outputs: Sequence[Output],
        files: RowFiles,
        ring: FrameRing,
        batch: int,
        encoders: int,
        flush_period: float,
        drain_timeout: float,
        remarks: RemarkFile | None = None,
        nb_frames: int = 0,
    ) -> None:
        self.acquisition = acquisition
        self.packets: Packets | Transfers | None = None  # what makes frames, where they don't come in messages
        self._rows = rows
        self._source = source
        self._pipeline = pipeline
        self._outputs = {output.name: output for output in outputs}
        self._files = files
        self._remarks = remarks
        self._nb_frames = nb_frames
        self._ring = ring
        self._batch = batch
        self._drain_timeout = drain_timeout
        self._lock = threading.Lock()  # of the state machine, and of the way into the pipeline
        self._closing = False
        self._flaws: dict[int, str] = {}  # of frames that miss packets and are saved all the same
        self._asked = time.monotonic()
        self._known = 0  # rows whose fates the conductor has
        self._blocked = -math.inf  # when the ring was last full: frames may wait before it
        self._book = Book(acquisition.name)
        self._recent = RecentImages(acquisition.name)
        self._scribe = Scribe(files, remarks, self._book, WAITING, flush_period, self.fail_by, self._recent.put)
        self._to_pipeline: queue.SimpleQueue[Taken | None] = queue.SimpleQueue()
        # Results that may wait for an encoder, so that they can't pile up beside the ring.
        self._waiting = threading.BoundedSemaphore(2 * encoders)
        self._pool = ThreadPoolExecutor(encoders, thread_name_prefix="encoder")
        passes = pipeline is None and files.takes_packed(RAW_STREAM)
        self._unpacker = Unpacker(source.spec, encoders, passes)
        self._thread = threading.Thread(target=self._guard, args=(self._run_pipeline,), name="pipeline", daemon=True)

    def start(self) -> None:
        """Start the threads: frames are welcome from now on."""
        self._thread.start()
        self._scribe.start()

    # --- called by the intake thread ---

    def parse(self, message: Sequence[memoryview]) -> list[Item]:
        """Parse a message of the data stream."""
        if not isinstance(self._source, Source):
            raise ProtocolError("got a message, expected packets or transfers")
        return self._source.receive(message)

    def accept(self, frame: Frame | PackedFrame, slot: Slot, flaw: str = "") -> bool:
        """Take a frame and its slot; False: it is not wanted: a duplicate, a straggler, another receiver's, incomplete.

        :param flaw: what is missing of it; empty: it is complete.
        """
        if isinstance(frame, Frame) and not flaw and frame.modules != self._source.spec.all_modules:
            flaw = "modules are missing"
        kept = flaw and isinstance(self._source, PacketSource) and self._source.keeps_partial
        modules = frame.modules if kept and isinstance(frame, Frame) else None
        row = self.claim(frame.index, frame.timestamp, "" if kept else flaw and f"incomplete: {flaw}", modules)
        if row is None:
            return False
        if kept:
            self._flaws[row] = f"partial: {flaw}"
        if self._enter(frame, slot):
            return True
        self._scribe.hand(Fate(row, FrameStatus.LOST, "arrived while the files were being closed"))
        return False

    def claim(self, index: FrameIdx, timestamp: float, lost: str, modules: int | None = None) -> LocalIdx | None:
        """Take the row of a frame; None: it is not wanted, or its fate is known already.

        :param lost: why it is lost; empty: it isn't.
        :param modules: bitmap of those that came; None: all did.
        """
        if 0 < self._nb_frames <= index:  # a broken number: it would have overtaken all that is still to come
            log.warning("%s: got frame %d of %d: it is dropped", self.acquisition.name, index, self._nb_frames)
            return None
        row = self._rows.claim(index)
        if row is None:
            return None
        overtaken = self._book.claim(row, index, timestamp, modules)
        if overtaken is None:
            return None
        for at in overtaken:
            self._scribe.hand(Fate(at, FrameStatus.LOST, "never arrived, later frames did"))
        if self._scribe.refused:
            self._scribe.hand(Fate(row, FrameStatus.FAILED, self._scribe.refused))
            return None
        if lost:
            self._scribe.hand(Fate(row, FrameStatus.LOST, lost))
            return None
        return row

    def recorded(self, index: FrameIdx) -> bool:
        """Tell whether the conductor knows what became of a frame, or nothing becomes of it here."""
        row = self._rows.find(index)
        return row is None or row < self._known

    def remark(self, remark: Remark) -> None:
        """Keep what the detector says beside its pixels."""
        self._scribe.hand(remark)

    def series_ended(self, end: SeriesEnd) -> None:
        """Note that nothing more will come from the detector."""
        self._book.end()
        log.debug("%s: detector sent all of %s frames", self.acquisition.name, end.n_frames)

    def _enter(self, frame: Frame | PackedFrame, slot: Slot) -> bool:
        """Queue a frame for the pipeline, unless its end mark is in the queue already."""
        with self._lock:
            if not self._closing:
                self._to_pipeline.put((frame, slot))
            return not self._closing

    # --- called by the daemon ---

    def announce(self, n_frames: int, final: bool) -> None:
        """Take the number of frames that the detector was told to send, and has sent.

        :param final: there will be no more; the share drains and closes.
        """
        self._book.expect(self._rows.due(n_frames, final))
        with self._lock:
            if final and self.acquisition.state is not State.DRAINING:
                self.acquisition.handle(Event.ENDED)

    def settle(self, n_frames: int) -> int:
        """Take no more frames below a number that have not come, and return how many rows there are."""
        rows = self._rows.settle(n_frames)
        self._book.expect(rows)
        return rows

    def fail(self, reason: str) -> None:
        """Fail the share: what is not saved yet is not saved any more, and says so."""
        with self._lock:
            if not self.acquisition.reason:
                log.error("%s: %s", self.acquisition.name, reason)
            self.acquisition.reason = self.acquisition.reason or reason
        self._scribe.refuse(reason)

    def tick(self) -> bool:
        """Decide what time decides: missing frames are lost. True: all is settled and the files are to be closed."""
        with self._lock:
            state = self.acquisition.state
        if state is State.CLOSED:
            return False
        draining = state is State.DRAINING
        if self._book.complete():
            if draining and self._rows.ended:
                return True
            if self._book.holds_all():
                self._scribe.hand_if_room(Publish())
            return False
        now = time.monotonic()
        if self.packets is None and not self._ring.free:
            self._blocked = now
        blocked = now - self._blocked <= self._drain_timeout
        if why := self._book.overdue(draining, math.inf if blocked else self._drain_timeout):
            self._scribe.hand_if_room(Missing(self._book.rows, why))
        return False

    def orphaned(self, since: float) -> bool:
        """Tell whether nobody has asked for its progress, and none of its frames has moved, since a time.

        :param since: monotonic seconds.
        """
        return self._asked < since and self._book.progressed < since

    def abandon(self, reason: str) -> None:
        """Fail the share and expect nothing more: ``close`` can follow at once."""
        self.fail(reason)
        with self._lock:
            if self.acquisition.state is not State.CLOSED:
                self.acquisition.handle(Event.ENDED)

    def close(self) -> None:
        """Finish what is under way, stop the threads and close the files. Blocks; idempotent."""
        self._finish()
        self._guard(self._files.keep)
        if self._remarks is not None:
            self._guard(self._remarks.keep)
        if self.packets is not None:
            self._guard(self.packets.keep)
        with self._lock:
            if self.acquisition.state is State.DRAINING:
                self.acquisition.handle(Event.SETTLED)

    def discard(self) -> None:
        """Stop the threads, remove the files and put back those that they were to replace. Blocks."""
        self._finish()
        self._files.discard()
        if self._remarks is not None:
            self._remarks.discard()
        if self.packets is not None:
            self.packets.discard()

    def _finish(self) -> None:
        self._book.close()
        if self.packets is not None:
            self._guard(self.packets.close)
        with self._lock:
            self._closing = True
            self._to_pipeline.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._unpacker.close()
        self._pool.shutdown(wait=True)
        self._guard(self._finish_windows)
        self._scribe.finish()
        self._recent.clear()
        if self._pipeline is not None:
            self._guard(self._pipeline.close)

    def progress(self, acquisition: AcquisitionId, first: int) -> Progress:
        """Return how far the share is.

        :param first: the first row that the asker does not know.
        """
        self._asked = time.monotonic()
        self._known = max(self._known, first)
        with self._lock:
            state, reason = self.acquisition.state, self.acquisition.reason
        found = self._book.progress(acquisition, state, reason, first)
        settled = first + sum(run.count for run in found.runs)
        return msgspec.structs.replace(found, frames=self._rows.table(first, settled))

    def frame_at(self, row: int) -> FrameIdx:
        """Return the frame in a row."""
        return self._rows.frame_at(LocalIdx(row))

    def scalars(self, row: int) -> dict[str, float]:
        """Return the scalars of a saved row; see ``Book.scalars``."""
        return self._book.scalars(LocalIdx(row))

    def image(self, row: LocalIdx, output: str) -> tuple[Compression, bytes]:
        """Return an encoded image that is still in memory; see ``RecentImages.get``."""
        return self._files.compression(output), self._recent.get(row, output)

    # --- threads ---

    def _guard(self, run: Callable[[], None]) -> None:
        """Run a thread's loop; what it raises fails the share instead of vanishing with the thread."""
        try:
            run()
        except Exception as error:
            self.fail_by(error)

    def fail_by(self, error: Exception) -> str:
        """Fail the share by an error, and return the reason."""
        if isinstance(error, ReceiverError | ProcessingError):
            reason = str(error)
        else:  # nobody meant to raise it
            reason = f"internal error: {type(error).__name__}: {error}"
            if not self.acquisition.reason:  # the first says enough
                log.error("%s: in thread %s", self.acquisition.name, threading.current_thread().name, exc_info=error)
        self.fail(reason)
        return reason

    def _run_pipeline(self) -> None:
        while (taken := self._next_batch()) is not None:
            batch = self._ready(taken)
            self._pass_on(batch, self._results_of(batch))
            taken.clear()  # nothing here may keep a batch, or what came of it, while the next one is worked on
            batch.clear()

    def _ready(self, taken: list[Taken]) -> list[Ready]:
        """Return a batch with its pixels unpacked, side by side; what can't be unpacked has failed."""
        ready: list[Ready] = []
        for (frame, slot), one in zip(taken, self._unpacker.ready(taken), strict=True):
            if isinstance(one, Ready):
                ready.append(one)
            else:
                self._ring.give(slot)
                self._settle_later(frame.index, FrameStatus.FAILED, f"its pixels can't be unpacked: {one}")
        return ready

    def _results_of(self, batch: list[Ready]) -> Results:
        """Return what the pipeline makes of a batch; nothing where it can't, and its frames have failed."""
        if self._pipeline is None:
            return Results(tuple(FrameResult(one.index, {}) for one in batch))
        if not batch:
            return Results(())
        try:
            return self._process(self._pipeline, tuple(one.frame for one in batch if one.frame is not None))
        except ProcessingError as error:
            self._fail_batch(batch, f"pipeline: {error}")
        except Exception as error:  # a bug in a pipeline must not take rows and slots with it
            self._fail_batch(batch, self.fail_by(error))
        return Results(())

    def _pass_on(self, batch: list[Ready], results: Results) -> None:
        """Let the encoders have what came of a batch."""
        for one, result in zip(batch, results.frames, strict=False):  # no results: they have failed
            self._waiting.acquire()
            self._pool.submit(self._guard, lambda o=one, r=result: self._save(o, r))
        for window in results.accumulated:
            self._pool.submit(self._guard, lambda w=window: self._encode_window(w))

    def _process(self, pipeline: Failover, frames: tuple[Frame, ...]) -> Results:
        processed = pipeline.process(frames)
        got = [result.index for result in processed.frames]
        if got != (expected := [frame.index for frame in frames]):
            raise ValueError(f"got results of frames {got}, expected {expected}")
        return processed

    def _fail_batch(self, batch: list[Ready], reason: str) -> None:
        for one in batch:
            self._ring.give(one.slot)
            self._settle_later(one.index, FrameStatus.FAILED, reason)

    def _next_batch(self) -> list[Taken] | None:
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

    def _finish_windows(self) -> None:
        if self._pipeline is not None:
            for window in self._pipeline.finish():
                self._encode_window(window)

    def _encode_window(self, window: Accumulated) -> None:
        values = self._files.encode(window.values, accumulated=True)
        self._scribe.hand(SavingWindow(EncodedRow(LocalIdx(window.window), values)))

    def _settle_later(self, index: FrameIdx, status: FrameStatus, reason: str) -> None:
        self._scribe.hand(Fate(self._rows.row_of(index), status, reason))

    def _save(self, one: Ready, result: FrameResult) -> None:
        try:
            self._encode(one, result)
        finally:
            self._waiting.release()  # only now is the result let go: handing it over may have to wait

    def _encode(self, one: Ready, result: FrameResult) -> None:
        row = self._rows.row_of(one.index)
        try:
            scalars = {
                name: float(np.asarray(value))
                for name, value in result.values.items()
                if self._outputs[name].kind is OutputKind.SCALAR
            }
            self._book.count_processed(bool(scalars.get("is_hit", 0)))
            values = self._files.encode({RAW_STREAM: one.raw, **result.values})
        except ReceiverError as error:
            self._settle_later(one.index, FrameStatus.FAILED, str(error))
            return
        except Exception as error:  # a bug must not take the row with it
            self._settle_later(one.index, FrameStatus.FAILED, self.fail_by(error))
            return
        finally:
            self._ring.give(one.slot)
        flaw = self._flaws.pop(row, "")
        self._scribe.hand(Saving(EncodedRow(row, values), scalars, result.vetoed, VETOED if result.vetoed else flaw))
