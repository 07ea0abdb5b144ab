"""Frames to receivers and rows, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.topology import RoundRobin

RECEIVERS = st.integers(1, 64)
LARGE = st.integers(0, 2**48)


@given(RECEIVERS, LARGE)
def test_a_frame_is_found_where_it_was_put(n_receivers, frame):
    topology = RoundRobin(n_receivers)
    receiver, row = topology.locate(frame)
    assert 0 <= receiver < n_receivers
    assert row >= 0
    assert topology.frame_at(receiver, row) == frame


@given(st.data(), RECEIVERS, LARGE)
def test_a_row_is_the_place_of_its_frame(data, n_receivers, row):
    topology = RoundRobin(n_receivers)
    receiver = data.draw(st.integers(0, n_receivers - 1))
    assert topology.locate(topology.frame_at(receiver, row)) == (receiver, row)


@given(st.integers(1, 9), st.integers(-3, 60))
def test_rows_are_those_that_the_frames_are_put_in(n_receivers, n_frames):
    topology = RoundRobin(n_receivers)
    places = [topology.locate(frame) for frame in range(n_frames)]
    for receiver in range(n_receivers):
        rows = [row for owner, row in places if owner == receiver]
        assert rows == list(range(topology.rows(receiver, n_frames)))


@given(RECEIVERS, LARGE)
def test_no_frame_is_left_out_or_counted_twice(n_receivers, n_frames):
    topology = RoundRobin(n_receivers)
    shares = [topology.rows(receiver, n_frames) for receiver in range(n_receivers)]
    assert sum(shares) == n_frames
    assert max(shares) - min(shares) <= 1


def test_one_receiver_owns_all():
    topology = RoundRobin(1)
    assert [topology.locate(frame) for frame in range(3)] == [(0, 0), (0, 1), (0, 2)]


@pytest.mark.parametrize("n_receivers", [0, -1])
def test_at_least_one_receiver_is_needed(n_receivers):
    with pytest.raises(ValueError, match=f"got {n_receivers}, expected at least 1"):
        RoundRobin(n_receivers)
