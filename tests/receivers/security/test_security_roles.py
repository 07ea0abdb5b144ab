"""What each role may ask: the table has every request there is."""

from typing import get_args

import pytest

from lima2_receivers import messages as m
from lima2_receivers.errors import AccessError, error_from_code
from lima2_receivers.security.roles import LOCAL, NEEDED, Peer, Role, check_role

REQUESTS = {*get_args(m.ConductorRequest), *get_args(m.ReceiverRequest), *get_args(m.IngestRequest)}
OBSERVED = {m.Hello, m.Describe, m.GetState, m.GetValues, m.GetRow, m.GetLedger, m.LocateFrame, m.GetFrame}
CONTROLLED = {m.Prepare, m.Start, m.Trigger, m.Finish, m.Stop}


def may(role: Role, kind: type[m.Message]) -> bool:
    try:
        check_role(Peer("peer", role, "10.0.0.1"), kind)
    except AccessError:
        return False
    return True


def test_every_request_is_in_the_table_and_nothing_else():
    assert set(NEEDED) == REQUESTS


@pytest.mark.parametrize("kind", sorted(REQUESTS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_what_each_role_may_ask(kind):
    assert may(Role.OBSERVE, kind) == (kind in OBSERVED)
    assert may(Role.CONTROL, kind) == (kind in OBSERVED | CONTROLLED)
    assert may(Role.CONDUCT, kind)
    check_role(LOCAL, kind)


def test_a_request_that_nobody_thought_of_needs_the_highest_role():
    class Unknown(m.Message, frozen=True):
        pass

    assert not may(Role.CONTROL, Unknown)
    assert may(Role.CONDUCT, Unknown)


def test_the_refusal_says_who_what_and_why_and_survives_the_wire():
    with pytest.raises(AccessError) as caught:
        check_role(Peer("alice", Role.OBSERVE, "10.0.0.1"), m.Stop)
    assert str(caught.value) == "Stop needs the role control, the key of alice at 10.0.0.1 has observe"
    assert type(error_from_code(m.failed(caught.value).code, "x")) is AccessError
