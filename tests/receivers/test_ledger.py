"""Fates of frames: any order of settling and reporting against plain dictionaries."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.errors import StateError
from lima2_receivers.ledger import Counts, FrameStatus, Ledger, Run, SystemLedger
from lima2_receivers.topology import NO_RECEIVER, RoundRobin

FATES = [
    (FrameStatus.SAVED, ""),
    (FrameStatus.VETOED, "not a hit"),
    (FrameStatus.LOST, "never arrived"),
    (FrameStatus.LOST, "incomplete"),
    (FrameStatus.FAILED, "disk full"),
]
FATE = st.sampled_from(FATES)
MODELS = st.dictionaries(st.integers(0, 40), FATE, max_size=40)
FATE_LISTS = st.lists(FATE, max_size=40)


def unroll(runs):
    """Return the fate of each row of runs."""
    return [(run.status, run.reason) for run in runs for _ in range(run.count)]


def leading(model):
    """Return the fates of the leading rows of a dictionary."""
    fates = []
    while len(fates) in model:
        fates.append(model[len(fates)])
    return fates


def counts_of(fates):
    tally = [status for status, _ in fates]
    names = (FrameStatus.SAVED, FrameStatus.VETOED, FrameStatus.LOST, FrameStatus.FAILED)
    return Counts(*(tally.count(status) for status in names))


def settled(fates):
    ledger = Ledger()
    for row, fate in enumerate(fates):
        ledger.settle(row, *fate)
    return ledger


@given(st.data(), MODELS)
def test_any_order_of_settling_gives_the_same_ledger(data, model):
    ledger = Ledger()
    known = {}
    for row in data.draw(st.permutations(sorted(model))):
        ledger.settle(row, *model[row])
        known[row] = model[row]
        assert ledger.settled == len(leading(known))
        assert ledger.counts == counts_of(known.values())
        assert ledger.counts.settled == len(known)
    assert unroll(ledger.runs()) == leading(model)
    assert all(ledger.is_settled(row) == (row in model) for row in range(45))


@given(FATE_LISTS)
def test_neighbouring_runs_differ_and_are_not_empty(fates):
    runs = settled(fates).runs()
    assert all(run.count >= 1 for run in runs)
    assert all((a.status, a.reason) != (b.status, b.reason) for a, b in pairwise(runs))


@given(FATE_LISTS, st.integers(0, 45))
def test_runs_begin_where_they_are_asked_for(fates, first):
    assert unroll(settled(fates).runs(first)) == fates[first:]


@given(st.data(), FATE_LISTS)
def test_each_row_settles_once(data, fates):
    ledger = settled(fates)
    ledger.settle(len(fates) + 2, FrameStatus.LOST, "ahead")
    row = data.draw(st.sampled_from([*range(len(fates)), len(fates) + 2]))
    before = (ledger.runs(), ledger.counts)
    with pytest.raises(StateError, match=f"row {row} is settled already, can't become saved"):
        ledger.settle(row, FrameStatus.SAVED)
    assert (ledger.runs(), ledger.counts) == before


def test_pending_is_not_a_fate():
    with pytest.raises(StateError, match="pending is not a fate"):
        Ledger().settle(0, FrameStatus.PENDING)


@given(st.data(), MODELS, st.integers(0, 45))
def test_the_rest_gets_one_fate(data, model, rows):
    ledger = Ledger()
    for row in data.draw(st.permutations(sorted(model))):
        ledger.settle(row, *model[row])
    missing = [row for row in range(rows) if row not in model]
    assert ledger.settle_rest(rows, FrameStatus.LOST, "late") == len(missing)
    assert unroll(ledger.runs()) == leading(model | dict.fromkeys(missing, (FrameStatus.LOST, "late")))
    assert ledger.settle_rest(rows, FrameStatus.LOST, "late") == 0


@given(st.data(), FATE_LISTS)
def test_reports_in_any_cuts_and_overlaps_give_the_same_ledger(data, fates):
    """Each report begins at any row that is known already or the next, and ends anywhere after."""
    copy = Ledger()
    upto = 0
    while upto < len(fates):
        upto = data.draw(st.integers(upto, len(fates)))
        first = data.draw(st.integers(0, copy.settled))
        copy.extend(first, settled(fates[:upto]).runs(first))
        assert unroll(copy.runs()) == fates[: max(upto, copy.settled)]
    assert copy.runs() == settled(fates).runs()
    assert copy.counts == counts_of(fates)


@given(FATE_LISTS, FATE_LISTS)
def test_a_report_that_leaves_a_gap_is_refused(fates, more):
    ledger = settled(fates)
    with pytest.raises(StateError, match=f"rows {len(fates)} to {len(fates)} are missing"):
        ledger.extend(len(fates) + 1, settled(more).runs())
    assert unroll(ledger.runs()) == fates


def test_a_million_saved_frames_are_one_run():
    ledger = Ledger()
    ledger.extend(0, (Run(FrameStatus.SAVED, 500_000), Run(FrameStatus.SAVED, 500_000)))
    assert ledger.runs() == (Run(FrameStatus.SAVED, 1_000_000),)
    assert ledger.runs(999_999) == (Run(FrameStatus.SAVED, 1),)


@st.composite
def systems(draw):
    """Return the leading fates of each of one to four receivers."""
    return draw(st.lists(st.lists(FATE, max_size=15), min_size=1, max_size=4))


def system_of(parts):
    system = SystemLedger(RoundRobin(len(parts)))
    for ledger, fates in zip(system.parts, parts, strict=True):
        ledger.extend(0, settled(fates).runs())
    return system


def fate_of(parts, frame):
    """Return the fate of a frame by counting, or None."""
    fates = parts[frame % len(parts)]
    row = frame // len(parts)
    return fates[row] if row < len(fates) else None


@given(systems(), st.integers(0, 70))
def test_leading_frames_are_settled_on_all_receivers(parts, announced):
    expected = 0
    while expected < announced and fate_of(parts, expected) is not None:
        expected += 1
    assert system_of(parts).leading(announced) == expected


@given(systems(), st.integers(0, 70), st.integers(0, 70))
def test_statuses_are_those_of_each_frame(parts, first, last):
    fates = [fate_of(parts, frame) for frame in range(first, last)]
    found = system_of(parts).statuses(first, last)
    assert found.dtype == np.uint8
    assert found.tolist() == [FrameStatus.PENDING if fate is None else fate[0] for fate in fates]


@given(systems())
def test_counts_and_reasons_are_those_of_all_receivers(parts):
    system = system_of(parts)
    fates = [fate for part in parts for fate in part]
    assert system.counts == counts_of(fates)
    reasons = [reason for _, reason in fates if reason]
    assert system.reasons() == {reason: reasons.count(reason) for reason in reasons}


@given(FATE_LISTS, st.integers(0, 45), st.one_of(st.none(), st.integers(0, 45)))
def test_runs_of_any_stretch(fates, first, last):
    runs = settled(fates).runs(first, last)
    assert unroll(runs) == fates[first:last]
    assert all(run.count > 0 for run in runs)


@given(FATE_LISTS, st.integers(1, 3), st.integers(0, 40), st.data())
def test_what_an_earlier_ledger_said_of_a_receiver_stays(fates, n_receivers, n_reported, data):
    """Whatever the receiver had reported once more before it was lost."""
    topology = RoundRobin(n_receivers)
    earlier = SystemLedger(topology)
    for rank in range(n_receivers):
        earlier.extend(rank, 0, tuple(Run(status, 1, why) for status, why in fates[rank::n_receivers]))
    n = data.draw(st.integers(0, len(fates)))
    ledger = SystemLedger(topology)
    for rank in range(n_receivers):
        ledger.extend(rank, 0, tuple(Run(status, 1, why) for status, why in fates[rank::n_receivers][:n_reported]))
        ledger.recall(rank, earlier.statuses(0, n), earlier.places(0, n))
    ledger.recall(NO_RECEIVER, earlier.statuses(0, n), earlier.places(0, n))
    assert ledger.leading(len(fates)) >= n
    assert ledger.statuses(0, n).tolist() == earlier.statuses(0, n).tolist()
    assert ledger.counts.settled == sum(ledger.parts[rank].settled for rank in range(n_receivers))
    ledger.write_off(len(fates), range(n_receivers))
    assert ledger.counts.settled == len(fates)
