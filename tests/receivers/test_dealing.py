"""Dealing messages to receivers: none is lost, none is with two living receivers, none is more than has room."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lima2_receivers.errors import StateError
from lima2_receivers.ingest.dealing import Deal, Dealing

RANKS = st.integers(0, 3)


class Dealt(RuleBasedStateMachine):
    """Against a model that knows who has what."""

    @initialize(slots=st.integers(1, 8))
    def begin(self, slots):
        self.dealing = Dealing(slots)
        self.slots = slots
        self.now = 0.0
        self.arrived: dict[int, int] = {}  # slot by number, of those that nobody has acknowledged
        self.refused: dict[int, set[int]] = {}
        self.holders: dict[int, int] = {}  # session by number
        self.sessions: dict[int, int] = {}  # rank by session
        self.room: dict[int, int] = {}  # what a session may still get
        self.granted: dict[int, int] = {}
        self.heard: dict[int, float] = {}
        self.admitted = set(range(4))
        self.dropped = 0

    def gone(self, session):
        del self.sessions[session]
        for number in [number for number, holder in self.holders.items() if holder == session]:
            del self.holders[number]

    @rule()
    def arrive(self):
        if len(self.arrived) == self.slots:
            with pytest.raises(StateError, match="expected none until there is room"):
                self.dealing.arrive()
            return
        number, slot = self.dealing.arrive()
        assert number not in self.refused
        assert 0 <= slot < self.slots
        assert slot not in self.arrived.values()
        self.arrived[number] = slot
        self.refused[number] = set()

    @rule(rank=RANKS)
    def join(self, rank):
        session = self.dealing.join(rank, self.now)
        if rank not in self.admitted:
            assert session is None
            return
        assert session is not None
        assert session not in self.room
        for old in [old for old, other in self.sessions.items() if other == rank]:
            self.gone(old)
        self.sessions[session] = rank
        self.room[session] = self.granted[session] = 0
        self.heard[session] = self.now

    @precondition(lambda self: self.room)
    @rule(data=st.data(), more=st.integers(0, 3))
    def report(self, data, more):
        """Also of sessions that are over, and about messages that others have."""
        session = data.draw(st.sampled_from(sorted(self.room)))
        told = [data.draw(st.lists(st.sampled_from(sorted(self.refused)), max_size=3)) if self.refused else []] * 2
        done, refused = told[0], [] if data.draw(st.booleans()) else told[1]
        done = [] if refused else done
        granted = self.granted[session] + more
        if session not in self.sessions:
            with pytest.raises(StateError, match="is over"):
                self.dealing.report(session, granted, done, refused, self.now)
            return
        freed = self.dealing.report(session, granted, done, refused, self.now)
        self.heard[session] = self.now
        self.granted[session] = granted
        self.room[session] += more
        own = {number for number, holder in self.holders.items() if holder == session}
        assert sorted(freed) == sorted(self.arrived[number] for number in own.intersection(done))
        for number in own.intersection(done):
            del self.arrived[number], self.holders[number]
        for number in own.intersection(refused):
            del self.holders[number]
            self.refused[number].add(session)

    @rule()
    def deal(self):
        order = []
        for deal in self.dealing.deal():
            assert deal.number not in self.holders, "two living receivers have it"
            assert self.arrived[deal.number] == deal.slot
            assert deal.session not in self.refused[deal.number]
            assert self.room[deal.session] > 0, "more than it has room for"
            self.room[deal.session] -= 1
            self.holders[deal.number] = deal.session
            order.append(deal.number)
        assert order == sorted(order)
        living = set(self.sessions)
        for number in [number for number in self.arrived if number not in self.holders]:
            if living and living <= self.refused[number] and not self.dealing_has(number):
                del self.arrived[number]
                self.dropped += 1
            elif any(self.room[session] for session in living - self.refused[number]):
                raise AssertionError(f"{number} waits though a receiver has room")

    def dealing_has(self, number):
        return number in self.dealing._messages

    @rule(data=st.data())
    def leave(self, data):
        session = data.draw(st.sampled_from([*sorted(self.room), 999]))
        self.dealing.leave(session)
        if session in self.sessions:
            self.gone(session)

    @rule(ranks=st.sets(RANKS))
    def admit(self, ranks):
        self.dealing.admit(ranks)
        self.admitted = ranks
        for session in [session for session, rank in self.sessions.items() if rank not in ranks]:
            self.gone(session)

    @rule(seconds=st.integers(1, 5))
    def wait(self, seconds):
        self.now += seconds

    @rule(patience=st.integers(1, 5))
    def expire(self, patience):
        silent = [session for session in self.sessions if self.heard[session] < self.now - patience]
        assert self.dealing.expire(self.now - patience) == sorted(self.sessions[session] for session in silent)
        for session in silent:
            self.gone(session)

    @invariant()
    def nothing_is_lost(self):
        assert self.dealing.held == len(self.arrived)
        assert self.dealing.free == self.slots - len(self.arrived)
        assert self.dealing.unwanted == self.dropped
        assert self.dealing.ranks == set(self.sessions.values())


Dealt.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestDealt = Dealt.TestCase


def joined(n_workers, granted, slots=8):
    dealing = Dealing(slots)
    sessions = [dealing.join(rank, 0.0) for rank in range(n_workers)]
    for session, room in zip(sessions, granted, strict=True):
        dealing.report(session, room, (), (), 0.0)
    return dealing, sessions


def test_who_has_the_most_room_gets_the_next():
    dealing, (slow, fast) = joined(2, (1, 3))
    for _ in range(5):
        dealing.arrive()
    assert [deal.session for deal in dealing.deal()] == [fast, fast, slow, fast]
    assert dealing.deal() == []
    assert dealing.held == 5


def test_equal_receivers_take_turns():
    dealing, sessions = joined(2, (3, 3))
    for _ in range(6):
        dealing.arrive()
    assert [deal.session for deal in dealing.deal()] == sessions * 3


def test_what_a_dead_receiver_had_goes_to_others_before_what_came_later():
    dealing, (dead, other) = joined(2, (2, 2))
    slots = [dealing.arrive()[1] for _ in range(4)]
    had = [deal.number for deal in dealing.deal() if deal.session == dead]
    assert had == [1, 3]
    dealing.arrive()
    dealing.report(other, 6, (2, 4), (), 9.0)
    assert dealing.expire(5.0) == [0]
    assert dealing.deal() == [
        Deal(other, 1, slots[0]),
        Deal(other, 3, slots[2]),
        Deal(other, 5, dealing._messages[5].slot),
    ]
    assert dealing.dealt_again == 2


def test_a_message_that_nobody_knows_is_dropped_once_all_have_said_so():
    dealing, (one, other) = joined(2, (1, 1))
    dealing.arrive()
    first = dealing.deal()[0].session
    second = other if first == one else one
    dealing.report(first, 2, (), (1,), 0.0)
    assert [deal.session for deal in dealing.deal()] == [second]
    dealing.report(second, 2, (), (1,), 0.0)
    assert dealing.deal() == []
    assert (dealing.unwanted, dealing.held, dealing.free) == (1, 0, 8)


def test_without_receivers_everything_waits():
    dealing = Dealing(2)
    dealing.arrive()
    assert dealing.deal() == []
    assert (dealing.held, dealing.unwanted) == (1, 0)
