"""What the conductor knows of one acquisition, put together from its receivers' reports."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import AcquisitionId, FrameIdx, LocalIdx, ReceiverIdx

from ..acquisition import Acquisition, Instruction, State
from ..control import DetectorStatus
from ..errors import ReceiverError, StateError
from ..ledger import FrameLedger, has_data
from ..ledger_parts import PartsLedger
from ..ledger_table import TableLedger
from ..messages import FrameLocation, LedgerReport, LocateFrame, Prepared, Progress
from ..plan import AcquisitionPlan, TriggerMode
from ..published import AcquisitionState, ReceiverCounters
from ..rollover import SavingMode
from ..saving.claim import Claim
from ..saving.master import MasterInfo
from ..saving.read import LedgerRows
from ..topology import NO_RECEIVER
from .journal import Closed, Facts, Made
from .journal_files import JournalFile
from .lookup import locate
from .marks import Marks
from .parts import Part
from .report import report_of, summary_of
from .run_files import RunFiles
from .settling import Settling


class Run:
    """One acquisition, as the conductor sees it. Does no I/O but for its files.

    :param acquisition: its id.
    :param plan: the whole plan.
    :param series: the number on its frames.
    :param ledger: of no frames yet.
    :param mode: how its files become readable.
    """

    def __init__(
        self,
        acquisition: AcquisitionId,
        plan: AcquisitionPlan,
        series: int,
        ledger: FrameLedger,
        mode: SavingMode = SavingMode.SWMR,
    ) -> None:
        self.id = acquisition
        self.plan = plan
        self.series = series
        self.machine = Acquisition(f"acquisition {acquisition}")
        self.prepared: Prepared | None = None
        self.announced = 0
        self.announced_by = "triggers"
        self.told = -1  # what the receivers were told is due
        self.written = 0
        self.moved = time.monotonic()  # when a counter last moved
        self.recorded = -math.inf  # when frames were last written to the ledger file
        self.replaces = False  # whether other receivers take over what a lost one had
        self._blocked = -math.inf  # when frames last may have waited before a receiver: its ring was full
        self._began = 0.0  # when it was started
        self._finished = False  # no more triggers come
        self._ledger = ledger
        self._settling = Settling(ledger) if isinstance(ledger, TableLedger) else None
        self._parts = tuple(Part() for _ in range(ledger.n_receivers))
        self._marks = Marks(ledger.n_receivers)
        self.files = RunFiles(plan.saving.file_exists_policy, mode)
        self.journal: JournalFile | None = None
        self._earlier: LedgerRows | None = None  # what a conductor that died had written
        self._inherited = 0  # frames of that
        self._noting = threading.Lock()
        self._writing = threading.RLock()  # reports of several receivers are recorded by several threads

    @property
    def live(self) -> bool:
        """Whether anything about it can still change."""
        return self.machine.state is not State.CLOSED

    @property
    def limit(self) -> int:
        """Frames that it takes at most; 0: until stopped."""
        return self.plan.acquisition.nb_frames

    @property
    def highest(self) -> int:
        """How many frames there are at least: the highest number that any receiver saw, and one."""
        return max(part.highest for part in self._parts) + 1

    def open_files(self, master: Path, ledger: Path) -> Claim:
        """Make the ledger file, and take the path of the master file; see ``RunFiles.open``. Blocks."""
        return self.files.open(master, ledger, self._ledger)

    def reopen_files(self, files: Sequence[Path], info: MasterInfo) -> None:
        """Go on with the files of a conductor that died; see ``RunFiles.reopen``. Blocks."""
        self.files.reopen(files, self._ledger, self._inherited, info)

    def keep_files(self) -> None:
        """Let files go that those of this acquisition replace. Blocks.

        :raises SavingError: one can't be removed.
        """
        with self._writing:
            self.files.keep()

    def cursors(self, rank: int) -> int:
        """Return the first row of a receiver whose fate is not known here."""
        return self._ledger.cursor(ReceiverIdx(rank))

    def room(self) -> int:
        """Return how many more frames triggers may ask for; -1: any number."""
        if self._finished:
            return 0
        return self.limit - self.announced if self.limit else -1

    def locate(self, request: LocateFrame, endpoints: Sequence[str]) -> FrameLocation:
        """Return where a frame is; see ``lookup.locate``."""
        if self.prepared is None:
            raise StateError(f"acquisition {self.id} is {self.machine.state}")
        return locate(request, self._ledger, self.written, self.prepared, endpoints)

    # --- what comes in ---

    def take(self, rank: int, progress: Progress, full: bool = False) -> None:
        """Take a receiver's report.

        :param full: there is no room in its ring, so that frames may wait before it.
        """
        part, receiver = self._parts[rank], ReceiverIdx(rank)
        known = self._ledger.cursor(receiver)
        before = (part.counters, part.closed, known)
        self._marks.extend(rank, progress, known)  # before the fates: another thread may record them at once
        self._ledger.extend(receiver, progress.first, progress.runs, np.frombuffer(progress.frames, "<u8").tolist())
        part.counters = ReceiverCounters(progress.received, progress.processed, progress.hits, progress.counts)
        part.closed = progress.state is State.CLOSED and not progress.more
        if full:
            self.wait()
        part.highest, part.held = progress.highest, progress.held
        if before != (part.counters, part.closed, self._ledger.cursor(receiver)):
            self.moved = time.monotonic()
        self._settle_reported()

    def bury(self, rank: int) -> None:
        """Expect nothing more of a receiver. What a conductor that died knew of it stays true."""
        part = self._parts[rank]
        if self._earlier is not None and not part.dead:
            self._ledger.recall(rank, self._earlier.statuses, self._earlier.places)
            self._marks.recall(rank, self._earlier.places, self._earlier.timestamps)
        part.dead = True

    def goes_on(self) -> bool:
        """Tell whether it can do without the receivers that are given up."""
        return self.replaces and not all(part.dead for part in self._parts)

    def wait(self) -> None:
        """Note that frames wait before the receivers: they are not lost yet."""
        self._blocked = time.monotonic()

    @property
    def doubles(self) -> int:
        """How many rows of receivers have a frame that another row has, too: it counts once."""
        return sum(self._ledger.doubles(ReceiverIdx(rank)).settled for rank in range(len(self._parts)))

    def is_buried(self, rank: int) -> bool:
        """Tell whether a receiver is given up for this acquisition."""
        return self._parts[rank].dead

    def observe(self, status: DetectorStatus) -> None:
        """Take the detector's own count: it decides where a trigger has no end, or where a signal triggers.

        Where it can't say, the highest frame that was seen does.
        """
        if status.series != self.series or self.announced_by == "triggers":
            return
        self.announced_by = "control" if status.sent >= 0 else "highest"
        self.announced = max(self.announced, status.sent if status.sent >= 0 else self.highest)

    def conclude(self, status: DetectorStatus | None) -> None:
        """Fix the number of announced frames when the detector was stopped.

        :param status: its final status; None: it did not say.
        """
        highest = self.highest
        if status is not None and status.series == self.series and status.sent >= 0:
            if status.sent != self.announced or self.announced_by == "control":
                self.announced, self.announced_by = status.sent, "control"
        elif highest != self.announced or self.announced_by != "triggers":
            self.announced, self.announced_by = highest, "highest"

    # --- what follows ---

    @property
    def unrecorded(self) -> int:
        """How many frames have settled that the ledger file does not hold yet."""
        return self._ledger.leading(self.announced) - self.written

    def all_sent(self, status: DetectorStatus) -> bool:
        """Tell whether the detector has sent everything that triggers asked for so far."""
        if status.series != self.series:
            return False
        if not self.announced:
            return self._finished and not status.busy
        if self.announced_by == "highest":  # frames that were seen were sent
            return self.exhausted() or not status.busy
        return not status.busy and status.sent >= self.announced

    def exhausted(self) -> bool:
        """Tell whether no trigger can ask for more."""
        return self._finished or (self.limit > 0 and self.announced >= self.limit)

    def drained(self) -> bool:
        """Tell whether every receiver that lives has closed its files, with everything reported."""
        if not all(part.dead or part.closed for part in self._parts):
            return False
        return any(part.dead for part in self._parts) or self._ledger.leading(self.announced) >= self.announced

    def settle_dead(self) -> None:
        """Write off what dead receivers never reported."""
        dead = [rank for rank, part in enumerate(self._parts) if part.dead]
        if dead:
            self._ledger.write_off(self.announced, dead)

    # --- frames that may be on any receiver ---

    def overdue(self, patience: float) -> bool:
        """Tell whether frames are missing that no receiver will get any more: they have to be settled by ``Settle``.

        :param patience: seconds without any movement after which what has not come is lost.
        """
        if self._settling is None or not self._settling.wanted(self.announced):
            return False
        if self._ledger.leading(self.announced) >= self.announced:
            return True
        parts = [part for part in self._parts if not part.dead]
        busy = any(part.counters.received > part.counters.counts.settled + part.held for part in parts)
        return not busy and time.monotonic() - max(self.moved, self._blocked) > patience

    def settle_below(self, n_frames: int, rows: dict[int, int]) -> None:
        """Note that receivers take no more frames below a number.

        :param rows: that each of them has, by rank; once they are reported, what is missing is lost.
        """
        if self._settling is not None:
            self._settling.begin(n_frames, rows)
            self._settle_reported()

    def _settle_reported(self) -> None:
        dead = [rank for rank, part in enumerate(self._parts) if part.dead]
        if self._settling is not None and self._settling.complete(dead):
            self.moved = time.monotonic()

    def record(self, now: bool = False) -> bool:
        """Append the frames that settled since the last call to the ledger file and count them. Blocks.

        :param now: True: also where the file was written a moment ago.
        :returns: True where there were any.
        :raises SavingError: the ledger file can't be written.
        """
        with self._writing:
            leading = self._ledger.leading(self.announced)
            if not self.files.writable or leading <= self.written or (self.files.resting and not now):
                return False
            self.files.append(
                self._ledger.statuses(self.written, leading),
                self._marks.timestamps(self._ledger.places(self.written, leading)),
                self._modules(self.written, leading),
            )
            self.written = leading
            self.recorded = time.monotonic()
            return True

    def close(self) -> None:
        """Decide the outcome's last detail and close the ledger file. Blocks.

        :raises SavingError: the ledger file can't be written.
        """
        counts = self._ledger.counts
        if counts.settled != self.announced:
            self.machine.reason = self.machine.reason or (
                f"the ledger does not add up: {counts.settled} frames settled, {self.announced} announced"
            )
        elif self.limit == 0:
            self.machine.complete_anyway()
        with self._writing:
            if not self.files.writable:
                return
            try:
                self.files.keep()
                self.record(now=True)
                there = has_data(self._ledger.statuses(0, self.written))
                rows = [self._ledger.cursor(ReceiverIdx(rank)) for rank in range(len(self._parts))]
                self.files.write_frames(self._ledger.places(0, self.written).only(there), rows)
                if self.written != self.announced:  # though the sums agree: a frame has two fates, another none
                    self.machine.reason = self.machine.reason or (
                        f"the ledger does not add up: {self.written} leading frames settled, {self.announced} announced"
                    )
            except ReceiverError as error:
                self.machine.reason = self.machine.reason or str(error)
                raise
            finally:
                self.files.close(summary_of(self.state(), counts, self.machine.forecast()))

    def discard(self) -> None:
        """Remove ledger and master file, and put back those that they were to replace. Blocks."""
        with self._writing:
            self.files.discard()

    def state(self) -> AcquisitionState:
        """Return what is published."""
        return AcquisitionState(
            acquisition=self.id,
            state=self.machine.state,
            outcome=self.machine.outcome,
            reason=self.machine.reason,
            announced=self.announced,
            announced_by=self.announced_by,
            written=max(self.written, self._inherited),
            receivers=tuple(self._counters(rank) for rank in range(len(self._parts))),
            master_file=self.prepared.master_file if self.prepared else "",
            reasons=self._ledger.reasons(),
            waiting=self.waiting,
            unplaced=self._ledger.unplaced,
            whole=self._ledger.counts if isinstance(self._ledger, PartsLedger) else None,
        )

    @property
    def waiting(self) -> bool:
        """Whether it was started, and no trigger has come yet."""
        internal = self.plan.acquisition.trigger_mode is TriggerMode.INTERNAL
        return self.machine.state is State.RUNNING and not (internal or self.announced or self.highest)

    def trigger_overdue(self, now: float) -> str:
        """Return why it is given up since no trigger came; empty: it isn't.

        :param now: monotonic seconds.
        """
        patience = self.plan.acquisition.first_trigger_timeout
        if not patience or not self.waiting or now - self._began <= patience:
            return ""
        return (
            f"no {self.plan.acquisition.trigger_mode} trigger came within {patience:g} s of the start "
            "(acquisition.first_trigger_timeout)"
        )

    def report(self) -> LedgerReport:
        """Return what became of all frames so far. Takes a while where there are many."""
        return report_of(self.state(), self._ledger.counts, self._ledger.statuses(0, self.written))

    def begin(self) -> None:
        """Note that it starts: in internal mode all frames are asked for, with a signal the detector counts them."""
        self._began = time.monotonic()
        mode = self.plan.acquisition.trigger_mode
        if mode is TriggerMode.INTERNAL:
            self.asked(self.limit)
        elif mode.by_signal:
            self.asked(0)

    def finish(self) -> bool:
        """Note that no more triggers come; False: it has no end then, and is to be stopped."""
        if self.announced_by == "triggers" and self.announced:
            self._finished = True
            return True
        return self.limit > 0 and self.plan.acquisition.trigger_mode is not TriggerMode.SOFTWARE

    def asked(self, n_frames: int) -> None:
        """Note that a trigger asked for frames.

        :param n_frames: 0: until stopped, so that the detector's own count decides.
        """
        self.announced += n_frames
        if n_frames == 0:
            self.announced_by = "control"

    def _counters(self, rank: int) -> ReceiverCounters:
        part, receiver = self._parts[rank], ReceiverIdx(rank)
        counts = self._ledger.part_counts(receiver) if part.dead else part.counters.counts
        return msgspec.structs.replace(part.counters, counts=counts - self._ledger.doubles(receiver))

    # --- what outlives the conductor ---

    def write_down(self) -> None:
        """Write down what another conductor would have to know. Blocks.

        :raises SavingError: the journal can't be written.
        """
        with self._noting:
            if self.journal is not None:
                self.journal.add(self.facts() if self.live else Closed(self.state(), self.report()))

    def facts(self) -> Facts:
        """Return what no receiver can tell."""
        now = self.machine
        return Facts(now.state, self.announced, self.announced_by, self._finished, now.stopped, now.reason)

    def resume(self, made: Made, facts: Facts, earlier: LedgerRows) -> tuple[Instruction, ...]:
        """Go on with an acquisition whose conductor died, and return what is to be done once more.

        :param earlier: what its ledger file says: that stays true.
        """
        self.prepared, self.series = made.prepared, made.series
        self.announced, self.announced_by = max(facts.announced, len(earlier.statuses)), facts.announced_by
        self._finished, self._began = facts.finished, time.monotonic()
        self._earlier, self._inherited = earlier, len(earlier.statuses)
        self._ledger.recall(NO_RECEIVER, earlier.statuses, earlier.places)
        return self.machine.resume(facts.state, facts.stopped, facts.reason)

    def adopt(self, status: DetectorStatus) -> None:
        """Take which triggers the detector got from the conductor that died: the last may not have reached it."""
        if self.machine.state is not State.RUNNING:
            return
        if self.announced_by == "triggers":
            self.announced = max(min(self.announced, status.triggered), self._inherited)
        begun = status.triggered > 0 or status.sent > 0 or status.busy
        if self.plan.acquisition.trigger_mode is TriggerMode.INTERNAL and not begun:
            self.announced, self.announced_by = 0, "triggers"
            self.machine.resume(State.PREPARED, self.machine.stopped, self.machine.reason)

    def _modules(self, first: int, last: int) -> NDArray[np.uint64]:
        """Return the bitmaps of the modules of frames ``first`` to ``last`` - 1 (n,)."""
        n_modules = self.prepared.frame_spec.n_modules if self.prepared else 1
        found = self._marks.modules(self._ledger, first, last, n_modules)
        if self._earlier is not None:
            known = self._earlier.modules[first:last]
            found[: len(known)] = known
        return found

    def place(self, frame: FrameIdx) -> tuple[ReceiverIdx, LocalIdx] | None:
        """Return which receiver and row hold a frame; None: no receiver has it."""
        return self._ledger.locate(frame)
