"""Daemons of a simulated detector for benchmarks, and the CPU time that each takes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from lima2_processing.frame import AcquisitionId
from lima2_receivers.client import ConductorClient
from lima2_receivers.errors import DetectorError, UnreachableError
from lima2_receivers.plan import (
    AcquisitionParams,
    AcquisitionPlan,
    PipelineChoice,
    SavingParams,
    StreamSaving,
    TriggerMode,
)

TICK = 1 / os.sysconf("SC_CLK_TCK")
DEADLINE = 180.0
SCRIPTS = Path(sys.executable).parent
FRAME_BYTES = {"tiny": 64 * 128 * 2, "module": 2**20, "1m": 2 * 2**20, "4m": 8 * 2**20}


class Daemons:
    """The processes of one site, on sockets in a folder.

    :param folder: where everything goes; made.
    :param n_receivers: each with one OpenCL thread and one encoder.
    :param size: of the simulated detector.
    :param slots: of each receiver's ring.
    :param extra: more tables of the configuration; ``SOCKETS`` stands for the folder of its sockets.
    """

    def __init__(self, folder: Path, n_receivers: int, size: str, slots: int = 8, extra: str = "") -> None:
        self._folder = folder
        self._detector = folder / "detector"
        (folder / "data").mkdir(parents=True)
        (folder / "s").mkdir(mode=0o700)
        self._config = folder / "site.toml"
        ingest = "[ingest]" in extra
        receivers = "".join(
            f'[[receivers]]\ncommands = "ipc://{folder}/s/r{rank}"\n'
            + ("" if ingest else f'data = "ipc://{folder}/s/d{rank}"\n')
            + f"ring = {{ slots = {slots}, slot_bytes = {FRAME_BYTES[size]} }}\n"
            "opencl = { threads = 1 }\nencoders = 1\n"
            for rank in range(n_receivers)
        )
        extra = extra.replace("SOCKETS", f"ipc://{folder}/s")
        self._config.write_text(
            f'[detector]\nplugin = "simulator"\n[detector.settings]\ncontrol = "ipc://{folder}/s/sim"\n'
            f'folder = "{self._detector}"\nsize = "{size}"\nn_distinct = 4\n'
            f'[conductor]\ncommands = "ipc://{folder}/s/c"\nstate = "ipc://{folder}/s/s"\n'
            f'[saving]\nroots = ["{folder}/data"]\n[calibration]\nroots = ["{self._detector}"]\n{extra}\n{receivers}'
        )
        processes = ["detector", "conductor", *(["ingest"] if ingest else [])]
        self._names = [*processes, *(f"receiver {rank}" for rank in range(n_receivers))]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[ConductorClient]:
        """Start all processes, give a client when they are all there, and end them."""
        for name in self._names:
            self.start(name)
        client = ConductorClient(f"ipc://{self._folder}/s/c", f"ipc://{self._folder}/s/s", timeout=60)
        try:
            await client.connect()
            async with asyncio.timeout(DEADLINE):
                await self._until_there(client)
            yield client
        finally:
            await client.close()
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def start(self, name: str) -> None:
        """Start a process."""
        words = name.split()
        scripts = {"detector": "lima2-simulator", "conductor": "lima2-conductor", "ingest": "lima2-ingest"}
        script = scripts.get(name, "lima2-receiver")
        rank = ["--rank", words[1]] if words[1:] else []
        with (self._folder / f"{words[0]}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [SCRIPTS / script, self._config, *rank], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def _until_there(self, client: ConductorClient) -> None:
        while True:
            with contextlib.suppress(DetectorError, UnreachableError):  # its frames are still being made
                await client.describe()
                if client.state and all(receiver.alive for receiver in client.state.receivers):
                    return
            await asyncio.sleep(0.05)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process; one that is killed is reaped."""
        process = self._processes[name]
        process.send_signal(number)
        if number is signal.SIGKILL:
            process.wait()

    async def until_there(self, client: ConductorClient) -> None:
        """Wait until all parts are there (again)."""
        async with asyncio.timeout(DEADLINE):
            await self._until_there(client)

    def plan(self, nb_frames: int, period: float, smx: bool, mode: str = "internal") -> AcquisitionPlan:
        """Return a plan: with ``smx``, raw frames are not saved.

        :param period: seconds from frame to frame.
        """
        files = {name: [{"path": f"{self._detector}/{name}.npy"}] for name in ("pedestal", "gain")}
        params = msgspec.Raw(msgspec.msgpack.encode({**files, "min_nb_peaks": 3}))
        streams = {"raw": StreamSaving(enabled=False)} if smx else {}
        return AcquisitionPlan(
            saving=SavingParams(f"{self._folder}/data", uuid.uuid4().hex[:8], streams=streams),
            acquisition=AcquisitionParams(nb_frames, period, trigger_mode=TriggerMode(mode)),
            pipeline=PipelineChoice("smx", params) if smx else None,
        )

    def cpu(self, kind: str) -> float:
        """Return the CPU seconds so far of all processes whose name begins so."""
        return sum(_cpu(one.pid) for name, one in self._processes.items() if name.startswith(kind))


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def new_id() -> AcquisitionId:
    """Return the id of a new acquisition."""
    return AcquisitionId(uuid.uuid4().hex)


async def run(client: ConductorClient, plan: AcquisitionPlan) -> float:
    """Take the frames of a plan, and return the seconds that it took from the start to the end.

    :raises RuntimeError: not all of them were saved.
    """
    acquisition = new_id()
    await client.prepare(acquisition, plan)
    began = time.perf_counter()
    await client.start(acquisition)
    async with asyncio.timeout(DEADLINE):
        while True:
            state = client.state
            found = [one for one in state.acquisitions if one.acquisition == acquisition] if state else []
            if found and found[0].state == "closed":
                break
            await asyncio.sleep(0.02)
    if found[0].counts.saved != plan.acquisition.nb_frames:
        raise RuntimeError(f"saved {found[0].counts}, expected {plan.acquisition.nb_frames}: {found[0].reason}")
    return time.perf_counter() - began
