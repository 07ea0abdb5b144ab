"""What several receivers cost: a second prepare, CPU a frame over 1, 2 and 4 receivers, the conductor, the ledger.

Real daemons with a simulated detector. Receivers have one OpenCL thread each. The CPU a frame is that of all receivers
at one total rate, at about 30 % load, in turns; that of the conductor at 2000 small frames a second over 8 receivers,
as far as this machine sends them. The ledger, and what SWMR and results need of the files, are measured alone, against
smx on 4M frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import figures
import frames
import numpy as np
from bench_smx import PARAMS
from daemons import Daemons, new_id, run
from rich.console import Console

from lima2_processing.device import open_device
from lima2_processing.frame import Frame, FrameIdx, FrameSpec, LocalIdx, Output
from lima2_processing.pipelines.smx import Smx
from lima2_receivers.acquisition import State
from lima2_receivers.conductor.run import Run as ConductorRun
from lima2_receivers.ledger import FrameStatus
from lima2_receivers.ledgers import new_ledger
from lima2_receivers.plan import AcquisitionPlan, SavingParams
from lima2_receivers.receiver.book import Book, Fate
from lima2_receivers.saving.part import EncodedRow, PartFiles
from lima2_receivers.topology import Dispatch

FULL_ROUNDS = 5  # with fewer, frames are small and few
LOAD = 0.3
RECEIVERS = (1, 2, 4)
REPORTED = 60  # frames that a report has, at 2000 a second and a poll every 0.03 s


def say(text: str) -> None:
    """Tell people what goes on."""
    Console(stderr=True).print(text, highlight=False)


async def prepares(folder: Path, rounds: int) -> figures.Figure:
    """Return how long the second prepare and start take on 4 receivers, against the first."""
    size = "4m" if rounds >= FULL_ROUNDS else "tiny"
    say(f"second prepare: 4 receivers, {size}")
    daemons, times = Daemons(folder / "p", 4, size), []
    async with daemons.running() as client:
        for _ in range(rounds + 1):
            acquisition = new_id()
            began = time.perf_counter()
            await client.prepare(acquisition, daemons.plan(0, 0.01, smx=True, mode="software"))
            await client.start(acquisition)
            times.append((time.perf_counter() - began) * 1e3)
            await client.stop(acquisition)
    second = statistics.median(times[1:])
    name, first = f"second prepare to running, 4 receivers, {size}", f"the first, {times[0]:.0f} ms"
    return figures.Figure(name, second, "ms", first, second, "<= 300", second <= 300, DEVICE)


async def cpu_a_frame(folder: Path, rounds: int) -> list[figures.Figure]:
    """Return the CPU that a frame takes, over 2 and 4 receivers against one."""
    full = rounds >= FULL_ROUNDS
    size, n_frames = ("module", 200) if full else ("tiny", 40)
    found: dict[int, list[float]] = {n: [] for n in RECEIVERS}
    async with contextlib.AsyncExitStack() as stack:
        sites = {n: Daemons(folder / f"c{n}", n, size) for n in RECEIVERS}
        clients = {n: await stack.enter_async_context(site.running()) for n, site in sites.items()}

        async def measure(n: int, period: float) -> float:
            before = sites[n].cpu("receiver")
            await run(clients[n], sites[n].plan(n_frames, period, smx=True))
            return (sites[n].cpu("receiver") - before) / n_frames

        for n in RECEIVERS:  # kernels and memory
            alone = await measure(n, 0.01)
        period = max(0.002, alone / (LOAD * (os.cpu_count() or 1)))
        say(f"CPU a frame: {size} every {period * 1e3:.1f} ms over 1, 2 and 4 receivers")
        for _ in range(rounds):
            for n in RECEIVERS:
                found[n].append(await measure(n, period))
    one, *others = (statistics.median(found[n]) * 1e3 for n in RECEIVERS)
    baseline = (f"one receiver, {one:.2f} ms", one)
    return [
        figures.at_most(f"CPU a frame, {n} receivers, {size}", value, baseline, 1.15, DEVICE)
        for n, value in zip(RECEIVERS[1:], others, strict=True)
    ]


async def conductor(folder: Path, rounds: int) -> figures.Figure:
    """Return the share of a core that a conductor takes while 2000 frames a second come over 8 receivers."""
    n_frames = 20_000 if rounds >= FULL_ROUNDS else 1_000
    say("conductor: 2000 small frames a second over 8 receivers")
    daemons, shares = Daemons(folder / "k", 8, "tiny"), []
    async with daemons.running() as client:
        plan = daemons.plan(n_frames, 1 / 2000, smx=False)
        for _ in range(min(rounds, 3)):
            before = daemons.cpu("conductor")
            seconds = await run(client, daemons.plan(n_frames, 1 / 2000, smx=False))
            shares.append(((daemons.cpu("conductor") - before) / seconds, plan.acquisition.nb_frames / seconds))
    share, rate = sorted(shares)[len(shares) // 2]
    name = f"conductor, 8 receivers at {rate:.0f} frames/s"
    return figures.Figure(name, share * 100, "% of a core", "a core", share, "<= 0.05", share <= 0.05, DEVICE)


def ledger_ms(folder: Path, n_frames: int) -> float:
    """Return the CPU milliseconds of a frame in the ledgers of a receiver and the conductor, file included."""
    book = Book("bench")
    acquisition = AcquisitionPlan(saving=SavingParams(str(folder)))
    whole = ConductorRun(new_id(), acquisition, 1, new_ledger(Dispatch.ROUND_ROBIN, 1))
    whole.open_files(folder / "l_master.h5", folder / "l_ledger.h5")
    began = time.process_time()
    for first in range(0, n_frames, REPORTED):
        last = min(n_frames, first + REPORTED)
        for row in range(first, last):
            book.claim(LocalIdx(row), FrameIdx(row), 1.0)
        book.settle([Fate(LocalIdx(row), FrameStatus.SAVED, "", {"n_peaks": 1.0}) for row in range(first, last)])
        progress = book.progress(whole.id, State.RUNNING, "", first)
        whole.announced = last
        whole.take(0, progress)
        whole.record()
    took = time.process_time() - began
    whole.discard()
    return took / n_frames * 1e3


def results_ms(folder: Path, outputs: tuple[Output, ...], n_frames: int) -> float:
    """Return the CPU milliseconds of a frame's results in their file, flushed as while an acquisition runs."""
    small = tuple(output for output in outputs if output.stream == "results")
    saving = SavingParams(str(folder), "results")
    files = PartFiles(folder, 0, saving, small, (), {})
    values = {output.name: np.zeros(output.shape, output.dtype) for output in small}
    began = time.process_time()
    for row in range(n_frames):
        files.write((EncodedRow(LocalIdx(row), values),))
        if row % REPORTED == REPORTED - 1:
            files.flush()
    took = time.process_time() - began
    files.close(n_frames)
    return took / n_frames * 1e3


