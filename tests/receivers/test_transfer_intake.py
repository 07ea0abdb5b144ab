"""The thread that looks for transfers: each finds its acquisition, and nothing ends it."""

from __future__ import annotations

import queue
import threading
import time

import numpy as np
import pytest

from lima2_receivers.errors import ProtocolError
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.receiver.transfer_intake import TransferIntake
from lima2_receivers.receiver.transfers import Taken
from lima2_receivers.transfers import Completion, Registration

SECONDS = 10.0


class Target:
    """Gives what it is told to; an error is raised."""

    registration = Registration(1, 4, 8, 64)
    missed = 0

    def __init__(self):
        self.items = queue.SimpleQueue()
        self.closed = 0

    def put(self, series, frame=0):
        self.items.put(Completion(1, series, frame, 0, 0, 8, 0.0))

    def poll(self):
        try:
            item = self.items.get_nowait()
        except queue.Empty:
            return None
        if isinstance(item, Exception):
            raise item
        return item

    def read(self, completion, into):
        into[:] = completion.frame
        return True

    def close(self):
        self.closed += 1


class Taker:
    """Takes the frames of its series: keeps those of odd number, as if they waited for others."""

    live = True

    def __init__(self, series, ring):
        self.series = series
        self.ring = ring
        self.broken = False
        self.taken = []
        self.held = []
        self.reasons = []

    def take(self, completion, target, slot):
        if self.broken:
            raise RuntimeError("a bug")
        if completion.series != self.series:
            return Taken.STRANGE
        if completion.frame == 99:
            raise ProtocolError("got frame 99, expected less")
        target.read(completion, slot.memory)
        self.taken.append((completion.frame, int(slot.memory[0])))
        if completion.frame % 2 == 0:
            return Taken.DONE
        self.held.append(slot)
        return Taken.KEPT

    def expire(self, now_or_never=False):
        if self.broken:
            raise RuntimeError("a bug")
        while now_or_never and self.held:
            self.ring.give(self.held.pop())

    def fail_by(self, error):
        self.reasons.append(str(error))
        return f"internal error: {error}"


class Rig:
    def __init__(self):
        self.ring = FrameRing(2, 8)
        self.target = Target()
        self.takers = [Taker(1, self.ring), Taker(2, self.ring)]
        self.intake = TransferIntake(self.target, self.ring, lambda: self.takers)
        self.intake.start()

    def until(self, condition):
        deadline, pause = time.monotonic() + SECONDS, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            pause.wait(0.002)


@pytest.fixture
def rig():
    found = Rig()
    yield found
    found.intake.close()
    assert found.target.closed


def test_transfers_find_their_acquisition(rig):
    for series in (2, 1, 2):
        rig.target.put(series, 4)
    one, two = rig.takers
    rig.until(lambda: len(one.taken) + len(two.taken) == 3)
    assert (one.taken, two.taken) == ([(4, 4)], [(4, 4), (4, 4)])


def test_strangers_and_damaged_records_are_counted_and_told_once(rig, caplog):
    for _ in range(3):
        rig.target.put(5)
        rig.target.put(1, 99)
        rig.target.items.put(ProtocolError("completion record: got check sum 1, expected 2"))
    rig.target.put(1, 2)
    rig.until(lambda: rig.takers[0].taken)
    assert rig.intake.strangers == 9
    for text in ("got frame 99", "no acquisition that is known here", "check sum"):
        assert sum(text in record.message for record in caplog.records) == 1


def test_a_bug_in_one_acquisition_leaves_the_others_alone(rig):
    rig.takers[0].broken = True
    rig.target.put(2, 2)
    rig.until(lambda: rig.takers[0].reasons)
    rig.takers[0].broken = False
    rig.target.put(2, 4)
    rig.until(lambda: rig.takers[1].taken)
    assert rig.takers[1].taken[-1] == (4, 4)


def test_frames_that_wait_for_others_make_room(rig):
    for frame in (1, 3, 5, 7, 8):
        rig.target.put(1, frame)
    rig.until(lambda: len(rig.takers[0].taken) == 5)


def test_a_full_ring_leaves_transfers_where_they_are(rig):
    rig.until(lambda: rig.ring.free == 1)  # it has one ready
    mine = rig.ring.take(SECONDS)
    rig.takers[0].expire = lambda now_or_never=False: None
    rig.target.put(1, 1)
    rig.until(lambda: rig.takers[0].taken)
    rig.target.put(1, 2)
    assert not rig.target.items.empty()
    rig.ring.give(mine)
    rig.until(lambda: len(rig.takers[0].taken) == 2)


def test_missed_records_are_told(rig, caplog):
    rig.target.missed = 3
    rig.until(lambda: any("3 completion records were overwritten" in record.message for record in caplog.records))


def test_slots_are_given_back_at_the_end(rig):
    rig.until(lambda: rig.ring.free == 1)
    rig.intake.close()
    assert rig.ring.free == 2
    assert np.all(rig.ring.memory == 0)
