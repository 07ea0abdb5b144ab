"""The conductor daemon's shell: clients' commands in, detector and receivers driven, state published."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import assert_never

import zmq
import zmq.asyncio

from lima2_processing.frame import AcquisitionId, FrameIdx

from ..acquisition import Event, Instruction, State
from ..config import Config, detector_settings
from ..control import Capabilities, DetectorStatus
from ..errors import ReceiverError, StateError, UnreachableError
from ..messages import (
    AcquisitionClosed,
    Announce,
    ConductorRequest,
    Describe,
    Done,
    Forget,
    GetRow,
    GetState,
    GetValues,
    Hello,
    Message,
    Prepare,
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
from ..plugins import DETECTORS
from ..topology import RoundRobin
from ..transport.endpoints import bind
from ..transport.requests import Responder
from .describe import describe, detector_state
from .links import ReceiverLink
from .prepare import prepare, resolve_plan
from .run import Run

log = logging.getLogger(__name__)

BUSY_POLL = 0.03  # seconds between polls while an acquisition lives
IDLE_POLL = 0.1
PUBLISH_PERIOD = 0.2
REMEMBERED_RUNS = 8  # closed acquisitions that stay in the published state


class ConductorDaemon:
    """One detector's conductor.

    :param config: of the detector's daemons.
    :raises ConfigError: an endpoint can't be bound, or a plugin is not there.
    """

    def __init__(self, config: Config) -> None:
        plugin = DETECTORS.get(config.detector.plugin)
        self._config = config
        self._instance = uuid.uuid4().hex
        self._sequence = 0
        self._runs: dict[AcquisitionId, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._preparing = asyncio.Lock()
        self._being_prepared = AcquisitionId("")
        self._capabilities: Capabilities | None = None
        self._fault = ""
        seconds = config.deadlines.command
        self._control = plugin.load_control()(detector_settings(config, plugin.settings), seconds)
        self._links = [ReceiverLink(rank, r.commands, seconds) for rank, r in enumerate(config.receivers)]
        self._responder = Responder(
            config.conductor.commands, "conductor.commands", decode_conductor_request, self._handle
        )
        self._publisher = zmq.asyncio.Context.instance().socket(zmq.PUB)
        self._publisher.linger = 0
        bind(self._publisher, config.conductor.state, "conductor.state")

    async def run(self) -> None:
        """Serve until cancelled; then stop the detector and close the ledgers."""
        for link in self._links:
            link.open()
        log.info(
            "conductor of %s is ready: commands at %s", self._config.detector.name, self._config.conductor.commands
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._responder.serve())
                tasks.create_task(self._publish())
                tasks.create_task(self._watch_detector())
                for link in self._links:
                    tasks.create_task(self._watch_receiver(link))
        finally:
            await self._shut_down()

    async def _shut_down(self) -> None:
        await self._responder.close()
        for run in self._live():
            log.warning("acquisition %s is closed before its end", run.id)
            run.machine.reason = run.machine.reason or "the conductor was shut down"
            try:
                await self._control.stop()
                await asyncio.to_thread(run.close)
            except ReceiverError as error:
                log.warning("%s: %s", run.id, error)
        await self._control.close()
        for link in self._links:
            await link.close()
        self._publisher.close(linger=0)

    # --- commands ---

    async def _handle(self, request: ConductorRequest) -> Message:
        match request:
            case Hello(peer=peer):
                log.info("client %s", peer)
                return Welcome(role="conductor", instance=self._instance)
            case Describe():
                return describe(self._config, await self._connect_detector())
            case Prepare():
                return await self._prepare(request)
            case Start(acquisition):
                return await self._start(self._find(acquisition))
            case Trigger():
                return await self._trigger(self._find(request.acquisition), request)
            case Stop(acquisition):
                if acquisition == self._being_prepared:
                    async with self._preparing:
                        pass  # what is half prepared can't be stopped; what is prepared can
                return await self._stop(self._find(acquisition))
            case GetState():
                return self._state()
            case GetValues(acquisition, frame):
                return await self._values(self._find(acquisition), frame)
            case _:
                assert_never(request)

    async def _prepare(self, request: Prepare) -> Message:
        async with self._preparing:
            self._being_prepared = request.acquisition
            for run in self._runs.values():
                if run.id == request.acquisition:
                    raise StateError(f"acquisition {run.id} is there already, {run.machine.state}")
                if run.machine.state not in (State.DRAINING, State.CLOSED):
                    raise StateError(
                        f"the detector is taken by acquisition {run.id}, which is {run.machine.state}: stop it first"
                    )
            capabilities = await self._connect_detector()
            plan = await asyncio.to_thread(resolve_plan, request.plan, capabilities, self._config)
            run = Run(request.acquisition, plan, time.time_ns(), RoundRobin(len(self._links)))
            run.prepared = await prepare(run, capabilities, self._control, self._links, self._config)
            run.machine.handle(Event.READY)
            self._runs[run.id] = run
            self._forget_old()
            self._changed.set()
            log.info("acquisition %s is prepared: %s", run.id, run.prepared.master_file)
            return run.prepared

    async def _start(self, run: Run) -> Message:
        self._perform(run, run.machine.handle(Event.START))
        try:
            await self._begin(run)
        except ReceiverError as error:
            self._fault_run(run, str(error))
            raise
        return Done()

    async def _begin(self, run: Run) -> None:
        acquisition = run.plan.acquisition
        if acquisition.trigger_mode is TriggerMode.INTERNAL:
            run.begin()
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
        room = run.room()
        if 0 <= room < n_frames:
            raise StateError(f"acquisition {run.id}: got a trigger of {n_frames} frames, expected at most {room}")
        latency = request.latency_time if request.latency_time >= 0 else acquisition.latency_time
        await self._control.trigger(n_frames, request.expo_time or acquisition.expo_time, latency)
        run.asked(n_frames)
        self._changed.set()
        return Done()

    async def _stop(self, run: Run) -> Message:
        self._perform(run, run.machine.handle(Event.STOP))
        deadline = time.monotonic() + 5 * self._config.deadlines.command
        while run.live:
            if time.monotonic() > deadline:
                raise UnreachableError(f"acquisition {run.id} is still {run.machine.state} after its stop")
            await asyncio.sleep(BUSY_POLL)
        return AcquisitionClosed(run.state())

    async def _values(self, run: Run, frame: int) -> Message:
        index = run.written - 1 if frame < 0 else frame
        if not 0 <= index < run.written:
            raise StateError(f"acquisition {run.id}: frame {frame} is not there, {run.written} frames are settled")
        rank, row = RoundRobin(len(self._links)).locate(FrameIdx(index))
        return await self._links[rank].ask(GetRow(run.id, row), Values)

    def _find(self, acquisition: AcquisitionId) -> Run:
        run = self._runs.get(acquisition)
        if run is None:
            raise StateError(f"there is no acquisition {acquisition}")
        return run

    # --- what the state machine asks for ---

    def _perform(self, run: Run, instructions: tuple[Instruction, ...]) -> None:
        """Carry out instructions, those that take time in a task of their own."""
        self._changed.set()
        for instruction in instructions:
            match instruction:
                case Instruction.BEGIN | Instruction.DISCARD:
                    pass  # start and prepare do these themselves, so that their caller gets the error
                case Instruction.HALT:
                    self._spawn(self._halt(run))
                case Instruction.DRAIN:
                    self._spawn(self._drain(run))
                case Instruction.CLOSE:
                    pass  # _drain closes: it has the files in hand
                case _:
                    assert_never(instruction)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fault_run(self, run: Run, reason: str) -> None:
        if run.live:
            log.error("acquisition %s: %s", run.id, reason)
            self._perform(run, run.machine.handle(Event.FAULT, reason))

    async def _halt(self, run: Run) -> None:
        status: DetectorStatus | None = None
        try:
            status = await self._control.stop()
        except ReceiverError as error:
            self._fault_run(run, f"the detector could not be stopped: {error}")
        run.conclude(status)
        self._perform(run, run.machine.handle(Event.HALTED))

    async def _drain(self, run: Run) -> None:
        """Announce the final number, wait until all is settled, close the ledger."""
        await self._announce(run, final=True)
        run.moved = time.monotonic()  # draining begins now, however long nothing has happened before
        while not run.drained():
            if time.monotonic() - run.moved > self._config.deadlines.stalled:
                for link in self._links:
                    run.bury(link.rank)
                self._fault_run(run, f"no progress for {self._config.deadlines.stalled:g} s while draining")
            await asyncio.sleep(BUSY_POLL)
        run.settle_dead()
        try:
            await asyncio.to_thread(run.close)
        except ReceiverError as error:
            run.machine.reason = run.machine.reason or str(error)
        run.machine.handle(Event.SETTLED)
        log.info("acquisition %s is closed, %s %s", run.id, run.machine.outcome, run.machine.reason)
        self._changed.set()
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

    # --- watching ---

    def _live(self) -> list[Run]:
        return [run for run in self._runs.values() if run.live]

    async def _watch_receiver(self, link: ReceiverLink) -> None:
        while True:
            runs = [run for run in self._live() if not run.is_buried(link.rank)]
            before = link.instance
            try:
                progress = await link.poll({run.id: run.cursors(link.rank) for run in runs})
            except ReceiverError as error:
                if link.alive:
                    log.warning("%s", error)
                link.alive = False
                for run in self._live():
                    self._lose(link, run, str(error))
            else:
                if before and link.instance != before:
                    for run in runs:
                        self._lose(link, run, f"receiver {link.rank} was restarted")
                for report in progress.acquisitions:
                    run = self._runs.get(report.acquisition)
                    if run is None:
                        continue
                    run.take(link.rank, report)
                    if run.unrecorded:  # also where nothing moved: frames may settle before their trigger is counted
                        await self._record(run)
                    if report.reason:
                        self._fault_run(run, f"receiver {link.rank}: {report.reason}")
            await asyncio.sleep(BUSY_POLL if self._live() else IDLE_POLL)

    def _lose(self, link: ReceiverLink, run: Run, why: str) -> None:
        run.bury(link.rank)
        self._fault_run(run, why)

    async def _record(self, run: Run) -> None:
        try:
            if run.live and await asyncio.to_thread(run.record):
                self._changed.set()
        except ReceiverError as error:
            self._fault_run(run, str(error))

    async def _watch_detector(self) -> None:
        while True:
            active = [run for run in self._live() if run.machine.state in (State.PREPARED, State.RUNNING)]
            try:
                if self._capabilities is None:
                    await self._connect_detector()
                status = await self._control.status()
            except ReceiverError as error:
                self._note_fault(str(error), connected=False)
                for run in active:
                    self._fault_run(run, str(error))
            else:
                self._note_fault(status.fault, connected=True)
                for run in active:
                    await self._follow(run, status)
            await asyncio.sleep(BUSY_POLL if active else IDLE_POLL)

    async def _follow(self, run: Run, status: DetectorStatus) -> None:
        if status.fault:
            self._fault_run(run, f"detector: {status.fault}")
            return
        run.observe(status)
        if run.machine.state is not State.RUNNING or not run.all_sent(status):
            return
        if run.exhausted():
            self._perform(run, run.machine.handle(Event.ENDED))
        elif run.told != run.announced:
            run.told = run.announced
            await self._announce(run, final=False)

    async def _connect_detector(self) -> Capabilities:
        capabilities = await self._control.connect()
        self._capabilities = capabilities
        return capabilities

    def _note_fault(self, fault: str, connected: bool) -> None:
        if fault != self._fault:
            log.log(logging.ERROR if fault else logging.INFO, "detector: %s", fault or "is well")
            self._fault = fault
            self._changed.set()
        if not connected:
            self._capabilities = None

    # --- publishing ---

    async def _publish(self) -> None:
        while True:
            try:
                async with asyncio.timeout(PUBLISH_PERIOD):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            await self._publisher.send(encode(self._state()))
            await asyncio.sleep(0.01)  # a burst of changes becomes one snapshot

    def _state(self) -> SystemState:
        self._sequence += 1
        return SystemState(
            instance=self._instance,
            sequence=self._sequence,
            detector=detector_state(
                self._capabilities is not None, self._fault, [run.machine.state for run in self._live()]
            ),
            fault=self._fault,
            receivers=tuple(link.state() for link in self._links),
            acquisitions=tuple(run.state() for run in self._runs.values()),
        )

    def _forget_old(self) -> None:
        closed = [run.id for run in self._runs.values() if not run.live]
        for acquisition in closed[:-REMEMBERED_RUNS]:
            del self._runs[acquisition]
