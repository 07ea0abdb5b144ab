"""The transfers of a share: which frames become of them, in which order, and what happens to the ring's slots."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
import types
import uuid
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_processing.frame import FrameIdx, FrameSpec
from lima2_receivers.errors import ProtocolError
from lima2_receivers.receiver import transfers as module
from lima2_receivers.receiver.book import MAX_LEAP
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.receiver.transfer_intake import TransferIntake
from lima2_receivers.receiver.transfers import OVERWRITTEN, REACH, Taken, Transfers
from lima2_receivers.source import Stranger, TransferSource
from lima2_receivers.topology import RoundRobin
from lima2_receivers.transfers import RECORD_BYTES, Completion, Registration, decode_record, encode_record
from lima2_receivers.transport.shared_ring import SharedTarget

SERIES = 7
SPEC = FrameSpec((128, 256), "<u2")
SECONDS = 30.0


class FakeSource(TransferSource[msgspec.Struct]):
    """Channel 0 is its own."""

    def locate(self, completion):
        if completion.series != self.series:
            return Stranger(completion.series)
        return FrameIdx(completion.frame) if completion.channel == 0 else None


@dataclass
class FakeShare:
    """Keeps what it is given; gives slots back at once."""

    ring: FrameRing
    frames: list = field(default_factory=list)
    claims: dict = field(default_factory=dict)
    reasons: list = field(default_factory=list)
    wanted: bool = True
    broken: bool = False
    acquisition: object = field(default_factory=lambda: types.SimpleNamespace(name="a"))

    def accept(self, frame, slot):
        if self.broken:
            raise RuntimeError("a bug")
        if not self.wanted:
            return False
        self.frames.append((frame.index, frame.data.copy()))
        self.ring.give(slot)
        return True

    def claim(self, index, timestamp, lost):
        assert timestamp == 1.5
        self.claims[index] = lost

    def fail_by(self, error):
        self.reasons.append(str(error))
        return str(error)

    @property
    def indices(self):
        return [index for index, _ in self.frames]


class FakeTarget:
    """All pixels of a frame are its number; what is in ``gone`` was overwritten."""

    registration = Registration(1, 4, SPEC.nbytes, 64)
    missed = 0

    def __init__(self):
        self.gone = set()

    def read(self, completion, into):
        into.view("<u2")[:] = completion.frame
        return completion.frame not in self.gone


class Rig:
    def __init__(self, n_receivers=1, rank=0, nb_frames=0, slots=REACH + 2):
        self.ring = FrameRing(slots, SPEC.nbytes)
        self.share = FakeShare(self.ring)
        self.target = FakeTarget()
        source = FakeSource(msgspec.Struct(), SPEC, SERIES)
        self.transfers = Transfers(self.share, source, self.ring, RoundRobin(n_receivers), rank, nb_frames)

    def take(self, frame, series=SERIES, channel=0):
        slot = self.ring.take(0)
        completion = Completion(1, series, frame, channel, 0, SPEC.nbytes, 1.5)
        try:
            taken = self.transfers.take(completion, self.target, slot)
        except ProtocolError:
            self.ring.give(slot)
            raise
        if taken is not Taken.KEPT:
            self.ring.give(slot)
        return taken


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), st.floats(allow_nan=False))
def test_records_say_what_was_written(number, any_number, short, when):
    completion = Completion(any_number, 1, any_number, short, short, 3, when)
    record = encode_record(number, completion)
    assert len(record) == RECORD_BYTES == 64
    assert decode_record(record) == (number, completion)


@given(st.binary(max_size=2 * RECORD_BYTES))
def test_bytes_that_are_no_record_are_refused(noise):
    with pytest.raises(ProtocolError, match="expected"):
        decode_record(noise)


def test_every_damaged_bit_of_a_record_is_noticed():
    record = encode_record(5, Completion(4, 3, 2, 1, 0, 6, 1.0))
    for bit in range(8 * RECORD_BYTES):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError, match="check sum"):
            decode_record(bytes(damaged))


def test_frames_come_out_in_order_each_once():
    rig = Rig()
    for frame in (0, 2, 1, 1, 4, 3, 0, 5):
        rig.take(frame)
    assert rig.share.indices == list(range(6))
    assert all((data == index).all() and data.shape == SPEC.shape for index, data in rig.share.frames)
    assert rig.transfers.again == 2
    assert rig.ring.free == rig.ring.slots


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.integers(1, 3))
def test_any_order_gives_every_frame_a_fate(order, gone, n_receivers):
    """Frames that come later than ``REACH`` others are dropped; no slot is lost, and order is kept."""
    rig = Rig(n_receivers, rank=n_receivers - 1)
    rig.target.gone = {frame * n_receivers + n_receivers - 1 for frame in gone}
    frames = [at * n_receivers + n_receivers - 1 for at in order]
    for frame in frames:
        rig.take(frame)
    rig.transfers.expire(now_or_never=True)
    known = set(rig.share.indices) | set(rig.share.claims)
    assert rig.share.indices == sorted(set(frames) - rig.target.gone - (set(frames) - known))
    assert rig.share.claims == dict.fromkeys(known & rig.target.gone, OVERWRITTEN)
    assert rig.transfers.again == len(set(frames) - known)
    overtaken_by = {at: sum(other > at for other in order[: order.index(at)]) for at in order}
    assert known == {frame for frame, at in zip(frames, order, strict=True) if overtaken_by[at] <= REACH}
    assert rig.ring.free == rig.ring.slots


def test_a_missing_frame_holds_up_few_others_and_not_for_long(monkeypatch):
    rig = Rig()
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    for frame in range(1, REACH + 1):
        rig.take(frame)
    assert rig.share.indices == []
    rig.take(REACH + 1)
    assert rig.share.indices == list(range(1, REACH + 2))
    assert rig.take(0) is Taken.DONE  # it comes too late
    rig.take(REACH + 3)
    now[0] += module.PATIENCE * 0.9
    rig.transfers.expire()
    assert rig.share.indices[-1] == REACH + 1
    now[0] += module.PATIENCE * 0.2
    rig.transfers.expire()
    assert rig.share.indices[-1] == REACH + 3
    assert rig.ring.free == rig.ring.slots


def test_overwritten_frames_are_lost_and_say_so():
    rig = Rig()
    rig.target.gone = {1, 2}
    assert [rig.take(frame) for frame in range(4)] == [Taken.KEPT, Taken.DONE, Taken.DONE, Taken.KEPT]
    assert rig.share.indices == [0, 3]
    assert rig.share.claims == {1: OVERWRITTEN, 2: OVERWRITTEN}
    assert rig.transfers.overwritten == 2


def test_other_streams_are_counted_and_other_series_left_to_others():
    rig = Rig()
    assert rig.take(0, channel=1) is Taken.DONE
    assert rig.take(0, series=SERIES + 1) is Taken.STRANGE
    assert (rig.transfers.others, rig.share.frames) == (1, [])


def test_frames_that_should_not_be_here_are_refused():
    rig = Rig(n_receivers=2, rank=1, nb_frames=10)
    with pytest.raises(ProtocolError, match="got frame 10, expected 10 frames"):
        rig.take(10)
    with pytest.raises(ProtocolError, match="got frame 4, which receiver 0 should have got"):
        rig.take(4)
    endless = Rig()
    with pytest.raises(ProtocolError, match="expected none so far ahead"):
        endless.take(MAX_LEAP + 1)
    for each in (rig, endless):
        assert each.ring.free == each.ring.slots


def test_slots_of_frames_that_nobody_wants_come_back():
    rig = Rig()
    rig.share.wanted = False
    rig.take(0)
    rig.share.broken = True
    rig.take(1)
    assert rig.share.reasons == ["a bug"]
    assert rig.ring.free == rig.ring.slots
    rig.take(3)
    assert rig.ring.free == rig.ring.slots - 1
    rig.transfers.close()
    assert rig.ring.free == rig.ring.slots
    assert rig.take(4) is Taken.DONE
    rig.transfers.close()


WRITER = """
import sys
import numpy as np
from lima2_receivers.transfers import Completion
from lima2_receivers.transport.shared_ring import SharedInitiator

