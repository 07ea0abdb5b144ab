"""UDP reception of a Jungfrau module: packets taken off the socket and put in their places, on one core.

- A packet, against bare loops of ``recv_into``: into one and the same buffer, which stays in the nearest cache, and
  into as much memory as a ring has. All drain what the kernel holds, so that none waits for the sender.
- Packets lost at half of the rate of that loop, for 60 s (6 s with fewer than 7 rounds), with 128 MiB of the kernel's
  memory. Needs the right to ask for so much; else it says that it was not measured. The sender is a process of its own,
  on the same machine: where it can't keep up, the rate in the name is lower.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import platform
import socket
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event

import figures
import numpy as np
from numpy.typing import NDArray

from lima2_receivers.detectors.jungfrau.packets import PACKET, packets_of
from lima2_receivers.detectors.jungfrau.params import JungfrauParams, JungfrauSettings, frame_spec
from lima2_receivers.detectors.jungfrau.source import JungfrauSource
from lima2_receivers.receiver.assembly import Assembled, Assembler, Strangers
from lima2_receivers.receiver.datagrams import DatagramIntake
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.transport.datagrams import BATCH, DatagramBatch, dropped

BUFFER = 128 * 2**20
FRAMES, PACKETS = 40, 128  # that the kernel's buffer holds with all that it needs beside them; of a frame
ROUNDS_OF_ENDURANCE = 7


class Taker:
    """An acquisition that gives every frame's slot back at once, and counts."""

    n_packets = PACKETS

    def __init__(self) -> None:
        settings = JungfrauSettings(control="ipc:///none", folder="/none")
        source = JungfrauSource(settings, JungfrauParams(), frame_spec(settings), 0)
        self.ring = FrameRing(16, source.spec.nbytes)
        self.whole = self.flawed = self.packets = 0
        self._assembler = Assembler(source, self.ring, 0)

    def place(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Strangers:
        self.packets += len(packets)
        closed, strangers = self._assembler.place(packets, sizes, time.monotonic())
        self._count(closed)
        return strangers

    def expire(self) -> None:
        self._count(self._assembler.expire(time.monotonic()))

    def fail_by(self, error: Exception) -> str:
        raise error

    def _count(self, closed: list[Assembled]) -> None:
        for frame in closed:
            self.flawed += bool(frame.flaw)
            self.whole += not frame.flaw
            if frame.slot is not None:
                self.ring.give(frame.slot)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Sender:
    """Sends whole frames, each by one call of the kernel's, so that it is faster than any receiver."""

    def __init__(self, port: int) -> None:
        self.number = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._batches = [DatagramBatch(PACKET.itemsize) for _ in range(PACKETS // BATCH)]
        frame = np.random.default_rng(0).integers(0, 2**14, (1, 512, 1024), np.uint16)
        packets = [header + bytes(pixels) for _, header, pixels in packets_of(frame, 0)]
        for at, batch in enumerate(self._batches):
            part = b"".join(packets[at * BATCH : (at + 1) * BATCH])
            batch.memory[:] = np.frombuffer(part, np.uint8).reshape(batch.memory.shape)
        self._send = ctypes.CDLL(None).sendmmsg

    def frame(self) -> None:
        for batch in self._batches:
            batch.memory.view(PACKET)["header"]["frame"] = self.number
            self._send(self._socket.fileno(), batch._headers, len(batch.memory), 0)
        self.number += 1

    def close(self) -> None:
        self._socket.close()


def send_at(port: int, rate: float, seconds: float, sent: object, done: Event) -> None:
    """Send at a rate in packets/s; the process of the sender."""
    sender = Sender(port)
    began = time.monotonic()
    while (now := time.monotonic()) - began < seconds:
        if sender.number * PACKETS / rate > now - began:
            time.sleep(PACKETS / rate / 4)
        else:
            sender.frame()
    sent.value = sender.number  # type: ignore[attr-defined]
    done.set()


def drain(rounds: int) -> dict[str, float]:
    """Return seconds a packet of the bare loop, of one that receives into a ring, and of the intake."""
    taker, port = Taker(), free_port()
    intake = DatagramIntake(f"udp://127.0.0.1:{port}", 1, PACKET.itemsize, BUFFER, "bench", lambda: (taker,))
    (bound,) = intake._sockets
    sender, buffer = Sender(port), bytearray(PACKET.itemsize)
    memory = memoryview(bytearray(16 * PACKETS * PACKET.itemsize))
    ring = [memory[at : at + PACKET.itemsize] for at in range(0, len(memory), PACKET.itemsize)]
    found: dict[str, list[float]] = {"bare": [], "ring": [], "ours": []}
    n_frames = FRAMES if bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) >= BUFFER else 1

    def timed(name: str, take: Callable[[], None]) -> None:
        for _ in range(n_frames):
            sender.frame()
        began = time.perf_counter()
        take()
        found[name].append((time.perf_counter() - began) / n_frames / PACKETS)

    def take_bare() -> None:
        receive = bound.recv_into
        for _ in range(n_frames * PACKETS):
            receive(buffer)

    def take_into_ring() -> None:
        receive = bound.recv_into
        for at in range(n_frames * PACKETS):
            receive(ring[at % len(ring)])

    def take_ours() -> None:
        end = taker.packets + n_frames * PACKETS
        while taker.packets < end:
            intake._receive(bound.fileno())

    for _ in range(4 * rounds + 1):
        bound.setblocking(True)
        timed("bare", take_bare)
        timed("ring", take_into_ring)
        bound.setblocking(False)
        timed("ours", take_ours)
    intake.close()
    sender.close()
    if taker.flawed or dropped_of(intake):
        raise SystemExit(f"{taker.flawed} frames were not complete")
    return {name: float(np.median(times[1:])) for name, times in found.items()}


def dropped_of(intake: DatagramIntake) -> int:
    """Return how many packets the kernel dropped, as far as it was seen."""
    return intake._dropped


def endure(rate: float, seconds: float) -> tuple[float, int, int] | None:
    """Return the rate in packets/s, how many were sent and how many got lost; None: there is no such buffer."""
    taker, port = Taker(), free_port()
    intake = DatagramIntake(f"udp://127.0.0.1:{port}", 1, PACKET.itemsize, BUFFER, "bench", lambda: (taker,))
    (bound,) = intake._sockets
    if bound.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < BUFFER:
        intake.close()
        return None
    context = multiprocessing.get_context("spawn")
    sent, done = context.Value("q", 0), context.Event()
    process = context.Process(target=send_at, args=(port, rate, seconds, sent, done))
    intake.start()
    process.start()
    process.join(seconds + 60)
    deadline = time.monotonic() + 10
    while taker.whole + taker.flawed < sent.value and time.monotonic() < deadline:
        time.sleep(0.05)
    n_sent = sent.value * PACKETS
    lost = max(n_sent - taker.packets, dropped(bound))
    intake.close()
    return n_sent / seconds, n_sent, lost


def main() -> None:
    options = figures.arguments(__doc__ or "")
    times = drain(options.rounds)
    device = f"one core of {platform.processor() or platform.machine()}, loopback"
    found = []
    for name, baseline, target in (("bare", "bare recv_into", 0.9), ("ring", "recv_into a ring of 16 frames", 0.0)):
        ratio = times[name] / times["ours"]
        limit, ok = (f">= {target:g}", ratio >= target) if target else ("", None)
        found.append(
            figures.Figure("a packet taken and placed", times["ours"] * 1e6, "us", baseline, ratio, limit, ok, device)
        )
    seconds = 60.0 if options.rounds >= ROUNDS_OF_ENDURANCE else 6.0
    endured = endure(0.5 / times["bare"], seconds)
    if endured is None:
        name = "packets lost: not measured, the kernel grants no 128 MiB (net.core.rmem_max)"
        found.append(figures.Figure(name, float("nan"), "", "", float("nan"), "", None, device))
    else:
        rate, n_sent, lost = endured
        name = f"packets lost in {seconds:g} s at {rate:,.0f} packets/s"
        baseline = f"{n_sent:,} sent, at half of the bare rate"
        share = 1 - lost / n_sent
        found.append(figures.Figure(name, float(lost), "", baseline, share, ">= 1", lost == 0, device))
    figures.report(found, options)


if __name__ == "__main__":
    main()
