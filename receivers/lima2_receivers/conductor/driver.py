"""What moves acquisitions along: the state machines' instructions carried out, detector and receivers watched."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import assert_never

from lima2_processing.frame import AcquisitionId

from ..acquisition import Event, Instruction, State
from ..config import DeadlineConfig
from ..control import Capabilities, Control, DetectorStatus
from ..errors import ReceiverError, StateError, UnreachableError
from ..messages import Announce, Done, Forget, ReceiverProgress, Settle, SettledRows
from .links import ReceiverLink
from .run import Run

log = logging.getLogger(__name__)

BUSY_POLL = 0.03  # seconds between polls while an acquisition lives
STREAM_POLL = 0.15  # seconds likewise, from a receiver that had many frames to report
MANY_ROWS = 4  # of a report: these are many
RECORD_PERIOD = 0.1  # seconds at least from one write of many frames to the ledger file to the next
IDLE_POLL = 0.1
QUIET = 0.5  # seconds without a new frame after which a detector that was stopped counts as silent
REMEMBERED_RUNS = 8  # closed acquisitions that stay in the published state


class Driver:
    """The acquisitions of one conductor, and what happens to them.

    :param control: of the detector.
    :param links: to all receivers.
    :param deadlines: how long who waits for whom.
    """

    def __init__(self, control: Control, links: Sequence[ReceiverLink], deadlines: DeadlineConfig) -> None:
        self.runs: dict[AcquisitionId, Run] = {}
        self.changed = asyncio.Event()  # something is to be published
        self.capabilities: Capabilities | None = None  # None: the detector does not answer
        self.fault = ""  # what is wrong with the detector
        self.being_prepared = AcquisitionId("")
        self.ready = asyncio.Event()  # what another conductor left behind is taken over
        self.ready.set()
        self._control = control
        self._links = links
        self._deadlines = deadlines
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, run: Run) -> None:
        """Take a prepared acquisition; the oldest closed ones are forgotten."""
        self.runs[run.id] = run
        closed = [other.id for other in self.runs.values() if not other.live]
        for acquisition in closed[:-REMEMBERED_RUNS]:
            del self.runs[acquisition]
        self.changed.set()

    def live(self) -> list[Run]:
        """Return the acquisitions that are not closed."""
        return [run for run in self.runs.values() if run.live]

    async def connect_detector(self) -> Capabilities:
        """Connect to the detector (again) and return what it can do."""
        capabilities = await self._control.connect()
        self.capabilities = capabilities
        return capabilities

    # --- what the state machine asks for ---

    def handle(self, run: Run, event: Event, reason: str = "") -> None:
        """Tell an acquisition what happened; what follows from it is done by a task of its own.

        :raises StateError: that can't happen now.
        """
        self.carry_out(run, run.machine.handle(event, reason))

    def carry_out(self, run: Run, instructions: Iterable[Instruction]) -> None:
        """Do what an acquisition's state machine asks for, by tasks of their own."""
        self.changed.set()
        for instruction in instructions:
            match instruction:
                case Instruction.HALT:
                    self._spawn(self._halt(run))
                case Instruction.DRAIN:
                    self._spawn(self._drain(run))
                case _:
                    assert_never(instruction)

    def fail(self, run: Run, reason: str) -> None:
        """Fail an acquisition, unless it is closed."""
        if run.live:
            log.error("acquisition %s: %s", run.id, reason)
            self.handle(run, Event.FAULT, reason)

    def finish(self, run: Run) -> None:
        """Let an acquisition end by itself once the detector has sent all that was asked for, if that has an end.

        :raises StateError: it was not started.
        """
        if run.machine.state in (State.PREPARING, State.PREPARED):
            raise StateError(f"acquisition {run.id} is {run.machine.state}, finishing needs one that was started")
        if not run.finish():
            self.handle(run, Event.STOP)

    async def closed(self, run: Run) -> None:
        """Wait until an acquisition that was stopped is closed.

        :raises UnreachableError: it isn't within the deadline that ``deadlines.stop`` gives.
        """
        deadline = time.monotonic() + self._deadlines.stop
        while run.live:
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"acquisition {run.id} is still {run.machine.state} {self._deadlines.stop:g} s after its stop"
                )
            await asyncio.sleep(BUSY_POLL)

    async def shut_down(self) -> None:
        """End what lives: stop the detector, let receivers close their files. Needs the watchers."""
        runs = self.live()
        for run in runs:
            self.fail(run, "the conductor was shut down")
        for run in runs:
            try:
                await self.closed(run)
            except ReceiverError as error:
                log.warning("%s", error)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def note(self, run: Run) -> None:
        """Write down what another conductor would have to know; without it, an acquisition goes on all the same."""
        try:
            await asyncio.to_thread(run.write_down)
        except ReceiverError as error:
            log.warning("acquisition %s would not survive this conductor: %s", run.id, error)

    async def _halt(self, run: Run) -> None:
        await self.ready.wait()
        await self.note(run)  # before it is done: a conductor that is killed now has to do it again
        status: DetectorStatus | None = None
        try:
            status = await self._control.stop()
        except Exception as error:  # also a bug in a plugin must not leave it stopping for ever
            self.fail(run, f"the detector could not be stopped: {explain(error)}")
        if status is None or status.sent < 0:
            await self._quiet(run)
        run.conclude(status)
        self.handle(run, Event.HALTED)

    async def _quiet(self, run: Run) -> None:
        """Wait until no new frame has come for a moment: where the detector can't say how many it sent."""
        began = moved = time.monotonic()
        highest = run.highest
        while time.monotonic() - moved < QUIET and time.monotonic() - began < self._deadlines.drain:
            await asyncio.sleep(BUSY_POLL)
            if run.highest != highest:
                highest, moved = run.highest, time.monotonic()

    async def _drain(self, run: Run) -> None:
        """Announce the final number, wait until all is settled, close the ledger."""
        await self.ready.wait()
        await self.note(run)
        await self._announce(run, final=True)
        run.moved = time.monotonic()  # draining begins now, however long nothing has happened before
        while not run.drained():
            if run.overdue(self._deadlines.drain):
                await self._settle(run)
            if time.monotonic() - run.moved > self._deadlines.stalled:
                for link in self._links:
                    run.bury(link.rank)
                self.fail(run, f"no progress for {self._deadlines.stalled:g} s while draining")
            await asyncio.sleep(BUSY_POLL)
        run.settle_dead()
        try:
            await asyncio.to_thread(run.close)
        except Exception as error:  # also a bug must not leave it draining for ever
            run.machine.reason = run.machine.reason or explain(error)
        self.handle(run, Event.SETTLED)
        await self.note(run)  # before receivers forget it: nobody could go on with it then
        level = logging.ERROR if run.machine.reason else logging.INFO
        log.log(level, "acquisition %s is closed, %s %s", run.id, run.machine.outcome, run.machine.reason)
        if run.doubles:
            log.info("acquisition %s: %d frames came to two receivers, and count once", run.id, run.doubles)
        living = [link for link in self._links if not run.is_buried(link.rank)]
        await asyncio.gather(*(link.ask(Forget(run.id), Done) for link in living), return_exceptions=True)

    async def _announce(self, run: Run, final: bool) -> None:
        living = [link for link in self._links if not run.is_buried(link.rank)]
        replies = await asyncio.gather(
            *(link.ask(Announce(run.id, run.announced, final), Done) for link in living), return_exceptions=True
        )
        for link, reply in zip(living, replies, strict=True):
            if isinstance(reply, ReceiverError):
                self._lose(link, run, str(reply))

    async def _settle(self, run: Run) -> None:
        """Let receivers take no more of the frames that are announced, so that those that are missing can be lost."""
        n_frames, rows = run.announced, {}
        for link in [link for link in self._links if not run.is_buried(link.rank)]:
            try:
                rows[link.rank] = (await link.ask(Settle(run.id, n_frames), SettledRows)).rows
            except ReceiverError as error:
                self._lose(link, run, str(error))
        run.settle_below(n_frames, rows)

    # --- receivers ---

    async def watch_receiver(self, link: ReceiverLink) -> None:
        """Poll a receiver for ever."""
        while True:
            runs = [run for run in self.live() if not run.is_buried(link.rank)]
            before = link.instance
            try:
                progress = await link.poll(self._cursors(link, runs))
            except ReceiverError as error:
                if link.alive:
                    log.warning("%s", error)
                link.alive = False
                for run in runs:  # not those prepared since it was asked: it is back, or will be missed again
                    if run.live:
                        self._lose(link, run, str(error))
            else:
                known = {report.acquisition for report in progress.acquisitions}
                why = "was restarted" if before and link.instance != before else "does not know it: was it restarted?"
                for run in runs:
                    if run.live and run.id not in known:
                        self._lose(link, run, f"receiver {link.rank} {why}")
                await self._take(link, progress)
                rows = sum(run.count for report in progress.acquisitions for run in report.runs)
                if rows >= MANY_ROWS:  # nobody waits for a single frame
                    await asyncio.sleep(STREAM_POLL)
                    continue
            await asyncio.sleep(BUSY_POLL if self.live() else IDLE_POLL)

    def _cursors(self, link: ReceiverLink, runs: Sequence[Run]) -> dict[AcquisitionId, int]:
        cursors = {run.id: run.cursors(link.rank) for run in runs}
        if self.being_prepared:
            cursors.setdefault(self.being_prepared, 0)  # so that the receiver knows that somebody still wants it
        return cursors

    async def _take(self, link: ReceiverLink, progress: ReceiverProgress) -> None:
        for report in progress.acquisitions:
            run = self.runs.get(report.acquisition)
            if run is None:
                continue
            try:
                run.take(link.rank, report, full=not progress.free_slots)
                # Also where nothing moved: frames may settle before their trigger is counted.
                few = 0 < run.unrecorded < MANY_ROWS  # somebody may wait for them
                if few or (run.unrecorded and time.monotonic() - run.recorded >= RECORD_PERIOD):
                    await self._record(run)
            except Exception as error:  # also a bug in one acquisition must not end the watching of all
                self._lose(link, run, f"receiver {link.rank}: {explain(error)}")
            if report.reason:
                self.fail(run, f"receiver {link.rank}: {report.reason}")

    def _lose(self, link: ReceiverLink, run: Run, why: str) -> None:
        """Expect nothing more of a receiver, and fail an acquisition that can't do without it."""
        run.bury(link.rank)
        if run.goes_on():
            log.warning("acquisition %s goes on without receiver %d: %s", run.id, link.rank, why)
            self.changed.set()
        else:
            self.fail(run, why)

    async def _record(self, run: Run) -> None:
        try:
            if run.live and await asyncio.to_thread(run.record):
                self.changed.set()
        except ReceiverError as error:
            self.fail(run, str(error))

    # --- the detector ---

    async def watch_detector(self) -> None:
        """Poll the detector for ever."""
        await self.ready.wait()
        while True:
            active = [run for run in self.live() if run.machine.state in (State.PREPARED, State.RUNNING)]
            try:
                if self.capabilities is None:
                    await self.connect_detector()
                status = await self._control.status()
            except Exception as error:  # a bug in a plugin is a fault of its detector
                self._note_fault(explain(error))
                self.capabilities = None
                for run in active:
                    self.fail(run, self.fault)
            else:
                self._note_fault(status.fault)
                for run in active:
                    await self._follow(run, status)
            await asyncio.sleep(BUSY_POLL if active else IDLE_POLL)

    async def _follow(self, run: Run, status: DetectorStatus) -> None:
        if status.fault:
            self.fail(run, f"detector: {status.fault}")
            return
        run.observe(status)
        if run.machine.state is not State.RUNNING:
            return
        if overdue := run.trigger_overdue(time.monotonic()):
            self.fail(run, overdue)
            return
        if not run.all_sent(status):
            return
        if run.exhausted():
            self.handle(run, Event.ENDED)
        elif run.told != run.announced:
            run.told = run.announced
            await self._announce(run, final=False)
            run.moved = time.monotonic()  # patience begins now, however long nothing has happened before
        elif run.overdue(self._deadlines.drain):
            await self._settle(run)
            await self._record(run)

    def _note_fault(self, fault: str) -> None:
        if fault != self.fault:
            log.log(logging.ERROR if fault else logging.INFO, "detector: %s", fault or "is well")
            self.fault = fault
            self.changed.set()


def explain(error: Exception) -> str:
    """Return an error's text; one that nobody meant to raise is logged with its place."""
    if isinstance(error, ReceiverError):
        return str(error)
    log.error("internal error", exc_info=error)
    return f"internal error: {type(error).__name__}: {error}"
