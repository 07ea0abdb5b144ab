"""Which receiver gets which message: credits, acknowledgements, and what a dead receiver had goes to others. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import StateError


@dataclass(frozen=True, slots=True)
class Deal:
    """A message that is to be handed over.

    :param session: of the receiver that gets it.
    :param number: of the message.
    :param slot: that it lies in.
    """

    session: int
    number: int
    slot: int


@dataclass(slots=True)
class _Worker:
    """A receiver that takes messages.

    :param granted: messages that it has room for, counted since it joined.
    :param given: messages that it got, likewise.
    :param heard: when it last reported, monotonic seconds.
    :param turn: of all deals, its last; of two with as much room, the one whose turn is longer ago gets the next.
    :param holds: numbers of the messages that it has not acknowledged.
    """

    rank: int
    heard: float
    granted: int = 0
    given: int = 0
    turn: int = 0
    holds: set[int] = field(default_factory=set)

    @property
    def credit(self) -> int:
        return self.granted - self.given


@dataclass(slots=True)
class _Message:
    """A message that is kept.

    :param refused: sessions of receivers that know nothing of its acquisition.
    """

    slot: int
    refused: set[int] = field(default_factory=set)


class Dealing:
    """Messages and the receivers that they go to.

    A message lies in its slot until the receiver that has it acknowledges it. What a receiver had not acknowledged when
    it left is dealt again, the oldest first. A message that all receivers refuse belongs to nobody, and is dropped.

    :param slots: how many messages are kept at most.
    """

    def __init__(self, slots: int) -> None:
        self.unwanted = 0  # messages that were dropped
        self.dealt_again = 0  # messages whose receiver had left
        self._free = list(range(slots))
        self._messages: dict[int, _Message] = {}
        self._waiting: list[int] = []  # a heap of numbers
        self._workers: dict[int, _Worker] = {}
        self._admitted: frozenset[int] | None = None
        self._numbers = self._sessions = self._turns = 0

    @property
    def free(self) -> int:
        """How many messages more there is room for."""
        return len(self._free)

    @property
    def held(self) -> int:
        """How many messages are kept: none of them is acknowledged."""
        return len(self._messages)

    @property
    def ranks(self) -> frozenset[int]:
        """Which receivers have joined."""
        return frozenset(worker.rank for worker in self._workers.values())

    # --- messages ---

    def arrive(self) -> tuple[int, int]:
        """Take a message in, and return its number, from 1 upwards, and the slot that it goes to.

        :raises StateError: there is no room.
        """
        if not self._free:
            raise StateError(f"got a message when {self.held} are kept, expected none until there is room")
        self._numbers += 1
        slot = self._free.pop()
        self._messages[self._numbers] = _Message(slot)
        heapq.heappush(self._waiting, self._numbers)
        return self._numbers, slot

    def deal(self) -> list[Deal]:
        """Deal messages that wait, the oldest first, to the receivers that have the most room."""
        deals: list[Deal] = []
        kept: list[int] = []
        room = sum(worker.credit for worker in self._workers.values())
        while self._waiting and room > 0:
            number = heapq.heappop(self._waiting)
            message = self._messages[number]
            willing = [session for session in self._workers if session not in message.refused]
            able = [session for session in willing if self._workers[session].credit > 0]
            if able:
                deals.append(self._hand(number, message, max(able, key=self._preference)))
                room -= 1
            elif willing:
                kept.append(number)
            else:
                self._drop(number)
        for number in kept:
            heapq.heappush(self._waiting, number)
        return deals

    def _preference(self, session: int) -> tuple[int, int]:
        worker = self._workers[session]
        return worker.credit, -worker.turn

    def _hand(self, number: int, message: _Message, session: int) -> Deal:
        worker = self._workers[session]
        self._turns += 1
        worker.turn = self._turns
        worker.given += 1
        worker.holds.add(number)
        return Deal(session, number, message.slot)

    def _drop(self, number: int) -> None:
        self.unwanted += 1
        self._free.append(self._messages.pop(number).slot)

    # --- receivers ---

    def join(self, rank: int, now: float) -> int | None:
        """Let a receiver take messages, and return the number of its session; None: it is not admitted.

        One of the same rank was restarted, and leaves.

        :param now: monotonic seconds.
        """
        if self._admitted is not None and rank not in self._admitted:
            return None
        for session in [session for session, worker in self._workers.items() if worker.rank == rank]:
            self.leave(session)
        self._sessions += 1
        self._workers[self._sessions] = _Worker(rank, now)
        return self._sessions

    def leave(self, session: int) -> None:
        """Expect nothing more of a receiver: what it has not acknowledged waits again. Unknown ones are fine."""
        worker = self._workers.pop(session, None)
        if worker is None:
            return
        self.dealt_again += len(worker.holds)
        for number in worker.holds:
            heapq.heappush(self._waiting, number)

    def report(self, session: int, granted: int, done: Iterable[int], refused: Iterable[int], now: float) -> list[int]:
        """Take what a receiver says, and return the slots that are free by that.

        :param granted: messages that it has had room for, counted since it joined.
        :param done: messages that are safe with it, or that nobody needs: they are let go.
        :param refused: messages of acquisitions that it does not know: others may.
        :param now: monotonic seconds.
        :raises StateError: it has left; what it says counts no more.
        """
        worker = self._workers.get(session)
        if worker is None:
            raise StateError(f"session {session} is over")
        worker.heard = now
        worker.granted = max(worker.granted, granted)
        freed: list[int] = []
        for number in worker.holds.intersection(done):
            worker.holds.remove(number)
            freed.append(self._messages.pop(number).slot)
        for number in worker.holds.intersection(refused):
            worker.holds.remove(number)
            self._messages[number].refused.add(session)
            heapq.heappush(self._waiting, number)
        self._free += freed
        return freed

    def admit(self, ranks: Iterable[int]) -> None:
        """Let only these receivers take messages; of the others, nothing more is expected."""
        self._admitted = frozenset(ranks)
        for session in [session for session, worker in self._workers.items() if worker.rank not in self._admitted]:
            self.leave(session)

    def expire(self, since: float) -> list[int]:
        """Expect nothing more of receivers that were silent, and return their ranks.

        :param since: monotonic seconds; who has not reported since then was silent.
        """
        silent = {session: worker.rank for session, worker in self._workers.items() if worker.heard < since}
        for session in silent:
            self.leave(session)
        return sorted(silent.values())
