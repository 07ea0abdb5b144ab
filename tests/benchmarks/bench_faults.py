"""Faults, injected for real: what becomes of the acquisition, and how soon the next one can be taken.

Real daemons with a simulated detector of small frames, two receivers. In the middle of an acquisition, a process is
killed or frozen; half a second later, a frozen one 2 to 4 s later, it is killed and started again, as a supervisor
does. Told are the frames that were announced, saved, lost and failed; the seconds from the fault until a next
acquisition of ten frames is complete (target: 10), what the supervisor waits included; and where the acquisition goes
on, frames a second before the fault and after it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import figures
from daemons import DEADLINE, Daemons, new_id, run
from rich.console import Console

from lima2_receivers.client import ConductorClient
from lima2_receivers.errors import ReceiverError
from lima2_receivers.published import AcquisitionState

PERIOD = 0.004  # seconds from frame to frame
N_FRAMES = 600
HAPPENS = 200  # frames that are saved when the fault is injected
DEVICE = f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"
DEADLINES = "[deadlines]\ncommand = 2.0\n"
INGEST = (
    '[ingest]\ncommands = "SOCKETS/i"\ndata = "SOCKETS/d"\nhandover = "SOCKETS/h"\n'
    "ring = { slots = 256, slot_bytes = 16384 }\n"
)


@dataclass(frozen=True)
class Fault:
    """Something that happens to a process.

    :param process: its name.
    :param number: the signal that it gets.
    :param ingest: whether frames come through an ingest.
    :param back: seconds after which it is started again.
    """

    name: str
    process: str
    number: signal.Signals
    ingest: bool = False
    back: float = 0.5


FAULTS = (
    Fault("receiver killed", "receiver 1", signal.SIGKILL),
    Fault("receiver frozen", "receiver 1", signal.SIGSTOP, back=4.0),
    Fault("conductor killed", "conductor", signal.SIGKILL),
    Fault("conductor frozen", "conductor", signal.SIGSTOP, back=2.0),
    Fault("detector killed", "detector", signal.SIGKILL),
    Fault("receiver behind an ingest killed", "receiver 1", signal.SIGKILL, ingest=True, back=6.0),
    Fault("ingest killed", "ingest", signal.SIGKILL, ingest=True),
)


async def until(
    client: ConductorClient, acquisition: str, reached: Callable[[AcquisitionState], bool]
) -> AcquisitionState:
    """Wait for a state of an acquisition."""
    async with asyncio.timeout(DEADLINE):
        while True:
            state = client.state
            for found in state.acquisitions if state else ():
                if found.acquisition == acquisition and reached(found):
                    return found
            await asyncio.sleep(0.01)


async def suffer(fault: Fault, folder: Path) -> figures.Figure:
    """Let a fault happen, and return what came of it."""
    daemons = Daemons(folder, 2, "tiny", 32, DEADLINES + (INGEST if fault.ingest else ""))
    async with daemons.running() as client:
        acquisition = new_id()
        await client.prepare(acquisition, daemons.plan(N_FRAMES, PERIOD, smx=False))
        began = time.monotonic()
        await client.start(acquisition)
        before = await until(client, acquisition, lambda state: state.written >= HAPPENS)
        happened = time.monotonic()
        rate = before.written / (happened - began)
        daemons.send(fault.process, fault.number)
        returning = asyncio.create_task(come_back(daemons, fault))
        final = await until(client, acquisition, lambda state: state.state == "closed")
        rest = (final.written - before.written) / (time.monotonic() - happened)
        await returning
        await next_one(client, daemons)
        seconds = time.monotonic() - happened
    counts = final.counts
    what = f"{fault.name}: {final.outcome}, {final.announced} announced, {counts.saved} saved"
    others = [f"{n} {name}" for name, n in (("lost", counts.lost), ("failed", counts.failed)) if n]
    name = ", ".join([what, *others])
    through = f"{rate:.0f} frames/s before, {rest:.0f} after" if final.outcome == "complete" else ""
    return figures.Figure(name, seconds, "s", through, seconds, "<= 10", seconds <= 10, DEVICE)


async def come_back(daemons: Daemons, fault: Fault) -> None:
    """Start a process again, as a supervisor does."""
    await asyncio.sleep(fault.back)
    daemons.send(fault.process, signal.SIGKILL)
    daemons.start(fault.process)


async def next_one(client: ConductorClient, daemons: Daemons) -> None:
    """Take another acquisition as soon as that works."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                await daemons.until_there(client)
                await run(client, daemons.plan(10, 0.001, smx=False))
            except ReceiverError:
                await asyncio.sleep(0.05)
            else:
                return


async def measure_all(faults: tuple[Fault, ...]) -> list[figures.Figure]:
    """Return what came of each fault."""
    found = []
    with tempfile.TemporaryDirectory(prefix="l2b") as name:
        for number, fault in enumerate(faults):
            Console(stderr=True).print(fault.name, highlight=False)
            found.append(await suffer(fault, Path(name) / str(number)))
    return found


def main() -> None:
    options = figures.arguments(__doc__ or "")
    figures.report(asyncio.run(measure_all(FAULTS)), options)


if __name__ == "__main__":
    main()
