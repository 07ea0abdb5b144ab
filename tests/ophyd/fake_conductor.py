"""A conductor that takes frames out of thin air and fails on request: two part files, a master over them."""

import asyncio
import itertools
import threading
import uuid
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import zmq
import zmq.asyncio

from lima2_processing.frame import FrameSpec, OutputKind, PipelineFacts
from lima2_receivers.acquisition import Acquisition, Event, State
from lima2_receivers.control import Capabilities, Range
from lima2_receivers.errors import StateError
from lima2_receivers.ledger import Counts
from lima2_receivers.messages import (
    AcquisitionClosed,
    Dataset,
    Deadlines,
    Describe,
    Description,
    Done,
    FateRuns,
    Finish,
    GetLedger,
    GetState,
    GetValues,
    Hello,
    LedgerReport,
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
from lima2_receivers.plan import TriggerMode
from lima2_receivers.published import AcquisitionState, DetectorState, ReceiverCounters, ReceiverState
from lima2_receivers.transport.requests import Responder

ROWS, COLUMNS = 16, 24
N_RECEIVERS = 2
MEASUREMENT = "/entry_0000/measurement"
DATASETS = (
    Dataset("dense", f"{MEASUREMENT}/data", OutputKind.IMAGE, "<f4", (ROWS, COLUMNS), 4, unit="photons"),
    Dataset("raw", f"{MEASUREMENT}/raw", OutputKind.IMAGE, "<u2", (2, ROWS // 2, COLUMNS), 4),
    Dataset("background", f"{MEASUREMENT}/background", OutputKind.PROFILE, "<f4", (5,), 64),
    Dataset("peaks", f"{MEASUREMENT}/peaks", OutputKind.TABLE, "<f4", (3, 4), 64),
    Dataset("n_peaks", f"{MEASUREMENT}/n_peaks", OutputKind.SCALAR, "<u4", (), 256, hinted=True),
    Dataset("is_hit", f"{MEASUREMENT}/is_hit", OutputKind.SCALAR, "|u1", (), 256, hinted=True),
    Dataset("frame_status", f"{MEASUREMENT}/frame_status", OutputKind.SCALAR, "|u1", (), 256),
)


def frame(index):
    """What every dataset has in the row of a frame, by name."""
    dense = np.full((ROWS, COLUMNS), index, np.float32)
    dense[0] = np.arange(COLUMNS)
    return {
        "dense": dense,
        "raw": dense.reshape(2, ROWS // 2, COLUMNS).astype(np.uint16),
        "background": np.arange(5, dtype=np.float32) + index,
        "peaks": np.full((3, 4), index, np.float32),
        "n_peaks": np.uint32(index % 7),
        "is_hit": np.uint8(index % 2),
        "frame_status": np.uint8(1),
    }


class _Files:
    """The files of one acquisition: frame i is row i // 2 of part i % 2."""

    def __init__(self, folder, prefix):
        self.master = folder / f"{prefix}_master.h5"
        self._parts = []
        names = [f"{prefix}_all_{rank}.h5" for rank in range(N_RECEIVERS)]
        for name in names:
            part = h5py.File(folder / name, "w", libver="latest")
            for dataset in DATASETS:
                shape = dataset.shape
                part.create_dataset(
                    dataset.name, (0, *shape), dataset.dtype, maxshape=(None, *shape), chunks=(1, *shape), fillvalue=255
                )
            part.swmr_mode = True
            self._parts.append(part)
        with h5py.File(self.master, "w", libver="latest") as master:
            for dataset in DATASETS:
                shape, dtype = dataset.shape, dataset.dtype
                layout = h5py.VirtualLayout((N_RECEIVERS, *shape), dtype, maxshape=(None, *shape))
                for rank, name in enumerate(names):
                    source = h5py.VirtualSource(name, dataset.name, (1, *shape), dtype, maxshape=(None, *shape))
                    layout[rank : h5py.h5s.UNLIMITED : N_RECEIVERS] = source[0 : h5py.h5s.UNLIMITED]
                master.create_virtual_dataset(dataset.path, layout, fillvalue=255)

    def write(self, index):
        part = self._parts[index % N_RECEIVERS]
        for name, value in frame(index).items():
            row = index // N_RECEIVERS
            part[name].resize(row + 1, axis=0)
            part[name][row] = value
        part.flush()

    def close(self):
        for part in self._parts:
            part.close()


class _Run:
    def __init__(self, acquisition, plan):
        self.id = acquisition
        self.plan = plan
        self.machine = Acquisition(acquisition)
        self.machine.handle(Event.READY)
        self.files = _Files(Path(plan.saving.base_path), plan.saving.filename_prefix)
        self.announced = 0
        self.written = 0
        self.exposures = []

    def state(self):
        half = self.written // 2
        parts = (ReceiverCounters(n, n, n // 2, Counts(saved=n)) for n in (self.written - half, half))
        return AcquisitionState(
            self.id,
            self.machine.state,
            self.machine.outcome,
            self.machine.reason,
            self.announced,
            "triggers",
            self.written,
            tuple(parts),
            str(self.files.master),
        )


class FakeConductor:
    """Runs in a thread of its own. Attributes are knobs that tests turn while it runs.

    :param folder: for the sockets.
    """

    def __init__(self, folder):
        self.commands = f"ipc://{folder}/commands"
        self.state = f"ipc://{folder}/state"
        self.log = []  # requests, in the order they came
        self.period = 0.002  # seconds a frame takes
        self.frames_left = None  # frames that are still delivered; None: all
        self.edges = threading.Event()  # external triggers come when it is set
        self.edges.set()
        self.silent = False
        self.detector = DetectorState.IDLE
        self.alive = True
        self.refuse = None  # error that the next prepare gets
        self.stop_error = None  # error that the next stop gets
        self.killed_by = {}  # request that is not answered, as another conductor takes over: whether it was carried out
        self.runs = {}
        self._instance = uuid.uuid4().hex
        self._sequence = itertools.count()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="fake conductor")
        self._thread.start()
        if not self._ready.wait(10):
            raise TimeoutError("the fake conductor did not start")

    # --- knobs that are calls; for the test's thread ---

    def close(self):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(10)

    def fail(self, reason):
        """The latest acquisition fails."""
        self._call(lambda: self._latest().machine.handle(Event.FAULT, reason))

    def restart(self):
        """A new instance that knows the same acquisitions."""
        self._call(lambda: setattr(self, "_instance", uuid.uuid4().hex))

    def restart_empty(self):
        """A new instance that knows nothing."""
        self.restart()
        self.forget()

    def forget(self):
        """The acquisitions vanish."""
        self._call(self.runs.clear)

    def stop_latest(self):
        """Somebody else stops the latest acquisition."""
        self._call(lambda: self._close(self._latest()))

    def requests(self, kind):
        return [request for request in self.log if isinstance(request, kind)]

    def latest(self):
        return self._latest()

    # --- in its own thread ---

    def _call(self, function):
        async def run():
            function()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def _latest(self):
        return list(self.runs.values())[-1]

    async def _main(self):
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        self._tasks = set()
        responder = Responder(self.commands, "commands", decode_conductor_request, self._handle)
        publisher = zmq.asyncio.Context.instance().socket(zmq.PUB)
        publisher.linger = 0
        publisher.bind(self.state)
        tasks = [asyncio.create_task(responder.serve()), asyncio.create_task(self._publish(publisher))]
        self._ready.set()
        await self._end.wait()
        for task in [*tasks, *self._tasks]:
            task.cancel()
        await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
        await responder.close()
        publisher.close(linger=0)
        for run in self.runs.values():
            run.files.close()

    async def _publish(self, publisher):
        while True:
            if not self.silent:
                await publisher.send(encode(self._system()))
            await asyncio.sleep(0.02)

    def _system(self):
        receivers = tuple(ReceiverState(rank, "ipc://x", self.alive, 0.0) for rank in range(N_RECEIVERS))
        states = tuple(run.state() for run in self.runs.values())
        return SystemState(self._instance, next(self._sequence), self.detector, "", receivers, states)

    async def _handle(self, request):
        self.log.append(request)
        while self.silent:  # noqa: ASYNC110 - another thread turns this knob
            await asyncio.sleep(0.05)
        carried_out = self.killed_by.pop(type(request), None)
        if carried_out is not None:
            self._instance = uuid.uuid4().hex
            if carried_out:
                await self._handle(request)
            await asyncio.Event().wait()
        match request:
            case Hello():
                return Welcome("conductor", self._instance, deadlines=Deadlines(30, 30))
            case Describe():
                spec = FrameSpec((2, ROWS // 2, COLUMNS), "<u2")
                modes = tuple(TriggerMode)
                model = Capabilities("fake", modes, Range(1e-6, 100), Range(0, 100), spec)
                return Description("fake", "bench", model, (), N_RECEIVERS, ("/",))
            case GetState():
                return self._system()
            case Prepare(acquisition, plan):
                return self._prepare(acquisition, plan)
            case GetValues(acquisition, index):
                values = frame(index)
                return Values(index, {name: float(values[name]) for name in ("n_peaks", "is_hit")})
            case GetLedger(acquisition):
                run = self._find(acquisition)
                state = run.state()
                runs = FateRuns((0,), (run.written,), (1,)) if run.written else FateRuns((), (), ())
                processed, hits = (
                    sum(getattr(part, name) for part in state.receivers) for name in ("processed", "hits")
                )
                return LedgerReport(acquisition, run.announced, "triggers", state.counts, {}, runs, processed, hits)
            case Start(acquisition):
                self._find(acquisition).machine.handle(Event.START)
                if self._find(acquisition).plan.acquisition.trigger_mode is not TriggerMode.SOFTWARE:
                    self._expose(self._find(acquisition), 1000)
                return Done()
            case Trigger(acquisition):
                run = self._find(acquisition)
                run.exposures.append((request.n_frames, request.expo_time, request.latency_time))
                self._expose(run, request.n_frames)
                return Done()
            case Finish(acquisition):
                self._find(acquisition).machine.handle(Event.ENDED)
                return Done()
            case Stop(acquisition):
                run = self._find(acquisition)
                self._close(run)
                if self.stop_error is not None:
                    error, self.stop_error = self.stop_error, None
                    raise error
                return AcquisitionClosed(run.state())

    def _prepare(self, acquisition, plan):
        if self.refuse is not None:
            error, self.refuse = self.refuse, None
            raise error
        run = self.runs[acquisition] = _Run(acquisition, plan)
        spec = FrameSpec((2, ROWS // 2, COLUMNS), "<u2")
        return Prepared(
            acquisition, str(run.files.master), "", DATASETS, spec, (PipelineFacts("fake"), PipelineFacts("fake"))
        )

    def _find(self, acquisition):
        if acquisition not in self.runs:
            raise StateError(f"there is no acquisition {acquisition}")
        return self.runs[acquisition]

    def _close(self, run):
        machine = run.machine
        if machine.state is State.CLOSED:
            return
        machine.handle(Event.STOP)
        if machine.state is State.STOPPING:
            machine.handle(Event.HALTED)
        if run.written == run.announced:
            machine.complete_anyway()
        run.announced = run.written
        machine.handle(Event.SETTLED)
        run.files.close()

    def _expose(self, run, n_frames):
        task = asyncio.create_task(self._take(run, n_frames))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, run, n_frames):
        run.announced += n_frames
        await asyncio.to_thread(self.edges.wait, 10)
        for _ in range(n_frames):
            await asyncio.sleep(self.period)
            if run.machine.state is not State.RUNNING or self.silent or self.frames_left == 0:
                return
            if self.frames_left is not None:
                self.frames_left -= 1
            with suppress(RuntimeError):
                run.files.write(run.written)
            run.written += 1
