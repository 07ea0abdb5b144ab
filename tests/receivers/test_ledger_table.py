"""The ledger of frames that go to any receiver, against a plain list of fates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.errors import StateError
from lima2_receivers.ledger import Counts, FrameStatus, Run
from lima2_receivers.ledger_table import NEVER, TableLedger
from lima2_receivers.topology import NO_RECEIVER

FATES = {FrameStatus.SAVED: "", FrameStatus.VETOED: "no hit", FrameStatus.FAILED: "pipeline"}


@st.composite
def deals(draw):
    """Frames, each with its receiver (-1: lost) and fate; each receiver's frames in some order of arrival."""
    n_receivers = draw(st.integers(1, 4))
    fates = draw(st.lists(st.tuples(st.integers(-1, n_receivers - 1), st.sampled_from(sorted(FATES))), max_size=60))
    orders = [
        draw(st.permutations([frame for frame, (owner, _) in enumerate(fates) if owner == rank]))
        for rank in range(n_receivers)
    ]
    return fates, orders


def report(ledger, rank, first, frames, fates):
    runs = tuple(Run(fates[frame][1], 1, FATES[fates[frame][1]]) for frame in frames)
    ledger.extend(rank, first, runs, frames)


@given(deals(), st.data())
def test_every_frame_has_the_fate_and_place_that_was_reported(deal, data):
    fates, orders = deal
    ledger = TableLedger(len(orders))
    known: set[int] = set()
    sent = [0] * len(orders)
    for _ in range(3):
        for rank, frames in enumerate(orders):
            first = data.draw(st.integers(0, sent[rank]))  # reports may overlap
            last = data.draw(st.integers(sent[rank], len(frames)))
            report(ledger, rank, first, frames[first:last], fates)
            known.update(frames[:last])
            sent[rank] = last
            assert ledger.cursor(rank) == last
        leading = next((frame for frame in range(len(fates)) if frame not in known), len(fates))
        assert ledger.leading(len(fates)) == leading
    for rank, frames in enumerate(orders):
        report(ledger, rank, 0, frames, fates)
    ledger.write_off(len(fates), ())
    lost = [frame for frame, (owner, _) in enumerate(fates) if owner < 0]
    expected = [FrameStatus.LOST if owner < 0 else fate for owner, fate in fates]
    assert ledger.statuses(0, len(fates)).tolist() == expected
    assert ledger.leading(len(fates)) == len(fates)
    assert ledger.counts.settled == len(fates)
    assert ledger.unplaced == Counts(lost=len(lost))
    receivers, rows = ledger.places(0, len(fates))
    for frame, (owner, fate) in enumerate(fates):
        found = ledger.fate(frame)
        if owner < 0:
            assert (receivers[frame], ledger.locate(frame)) == (NO_RECEIVER, None)
            assert (found.status, found.reason) == (FrameStatus.LOST, NEVER)
        else:
            assert (receivers[frame], orders[owner][rows[frame]]) == (owner, frame)
            assert ledger.locate(frame) == (owner, rows[frame])
            assert (found.status, found.reason) == (fate, FATES[fate])
    assert sum(ledger.reasons().values()) == sum(status is not FrameStatus.SAVED for status in expected)


def test_what_a_dead_receiver_may_have_had_has_failed():
    ledger = TableLedger(2)
    ledger.extend(0, 0, (Run(FrameStatus.SAVED, 2),), [0, 3])
    ledger.write_off(5, (1,))
    assert ledger.statuses(0, 6).tolist() == [1, 4, 4, 1, 4, 0]
    assert ledger.reasons() == {"receiver 1 was lost": 3}
    assert ledger.unplaced == Counts(failed=3)


def test_a_frame_that_two_receivers_have_counts_once():
    ledger = TableLedger(2)
    ledger.extend(0, 0, (Run(FrameStatus.SAVED, 1),), [7])
    ledger.extend(1, 0, (Run(FrameStatus.FAILED, 1, "late"),), [7])
    assert (ledger.counts, ledger.doubles(0), ledger.doubles(1)) == (Counts(saved=1), Counts(), Counts(failed=1))
    ledger.extend(0, 1, (Run(FrameStatus.SAVED, 3),), [8, 8, 7])  # no receiver does, and yet
    assert (ledger.counts, ledger.doubles(0)) == (Counts(saved=2), Counts(saved=2))
    assert ledger.locate(7) == (0, 0)


def test_rows_without_frames_are_refused():
    ledger = TableLedger(1)
    with pytest.raises(StateError, match="got the frames of 1 rows, expected 2"):
        ledger.extend(0, 0, (Run(FrameStatus.SAVED, 2),), [0])
    with pytest.raises(StateError, match="rows 0 to 4 are missing"):
        ledger.extend(0, 5, (Run(FrameStatus.SAVED, 1),), [0])
    assert ledger.counts == Counts()
    assert not np.any(ledger.statuses(0, 10))


@given(deals(), st.data())
def test_what_an_earlier_ledger_said_stays(deal, data):
    """Of receivers that are gone, and of frames that none had."""
    fates, orders = deal
    earlier = TableLedger(len(orders))
    for rank, frames in enumerate(orders):
        report(earlier, rank, 0, frames, fates)
    earlier.write_off(len(fates), ())
    n = data.draw(st.integers(0, len(fates)))
    ledger = TableLedger(len(orders))
    ledger.recall(NO_RECEIVER, earlier.statuses(0, n), earlier.places(0, n))
    gone = data.draw(st.sets(st.sampled_from(range(len(orders)))))
    for rank, frames in enumerate(orders):
        last = data.draw(st.integers(0, len(frames))) if rank in gone else len(frames)
        report(ledger, rank, 0, frames[:last], fates)
        if rank in gone:
            ledger.recall(rank, earlier.statuses(0, n), earlier.places(0, n))
    assert ledger.statuses(0, n).tolist() == earlier.statuses(0, n).tolist()
    for found, expected in zip(ledger.places(0, n), earlier.places(0, n), strict=True):
        assert found.tolist() == expected.tolist()
    for frame in range(n):
        assert ledger.fate(frame).status == earlier.fate(frame).status
    ledger.write_off(len(fates), sorted(gone))
    assert ledger.counts.settled == len(fates)
    parts = sum((ledger.part_counts(rank) for rank in range(len(orders))), ledger.unplaced)
    assert parts == ledger.counts
