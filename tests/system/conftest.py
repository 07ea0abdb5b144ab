"""A site of real processes: simulated detector, conductor and receivers, started by their console scripts."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from lima2_processing.frame import AcquisitionId
from lima2_receivers.client import ConductorClient
from lima2_receivers.errors import DetectorError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, PipelineChoice, SavingParams, TriggerMode
from lima2_receivers.published import AcquisitionState

JUNGFRAU_ROWS = 64  # that are read out of a module, so that frames are small
FRAME_BYTES = 64 * 128 * 2  # of the tiny simulated detector
SECONDS = 20.0


class Site:
    """Starts and ends the processes of a site; each by its name: detector, conductor, receiver_0, ..."""

    def __init__(
        self,
        folder: Path,
        sockets: Path,
        n_receivers: int = 2,
        extra: str = "",
        settings: str = "",
        dispatch: str = "round_robin",
        ingest: str | None = None,
    ) -> None:
        self.folder = folder
        self.sockets = sockets
        self.n_receivers = n_receivers
        self.scripts = Path(sys.executable).parent
        self.data = folder / "data"
        self.data.mkdir()
        self.detector = folder / "detector"
        self.config = folder / "site.toml"
        self.ingest = ingest  # lines of its table; None: there is none
        receivers = "".join(
            f'[[receivers]]\ncommands = "ipc://{sockets}/r{rank}"\n'
            + (f'data = "ipc://{sockets}/d{rank}"\n' if ingest is None else "")
            + f"ring = {{ slots = 8, slot_bytes = {FRAME_BYTES} }}\n"
            for rank in range(n_receivers)
        )
        if ingest is not None:
            receivers = (
                f'[ingest]\ncommands = "ipc://{sockets}/i"\ndata = "ipc://{sockets}/d"\n'
                f'handover = "ipc://{sockets}/h"\n{ingest}\n{receivers}'
            )
        spread = f'dispatch = "{dispatch}"\n' if ingest is None else ""
        self.config.write_text(
            f'{spread}[detector]\nplugin = "simulator"\n[detector.settings]\ncontrol = "ipc://{sockets}/sim"\n'
            f'folder = "{self.detector}"\nsize = "tiny"\n{settings}\n'
            f'[conductor]\ncommands = "ipc://{sockets}/c"\nstate = "ipc://{sockets}/s"\n'
            f'[saving]\nroots = ["{self.data}"]\n[calibration]\nroots = ["{self.detector}"]\n{extra}\n{receivers}'
        )
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, *names: str) -> None:
        for name in names or self.names():
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    self.command(name), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
                )

    def names(self) -> list[str]:
        ingest = [] if self.ingest is None else ["ingest"]
        return ["detector", "conductor", *ingest, *(f"receiver_{rank}" for rank in range(self.n_receivers))]

    def command(self, name: str) -> list[str]:
        if name.startswith("receiver_"):
            return [str(self.scripts / "lima2-receiver"), str(self.config), "--rank", name.removeprefix("receiver_")]
        script = {"detector": "lima2-simulator", "conductor": "lima2-conductor", "ingest": "lima2-ingest"}[name]
        return [str(self.scripts / script), str(self.config)]

    def signal(self, name: str, number: signal.Signals) -> None:
        self.processes[name].send_signal(number)

    def end(self, name: str) -> int:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def close(self) -> None:
        for name in list(self.processes):
            self.end(name)

    def client(self, timeout: float = 10.0) -> ConductorClient:
        return ConductorClient(f"ipc://{self.sockets}/c", f"ipc://{self.sockets}/s", timeout=timeout)

    @contextlib.asynccontextmanager
    async def running(self, timeout: float = 10.0) -> AsyncIterator[ConductorClient]:
        """Start all processes, and give a client when they are all there."""
        self.start()
        client = self.client(timeout)
        await self.connect(client)
        try:
            yield client
        finally:
            await client.close()

    async def connect(self, client: ConductorClient) -> None:
        """Connect, and wait until all parts are there."""
        await client.connect()
        deadline = time.monotonic() + SECONDS
        while not (client.state and all(receiver.alive for receiver in client.state.receivers)):
            assert time.monotonic() < deadline, "receivers did not appear"
            await asyncio.sleep(0.02)
        await self.wait_for_detector(client)

    async def wait_for_detector(self, client: ConductorClient) -> None:
        """Wait until the detector has made its frames."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                await client.describe()
            except DetectorError:
                assert time.monotonic() < deadline, "the detector did not become ready"
                await asyncio.sleep(0.02)
            else:
                return

    def plan(
        self,
        prefix: str,
        nb_frames: int,
        mode: str = "internal",
        pipeline: bool = False,
        expo: float = 0.001,
        params: dict[str, object] | None = None,
        **detector,
    ) -> AcquisitionPlan:
        smx = {
            "pedestal": [{"path": str(self.detector / "pedestal.npy")}],
            "gain": [{"path": str(self.detector / "gain.npy")}],
            "min_nb_peaks": 3,
            **(params or {}),
        }
        return AcquisitionPlan(
            saving=SavingParams(base_path=str(self.data), filename_prefix=prefix),
            acquisition=AcquisitionParams(nb_frames=nb_frames, expo_time=expo, trigger_mode=TriggerMode(mode)),
            pipeline=PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode(smx))) if pipeline else None,
            detector=msgspec.Raw(msgspec.msgpack.encode(detector)),
        )


def new_id() -> AcquisitionId:
    return AcquisitionId(uuid.uuid4().hex)


def state_of(client: ConductorClient, acquisition: AcquisitionId) -> AcquisitionState:
    assert client.state is not None
    return next(found for found in client.state.acquisitions if found.acquisition == acquisition)


