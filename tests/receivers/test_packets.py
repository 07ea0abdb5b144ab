"""The packets of a share at its end: what comes then is nobody's, and no slot is lost."""

import numpy as np
import pytest

from lima2_processing.frame import FrameSpec
from lima2_receivers.receiver.assembly import Assembler
from lima2_receivers.receiver.packets import Packets
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.source import Located

N_PACKETS = 4


class Source:
    """Packets of a frame's number, a place, and two bytes of pixels."""

    spec = FrameSpec((N_PACKETS, 2), "|u1")
    header_bytes = 2
    payload_bytes = 2
    keeps_partial = False

    def locate(self, packets, sizes):
        return Located(packets[:, 0].astype(np.int64), packets[:, 1].astype(np.intp))


class Share:
    """Takes every frame, as long as it is open."""

    def __init__(self):
        self.open = True
        self.taken = []

    def accept(self, frame, slot, flaw=""):
        if self.open:
            self.taken.append((frame.index, slot))
        return self.open

    def claim(self, index, timestamp, lost):
        return None


class Files:
    """Keeps the indices of what is written."""

    def __init__(self):
        self.written, self.closed = [], 0

    def write(self, packets):
        self.written.append(packets.index)

    def close(self):
        self.closed += 1


@pytest.fixture
def bench():
    ring, share, files = FrameRing(6, 2 * N_PACKETS), Share(), Files()
    made = Packets(share, Assembler(Source(), ring, 0), ring, files)
    made.test = ring, share, files
    yield made
    made.close()


def put(packets, frame, places=range(N_PACKETS)):
    rows = np.array([(frame, place, 0, 0) for place in places], np.uint8)
    return packets.place(rows, np.full(len(rows), 4, np.uint32))


def test_a_frame_is_lent_to_the_files_and_the_share(bench):
    ring, share, files = bench.test
    put(bench, 0)
    bench.close()
    assert (files.written, files.closed > 0) == ([0], True)
    assert ring.free == 5  # the share still has it
    ring.give(share.taken[0][1])
    assert ring.free == 6


def test_open_frames_give_their_slots_back_at_the_end(bench):
    ring, *_ = bench.test
    put(bench, 0, [0])
    assert ring.free == 5
    bench.close()
    assert ring.free == 6


def test_what_comes_after_the_end_is_nobodys_and_takes_no_slot(bench):
    """The share is known until it is forgotten; a slot that it took meanwhile would be lost for ever."""
    ring, share, _ = bench.test
    bench.close()
    share.open = False
    strangers = put(bench, 0, [0])
    bench.expire()
    assert strangers.others.all()
    assert ring.free == 6


def test_frames_that_nobody_wants_give_their_slots_back(bench):
    ring, share, files = bench.test
    share.open = False
    put(bench, 0)
    bench.close()
    assert files.written == [0]
    assert ring.free == 6
