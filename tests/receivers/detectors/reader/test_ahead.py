"""Which frames are chosen, and that they are read a little before they are asked for, and no more of them."""

import threading

import numpy as np
import pytest

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.reader import ahead
from lima2_receivers.detectors.reader.ahead import ReadAhead
from lima2_receivers.detectors.reader.stack import choose_frames
from lima2_receivers.errors import ConfigError, DetectorError

DEADLINE = 20.0


class Counted:
    """Frames that hold their number, and note which were read; number 13 can't be."""

    model = "counted"
    spec = FrameSpec((2, 3), "<u4")

    def __init__(self, n_frames=1000):
        self.n_frames = n_frames
        self.read_ones = []
        self.closed = 0
        self.changed = threading.Condition()

    def __len__(self):
        return self.n_frames

    def read(self, index):
        if index == 13:
            raise DetectorError("frame 13 is not there")
        with self.changed:
            self.read_ones.append(index)
            self.changed.notify_all()
        return np.full((2, 3), index, np.uint32)

    def until_read(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.read_ones) >= count, DEADLINE)
            return list(self.read_ones)

    def close(self):
        self.closed += 1


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(ahead, "AHEAD_BYTES", 4 * Counted.spec.nbytes)
    made = []

    def make(stack, chosen):
        made.append(ReadAhead(stack, chosen))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("start", "count", "stride", "expected"),
    [
        (0, 0, 1, range(10)),
        (7, 0, 1, [7, 8, 9]),
        (0, 3, 1, [0, 1, 2]),
        (1, 0, 4, [1, 5, 9]),
        (1, 2, 4, [1, 5]),
        (9, 1, 100, [9]),
    ],
)
def test_a_part_is_chosen(start, count, stride, expected):
    assert list(choose_frames(10, start, count, stride)) == list(expected)


@pytest.mark.parametrize(
    ("start", "count", "stride", "words"),
    [
        (10, 0, 1, r"detector\.settings\.start: got 10, the recording has 10 frames"),
        (0, 11, 1, r"detector\.settings\.count: got 11, the recording has 10 frames from frame 0 on$"),
        (1, 4, 4, r"count: got 4, the recording has 3 frames from frame 1 on, each 4th"),
    ],
)
def test_what_the_recording_does_not_have_is_told(start, count, stride, words):
    with pytest.raises(ConfigError, match=words):
        choose_frames(10, start, count, stride)


def test_frames_are_read_in_turn_and_only_a_few_ahead(make):
    stack = Counted()
    frames = make(stack, range(20, 1000, 10))
    assert stack.until_read(4) == [20, 30, 40, 50]
    assert [int(frames[at][0, 0]) for at in range(3)] == [20, 30, 40]
    assert stack.until_read(7) == [20, 30, 40, 50, 60, 70, 80]
    assert len(frames) == 98


def test_any_order_gives_the_right_frames_and_the_beginning_follows_the_end(make):
    stack = Counted(12)
    frames = make(stack, range(12))
    assert [int(frames[at][0, 0]) for at in (5, 3, 11, 0, 1, 11, -1, 7)] == [5, 3, 11, 0, 1, 11, 11, 7]
    for _ in range(3):
        assert [int(frame[0, 0]) for frame in frames] == list(range(12))


def test_a_frame_belongs_to_the_one_who_took_it(make):
    frames = make(Counted(6), range(6))
    frames[2][:] = 99
    assert frames[2][0, 0] == 2


def test_a_frame_that_cannot_be_read_fails_alone(make):
    frames = make(Counted(), range(10, 20))
    assert frames[2][0, 0] == 12
    with pytest.raises(DetectorError, match="frame 13 is not there"):
        frames[3]
    assert frames[4][0, 0] == 14


def test_closing_ends_the_thread_and_those_who_wait(make):
    stack = Counted()
    frames = make(stack, range(1000))
    frames.close()
    frames.close()
    assert stack.closed
    with pytest.raises(DetectorError, match="closed"):
        frames[0]


def test_a_frame_that_does_not_come_in_time_is_told(make, monkeypatch):
    monkeypatch.setattr(ahead, "PATIENCE", 0.05)
    stack = Counted()
    blocked = threading.Event()
    stack.read = lambda index: blocked.wait(DEADLINE) and np.zeros((2, 3))
    frames = make(stack, range(5))
    with pytest.raises(DetectorError, match=r"frame 0 of the recording was not read within 0\.05 s"):
        frames[0]
    blocked.set()