def smx_ms(rounds: int) -> tuple[float, tuple[Output, ...]]:
    """Return the CPU milliseconds of smx on a 4M frame of counts, and its outputs."""
    spec = FrameSpec(frames.SHAPE, "<u2")
    batch = tuple(Frame(FrameIdx(at), frames.eiger(at), spec.all_modules, 0.0) for at in range(4))
    with open_device() as device:
        pipeline = Smx(PARAMS, spec, device, {"mask": frames.eiger_mask()}, 4)
        took = []
        for _ in range(rounds + 1):
            began = time.process_time()
            pipeline.process(batch)
            took.append((time.process_time() - began) / len(batch) * 1e3)
        outputs = pipeline.outputs()
        pipeline.close()
    return statistics.median(took[1:]), outputs


def overhead(folder: Path, rounds: int) -> figures.Figure:
    """Return what ledger, flushes and results add to smx."""
    say("ledger, SWMR and results against smx on 4M frames")
    n_frames = 3000 if rounds >= FULL_ROUNDS else 300
    work, outputs = smx_ms(rounds)
    ledger, results = ledger_ms(folder, n_frames), results_ms(folder, outputs, n_frames)
    share = (ledger + results) / work
    name = f"ledger {ledger:.3f} ms, results and SWMR {results:.3f} ms a frame"
    return figures.Figure(name, ledger + results, "ms", f"smx, {work:.1f} ms", share, "<= 0.05", share <= 0.05, DEVICE)


DEVICE = f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"


async def measure_all(rounds: int) -> list[figures.Figure]:
    """Return all figures."""
    with tempfile.TemporaryDirectory(prefix="l2b") as name:
        folder = Path(name)
        return [
            await prepares(folder, rounds),
            *await cpu_a_frame(folder, rounds),
            await conductor(folder, rounds),
            overhead(folder, rounds),
        ]


def main() -> None:
    options = figures.arguments(__doc__ or "")
    found = asyncio.run(measure_all(options.rounds))
    figures.report(found, options)


if __name__ == "__main__":
    main()
