"""The conductor daemon's shell: clients' commands in, acquisitions prepared and driven, state published."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from typing import assert_never

from lima2_processing.frame import AcquisitionId, FrameIdx

from ..acquisition import Event, Outcome, State
from ..cancellation import in_thread
from ..config import Config, detector_settings
from ..errors import ReceiverError, StateError
from ..ledgers import new_ledger
from ..messages import (
    AcquisitionClosed,
    ConductorRequest,
    Deadlines,
    Describe,
    Done,
    Finish,
    GetLedger,
    GetRow,
    GetState,
    GetValues,
    Hello,
    LocateFrame,
    Message,
    Prepare,
    Prepared,
    Start,
    Stop,
    SystemState,
    Trigger,
    Values,
    Welcome,
    decode_conductor_request,
    encode,
)
from ..plan import TriggerMode
from ..plugins import DETECTORS, check_streams, dispatch_of
from ..published import AcquisitionState
from ..security.guard import conductor_credentials, open_guard
from ..security.keys import CONDUCTOR, INGEST, receiver_name
from ..transport.publisher import Publisher
from ..transport.requests import Responder
from .describe import describe, detector_state
from .driver import Driver, explain
from .ingest import IngestLink
from .journal_files import JournalFile, JournalFolder, journal_folder
from .links import ReceiverLink
from .prepare import opening_of, prepare, resolve_plan
from .recovery import Recovery
from .run import Run
from .validate import check_trigger

log = logging.getLogger(__name__)

PUBLISH_PERIOD = 0.2
REMEMBERED_UNMADE = 64  # acquisitions that were never prepared


class ConductorDaemon:
    """One detector's conductor.

    :param config: of the detector's daemons.
    :raises ConfigError: an endpoint can't be bound, keys can't be used, or a plugin is not there.
    """

    def __init__(self, config: Config) -> None:
        plugin = DETECTORS.get(config.detector.plugin)
        check_streams(config)
        dispatch = dispatch_of(config)
        self._config = config
        self._instance = uuid.uuid4().hex
        self._sequence = 0
        self._preparing = asyncio.Lock()
        self._prepares: dict[AcquisitionId, asyncio.Task[Prepared]] = {}  # under way, or waiting for their turn
        self._unmade: dict[AcquisitionId, AcquisitionState] = {}  # whose prepare failed, or was stopped
        seconds = config.deadlines.command
        settings = detector_settings(config, plugin.settings)
        receivers = tuple(config.data_endpoints.values())
        self._control = plugin.load_control()(settings, receivers, seconds, dispatch)
        self._links = [
            ReceiverLink(rank, r.commands, seconds, conductor_credentials(config, receiver_name(rank)))
            for rank, r in enumerate(config.receivers)
        ]
        self._ingest: IngestLink | None = None
        if config.ingest is not None:
            self._ingest = IngestLink(config.ingest.commands, seconds, conductor_credentials(config, INGEST))
        self._driver = Driver(self._control, self._links, config.deadlines)
        self._journals = JournalFolder(journal_folder(config))
        self._recovery = Recovery(config, self._journals)
        self._guard = open_guard(config, CONDUCTOR)
        self._responder = Responder(
            config.conductor.commands, "conductor.commands", decode_conductor_request, self._handle, self._guard
        )
        self._publisher = Publisher(config.conductor.state, "conductor.state", self._guard)

    async def run(self) -> None:
        """Serve until cancelled; then stop the detector and let the receivers close their files."""
        for link in self._links:
            link.open()
        if self._ingest is not None:
            self._ingest.open()
        runs = await asyncio.to_thread(self._recovery.load)
        for run in runs:
            self._driver.add(run)
        self._driver.ready.clear()
        log.info(
            "conductor of %s is ready: commands at %s", self._config.detector.name, self._config.conductor.commands
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(self._responder.serve())
                tasks.create_task(self._take_over())
                tasks.create_task(self._publish())
                tasks.create_task(self._driver.watch_detector())
                for link in self._links:
                    tasks.create_task(self._driver.watch_receiver(link))
                if self._ingest is not None:
                    tasks.create_task(self._ingest.watch(self._links, self._driver.live, self._driver.fail))
                try:
                    await asyncio.Event().wait()  # for ever: a signal cancels it
                finally:
                    serving.cancel()  # no more commands
                    await asyncio.gather(serving, return_exceptions=True)
                    await self._give_up(*self._prepares)
                    await self._driver.shut_down()
        finally:
            await self._close()

    async def _take_over(self) -> None:
        try:
            undone = await self._recovery.take_over(self._driver, self._control, self._links)
        except Exception:  # a bug in it must not keep the conductor from anything else, at each start again
            log.exception("what another conductor left behind can't be taken over")
            undone = {}
        self._driver.ready.set()
        for acquisition, reason in undone.items():
            self._remember(acquisition, Outcome.FAILED, reason)

    async def _close(self) -> None:
        await self._responder.close()
        for run in self._driver.live():
            log.warning("acquisition %s is closed before its end", run.id)
            try:
                await asyncio.to_thread(run.close)
            except ReceiverError as error:
                log.warning("%s: %s", run.id, error)
        await self._control.close()
        for link in self._links:
            await link.close()
        if self._ingest is not None:
            await self._ingest.close()
        await self._publisher.close()
        if self._guard is not None:
            await self._guard.close()

    # --- commands ---

    async def _handle(self, request: ConductorRequest) -> Message:
        if not isinstance(request, Hello | Describe | GetState):
            await self._driver.ready.wait()  # what another conductor left behind may be what it is about
        match request:
            case Hello(peer=peer):
                log.info("client %.100r", peer)
                return Welcome(
                    role="conductor",
                    instance=self._instance,
                    deadlines=Deadlines(self._config.deadlines.whole_prepare, self._config.deadlines.stop),
                )
            case Describe():
                return describe(self._config, await self._driver.connect_detector())
            case Prepare():
                return await self._prepare(request)
            case Start(acquisition):
                return await self._start(self._find(acquisition))
            case Trigger():
                return await self._trigger(self._find(request.acquisition), request)
            case Finish(acquisition):
                run = self._find(acquisition)
                self._driver.finish(run)
                await self._driver.note(run)
                return Done()
            case Stop(acquisition):
                return await self._stop(acquisition)
            case GetState():
                return self._state()
            case GetValues(acquisition, frame):
                return await self._values(self._find(acquisition), frame)
            case GetLedger(acquisition):
                if (closed := self._recovery.closed.get(acquisition)) is not None:
                    return closed.report
                return await asyncio.to_thread(self._find(acquisition).report)
            case LocateFrame():
                endpoints = [receiver.commands for receiver in self._config.receivers]
                return self._find(request.acquisition).locate(request, endpoints)
            case _:
                assert_never(request)

    async def _prepare(self, request: Prepare) -> Message:
        acquisition = request.acquisition
        if acquisition in self._prepares:
            raise StateError(f"acquisition {acquisition} is being prepared already")
        work = asyncio.create_task(self._prepare_in_turn(request))
        work.add_done_callback(lambda done: self._note_unmade(acquisition, done))
        self._prepares[acquisition] = work
        try:
            await asyncio.wait({work})
        finally:
            del self._prepares[acquisition]
        if work.cancelled():
            raise StateError(f"acquisition {acquisition} was stopped while it was prepared")
        return work.result()

    def _note_unmade(self, acquisition: AcquisitionId, work: asyncio.Task[Prepared]) -> None:
        """Remember how an acquisition ended that never was one, for those who stop it now or once more."""
        error = None if work.cancelled() else work.exception()
        if not work.cancelled() and error is None:
            return
        outcome, reason = (Outcome.FAILED, str(error)) if error else (Outcome.STOPPED, "")
        self._remember(acquisition, outcome, reason)

    def _remember(self, acquisition: AcquisitionId, outcome: Outcome, reason: str) -> None:
        self._unmade[acquisition] = AcquisitionState(
            acquisition, State.CLOSED, outcome, reason, 0, "triggers", 0, receivers=()
        )
        for oldest in list(self._unmade)[:-REMEMBERED_UNMADE]:
            del self._unmade[oldest]

    async def _give_up(self, *acquisitions: AcquisitionId) -> None:
        """Cancel prepares, under way or waiting for their turn, and wait until they have undone what they made."""
        works = [self._prepares[acquisition] for acquisition in acquisitions]
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)

    async def _prepare_in_turn(self, request: Prepare) -> Prepared:
        async with self._preparing:
            self._driver.being_prepared = request.acquisition
            try:
                return await self._make_run(request)
            finally:
                self._driver.being_prepared = AcquisitionId("")

    async def _make_run(self, request: Prepare) -> Prepared:
        for run in self._driver.runs.values():
            if run.id == request.acquisition:
                raise StateError(f"acquisition {run.id} is there already, {run.machine.state}")
            if run.machine.state not in (State.DRAINING, State.CLOSED):
                raise StateError(
                    f"the detector is taken by acquisition {run.id}, which is {run.machine.state}: stop it first"
                )
        capabilities = await self._driver.connect_detector()
        plan = await asyncio.to_thread(resolve_plan, request.plan, capabilities, self._config)
        ledger = new_ledger(dispatch_of(self._config), len(self._links))
        run = Run(request.acquisition, plan, time.time_ns(), ledger, self._config.saving.mode)
        opening = await asyncio.to_thread(opening_of, run, self._config)
        journal = await in_thread(lambda: self._journals.open(opening), undo=JournalFile.remove)
        run.journal = journal
        try:
            run.prepared = await prepare(run, capabilities, self._control, self._links, self._config, self._ingest)
        except BaseException:
            await in_thread(journal.remove)
            raise
        run.machine.handle(Event.READY)
        self._driver.add(run)
        log.info("acquisition %s is prepared: %s", run.id, run.prepared.master_file)
        for rank, facts in enumerate(run.prepared.pipelines):
            if facts.device:
                pixels = ", ".join(f"{n} pixels {what}" for what, n in facts.pixels.items())
                log.info("receiver %d: %.0f MiB on %s; %s", rank, facts.device_bytes / 2**20, facts.device, pixels)
        return run.prepared

    async def _start(self, run: Run) -> Message:
        self._driver.handle(run, Event.START)
        try:
            await asyncio.to_thread(run.keep_files)
            await self._begin(run)
        except Exception as error:
            if run.machine.state is State.RUNNING:  # and not stopped meanwhile, which is no failure
                self._driver.fail(run, explain(error))
            raise
        return Done()

    async def _begin(self, run: Run) -> None:
        self._require_running(run, "start")
        acquisition = run.plan.acquisition
        run.begin()
        await self._driver.note(run)  # before the detector is told: another conductor has to know
        self._require_running(run, "start")
        if acquisition.trigger_mode is not TriggerMode.SOFTWARE:
            await self._control.trigger(run.limit, acquisition.expo_time, acquisition.latency_time)

    async def _trigger(self, run: Run, request: Trigger) -> Message:
        acquisition = run.plan.acquisition
        if acquisition.trigger_mode is not TriggerMode.SOFTWARE:
            raise StateError(
                f"acquisition {run.id} is in {acquisition.trigger_mode} mode, a trigger needs software mode"
            )
        if run.machine.state is not State.RUNNING:
            raise StateError(f"acquisition {run.id} is {run.machine.state}, a trigger needs a running one")
        n_frames = request.n_frames or acquisition.nb_frames_per_trigger
        expo_time = request.expo_time or acquisition.expo_time
        latency_time = acquisition.latency_time if request.latency_time < 0 else request.latency_time
        check_trigger(n_frames, expo_time, latency_time, run.room(), self._driver.capabilities)
        run.asked(n_frames)  # before it is, so that two at once can't both take the last frames
        try:
            await self._driver.note(run)  # before the detector is told: another conductor has to know
            self._require_running(run, "trigger")
            await self._control.trigger(n_frames, expo_time, latency_time)
        except BaseException:
            if run.machine.state is State.RUNNING:  # else the stop has fixed, or will fix, what was asked for
                run.asked(-n_frames)
                await self._driver.note(run)
            raise
        self._driver.changed.set()
        return Done()

    def _require_running(self, run: Run, command: str) -> None:
        if run.machine.state is not State.RUNNING:
            raise StateError(f"acquisition {run.id} was stopped as its {command} came")

    async def _stop(self, acquisition: AcquisitionId) -> Message:
        if acquisition in self._prepares:
            await self._give_up(acquisition)
        if acquisition not in self._driver.runs and (unmade := self._unmade.get(acquisition)) is not None:
            return AcquisitionClosed(unmade)
        if (closed := self._recovery.closed.get(acquisition)) is not None:
            return AcquisitionClosed(closed.final)
        run = self._find(acquisition)
        self._driver.handle(run, Event.STOP)
        await self._driver.closed(run)
        return AcquisitionClosed(run.state())

    async def _values(self, run: Run, frame: int) -> Message:
        index = run.written - 1 if frame < 0 else frame
        if not 0 <= index < run.written:
            raise StateError(f"acquisition {run.id}: frame {frame} is not there, {run.written} frames are settled")
        place = run.place(FrameIdx(index))
        if place is None:  # no receiver has it: it was lost
            return Values(index, {})
        found = await self._links[place[0]].ask(GetRow(run.id, place[1]), Values)
        return Values(index, found.values)

    def _find(self, acquisition: AcquisitionId) -> Run:
        run = self._driver.runs.get(acquisition)
        if run is None:
            raise StateError(f"there is no acquisition {acquisition}")
        return run

    # --- publishing ---

    async def _publish(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PUBLISH_PERIOD):
                    await self._driver.changed.wait()
            except TimeoutError:
                pass
            self._driver.changed.clear()
            await self._publisher.send(encode(self._state()))
            await asyncio.sleep(0.01)  # a burst of changes becomes one snapshot

    def _state(self) -> SystemState:
        self._sequence += 1
        return SystemState(
            instance=self._instance,
            sequence=self._sequence,
            detector=detector_state(
                self._driver.capabilities is not None,
                self._driver.fault,
                [run.machine.state for run in self._driver.live()],
            ),
            fault=self._driver.fault,
            receivers=tuple(link.state() for link in self._links),
            acquisitions=(
                *(closed.final for closed in self._recovery.closed.values()),
                *(run.state() for run in self._driver.runs.values()),
            ),
            ingest=self._ingest.state() if self._ingest is not None else None,
        )
