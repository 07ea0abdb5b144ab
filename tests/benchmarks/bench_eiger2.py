"""An Eiger2's stream through a whole receiver: frames as they came to a file, and through smx.

- Saved as they came, against writing the same compressed chunks to a file one after the other, nothing else; both in
  frames a second. A process sends the messages as fast as they are taken.
- Through smx, the CPU that the receiver takes a frame over the sum of its stages, each measured alone on the same
  frames: receiving, parsing, unpacking, smx, compressing, writing; and how many frames a second came through.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import bench_receiver as whole
import figures
import frames
import h5py
import msgspec
import numpy as np
import zmq
from bench_smx import PARAMS

from lima2_processing.calibration import CalibrationFile
from lima2_processing.device import open_device
from lima2_processing.frame import FrameSpec
from lima2_processing.pipelines.smx_params import Veto
from lima2_receivers.detectors.eiger2 import packets
from lima2_receivers.detectors.eiger2.params import Eiger2Params
from lima2_receivers.detectors.eiger2.source import Eiger2Source
from lima2_receivers.messages import Announce, Done, PrepareReceiver, ReceiverPrepared
from lima2_receivers.packing import Packing, unpack
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, Compression, ReceiverPlan, SavingParams
from lima2_receivers.saving.codecs import creation_list
from lima2_receivers.source import PackedFrame
from lima2_receivers.transport.requests import Requester

SERIES = 1
SPEC = FrameSpec(frames.SHAPE, "<u2")
FLUSH = 32  # frames that are flushed together, as the receiver does


def messages(folder: Path) -> list[bytes]:
    """Return the message of each distinct image, made once."""
    path = folder / "images.npy"
    images = np.load(path) if path.exists() else np.stack([frames.eiger(seed) for seed in range(4)])
    if not path.exists():
        np.save(path, images)
    when = datetime.now(UTC)
    return [packets.image2(SERIES, at, {"threshold_1": image}, Packing.BSLZ4, when) for at, image in enumerate(images)]


def send(folder: str, endpoint: str, n_frames: int) -> None:
    """Send images, each under its own number, as fast as they are taken."""
    made = messages(Path(folder))
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.sndhwm = 4
    socket.bind(endpoint)
    key = b"\x68image_id"  # a CBOR text of 8 letters; the number follows, made as wide for all
    cuts = [message.index(key) + len(key) for message in made]
    for index in range(n_frames):
        message, cut = made[index % len(made)], cuts[index % len(made)]
        socket.send(message[:cut] + b"\x1a" + index.to_bytes(4, "big") + message[cut + 1 :], copy=False)
    socket.close(linger=60_000)
    zmq.Context.instance().term()


@contextlib.contextmanager
def sending(folder: Path, endpoint: str, n_frames: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that sends; it ends whatever happens here."""
    sender = subprocess.Popen([sys.executable, __file__, "--send", str(folder), endpoint, str(n_frames)])
    try:
        yield sender
        sender.wait(60)
    finally:
        sender.kill()
        sender.wait()


