"""The ledger in a few numbers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.conductor.report import MAX_REASONS, MAX_RUNS, OTHERS, main_reasons, runs_of


@given(st.lists(st.sampled_from([1, 2, 3, 4]), max_size=200))
def test_runs_give_the_statuses_back(statuses):
    runs = runs_of(np.array(statuses, "u1"))
    assert np.repeat(runs.status, runs.count).tolist() == statuses
    assert list(runs.first) == np.cumsum([0, *runs.count])[: len(runs.count)].tolist()
    assert all(one != other for one, other in zip(runs.status, runs.status[1:], strict=False))


def test_there_are_no_more_than_so_many_runs():
    runs = runs_of(np.tile(np.array([1, 3], "u1"), MAX_RUNS))
    assert len(runs.first) == len(runs.count) == len(runs.status) == MAX_RUNS
    assert sum(runs.count) == MAX_RUNS


def test_a_million_frames_without_trouble_are_one_run():
    assert runs_of(np.ones(1_000_000, "u1")).count == (1_000_000,)


def test_rare_reasons_are_put_together():
    reasons = {f"reason {number}": number + 1 for number in range(MAX_REASONS + 2)}
    found = main_reasons(reasons)
    assert len(found) == MAX_REASONS + 1
    assert found[OTHERS] == 1 + 2
    assert sum(found.values()) == sum(reasons.values())
    assert main_reasons({"one": 3}) == {"one": 3}
