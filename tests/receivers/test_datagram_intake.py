"""The thread that takes packets: each finds its acquisition, and nothing ends it."""

import socket
import threading
import time

import numpy as np
import pytest

from lima2_receivers.errors import ConfigError
from lima2_receivers.receiver.assembly import Strangers
from lima2_receivers.receiver.datagrams import DatagramIntake

SECONDS = 10.0
SIZE = 4


class Taker:
    """Takes packets that begin with its letter; ``?`` is against its protocol."""

    n_packets = 6

    def __init__(self, letter: str) -> None:
        self.letter = ord(letter)
        self.batches: list[int] = []
        self.taken: list[bytes] = []
        self.expired = 0
        self.reasons: list[str] = []
        self.broken = False

    def place(self, packets, sizes):
        if self.broken:
            raise RuntimeError("a bug")
        self.batches.append(len(packets))
        own, wrong = packets[:, 0] == self.letter, packets[:, 0] == ord("?")
        self.taken += [row.tobytes()[:size] for row, size in zip(packets[own], sizes[own], strict=True)]
        return Strangers(~own & ~wrong, {"it asks": int(wrong.sum())} if wrong.any() else {})

    def expire(self):
        self.expired += 1
        if self.broken:
            raise RuntimeError("a bug")

    def fail_by(self, error):
        self.reasons.append(str(error))
        return f"internal error: {error}"


class Rig:
    def __init__(self, *takers, n_ports=1):
        self.takers = takers
        while True:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            try:
                endpoint = f"udp://127.0.0.1:{self.port}"
                self.intake = DatagramIntake(endpoint, n_ports, SIZE, 2**18, "data", lambda: self.takers)
            except ConfigError:  # the next port was not free
                continue
            break
        self.intake.start()
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def send(self, *packets, port=0):
        for packet in packets:
            self.sender.sendto(packet.encode(), ("127.0.0.1", self.port + port))

    def until(self, condition):
        deadline, pause = time.monotonic() + SECONDS, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            pause.wait(0.005)

    def close(self):
        self.intake.close()
        self.sender.close()


@pytest.fixture
def rig():
    rigs = []

    def make(*takers, **options):
        rigs.append(Rig(*takers, **options))
        return rigs[-1]

    yield make
    for each in rigs:
        each.close()


def test_packets_of_all_ports_find_their_acquisition(rig):
    a, b = Taker("A"), Taker("B")
    r = rig(a, b, n_ports=3)
    for port in range(3):
        r.send(f"A{port}", f"B{port}", port=port)
    r.until(lambda: len(a.taken) + len(b.taken) == 6)
    assert (sorted(a.taken), sorted(b.taken)) == ([b"A0", b"A1", b"A2"], [b"B0", b"B1", b"B2"])


def test_strangers_and_malformed_packets_are_counted_and_told_once(rig, caplog):
    a, b = Taker("A"), Taker("B")
    r = rig(a, b)
    r.send("x", "x", "?", "A1", "x", "B1")
    r.until(lambda: b.taken)
    r.until(lambda: r.intake.strangers == 4)
    assert a.taken == [b"A1"]
    assert sum("it asks" in record.message for record in caplog.records) == 1
    assert sum("no acquisition that is known here" in record.message for record in caplog.records) == 1


def test_a_bug_in_one_acquisition_leaves_the_others_alone(rig):
    a, b = Taker("A"), Taker("B")
    a.broken = True
    r = rig(a, b)
    r.send("B1")
    r.until(lambda: b.taken == [b"B1"] and b.expired)
    assert "a bug" in a.reasons


def test_without_acquisitions_packets_are_counted(rig):
    r = rig()
    r.send("A1")
    r.until(lambda: r.intake.strangers == 1)


def test_a_port_in_use_leaves_nothing_open():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match="is in use"):
            DatagramIntake(f"udp://127.0.0.1:{port - 1}", 2, SIZE, 2**16, "data", tuple)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", port - 1))


def test_what_the_kernel_dropped_is_told(rig, caplog):
    held = threading.Event()
    slow = Taker("A")
    place = slow.place
    slow.place = lambda packets, sizes: (held.wait(SECONDS), place(packets, sizes))[1]
    r = rig(slow)
    for _ in range(2000):
        r.send("A" + "x" * 900)
    held.set()
    r.until(lambda: any("the kernel dropped" in record.message for record in caplog.records))
    assert np.all([len(packet) == SIZE for packet in slow.taken])


def test_ports_take_turns_frame_by_frame(rig):
    """Else what one port has of later frames would overtake what waits in another."""
    held = threading.Event()
    slow = Taker("A")
    place = slow.place
    slow.place = lambda packets, sizes: (held.wait(SECONDS), place(packets, sizes))[1]
    r = rig(slow, n_ports=2)
    for number in range(20):
        r.send(f"A{number}")
        r.send(f"A{number}", port=1)
    held.set()
    r.until(lambda: len(slow.taken) == 40)
    assert max(slow.batches) <= slow.n_packets // 2
