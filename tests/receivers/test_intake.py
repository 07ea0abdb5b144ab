"""The intake thread: messages find their acquisition, slots are never lost, and nothing ends it."""

import threading
import time

import numpy as np
import pytest
import zmq

from lima2_processing.frame import Frame
from lima2_receivers.errors import ProtocolError
from lima2_receivers.receiver.delivery import Delivery
from lima2_receivers.receiver.intake import Intake
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.source import Remark, SeriesEnd, Stranger

SECONDS = 10.0


class Taker:
    """Takes messages that begin with its letter: ``A3`` is its frame 3, ``A.`` its end."""

    def __init__(self, letter: str) -> None:
        self.letter = letter.encode()
        self.frames: list[int] = []
        self.slots = []
        self.ended = False
        self.remarks: list[bytes] = []
        self.reasons: list[str] = []
        self.broken = ""  # the method that raises

    def parse(self, message):
        self._break("parse")
        head = bytes(message[0])
        if head in (b"?", b"?^"):
            raise ProtocolError("no such message")
        if head[:1] != self.letter:
            return [Stranger("another's")]
        if head[1:] == b"^":
            return [Remark(head)]
        if head[1:] == b".":
            return [SeriesEnd(len(self.frames))]
        data = np.frombuffer(message[1], np.uint8)
        return [Frame(int(number), data, 1, 0.0) for number in head[1:].split(b"+")]

    def accept(self, frame, slot):
        self._break("accept")
        if frame.index in self.frames:
            return False
        self.frames.append(frame.index)
        self.slots.append(slot)
        return True

    def series_ended(self, end):
        self._break("series_ended")
        self.ended = True

    def remark(self, remark):
        self.remarks.append(remark.data)

    def fail_by(self, error):
        self.reasons.append(str(error))
        return f"internal error: {error}"

    def _break(self, method):
        if self.broken == method:
            raise RuntimeError(f"a bug in {method}")


def begins(message):
    head = bytes(message[0])
    if head == b"!":
        raise RuntimeError("a bug in begins")
    return head[1:] == b"^"


class Rig:
    def __init__(self, endpoint, *takers):
        self.ring = FrameRing(4, 16)
        self.takers = takers
        self.intake = Intake(
            endpoint,
            "receivers[0].data",
            self.ring,
            Delivery(lambda: self.takers, begins=lambda message: bytes(message[0])[1:] == b"^"),
        )
        self.intake.start()
        self.sender = zmq.Context.instance().socket(zmq.PUSH)
        self.sender.linger = 0
        self.sender.connect(endpoint)

    def send(self, *heads):
        for head in heads:
            self.sender.send_multipart([head.encode(), b"pixels"])

    def until(self, condition):
        deadline, pause = time.monotonic() + SECONDS, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            pause.wait(0.005)

    def close(self):
        self.sender.close(linger=0)
        self.intake.close()


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(*takers):
        made.append(Rig(f"ipc://{tmp_path}/data", *takers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_frames_find_their_acquisition(rig):
    new, old = Taker("B"), Taker("A")
    r = rig(new, old)
    r.send("A0", "B0", "A1", "A.")
    r.until(lambda: old.ended)
    assert (old.frames, new.frames) == ([0, 1], [0])
    assert bytes(old.slots[0].memory[:6]) == b"pixels"
    assert r.intake.strangers == 0


def test_what_nobody_wants_is_counted_and_gives_its_slot_back(rig):
    taker = Taker("A")
    r = rig(taker)
    r.send("C0", "?", *["A0"] * 20, "A.")
    r.until(lambda: taker.ended)
    assert r.intake.strangers == 2
    r.intake.close()
    assert r.ring.free == 3


def test_a_message_of_two_frames_is_refused_because_they_would_share_a_slot(rig):
    taker = Taker("A")
    r = rig(taker)
    r.send("A0+1", "A2", "A.")
    r.until(lambda: taker.ended)
    assert taker.frames == [2]
    assert taker.reasons == ["got 2 frames in one message, expected 1 at most"]
    r.intake.close()
    assert r.ring.free == r.ring.slots - 1


@pytest.mark.parametrize("method", ["parse", "accept", "series_ended"])
def test_a_bug_in_one_acquisition_fails_it_and_not_the_intake(rig, method):
    broken, well = Taker("B"), Taker("A")
    broken.broken = method
    r = rig(broken, well)
    r.send("A0", "B0", "B.", "A1", "A.")
    r.until(lambda: well.ended)
    assert well.frames == [0, 1]
    assert not well.reasons
    assert set(broken.reasons) == {f"a bug in {method}"}
    r.intake.close()
    assert r.ring.free == r.ring.slots - len(well.slots) - len(broken.slots)


def test_what_begins_a_series_waits_for_its_acquisition(rig):
    """An Eiger2 tells it when it is armed, and only then are the receivers asked to make the acquisition."""
    a, b = Taker("A"), Taker("B")
    r = rig(b)
    r.send("A^", "B1")
    r.until(lambda: b.frames == [1])
    r.takers = (a, b)
    r.send("A3")
    r.until(lambda: a.frames == [3])
    assert a.remarks == [b"A^"]
    assert r.intake.strangers == 0


def test_a_beginning_that_is_malformed_fails_no_acquisition(rig):
    """It is against the protocol, whoever it is for; nor does a bug in what looks for beginnings end the intake."""
    a = Taker("A")
    r = rig()
    r.send("?^", "!")
    r.until(lambda: r.intake.strangers == 1)
    r.takers = (a,)
    r.send("A1")
    r.until(lambda: a.frames == [1])
    assert a.reasons == []
    assert r.intake.strangers == 2
