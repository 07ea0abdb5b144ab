"""The main job, as a beamline does it: daemons, a bluesky fly scan, Tiled, and a look at what came out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import msgspec
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import RunEngineInterrupted, TransitionError  # pyright: ignore[reportPrivateImportUsage]
from ophyd_async.core import SignalR, StaticFilenameProvider, StaticPathProvider, init_devices
from rich.console import Console

from lima2_ophyd.detector import Lima2Detector
from lima2_ophyd.plans import lima2_fly
from lima2_ophyd.tiled.bus import DocumentSender
from lima2_ophyd.tiled.server import ServerPlace, server_argv, set_up_server
from lima2_ophyd.tiled.writer import writer_argv
from lima2_receivers.client import ConductorClient
from lima2_receivers.detectors.journal import latest_journal
from lima2_receivers.detectors.reader.params import ReaderParams
from lima2_receivers.detectors.reader.recording import find_recording
from lima2_receivers.detectors.simulator.params import SimulatorParams
from lima2_receivers.detectors.simulator.scene import beam_center
from lima2_receivers.errors import ReceiverError

from .check import CheckReport, CheckTask
from .live import LiveView
from .options import DemoOptions
from .site import DemoError, Site, spec_of

READY_SECONDS = 90.0  # for the daemons, the detector's frames and the Tiled server together
CHECK_SECONDS = 1800.0
DEFAULT_FRAMES = 40
EXPOSURE = 0.001  # seconds: faster than any CPU processes 4M frames, so that the rate is the system's
PREFIX = "demo"
ABORT_RETRY = 0.05  # seconds


class DemoResult(msgspec.Struct, frozen=True):
    """What ``lima2 demo --json`` prints."""

    frames_announced: int
    frames_saved: int
    frames_vetoed: int
    frames_lost: int
    frames_failed: int
    hits: int
    hit_rate: float
    peaks_found: int
    peaks_true: int | None
    tiled_readback_ok: bool
    seconds: float
    fps: float
    device: str
    master_file: str
    png: str

    @property
    def accounted(self) -> bool:
        """Whether every frame that was announced has a known fate."""
        settled = self.frames_saved + self.frames_vetoed + self.frames_lost + self.frames_failed
        return settled == self.frames_announced > 0

    @property
    def good(self) -> bool:
        """Whether every frame is accounted for, none failed, and all that was read back agrees."""
        return self.accounted and not self.frames_failed and self.tiled_readback_ok


class Demo:
    """One run of the main job on a site.

    :param site: whose context is entered.
    :param console: for people.
    """

    def __init__(self, site: Site, console: Console) -> None:
        self.site = site
        self.options = site.options
        self.console = console
        self.picture = site.output / "demo.png"
        self._frames = _frames(self.options)
        self._runs: list[str] = []
        self._tiled: ServerPlace | None = None
        self._report: CheckReport | None = None

    @property
    def tiled(self) -> ServerPlace:
        """The Tiled server."""
        if self._tiled is None:
            raise DemoError("the Tiled server was not started")
        return self._tiled

    @property
    def report(self) -> CheckReport:
        """What reading back through Tiled found."""
        if self._report is None:
            raise DemoError("nothing was checked yet")
        return self._report

    def start(self) -> None:
        """Start all processes and wait until they are ready."""
        site = self.site
        site.start_daemons()
        tiled = self._tiled = set_up_server(site.output / "tiled", [site.data])
        site.start("tiled", server_argv(tiled))
        site.start("tiled_writer", writer_argv(self._documents, tiled.uri, tiled.key_file, site.output / "documents"))
        with self.console.status("starting detector, conductor, receivers and Tiled ..."):
            asyncio.run(self._wait_for_daemons())
            site.wait_for("the Tiled server", lambda: _answers(tiled.uri), READY_SECONDS)

    def run(self) -> DemoResult:
        """Take frames by a bluesky fly scan, read them back, and return what came out."""
        engine = RunEngine(context_managers=[])  # no pausing: Ctrl-C ends the whole demo
        documents = DocumentSender(self._documents, self.site.output / "documents")
        documents.wait_ready(READY_SECONDS)
        engine.subscribe(documents)
        engine.subscribe(lambda _, start: self._runs.append(start["uid"]), "start")
        detector = self._make_detector()
        try:
            with LiveView(detector, self.console, self._frames) as view:
                uid = self._fly(engine, detector)
            documents.flush(READY_SECONDS)
            values = {one.name.removeprefix(f"{detector.name}-"): _value(one) for one in detector.ledger}
            device, master = str(_value(detector.opencl_device)), str(_value(detector.master_file))
        finally:
            documents.close()
            call_in_bluesky_event_loop(detector.disconnect())
        self._report = self._check(uid, detector.name, int(values["announced"]), Path(master))
        return DemoResult(
            frames_announced=int(values["announced"]),
            frames_saved=int(values["saved"]),
            frames_vetoed=int(values["vetoed"]),
            frames_lost=int(values["lost"]),
            frames_failed=int(values["failed"]),
            hits=int(values["hits"]),
            hit_rate=round(float(values["hit_rate"]), 4),
            peaks_found=self._report.peaks_found,
            peaks_true=self._report.peaks_true,
            tiled_readback_ok=not self._report.problems,
            seconds=round(view.seconds, 3),
            fps=round(int(values["announced"]) / view.seconds, 2) if view.seconds else 0.0,
            device=device,
            master_file=master,
            png=str(self.picture),
        )

    @property
    def _documents(self) -> str:
        return f"ipc://{self.site.sockets}/documents"

    def _fly(self, engine: RunEngine, detector: Lima2Detector) -> str:
        """Run the plan and return the run's uid; Ctrl-C aborts it, so that files are closed.

        :raises KeyboardInterrupt: it was aborted.
        """
        metadata = {"purpose": "lima2 demo", "sample": "simulated" if self.options.replay is None else "recorded"}
        over = threading.Event()

        def interrupt(*_: object) -> None:
            threading.Thread(target=_abort, args=(engine, over), name="abort", daemon=True).start()

        handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            engine(lima2_fly([detector], self._frames, exposure=EXPOSURE, md=metadata))
        except RunEngineInterrupted:
            raise KeyboardInterrupt from None
        finally:
            over.set()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._runs[-1]

    def _make_detector(self) -> Lima2Detector:
        provider = StaticPathProvider(StaticFilenameProvider(PREFIX), self.site.data)
        params = SimulatorParams if self.options.replay is None else ReaderParams
        with init_devices():
            detector = Lima2Detector(
                self.site.commands, self.site.state, provider, detector_params=params, name="jungfrau"
            )
        for name, value in self._parameters().items():
            _set(getattr(detector.pipeline, name), value)
        if self.options.loss:
            _set(detector.detector.loss, self.options.loss)
        if self.options.poni is not None:
            _set(detector.pipeline.poni.path, str(self.options.poni.resolve()))
        return detector

    def _parameters(self) -> dict[str, object]:
        """Return the pipeline's parameters that differ from their defaults."""
        pedestal, gain = self._calibration()
        found: dict[str, object] = {name: _files(paths) for name, paths in (("pedestal", pedestal), ("gain", gain))}
        layout = spec_of(self.options).layout
        center = self.options.center
        if center is None and self.options.replay is None and layout is not None:
            center = beam_center(layout)
        if center is not None:
            found["beam_center"] = list(center)
        return found

    def _calibration(self) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
        if self.options.replay is None:
            return (self.site.detector / "pedestal.npy",), (self.site.detector / "gain.npy",)
        recording = find_recording(self.options.replay)
        return recording.pedestals, recording.gains

    async def _wait_for_daemons(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            self.site.check()
            client = ConductorClient(self.site.commands, self.site.state, name="demo")
            try:
                await client.connect()
                await client.describe()
                if client.state and all(receiver.alive for receiver in client.state.receivers):
                    return
                error = "a receiver does not answer"
            except ReceiverError as failure:
                error = str(failure)
            finally:
                await client.close()
            if time.monotonic() > deadline:
                raise DemoError(f"not ready within {READY_SECONDS:g} s: {error}; see the logs in {self.site.logs}")
            await asyncio.sleep(0.1)

    def _check(self, uid: str, detector: str, announced: int, master: Path) -> CheckReport:
        """Compare all frames, in a process that knows nothing but Tiled's address and the detector's journal."""
        pedestal, gain = self._calibration()
        task = CheckTask(
            url=self.tiled.uri,
            run=uid,
            detector=detector,
            master=str(master),
            announced=announced,
            journal=str(latest_journal(self.site.detector)),
            spec=spec_of(self.options),
            pedestal=tuple(map(str, pedestal)),
            gain=tuple(map(str, gain)),
            has_spots=self.options.replay is None,
            recording=str(self.options.replay or ""),
            title=_title(self.options),
            picture=str(self.picture),
            report=str(self.site.output / "check.json"),
        )
        path = self.site.output / "check_task.json"
        path.write_bytes(msgspec.json.encode(task))
        process = subprocess.run(
            [sys.executable, "-m", "lima2_ophyd.demo.check", str(path)],
            env=os.environ | {"TILED_API_KEY": self.tiled.api_key},
            timeout=CHECK_SECONDS,
            check=False,
        )
        if not Path(task.report).exists():
            raise DemoError(f"reading back through Tiled ended with status {process.returncode}")
        return msgspec.json.decode(Path(task.report).read_bytes(), type=CheckReport)


def _abort(engine: RunEngine, over: threading.Event) -> None:
    """Abort the plan, also one that is only about to begin."""
    while not over.wait(ABORT_RETRY):
        with contextlib.suppress(TransitionError):
            engine.abort("interrupted by the user")
            return


def _frames(options: DemoOptions) -> int:
    """Return how many frames to take: all of a recording at most."""
    if options.replay is None:
        return options.frames or DEFAULT_FRAMES
    recorded = len(find_recording(options.replay).raw)
    return min(options.frames or recorded, recorded)


def _title(options: DemoOptions) -> str:
    what = (
        f"simulated Jungfrau {options.size}" if options.replay is None else f"recorded Jungfrau {options.replay.name}"
    )
    return f"lima2 demo: {what}, {options.receivers} receivers"


def _files(paths: tuple[Path, ...]) -> str:
    """Return calibration files as the JSON that a text signal takes."""
    return msgspec.json.encode([{"path": str(path.resolve())} for path in paths]).decode()


def _set(signal: object, value: object) -> None:
    call_in_bluesky_event_loop(_put(signal, value))


async def _put(signal, value: object) -> None:  # noqa: ANN001 - a soft signal of any type
    await signal.set(value)


def _value(signal: SignalR[Any]) -> Any:
    return call_in_bluesky_event_loop(signal.get_value())


def _answers(uri: str) -> bool:
    try:
        with urlopen(f"{uri}/healthz", timeout=2) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False
