"""Which row a frame gets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.receiver.book import MAX_LEAP
from lima2_receivers.receiver.rows import ArrivalRows, FixedRows
from lima2_receivers.topology import RoundRobin


@given(st.lists(st.integers(0, 500), max_size=100))
def test_rows_are_numbered_as_frames_arrive(frames):
    rows = ArrivalRows()
    first_seen = list(dict.fromkeys(frames))
    assert [rows.claim(frame) for frame in frames] == [first_seen.index(frame) for frame in frames]
    assert [rows.row_of(frame) for frame in first_seen] == list(range(len(first_seen)))
    assert [rows.frame_at(row) for row in range(len(first_seen))] == first_seen
    assert np.frombuffer(rows.table(0, len(first_seen)), "<u8").tolist() == first_seen


def test_a_straggler_is_not_wanted_once_it_was_given_up():
    rows = ArrivalRows()
    assert (rows.claim(0), rows.claim(2)) == (0, 1)
    assert rows.settle(3) == 2
    assert rows.claim(1) is None
    assert rows.claim(2) == 1  # it is known: whoever asks finds that it came already
    assert rows.claim(3) == 2


def test_it_has_ended_when_all_that_was_announced_is_given_up():
    rows = ArrivalRows()
    rows.claim(0)
    assert rows.due(5, final=True) == 0
    assert not rows.ended
    assert rows.claim(5) is None  # a number that the detector never gave
    rows.settle(5)
    assert rows.ended
    assert rows.claim(4) is None


def test_an_absurd_number_is_not_wanted():
    rows = ArrivalRows()
    assert rows.claim(MAX_LEAP + 1) is None
    assert rows.claim(2**60) is None
    assert rows.table(0, 1) == b""


def test_fixed_rows_are_the_topologys():
    rows = FixedRows(RoundRobin(3), 1)
    assert [rows.claim(frame) for frame in range(6)] == [None, 0, None, None, 1, None]
    assert (rows.row_of(4), rows.frame_at(1), rows.due(5, final=True), rows.settle(5)) == (1, 4, 2, 2)
    assert rows.ended
    assert rows.table(0, 9) == b""