async def until(client, acquisition, condition, seconds: float = SECONDS) -> AcquisitionState:
    """Wait for a published state that fulfils a condition."""
    reached = asyncio.Event()

    def look(state) -> None:
        if any(one.acquisition == acquisition and condition(one) for one in state.acquisitions):
            reached.set()

    end = client.listen(look)
    try:
        async with asyncio.timeout(seconds):
            await reached.wait()
    finally:
        end()
    return state_of(client, acquisition)


@pytest.fixture(scope="session")
def site_type():
    """The class of a site, for tests that keep one for longer than a function."""
    return Site


@pytest.fixture
def make_site(tmp_path, sockets):
    sites = []

    def make(**options) -> Site:
        site = Site(tmp_path, sockets, **options)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()


def free_ports(count: int) -> int:
    """The first of so many UDP ports in a row that nobody has."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                held[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for each in held:
                each.close()


def free_tcp_ports(count: int) -> list[int]:
    """So many TCP ports on loopback that nobody has."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class KeyedSite(Site):
    """A site whose endpoints are TCP on loopback, with keys; its own client is the operator."""

    def __init__(self, folder: Path, sockets: Path, n_receivers: int = 2, extra: str = "") -> None:
        super().__init__(folder, sockets, n_receivers, extra)
        self.keys = folder / "keys"
        text = self.config.read_text()
        names = ["c", "s", *(f"{kind}{rank}" for kind in "rd" for rank in range(n_receivers))]
        self.endpoints = dict(zip(names, map("tcp://127.0.0.1:{}".format, free_tcp_ports(len(names))), strict=True))
        for name, endpoint in self.endpoints.items():
            text = text.replace(f'"ipc://{sockets}/{name}"', f'"{endpoint}"')
        self.config.write_text(f'{text}\n[security]\nkeys = "{self.keys}"\n')
        self.lima2("keys", "init", str(self.config))

    def lima2(self, *arguments: str, code: int = 0) -> str:
        """Run a command, and return what it says."""
        run = subprocess.run(
            [str(self.scripts / "lima2"), *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert run.returncode == code, run.stderr
        return run.stdout + run.stderr

    def add(self, name: str, role: str) -> Path:
        """Let somebody in, carry the keys away, and return the file of the private one."""
        said = self.lima2("keys", "add", str(self.config), name, "--role", role)
        folder = next(line.strip() for line in said.splitlines() if line.startswith("  /"))
        carried = Path(shutil.move(folder, self.folder / f"of_{name}"))
        return carried / f"{name}.key_secret"

    def client(self, timeout: float = 10.0, key: Path | None = None) -> ConductorClient:
        known = key or self.keys / "operator.key_secret"
        return ConductorClient(self.endpoints["c"], self.endpoints["s"], timeout=timeout, key=known)


@pytest.fixture
def make_keyed(tmp_path, sockets):
    sites = []

    def make(**options) -> KeyedSite:
        site = KeyedSite(tmp_path, sockets, **options)
        sites.append(site)
        return site

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def make_jungfrau(make_site):
    """Make a site whose receivers a simulated Jungfrau sends packets to: ``make_jungfrau(2, loss=0.1)``."""

    def make(n_receivers=1, modules=(1, 1), interfaces=1, dispatch="round_robin", **network):
        site = make_site(n_receivers=n_receivers)
        n_ports = modules[0] * modules[1] * interfaces
        first = free_ports(n_ports * n_receivers)
        _, rest = site.config.read_text().split("[conductor]")
        for rank in range(n_receivers):
            rest = rest.replace(f"ipc://{site.sockets}/d{rank}", f"udp://127.0.0.1:{first + rank * n_ports}")
        slot = JUNGFRAU_ROWS * 1024 * 2 * modules[0] * modules[1]
        rest = rest.replace(f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {slot}").replace("slots = 8", "slots = 32")
        site.config.write_text(
            f'dispatch = "{dispatch}"\n[detector]\nplugin = "jungfrau"\n[detector.settings]\ncontrol = "ipc://{site.sockets}/sim"\n'
            f'folder = "{site.detector}"\nmodules = {list(modules)}\ninterfaces = {interfaces}\n'
            f"receive_buffer = {2**22}\n[conductor]{rest}"
        )
        options = [text for name, value in {"frames": 4, **network}.items() for text in (f"--{name}", str(value))]
        command = site.command
        played = [str(site.scripts / "lima2"), "simulate", "jungfrau", str(site.config), *options]
        site.command = lambda name: played if name == "detector" else command(name)
        return site

    return make


def jungfrau_plan(site, nb_frames, mode=TriggerMode.INTERNAL, per_trigger=1, pipeline=None, expo=0.003, **detector):
    return AcquisitionPlan(
        saving=SavingParams(str(site.data), "run"),
        acquisition=AcquisitionParams(nb_frames, expo, 0.0, mode, per_trigger),
        pipeline=PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode(pipeline))) if pipeline is not None else None,
        detector=msgspec.Raw(msgspec.msgpack.encode({"read_rows": JUNGFRAU_ROWS, **detector})),
    )


def until_logged(site: Site, name: str, text: str) -> None:
    """Wait until a process has said something."""
    deadline = time.monotonic() + SECONDS
    while text not in site.log(name):
        assert time.monotonic() < deadline, site.log(name)
        time.sleep(0.02)


@pytest.fixture
def helpers():
    """Functions that test modules share."""
    functions = (new_id, until, until_logged, jungfrau_plan, free_tcp_ports)
    return type("Helpers", (), {each.__name__: staticmethod(each) for each in functions})
