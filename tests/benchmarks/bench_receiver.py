"""A whole receiver: frames through a socket, smx, compression and files, against the CPU of its stages alone.

A receiver daemon runs as a process of its own; another process sends it 4M frames as fast as they are taken. Each stage
is then measured alone, on the same frames: receiving, smx, compressing, writing. The CPU that the receiver took a frame
over the sum of its stages says what running them together costs; the busy share, how much of the machine is put to use:
what sender and receiver took over that and what was idle. With other load on the machine it says little.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import figures
import frames
import msgspec
import numpy as np
import zmq
from bench_smx import JUNGFRAU, PARAMS
from numpy.typing import NDArray

from lima2_processing.calibration import CalibrationFile
from lima2_processing.device import open_device
from lima2_processing.frame import AcquisitionId, Frame, FrameSpec, LocalIdx
from lima2_processing.pipelines.smx import Smx
from lima2_processing.pipelines.smx_params import SmxParams, Veto
from lima2_receivers.detectors.stream import encode_end, encode_frame_header
from lima2_receivers.messages import Announce, Done, Poll, PrepareReceiver, Progress, ReceiverPrepared, ReceiverProgress
from lima2_receivers.plan import (
    AcquisitionParams,
    AcquisitionPlan,
    PipelineChoice,
    ReceiverPlan,
    SavingParams,
    StreamSaving,
    raw_output,
)
from lima2_receivers.receiver.calibration import load_calibration
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.saving.part import EncodedRow, PartFiles
from lima2_receivers.transport.requests import Requester

ACQUISITION = AcquisitionId("0" * 32)
BATCH = 4
SERIES = 1
DEADLINE = 120.0
POLL = 0.02  # seconds between looks; a conductor looks every 0.03
SLOTS = 16  # of the ring
TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Job:
    """What a receiver is to do.

    :param images: distinct frames, sent in turn.
    """

    name: str
    spec: FrameSpec
    params: SmxParams
    images: list[NDArray[np.generic]]
    n_frames: int

    def plan(self, folder: Path, prefix: str) -> AcquisitionPlan:
        """Return the plan: dense, sparse and results are saved."""
        return AcquisitionPlan(
            acquisition=AcquisitionParams(nb_frames=0),
            saving=SavingParams(str(folder), prefix, streams={"raw": StreamSaving(enabled=False)}),
            pipeline=PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode(self.params))),
        )


@dataclass
class Outcome:
    """What was measured of a job, milliseconds of CPU a frame and frames a second."""

    together: float = 0.0
    busy: float = 0.0
    rate: float = 0.0
    grown: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def figures(self, job: str, device: str) -> list[figures.Figure]:
        """Return what is reported."""
        alone = ", ".join(f"{stage} {value:.1f}" for stage, value in self.stages.items())
        stages = (f"stages alone: {alone}", sum(self.stages.values()))
        busy, grown = self.busy, self.grown
        return [
            figures.at_most(f"{job}: CPU", self.together, stages, 1.15, device),
            figures.Figure(f"{job}: busy", busy, "", "all cores", busy, ">= 0.9", busy >= 0.9, device),
            figures.Figure(f"{job}: rate", self.rate, "frames/s", "", self.rate, "", None, device),
            figures.Figure(f"{job}: memory", grown, "rings", "after prepare", grown, "<= 0.1", grown <= 0.1, device),
        ]


def jobs(folder: Path, n_frames: int) -> list[Job]:
    """Return the jobs, their calibration files written to a folder."""
    np.save(folder / "mask.npy", frames.eiger_mask())
    spec, raw, calibration = frames.jungfrau_4m()
    for name, data in calibration.items():
        np.save(folder / f"{name}.npy", data)
    counts = FrameSpec(frames.SHAPE, "<u2")
    images: list[NDArray[np.generic]] = [frames.eiger(seed) for seed in range(4)]
    eiger = msgspec.structs.replace(
        PARAMS, mask=CalibrationFile(str(folder / "mask.npy")), dense_type="uint16", veto=Veto.OFF
    )
    maps = {name: (CalibrationFile(str(folder / f"{name}.0.npy")),) for name in ("pedestal", "gain")}
    jungfrau = msgspec.structs.replace(JUNGFRAU, veto=Veto.OFF, **maps)
    plain = msgspec.structs.replace(eiger, veto=Veto.SPARSE_ONLY)
    return [
        Job("uint16, dense saved", counts, eiger, images, n_frames),
        Job("uint16, sparse only", counts, plain, images, n_frames),
        Job("Jungfrau raw, dense saved", spec, jungfrau, [raw], n_frames),
    ]


def cpu_of(pid: int) -> float:
    """Return the seconds of CPU that a process has taken."""
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(values[11]) + int(values[12])) * TICK


def idle() -> float:
    """Return the seconds that all cores have idled."""
    values = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(values[4]) + int(values[5])) * TICK


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def sending(job: Job, folder: Path, endpoint: str, n_frames: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that sends a job's frames, and the end. Whatever happens here, it ends."""
    np.save(folder / "images.npy", np.stack(job.images))
    arguments = [str(folder / "images.npy"), endpoint, str(n_frames), str(job.spec.all_modules)]
    sender = subprocess.Popen([sys.executable, __file__, "--send", *arguments])
    try:
        yield sender
        sender.wait(30)
    finally:
        sender.kill()
        sender.wait()


