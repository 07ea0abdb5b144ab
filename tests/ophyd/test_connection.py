"""When an acquisition counts as failed, decided from snapshots alone."""

import pytest

from lima2_ophyd._connection import SILENCE, Followed, find_failure
from lima2_receivers.acquisition import Outcome, State
from lima2_receivers.messages import SystemState
from lima2_receivers.published import AcquisitionState, DetectorState

ID = "a" * 32


def snapshot(*acquisitions, instance="one"):
    return SystemState(instance, 0, DetectorState.IDLE, "", (), acquisitions)


def acquisition(state=State.RUNNING, outcome=Outcome.NONE, reason="", written=3, identity=ID):
    return AcquisitionState(identity, state, outcome, reason, 10, "triggers", written, ())


@pytest.mark.parametrize(
    ("state", "followed", "words"),
    [
        (snapshot(acquisition()), Followed(ID, 0.0, "one"), None),
        (snapshot(), Followed(ID, 0.0), None),
        (snapshot(), Followed(ID, -SILENCE - 1), "does not know"),
        (snapshot(acquisition(identity="b" * 32)), Followed(ID, 0.0, "one"), "does not know"),
        (snapshot(acquisition(), instance="two"), Followed(ID, 0.0, "one"), None),
        (snapshot(instance="two"), Followed(ID, 0.0, "one"), "was restarted, and does not know"),
        (snapshot(acquisition(State.STOPPING, reason="hot")), Followed(ID, 0.0, "one"), "hot"),
        (snapshot(acquisition(State.CLOSED, Outcome.FAILED)), Followed(ID, 0.0, "one"), "no reason given"),
        (snapshot(acquisition(State.CLOSED, Outcome.STOPPED)), Followed(ID, 0.0, "one"), "after 3 of 10"),
        (snapshot(acquisition(State.CLOSED, Outcome.COMPLETE, written=10)), Followed(ID, 0.0, "one"), None),
        (snapshot(acquisition(State.DRAINING)), Followed(ID, 0.0, "one"), None),
    ],
)
def test_failure_of_a_snapshot(state, followed, words):
    error = find_failure(state, followed, 10, 0.0, "ipc:///c")
    assert (error is None) == (words is None)
    assert words is None or words in str(error)