ring = SharedInitiator(sys.argv[1], "data")
for frame in range(int(sys.argv[2])):
    pixels = np.full((128, 256), frame, "<u2")
    sequence, slot = ring.write(pixels.data)
    ring.post(Completion(sequence, 7, frame, 0, slot, pixels.nbytes, 1.5))
"""


@pytest.mark.parametrize("pause", [0.0, 0.002])
def test_a_slow_consumer_is_overwritten_and_never_gets_a_wrong_frame(pause):
    """A process writes as fast as it can into few slots; frames are right, or known to be overwritten."""
    n_frames = 4000
    endpoint = f"rashpa:///test-{uuid.uuid4().hex}"
    ring = FrameRing(4, SPEC.nbytes)
    share = FakeShare(ring)
    accept, chance = share.accept, random.Random(0)
    wrong, indices = [], []

    def check(frame, slot):
        threading.Event().wait(pause * chance.random())  # it is slow
        indices.append(frame.index)
        if (frame.data != frame.index).any():
            wrong.append(frame.index)
        share.frames.clear()
        return accept(frame, slot)

    share.accept = check
    transfers = Transfers(share, FakeSource(msgspec.Struct(), SPEC, SERIES), ring, RoundRobin(1), 0, n_frames)
    target = SharedTarget(endpoint, "data", 3, SPEC.nbytes)
    intake = TransferIntake(target, ring, lambda: [transfers])
    intake.start()
    try:
        subprocess.run([sys.executable, "-c", WRITER, endpoint, str(n_frames)], check=True, timeout=SECONDS)
        deadline = time.monotonic() + SECONDS
        while (n_frames - 1) not in indices:  # the last one is never overwritten
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
    finally:
        intake.close()
    assert wrong == []
    assert indices == sorted(set(indices))
    assert set(indices).isdisjoint(share.claims)
    assert len(indices) + len(share.claims) + target.missed == n_frames
    assert set(share.claims.values()) <= {OVERWRITTEN}
    assert transfers.overwritten == len(share.claims)
    if pause:
        assert len(share.claims) + target.missed > 0
    assert (intake.strangers, share.reasons) == (0, [])
    assert ring.free == ring.slots
