"""A signal that triggers or gates a simulated detector, made by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

from msgspec import Struct


class Pulses(Struct, frozen=True):
    """Pulses that come one after the other from the start of an acquisition on.

    :param period: seconds from the start to the first pulse, and from pulse to pulse; 0: none come by themselves.
    :param number: of pulses; 0: as long as the series lasts.
    :param width: seconds that each lasts; 0: the exposure.
    """

    period: float = 0.0
    number: int = 0
    width: float = 0.0


class SignalGenerator:
    """Gives the pulses of one series at their times, in a thread of its own.

    :param pulses: their times.
    :param give: takes the width of a pulse in seconds; returns False where no more are wanted.
    """

    def __init__(self, pulses: Pulses, give: Callable[[float], bool]) -> None:
        self._pulses = pulses
        self._give = give
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="signal", daemon=True)

    def begin(self) -> None:
        """Start the signal, if there is one."""
        if self._pulses.period:
            self._thread.start()

    def end(self) -> None:
        """Give no more pulses; one that is on its way may still come. Idempotent, and does not wait."""
        self._over.set()

    def _run(self) -> None:
        given = 0
        while not self._over.wait(self._pulses.period):
            given += 1
            if not self._give(self._pulses.width) or given == self._pulses.number:
                return
