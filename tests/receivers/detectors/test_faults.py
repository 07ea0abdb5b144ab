"""What happens on the way from a simulated detector to a receiver."""

import itertools
import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.detectors.faults import NO_FAULTS, Faults, FaultyWay

shares = st.sampled_from([0.0, 0.2, 1.0])
N = 200


def travel(faults, n=N):
    """What arrives of n numbers, in what order, and which of them got lost."""
    way = FaultyWay(faults, random.Random(faults.seed))
    came, lost = [], []
    for number in range(n):
        arrives, now = way.send(number)
        came += now
        lost += [] if arrives else [number]
    return [*came, *way.rest()], lost


def test_without_faults_all_comes_once_and_in_order():
    assert travel(NO_FAULTS) == (list(range(N)), [])


@given(st.builds(Faults, shares, shares, shares, st.integers(1, 6), st.integers(0, 5)))
def test_what_is_not_lost_comes_and_late_by_no_more_than_its_reach(faults):
    came, lost = travel(faults)
    counts = Counter(came)
    assert set(counts) | set(lost) == set(range(N))
    assert not set(counts) & set(lost)
    assert max(counts.values(), default=1) <= (2 if faults.duplication else 1)
    for number, at in {number: came.index(number) for number in counts}.items():
        later = {other for other in came[:at] if other > number}
        assert len(later) <= (faults.reach if faults.reordering else 0)


@pytest.mark.parametrize("what", ["loss", "reordering", "duplication"])
def test_each_fault_happens_as_often_as_it_is_asked_for(what):
    came, lost = travel(msgspec.structs.replace(NO_FAULTS, **{what: 0.25}), 4000)
    late = sum(later < earlier for earlier, later in itertools.pairwise(came))
    twice = len(came) - len(set(came))
    found = {"loss": len(lost), "reordering": late, "duplication": twice}
    assert 700 < found.pop(what) < 1300
    assert set(found.values()) == {0}


def test_what_is_still_late_of_a_series_can_be_dropped():
    way = FaultyWay(Faults(reordering=1.0), random.Random(0))
    assert way.send(1) == (True, [])
    assert way.rest() == [1]
    assert way.rest() == []
