"""What happens to what a simulated detector sends, on its way: it gets lost, comes late, or comes twice."""

from __future__ import annotations

import random
from collections import deque
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Faults(Struct, frozen=True):
    """What happens on the way, by chance.

    :param loss: share that gets lost.
    :param reordering: share that comes after up to ``reach`` later ones.
    :param duplication: share that comes twice.
    :param reach: see ``reordering``.
    :param seed: of the chance.
    """

    loss: float = 0.0
    reordering: float = 0.0
    duplication: float = 0.0
    reach: int = 4
    seed: int = 0


NO_FAULTS = Faults()


class FaultyWay(Generic[T]):
    """The way to one receiver.

    :param faults: what happens on it.
    :param chance: by which it does.
    """

    def __init__(self, faults: Faults, chance: random.Random) -> None:
        self._faults = faults
        self._random = chance
        self._count = 0  # sent, to know when late ones are due
        self._late: deque[tuple[int, T]] = deque()  # with when each is due

    def send(self, item: T) -> tuple[bool, list[T]]:
        """Send something.

        :returns: whether it will ever arrive, and what arrives now, in this order.
        """
        faults, chance = self._faults, self._random.random
        self._count += 1
        now: list[T] = []
        arrives = not faults.loss or chance() >= faults.loss
        if arrives and faults.reordering and chance() < faults.reordering:
            self._late.append((self._count + self._random.randint(1, faults.reach), item))
        elif arrives:
            now.append(item)
            if faults.duplication and chance() < faults.duplication:
                now.append(item)
        while self._late and self._late[0][0] <= self._count:
            now.append(self._late.popleft()[1])
        return arrives, now

    def rest(self) -> list[T]:
        """Return what is still late, which arrives now."""
        late = [item for _, item in self._late]
        self._late.clear()
        return late