def send(path: str, endpoint: str, n_frames: int, modules: int) -> None:
    """Send frames, the images in turn, and the end."""
    images = np.load(path)
    spec = FrameSpec(images.shape[1:], images.dtype.str)
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.sndhwm = 2
    socket.connect(endpoint)
    for index in range(n_frames):
        socket.send(encode_frame_header(spec, SERIES, index, modules, time.time()), zmq.SNDMORE)
        socket.send(images[index % len(images)], copy=False)
    socket.send(encode_end(SERIES, n_frames))
    socket.close(linger=30_000)
    zmq.Context.instance().term()


@contextlib.asynccontextmanager
async def receiver(folder: Path, spec: FrameSpec) -> AsyncIterator[tuple[subprocess.Popen[bytes], Requester]]:
    """Run a receiver daemon."""
    config = folder / "site.toml"
    config.write_text(
        f'[detector]\nplugin = "simulator"\n[detector.settings]\ncontrol = "ipc://{folder}/none"\nfolder = "{folder}"\n'
        f'[conductor]\ncommands = "ipc://{folder}/c"\nstate = "ipc://{folder}/s"\n[saving]\nroots = ["{folder}"]\n'
        f'[[receivers]]\ncommands = "ipc://{folder}/r"\ndata = "ipc://{folder}/d"\nbatch = {BATCH}\n'
        f"ring = {{ slots = {SLOTS}, slot_bytes = {spec.nbytes} }}\n"
    )
    script = Path(sys.executable).with_name("lima2-receiver")
    process = subprocess.Popen([script, config, "--rank", "0"], stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    requester = Requester(f"ipc://{folder}/r", "receiver", 30.0)
    requester.open()
    try:
        await requester.hello("benchmark")
        yield process, requester
    finally:
        await requester.close()
        process.terminate()
        process.wait(30)


async def run_together(job: Job, folder: Path, number: int) -> Outcome:
    """Let a receiver work on a job, and return what it took, from its first frames on."""
    async with receiver(folder, job.spec) as (process, requester):
        share = ReceiverPlan(0, 1, SERIES, job.spec, job.plan(folder, f"run{number}"))
        await requester.request(PrepareReceiver(ACQUISITION, share), ReceiverPrepared, DEADLINE)
        memory = resident(process.pid)
        with sending(job, folder, f"ipc://{folder}/d", job.n_frames) as sender:
            first = await progress(requester, lambda report: report.counts.settled >= BATCH)
            began, before = time.monotonic(), (cpu_of(process.pid), cpu_of(sender.pid), idle())
            middle = await progress(requester, lambda report: report.received >= job.n_frames - BATCH)
            sent = cpu_of(sender.pid) - before[1]  # it is gone soon
            await progress(requester, lambda report: report.received >= job.n_frames, middle)
            await requester.request(Announce(ACQUISITION, job.n_frames, final=True), Done)
            last = await progress(requester, lambda report: report.counts.settled >= job.n_frames)
            taken, spare, seconds = cpu_of(process.pid) - before[0], idle() - before[2], time.monotonic() - began
        if last.counts.saved != job.n_frames:
            raise ValueError(f"{job.name}: {last.counts} {last.reason}")
        n_frames = job.n_frames - first.counts.settled
        return Outcome(
            together=taken / n_frames * 1e3,
            busy=(taken + sent) / (taken + sent + spare),
            rate=n_frames / seconds,
            grown=(resident(process.pid) - memory) / (SLOTS * job.spec.nbytes),
        )


async def progress(requester: Requester, until: Callable[[Progress], bool], latest: Progress | None = None) -> Progress:
    """Poll a receiver until it is so far."""
    deadline = time.monotonic() + DEADLINE
    while latest is None or not until(latest):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {DEADLINE:g} s: {latest}")
        await asyncio.sleep(POLL)
        latest = (await requester.request(Poll({ACQUISITION: 0}), ReceiverProgress)).acquisitions[0]
    return latest


def cpu(work: Callable[[], object], n_frames: int) -> float:
    """Return the milliseconds of CPU that a frame takes, all threads of this process counted."""
    work()
    began = time.process_time()
    work()
    return (time.process_time() - began) / n_frames * 1e3


def stages_alone(job: Job, folder: Path, number: int) -> dict[str, float]:
    """Return the CPU of each stage alone, milliseconds a frame."""
    files = load_calibration(job.params, (str(folder),))
    count = 8 * BATCH
    with open_device() as device:
        pipeline = Smx(job.params, job.spec, device, files, BATCH)
        batch = tuple(
            Frame(at, job.images[at % len(job.images)], job.spec.all_modules, 0.0)
            for at in range(BATCH)  # type: ignore[arg-type]
        )
        smx = cpu(lambda: [pipeline.process(batch) for _ in range(count // BATCH)], count)
        values = [dict(result.values) for result in pipeline.process(batch).frames]
        saving = job.plan(folder, f"alone{number}").saving
        parts = PartFiles(folder, 0, saving, (raw_output(job.spec), *pipeline.outputs()), pipeline.constants(), {})
        pipeline.close()

    def encode() -> list[dict[str, object]]:
        return [parts.encode(values[at % BATCH]) for at in range(count)]  # type: ignore[misc]

    compress = cpu(encode, count)
    encoded = encode()
    rows = iter(range(1_000_000))

    def write() -> None:
        for value in encoded:
            row = next(rows)
            parts.write((EncodedRow(LocalIdx(row), value),))  # type: ignore[arg-type]
            if row % BATCH == BATCH - 1:
                parts.flush()

    writing = cpu(write, count)
    parts.discard()
    return {"receive": receive_alone(job, folder, number), "smx": smx, "compress": compress, "write": writing}


def receive_alone(job: Job, folder: Path, number: int) -> float:
    """Return the CPU of taking a frame off the socket into a ring."""
    endpoint = f"ipc://{folder}/alone{number}"
    socket = zmq.Context.instance().socket(zmq.PULL)
    socket.rcvhwm = 2
    socket.bind(endpoint)
    ring = FrameRing(SLOTS, job.spec.nbytes)
    count = 64
    taken = 0.0
    with sending(job, folder, endpoint, count):
        for at in range(count):
            socket.recv()
            if at == BATCH:
                taken = time.process_time()
            slot = ring.take(1.0)
            if slot is not None:
                socket.recv_into(slot.memory)
                ring.give(slot)
        taken = time.process_time() - taken
        socket.recv()
    socket.close(linger=0)
    return taken / (count - BATCH) * 1e3


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--send"]:
        send(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
        return
    options = figures.arguments(__doc__ or "")
    found: list[figures.Figure] = []
    with tempfile.TemporaryDirectory(prefix="lima2-bench-") as name:
        folder = Path(name)
        with open_device() as device:
            on = device.name
        for number, job in enumerate(jobs(folder, 40 * options.rounds)):
            outcome = asyncio.run(run_together(job, folder, number))
            outcome.stages = stages_alone(job, folder, number)
            found += outcome.figures(job.name, on)
            for path in folder.glob("*.h5"):
                path.unlink()
    figures.report(found, options)


if __name__ == "__main__":
    main()
