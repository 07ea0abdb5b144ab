"""The ledger of frames that have a part on every receiver, against a plain list of fates of parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.ledger import Counts, FrameStatus, Run
from lima2_receivers.ledger_parts import PartsLedger, whole_fate
from lima2_receivers.topology import EVERY_RECEIVER

SAVED, VETOED, LOST, FAILED = FrameStatus.SAVED, FrameStatus.VETOED, FrameStatus.LOST, FrameStatus.FAILED
FATES = [(SAVED, ""), (SAVED, "partial: 3 packets"), (VETOED, "no hit"), (LOST, "never arrived"), (FAILED, "disk full")]


def worst(fates):
    """Return the status of a frame from those of its parts."""
    return next(status for status in (FAILED, LOST, VETOED, SAVED) if status in fates)


@st.composite
def parts(draw):
    """The fates of the parts of some frames, (receivers, frames)."""
    n_receivers, n_frames = draw(st.integers(1, 4)), draw(st.integers(0, 30))
    fates = st.lists(st.sampled_from(FATES), min_size=n_frames, max_size=n_frames)
    return [draw(fates) for _ in range(n_receivers)]


@given(parts(), st.data())
def test_a_frame_is_what_the_worst_of_its_parts_is(fates, data):
    ledger = PartsLedger(len(fates))
    n_frames = len(fates[0])
    known = [0] * len(fates)
    for _ in range(3):
        for rank, mine in enumerate(fates):
            first = data.draw(st.integers(0, known[rank]))  # reports may overlap
            last = data.draw(st.integers(known[rank], n_frames))
            ledger.extend(rank, first, tuple(Run(status, 1, reason) for status, reason in mine[first:last]))
            known[rank] = last
            assert ledger.cursor(rank) == last
            settled = min(known)
            assert ledger.leading(n_frames) == settled
            expected = [worst([mine[frame][0] for mine in fates]) for frame in range(settled)]
            assert ledger.statuses(0, n_frames).tolist() == expected + [0] * (n_frames - settled)
            assert ledger.counts.settled == settled
    for rank, mine in enumerate(fates):
        assert ledger.part_statuses(rank, 0, n_frames)[: known[rank]].tolist() == [s for s, _ in mine[: known[rank]]]
        assert ledger.part_counts(rank).settled == known[rank]


@given(parts(), st.data())
def test_dead_receivers_are_written_off(fates, data):
    n_frames = len(fates[0])
    ledger = PartsLedger(len(fates))
    dead = data.draw(st.integers(0, len(fates) - 1))
    for rank, mine in enumerate(fates):
        reported = data.draw(st.integers(0, n_frames)) if rank == dead else n_frames
        ledger.extend(rank, 0, tuple(Run(status, 1, reason) for status, reason in mine[:reported]))
        if rank == dead:
            there = reported
    ledger.write_off(n_frames, [dead])
    assert ledger.leading(n_frames) == n_frames == ledger.counts.settled
    assert set(ledger.statuses(there, n_frames).tolist()) <= {FAILED}
    for frame in range(there, n_frames):
        assert f"receiver {dead} was lost" in ledger.fate(frame).reason
        assert f"receiver {dead}: receiver" not in ledger.fate(frame).reason


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([Run(SAVED, 9), Run(SAVED, 9)], Run(SAVED, 4)),
        ([Run(SAVED, 9), Run(LOST, 9, "gone")], Run(LOST, 4, "receiver 1: gone")),
        ([Run(LOST, 9, "gone"), Run(LOST, 9, "gone")], Run(LOST, 4, "gone")),
        ([Run(LOST, 9, "gone"), Run(FAILED, 9, "disk full")], Run(FAILED, 4, "receiver 1: disk full")),
        ([Run(LOST, 9, "a"), Run(LOST, 9, "b")], Run(LOST, 4, "receiver 0: a; receiver 1: b")),
        ([Run(SAVED, 9, "partial: x"), Run(SAVED, 9)], Run(SAVED, 4, "receiver 0: partial: x")),
    ],
)
def test_the_reason_names_receivers_unless_it_is_that_of_all(runs, expected):
    assert whole_fate(runs, 4) == expected


def test_frames_are_everywhere():
    ledger = PartsLedger(3)
    places = ledger.places(5, 8)
    assert places.receivers.tolist() == [EVERY_RECEIVER] * 3
    assert places.rows.tolist() == [5, 6, 7]
    assert ledger.locate(5) is None
    assert ledger.fate(5) is None
    assert ledger.unplaced == ledger.doubles(0) == Counts()
    assert ledger.n_receivers == 3
    assert ledger.reasons() == {}


def test_a_million_frames_are_a_few_runs():
    ledger = PartsLedger(2)
    ledger.extend(0, 0, (Run(SAVED, 1_000_000),))
    ledger.extend(1, 0, (Run(SAVED, 400_000), Run(LOST, 1, "gone"), Run(SAVED, 599_999)))
    assert ledger.counts == Counts(saved=999_999, lost=1)
    assert ledger.reasons() == {"receiver 1: gone": 1}
    assert np.flatnonzero(ledger.statuses(0, 1_000_000) != SAVED).tolist() == [400_000]
