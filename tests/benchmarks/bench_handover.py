"""An ingest hands frames of a Jungfrau 4M to a receiver on the same host, which puts them into its ring.

- Through shared memory, against copying the same bytes from the same memory into the same ring, nothing else. The
  frames lie in the ingest's ring when it begins: to receive them costs the same with and without an ingest.
- Through a socket (tcp on loopback), against a bare PUSH and PULL that copies nothing.

The ingest is a process of its own. All take turns; times are from the first frame of a round to its last.
"""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import figures
import numpy as np
import zmq

from lima2_processing.frame import Frame, FrameIdx
from lima2_receivers.config import RingConfig
from lima2_receivers.ingest.handing import Handing, _Kept, open_handover
from lima2_receivers.receiver.delivery import Delivery
from lima2_receivers.receiver.handover_intake import HandoverIntake
from lima2_receivers.receiver.ring import FrameRing, Slot
from lima2_receivers.source import Item
from lima2_receivers.transport.shared_slots import SlotWriter

SHAPE = (8, 512, 1024)
NBYTES = 2 * 8 * 512 * 1024
SLOTS, QUEUE = 16, 8  # of both rings; messages that the bare sockets may hold, which is the room that ours grants
SECONDS = 120.0
HEAD = bytes(72)  # as the simulator's stream has


class Ready(Handing):
    """Hands over frames that are in its ring already."""

    wanted = 0

    def _look(self) -> None:
        super()._look()
        while self.wanted and self._dealing.free:
            self.wanted -= 1
            number, slot = self._dealing.arrive()
            self._kept[slot] = self._in_place(slot, number)

    def _in_place(self, slot: int, number: int) -> _Kept:
        if self._slots is None:
            return _Kept((-1, -1), (HEAD, FRAME))
        self._slots._words[2 + slot] = number
        return _Kept((-1, NBYTES), (HEAD,))


def give(handover: str, stream: str, bare: str) -> None:
    """Run the ingest's side: hand over, or push, as many frames as each line of the standard input says."""
    context = zmq.Context.instance()
    push = context.socket(zmq.PUSH)
    push.sndhwm = QUEUE
    push.bind(bare)
    givers: dict[str, Ready] = {}
    for name, endpoint, slots in (("shared", handover, SlotWriter("bench", SLOTS, NBYTES)), ("socket", stream, None)):
        out = open_handover(context)
        out.bind(endpoint)
        if slots is not None:
            slots._slots[:] = np.frombuffer(FRAME, np.uint8)
        givers[name] = Ready(context.socket(zmq.PULL), out, RingConfig(SLOTS, NBYTES), slots, 5.0)
        givers[name].start()
    for line in sys.stdin:
        name, count = line.split()
        if name in givers:
            givers[name].wanted = int(count)
            continue
        for _ in range(int(count)):
            push.send(FRAME, copy=False)
    for giver in givers.values():
        giver.close()
    push.close(linger=0)


class Taker:
    """An acquisition that gives every frame's slot back at once, and counts."""

    def __init__(self, ring: FrameRing) -> None:
        self.first = self.last = 0.0
        self._left = 0
        self._ring = ring
        self._done = threading.Event()

    def expect(self, count: int) -> None:
        self._left, self.first = count, 0.0
        self._done.clear()

    def wait(self) -> None:
        if not self._done.wait(SECONDS):
            raise SystemExit(f"{self._left} frames did not come within {SECONDS:g} s")

    def parse(self, message: Sequence[memoryview]) -> list[Item]:
        return [Frame(FrameIdx(0), np.frombuffer(message[1], np.uint16).reshape(SHAPE), 255, 0.0)]

    def accept(self, frame: Frame, slot: Slot) -> bool:
        del frame
        self._ring.give(slot)
        self._left -= 1
        self.last = time.perf_counter()
        self.first = self.first or self.last
        if not self._left:
            self._done.set()
        return True

    def recorded(self, index: FrameIdx) -> bool:
        del index
        return True


def measure(process: subprocess.Popen[str], endpoints: dict[str, str], rounds: int, count: int) -> dict[str, float]:
    """Return milliseconds a frame of each way."""
    told = process.stdin
    if told is None:
        raise SystemExit("the ingest's side has no standard input")
    intakes: list[HandoverIntake] = []
    ways: dict[str, Callable[[], float]] = {}

    def through(name: str) -> tuple[FrameRing, Callable[[], float]]:
        ring = FrameRing(SLOTS, NBYTES)
        taker = Taker(ring)
        delivery = Delivery(lambda: (taker,))  # type: ignore[arg-type]
        intakes.append(HandoverIntake(endpoints[name], "bench", 0, ring, delivery, lambda: (taker,)))  # type: ignore[arg-type]
        intakes[-1].start()

        def run() -> float:
            taker.expect(count)
            told.write(f"{name} {count}\n")
            told.flush()
            taker.wait()
            return taker.last - taker.first

        return ring, run

    pull = zmq.Context.instance().socket(zmq.PULL)
    pull.rcvhwm = QUEUE
    pull.connect(endpoints["bare"])

    def bare() -> float:
        told.write(f"bare {count}\n")
        told.flush()
        pull.recv(copy=False)
        began = time.perf_counter()
        for _ in range(count - 1):
            pull.recv(copy=False)
        return time.perf_counter() - began

    ring, ways["shared"] = through("shared")
    _, ways["socket"] = through("socket")
    ways["bare"] = bare
    ways["shared"]()  # so that the memory is there
    source = intakes[0]._memory
    if source is None:
        raise SystemExit("the memory of the ingest's side can't be read")
    into = ring.memory.reshape(SLOTS, -1)

    def memcpy() -> float:
        began = time.perf_counter()
        for at in range(count - 1):
            np.copyto(into[at % SLOTS, :NBYTES], source._slots[at % SLOTS])
        return time.perf_counter() - began

    ways["memcpy"] = memcpy
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, run in ways.items():
            taken = run() / (count - 1) * 1e3
            if turn:
                times[name].append(taken)
    ways.clear()
    for intake in intakes:
        intake.close()
    pull.close(linger=0)
    return {name: float(np.median(found)) for name, found in times.items()}


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def main() -> None:
    """Measure and report."""
    options = figures.arguments(__doc__ or "")
    with tempfile.TemporaryDirectory(prefix="lima2-bench-") as folder:
        first, second = free_ports(2)
        endpoints = {
            "shared": f"ipc://{Path(folder) / 'handover'}",
            "socket": f"tcp://127.0.0.1:{first}",
            "bare": f"tcp://127.0.0.1:{second}",
        }
        command = [sys.executable, __file__, "--give", *endpoints.values()]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
        try:
            times = measure(process, endpoints, options.rounds, 100)
        finally:
            process.kill()
            process.wait()
    device = f"{platform.processor() or platform.machine()}, {NBYTES / 2**20:g} MiB a frame"
    figures.report(
        [
            figures.at_least(
                "handed over through shared memory", times["shared"], ("memcpy", times["memcpy"]), 0.7, device
            ),
            figures.at_least(
                "handed over through tcp", times["socket"], ("bare zero-copy PUSH/PULL", times["bare"]), 0.8, device
            ),
        ],
        options,
    )


if __name__ == "__main__":
    FRAME = np.random.default_rng(0).integers(0, 2**14, NBYTES // 2, np.uint16).tobytes()
    if sys.argv[1:2] == ["--give"]:
        give(*sys.argv[2:5])
    else:
        main()
