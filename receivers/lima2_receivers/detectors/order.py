"""Which receiver a simulated detector sends a frame to."""

from __future__ import annotations

import random
from enum import StrEnum


class Order(StrEnum):
    """How frames are dealt to receivers."""

    IN_TURN = "in_turn"  # one after the other
    PREDICTIVE = "predictive"  # one of n consecutive frames to each of n receivers, shuffled
    RANDOM = "random"  # any frame to any receiver


def choose_receiver(order: Order, series: int, frame: int, turn: int, n_receivers: int) -> int:
    """Return the rank of the receiver that gets a frame: always the same for one frame of a series.

    :param turn: the receiver whose turn it is.
    """
    match order:
        case Order.IN_TURN:
            return turn
        case Order.PREDICTIVE:
            ranks = list(range(n_receivers))
            random.Random(f"{series} {frame // n_receivers}").shuffle(ranks)
            return ranks[frame % n_receivers]
        case Order.RANDOM:
            return random.Random(f"{series} {frame}").randrange(n_receivers)