@contextlib.asynccontextmanager
async def receiver(folder: Path) -> AsyncIterator[tuple[subprocess.Popen[bytes], Requester]]:
    """Run a receiver daemon of an Eiger2."""
    (folder / "site.toml").write_text(
        f'[detector]\nplugin = "eiger2"\n[detector.settings]\nurl = "http://127.0.0.1:9"\n'
        f'[conductor]\ncommands = "ipc://{folder}/c"\nstate = "ipc://{folder}/s"\n[saving]\nroots = ["{folder}"]\n'
        f'[[receivers]]\ncommands = "ipc://{folder}/r"\ndata = "ipc://{folder}/d"\nbatch = {whole.BATCH}\n'
        f"ring = {{ slots = {whole.SLOTS}, slot_bytes = {SPEC.nbytes} }}\n"
    )
    script = Path(sys.executable).with_name("lima2-receiver")
    command = [script, folder / "site.toml", "--rank", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    requester = Requester(f"ipc://{folder}/r", "receiver", 30.0)
    requester.open()
    try:
        await requester.hello("benchmark")
        yield process, requester
    finally:
        await requester.close()
        process.terminate()
        process.wait(30)


async def run_together(folder: Path, plan: AcquisitionPlan, n_frames: int) -> tuple[float, float]:
    """Let a receiver take frames, and return milliseconds of its CPU a frame, and frames a second."""
    async with receiver(folder) as (process, requester):
        share = ReceiverPlan(0, 1, SERIES, SPEC, plan)
        await requester.request(PrepareReceiver(whole.ACQUISITION, share), ReceiverPrepared, whole.DEADLINE)
        with sending(folder, f"ipc://{folder}/d", n_frames):
            first = await whole.progress(requester, lambda report: report.counts.settled >= whole.BATCH)
            began, before = time.monotonic(), whole.cpu_of(process.pid)
            await requester.request(Announce(whole.ACQUISITION, n_frames), Done)
            last = await whole.progress(requester, lambda report: report.counts.settled >= n_frames)
            seconds, taken = time.monotonic() - began, whole.cpu_of(process.pid) - before
        if last.counts.saved != n_frames:
            raise SystemExit(f"{last.counts} {last.reason}")
        counted = n_frames - first.counts.settled
        return taken / counted * 1e3, counted / seconds


def write_alone(folder: Path, n_frames: int) -> float:
    """Return the chunks a second that are written to a file, nothing else."""
    chunks = [frame.channels[0].data for frame in parsed(folder)]
    with h5py.File(folder / "alone.h5", "w", libver="latest") as file:
        space = h5py.h5s.create_simple((0, *SPEC.shape), (h5py.h5s.UNLIMITED, *SPEC.shape))
        kind = h5py.h5t.py_create(np.dtype(SPEC.dtype), logical=True)
        plist = creation_list(Compression.BSHUF_LZ4, (1, *SPEC.shape))
        dataset = h5py.h5d.create(file.id, b"raw", kind, space, dcpl=plist)
        file.swmr_mode = True
        began = time.monotonic()
        for at in range(n_frames):
            dataset.set_extent((at + 1, *SPEC.shape))
            dataset.write_direct_chunk((at, 0, 0), chunks[at % len(chunks)])
            if at % FLUSH == FLUSH - 1:
                dataset.flush()
        seconds = time.monotonic() - began
    (folder / "alone.h5").unlink()
    return n_frames / seconds


def parsed(folder: Path) -> list[PackedFrame]:
    """Return the frames of all distinct messages."""
    source = Eiger2Source(Eiger2Params(), SPEC, SERIES)
    found = [source.receive([memoryview(message)])[0] for message in messages(folder)]
    return [frame for frame in found if isinstance(frame, PackedFrame)]


def front_alone(folder: Path) -> dict[str, float]:
    """Return the CPU of taking a frame off the socket, parsing and unpacking it, milliseconds each."""
    made, count = messages(folder), 64
    socket = zmq.Context.instance().socket(zmq.PULL)
    socket.rcvhwm = 2
    endpoint = f"ipc://{folder}/alone"
    socket.connect(endpoint)
    with sending(folder, endpoint, count):
        socket.recv()
        began = time.process_time()
        for _ in range(count - 1):
            socket.recv()
        receive = (time.process_time() - began) / (count - 1) * 1e3
    socket.close(linger=0)
    source = Eiger2Source(Eiger2Params(), SPEC, SERIES)
    parse = whole.cpu(lambda: [source.receive([memoryview(made[at % len(made)])]) for at in range(count)], count)
    packed, out = parsed(folder), np.empty(SPEC.shape, SPEC.dtype)
    unpacking = whole.cpu(lambda: [unpack(packed[at % len(packed)].channels[0], out) for at in range(count)], count)
    return {"receive": receive, "parse": parse, "unpack": unpacking}


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--send"]:
        send(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    options = figures.arguments(__doc__ or "")
    with open_device() as device:
        on = device.name
    rates: dict[str, list[float]] = {"through": [], "alone": []}
    with tempfile.TemporaryDirectory(prefix="lima2-bench-") as name:
        folder = Path(name)
        for turn in range(max(1, options.rounds // 2)):
            plain = AcquisitionPlan(SavingParams(str(folder), f"plain{turn}"), AcquisitionParams(0), None)
            rates["through"].append(asyncio.run(run_together(folder, plain, 400))[1])
            rates["alone"].append(write_alone(folder, 400))
            for path in folder.glob("plain*"):
                path.unlink()
        np.save(folder / "mask.npy", frames.eiger_mask())
        mask = CalibrationFile(str(folder / "mask.npy"))
        params = msgspec.structs.replace(PARAMS, mask=mask, dense_type="uint16", veto=Veto.OFF)
        images = list(np.load(folder / "images.npy"))
        job = whole.Job("uint16", SPEC, params, images, 40 * options.rounds)
        together, rate = asyncio.run(run_together(folder, job.plan(folder, "smx"), job.n_frames))
        stages = front_alone(folder) | {
            stage: taken for stage, taken in whole.stages_alone(job, folder, 0).items() if stage != "receive"
        }
    through, alone = (float(np.median(found)) for found in rates.values())
    ratio = through / alone
    text = ", ".join(f"{stage} {taken:.1f}" for stage, taken in stages.items())
    found = [
        figures.Figure(
            "saved as they came", through, "frames/s", f"direct chunks: {alone:.0f}", ratio, ">= 0.9", ratio >= 0.9, on
        ),
        figures.at_most("Stream2 to smx: CPU", together, (f"stages alone: {text}", sum(stages.values())), 1.15, on),
        figures.Figure("Stream2 to smx: rate", rate, "frames/s", "", rate, "", None, on),
    ]
    figures.report(found, options)


if __name__ == "__main__":
    main()
