"""Frames out of packets, for every way that packets may come."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lima2_processing.frame import FrameSpec
from lima2_receivers.receiver.assembly import OPEN_FRAMES, PATIENCE, Assembler
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.source import REFUSED, STRANGE, Located

N_PACKETS = 4
SLOTS = OPEN_FRAMES + 2


@dataclass
class Source:
    """Packets of 4 bytes: frame (128 and more: refused; 100 and more: strange), place, and the two pixels."""

    spec = FrameSpec((N_PACKETS, 2), "|u1")
    header_bytes = 2
    payload_bytes = 2
    keeps_partial: bool = False

    def locate(self, packets, sizes):
        frames = packets[:, 0].astype(np.int64)
        frames = np.where(frames >= 128, REFUSED, np.where(frames >= 100, STRANGE, frames))
        refused = int((frames == REFUSED).sum())
        return Located(frames, packets[:, 1].astype(np.intp), {"refused": refused} if refused else {})


def packet(frame, place):
    return (frame, place, frame, place)


def whole(frame):
    return [packet(frame, place) for place in range(N_PACKETS)]


class Bench:
    def __init__(self, slots=SLOTS, nb_frames=0):
        self.ring = FrameRing(slots, 2 * N_PACKETS)
        self.assembler = Assembler(Source(), self.ring, nb_frames)
        self.frames = []
        self.now = 0.0

    def put(self, packets):
        closed, strangers = self.assembler.place(
            np.array(packets, np.uint8), np.full(len(packets), 4, np.uint32), self.now
        )
        self.frames += closed
        return strangers

    def wait(self, seconds):
        self.now += seconds
        self.frames += self.assembler.expire(self.now)

    def give_back(self):
        for frame in self.frames:
            if frame.slot is not None:
                self.ring.give(frame.slot)


def indices(bench):
    return [frame.index for frame in bench.frames]


def test_a_complete_frame_comes_out_at_once():
    bench = Bench()
    bench.put(whole(0)[:3])
    assert not bench.frames
    bench.put(whole(0)[3:])
    (frame,) = bench.frames
    assert (frame.index, frame.flaw, frame.frame.modules) == (0, "", 1)
    assert frame.frame.data.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3]]


def test_frames_wait_for_earlier_ones():
    bench = Bench()
    bench.put(whole(0)[:3] + whole(1))
    assert not bench.frames
    bench.put(whole(0)[3:])
    assert indices(bench) == [0, 1]


def test_what_is_missing_reads_as_ones():
    bench = Bench()
    bench.put(whole(0)[1:])
    bench.wait(2 * PATIENCE)
    assert bench.frames[0].frame.data.tolist() == [[255, 255], [0, 1], [0, 2], [0, 3]]
    assert (bench.frames[0].flaw, bench.frames[0].frame.modules) == ("1 of 4 packets are missing", 0)


def test_a_frame_whose_time_is_over_lets_those_before_it_go_first():
    bench = Bench()
    bench.put(whole(1)[1:])
    bench.wait(PATIENCE * 0.6)
    bench.put(whole(0)[1:])
    bench.wait(PATIENCE * 0.6)
    assert indices(bench) == [0, 1]


def test_packets_that_come_late_or_again_are_counted():
    bench = Bench()
    bench.put(whole(0) + whole(0)[:1])
    bench.put(whole(0)[:2])
    assert bench.assembler.late == 3


def test_a_full_ring_costs_whole_frames():
    bench = Bench(slots=2)
    for index in range(4):
        bench.put(whole(index))
    assert [frame.flaw for frame in bench.frames] == ["", "", *["there was no room in the ring"] * 2]
    bench.give_back()
    bench.put(whole(4))
    assert bench.frames[-1].flaw == ""


def test_frames_beyond_the_last_are_strangers():
    bench = Bench(nb_frames=2)
    strangers = bench.put(whole(1) + whole(2) + [packet(100, 0), packet(200, 0)])
    assert strangers.others.tolist() == [False] * 4 + [True] * 5 + [False]
    assert strangers.refusals == {"refused": 1}


def test_open_frames_give_their_slots_back():
    bench = Bench()
    bench.put([packet(index, 0) for index in range(3)])
    assert bench.ring.free == SLOTS - 3
    bench.assembler.release()
    assert bench.ring.free == SLOTS


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, N_PACKETS - 1)), max_size=150),
    st.integers(1, 20),
    st.integers(1, SLOTS),
)
def test_no_frame_is_wrong_whatever_comes(stream, batch, slots):
    """Each frame comes out once, in order, complete only where all of its packets came, and every slot comes back."""
    bench = Bench(slots)
    came = set(stream)
    for at in range(0, len(stream), batch):
        bench.put([packet(*each) for each in stream[at : at + batch]])
        bench.wait(PATIENCE / 3)
    bench.wait(2 * PATIENCE)
    assert indices(bench) == sorted(set(indices(bench)))
    assert set(indices(bench)) <= {frame for frame, _ in came}
    for each in bench.frames:
        if each.frame is None:
            assert each.flaw == "there was no room in the ring"
            continue
        rows = [row.tolist() for row in each.frame.data]
        right = [row in ([each.index, place], [255, 255]) for place, row in enumerate(rows)]
        assert all(right)
        missing = sum(row == [255, 255] for row in rows)
        assert each.flaw == (f"{missing} of 4 packets are missing" if missing else "")
        assert missing >= sum((each.index, place) not in came for place in range(N_PACKETS))
    bench.give_back()
    assert bench.ring.free == slots
