"""The played detectors as real processes, with the receivers' sockets in the test."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zmq
import zmq.asyncio

from lima2_receivers.config import detector_settings, load_config
from lima2_receivers.detectors.journal import Journal, journal_path, read_journal
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, SavingParams
from lima2_receivers.plugins import DETECTORS, dispatch_of
from lima2_receivers.source import SeriesEnd

pytest.register_assert_rewrite(
    "lima2_receivers.testing", "lima2_receivers.testing_packets", "lima2_receivers.testing_transfers"
)

DEADLINE = 30.0
MODULE = (512, 1024)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a name short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="l2-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def recording(tmp_path_factory) -> Path:
    """Three raw frames, numbered 2, 9 and 10, with maps."""
    path = tmp_path_factory.mktemp("recording")
    random = np.random.default_rng(1)
    for number in (2, 9, 10):
        random.integers(0, 16384, MODULE, np.uint16).tofile(path / f"run_raw{number}.bin")
    for stage in range(3):
        np.full(MODULE, 100.0 * stage, np.float32).tofile(path / f"run_pedeG{stage}.bin")
        np.full(MODULE, 1.0 + stage, np.float32).tofile(path / f"run_gainG{stage}.bin")
    return path


@pytest.fixture
def plan() -> Callable[..., AcquisitionPlan]:
    """Makes a plan that asks a detector for frames."""

    def plan(nb_frames: int, **detector: object) -> AcquisitionPlan:
        return AcquisitionPlan(
            saving=SavingParams(base_path="/nowhere"),
            acquisition=AcquisitionParams(nb_frames=nb_frames),
            detector=msgspec.Raw(msgspec.msgpack.encode(detector)),
        )

    return plan


@dataclass
class Running:
    """A played detector's process, its control, and what it says."""

    config: Path
    folder: Path
    endpoints: tuple[str, ...]
    process: asyncio.subprocess.Process
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        loaded = load_config(self.config)
        self.plugin = DETECTORS.get(loaded.detector.plugin)
        self.control = self.plugin.load_control()(
            detector_settings(loaded, self.plugin.settings), self.endpoints, DEADLINE, dispatch_of(loaded)
        )

    async def until_logged(self, text: str) -> None:
        """Wait until the process says something."""
        async with asyncio.timeout(DEADLINE):
            while not any(text in line for line in self.log):
                line = await self.process.stderr.readline()
                assert line, f"it ended without saying {text!r}: {self.log}"
                self.log.append(line.decode())

    async def ready(self) -> Running:
        """Wait until the frames are made, and connect."""
        await self.until_logged("is ready")
        await self.control.connect()
        return self

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE):
            _, rest = await self.process.communicate()
        self.log += rest.decode().splitlines(keepends=True)
        return self.process.returncode

    def source(self, spec, series: int):
        """The receivers' parser of its stream."""
        return self.plugin.load_source()(self.plugin.params(), spec, series)

    def journal(self, series: int) -> Journal:
        """What it wrote down of a series."""
        return read_journal(journal_path(self.folder, series))


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    """Starts played detectors, with ``options`` by ``lima2 simulate``; all are ended with the test."""
    async with AsyncExitStack() as stack:

        async def start(
            name: str = "sim",
            receivers: int = 2,
            plugin: str = "simulator",
            options: tuple[str, ...] | None = None,
            **settings,
        ) -> Running:
            config, endpoints = write_config(folder, name, receivers, plugin, **settings)
            command = ("-m", "lima2_receivers.detectors.sender", str(config))
            if options is not None:
                run = "from lima2_receivers.cli import main; main()"
                command = ("-c", run, "simulate", plugin, str(config), *options)
            process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
            running = Running(config, folder / name, endpoints, process)

            async def reap() -> None:
                await running.control.close()
                if process.returncode is None:
                    process.kill()
                    await process.communicate()

            stack.push_async_callback(reap)
            return running

        yield start


def write_config(folder: Path, name: str, receivers: int, plugin: str, **settings) -> tuple[Path, tuple[str, ...]]:
    """Write a configuration, and return it with the endpoints of the receivers' data."""
    endpoints = tuple(f"ipc://{folder}/{name}-data{rank}" for rank in range(receivers))
    table = {"control": f"ipc://{folder}/{name}-control", "folder": str(folder / name)}
    if plugin == "simulator":
        table |= {"size": "tiny", "n_distinct": 4}
    table |= settings
    lines = ["[detector]", f'plugin = "{plugin}"', "[detector.settings]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    lines += ["[conductor]", f'commands = "ipc://{folder}/c"', f'state = "ipc://{folder}/s"']
    for rank, data in enumerate(endpoints):
        lines += ["[[receivers]]", f'commands = "ipc://{folder}/{name}-r{rank}"', f'data = "{data}"']
    lines += ["[saving]", f'roots = ["{folder}"]']
    path = folder / f"{name}.toml"
    path.write_text("\n".join(lines))
    return path, endpoints


@dataclass
class Pull:
    """A receiver's data socket."""

    socket: zmq.asyncio.Socket

    async def take(self, source):
        """Receive one message and parse it."""
        async with asyncio.timeout(DEADLINE):
            parts = await self.socket.recv_multipart()
        (item,) = source.receive([memoryview(part) for part in parts])
        return item

    async def until_end(self, source):
        """Receive frames until the end of the series; returns both."""
        frames = []
        while not isinstance(item := await self.take(source), SeriesEnd):
            frames.append(item)
        return frames, item


@pytest.fixture
async def bind_pull() -> AsyncIterator[Callable[[str], Pull]]:
    """Binds data sockets as receivers do."""
    context = zmq.asyncio.Context()
    sockets = []

    def bind(endpoint: str) -> Pull:
        socket = context.socket(zmq.PULL)
        socket.linger = 0
        socket.rcvhwm = 2
        sockets.append(socket)
        socket.bind(endpoint)
        return Pull(socket)

    yield bind
    for socket in sockets:
        socket.close(linger=0)
    context.term()
