"""What each receiver reported of one acquisition, beside the fates of its frames. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..published import ReceiverCounters


@dataclass(slots=True)
class Part:
    """What one receiver reported.

    :param closed: its files are closed, and everything is reported.
    :param dead: nothing more is expected of it.
    :param highest: frame number that it saw; -1: none.
    :param held: rows that were written, and whose file is not closed.
    """

    counters: ReceiverCounters = field(default_factory=ReceiverCounters)
    closed: bool = False
    dead: bool = False
    highest: int = -1
    held: int = 0
