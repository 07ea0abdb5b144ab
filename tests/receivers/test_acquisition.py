"""The table of states: every pair of state and event, how an acquisition ends, and the state of a whole."""

import itertools

import pytest

from lima2_receivers.acquisition import TRANSITIONS, Acquisition, Event, Outcome, State
from lima2_receivers.errors import StateError

PATHS = {
    State.PREPARING: (),
    State.PREPARED: (Event.READY,),
    State.RUNNING: (Event.READY, Event.START),
    State.STOPPING: (Event.READY, Event.START, Event.STOP),
    State.DRAINING: (Event.READY, Event.START, Event.ENDED),
    State.CLOSED: (Event.READY, Event.START, Event.ENDED, Event.SETTLED),
}
PAIRS = list(itertools.product(State, Event))


def reach(state: State) -> Acquisition:
    """Return an acquisition that is in a state."""
    machine = Acquisition("scan 7")
    for event in PATHS[state]:
        machine.handle(event)
    assert machine.state is state
    return machine


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair in TRANSITIONS])
def test_a_pair_in_the_table_does_what_the_table_says(state, event):
    machine = reach(state)
    after, instructions = TRANSITIONS[state, event]
    assert machine.handle(event) == instructions
    assert machine.state is after
    assert (machine.outcome is Outcome.NONE) == (after is not State.CLOSED)


@pytest.mark.parametrize(("state", "event"), [pair for pair in PAIRS if pair not in TRANSITIONS])
def test_any_other_pair_is_refused_and_names_what_is_allowed(state, event):
    machine = reach(state)
    before = (machine.state, machine.outcome, machine.reason)
    with pytest.raises(StateError) as caught:
        machine.handle(event)
    allowed = ", ".join(str(e) for e in Event if (state, e) in TRANSITIONS)
    said, _, named = str(caught.value).partition(", only ")
    assert said == f"scan 7: {event} can't happen while {state}"
    assert sorted(named.split(", ")) == sorted(allowed.split(", "))
    assert (machine.state, machine.outcome, machine.reason) == before


def test_every_state_takes_a_stop_and_a_fault():
    assert all((state, event) in TRANSITIONS for state in State for event in (Event.STOP, Event.FAULT))


def test_every_state_can_reach_the_end_without_the_user():
    """From each state, whatever the detector does, the acquisition can be closed."""
    ends = {State.CLOSED}
    for _ in State:
        steps = [(state, after) for (state, event), (after, _) in TRANSITIONS.items() if event is not Event.STOP]
        ends |= {state for state, after in steps if after in ends}
    assert ends == set(State)


def test_nothing_leaves_the_last_state():
    assert all(cell == (State.CLOSED, ()) for (state, _), cell in TRANSITIONS.items() if state is State.CLOSED)


@pytest.mark.parametrize("state", list(State))
def test_a_second_stop_changes_nothing_and_asks_for_nothing(state):
    machine = reach(state)
    machine.handle(Event.STOP)
    before = (machine.state, machine.outcome, machine.forecast())
    assert machine.handle(Event.STOP) == ()
    assert (machine.state, machine.outcome, machine.forecast()) == before


def run(*events: Event) -> Acquisition:
    machine = Acquisition("scan 7")
    for event in events:
        machine.handle(event, "the cable" if event is Event.FAULT else "")
    return machine


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ((Event.READY, Event.START, Event.ENDED, Event.SETTLED), Outcome.COMPLETE),
        ((Event.READY, Event.ENDED, Event.SETTLED), Outcome.COMPLETE),
        ((Event.READY, Event.START, Event.ENDED, Event.STOP, Event.SETTLED), Outcome.COMPLETE),
        ((Event.READY, Event.START, Event.STOP, Event.HALTED, Event.SETTLED), Outcome.STOPPED),
        ((Event.READY, Event.STOP, Event.HALTED, Event.SETTLED), Outcome.STOPPED),
        ((Event.STOP,), Outcome.STOPPED),
        ((Event.FAULT,), Outcome.FAILED),
        ((Event.READY, Event.FAULT, Event.HALTED, Event.SETTLED), Outcome.FAILED),
        ((Event.READY, Event.START, Event.STOP, Event.FAULT, Event.HALTED, Event.SETTLED), Outcome.FAILED),
        ((Event.READY, Event.START, Event.FAULT, Event.STOP, Event.HALTED, Event.SETTLED), Outcome.FAILED),
        ((Event.READY, Event.START, Event.ENDED, Event.FAULT, Event.SETTLED), Outcome.FAILED),
        ((Event.READY, Event.START, Event.ENDED, Event.SETTLED, Event.FAULT, Event.STOP), Outcome.COMPLETE),
    ],
)
def test_how_it_ended(events, outcome):
    machine = run(*events)
    assert machine.state is State.CLOSED
    assert machine.outcome is outcome
    assert bool(machine.reason) == (outcome is Outcome.FAILED)


def test_a_stopped_acquisition_of_which_nothing_is_missing_is_complete():
    machine = run(Event.READY, Event.START, Event.STOP, Event.HALTED)
    assert machine.forecast() is Outcome.STOPPED
    machine.complete_anyway()
    assert machine.handle(Event.SETTLED) == ()
    assert machine.outcome is Outcome.COMPLETE


def test_a_failed_acquisition_stays_failed_even_where_nothing_is_missing():
    machine = run(Event.READY, Event.START, Event.FAULT, Event.HALTED)
    machine.complete_anyway()
    machine.handle(Event.SETTLED)
    assert machine.outcome is Outcome.FAILED


def test_the_first_reason_is_kept():
    machine = run(Event.READY, Event.START)
    for reason in ("the first", "the second"):
        machine.handle(Event.FAULT, reason)
    assert machine.reason == "the first"


def test_a_fault_without_a_reason_is_a_fault_all_the_same():
    machine = Acquisition("scan 7")
    machine.handle(Event.FAULT)
    assert machine.reason == "unknown fault"
    assert machine.outcome is Outcome.FAILED
