"""The life of an acquisition, as a table: everything that decides states lives here, and does no I/O.

The conductor and each receiver hold one machine per acquisition. They read the same instructions in their own way: to
``HALT`` is to stop the detector for the conductor and nothing for a receiver, to ``DRAIN`` is to announce the final
number of frames for the conductor and to wait for the last of them for a receiver.
"""

from __future__ import annotations

from enum import StrEnum

from .errors import StateError


class State(StrEnum):
    """Where an acquisition is in its life."""

    PREPARING = "preparing"  # being checked, files being made
    PREPARED = "prepared"  # can start at once
    RUNNING = "running"  # frames are exposed
    STOPPING = "stopping"  # the detector is being stopped
    DRAINING = "draining"  # no more frames are exposed; the last ones are processed and saved
    CLOSED = "closed"  # files are closed; nothing changes any more


class Outcome(StrEnum):
    """How an acquisition ended."""

    NONE = "none"  # it has not ended
    COMPLETE = "complete"  # everything that was announced is settled
    STOPPED = "stopped"  # stopped before all frames that it was to take
    FAILED = "failed"  # something went wrong; the reason says what


class Event(StrEnum):
    """What happens to an acquisition."""

    READY = "ready"  # all parts are prepared
    START = "start"  # the user starts it
    STOP = "stop"  # the user stops it
    ENDED = "ended"  # the detector has sent all it was to send
    HALTED = "halted"  # the detector was stopped
    SETTLED = "settled"  # every announced frame is settled and flushed
    FAULT = "fault"  # something went wrong


class Instruction(StrEnum):
    """What the holder of the machine has to do next."""

    HALT = "halt"
    DRAIN = "drain"


_S, _E, _I = State, Event, Instruction
TRANSITIONS: dict[tuple[State, Event], tuple[State, tuple[Instruction, ...]]] = {
    (_S.PREPARING, _E.READY): (_S.PREPARED, ()),
    (_S.PREPARING, _E.STOP): (_S.CLOSED, ()),
    (_S.PREPARING, _E.FAULT): (_S.CLOSED, ()),
    (_S.PREPARED, _E.START): (_S.RUNNING, ()),
    (_S.PREPARED, _E.STOP): (_S.STOPPING, (_I.HALT,)),
    (_S.PREPARED, _E.FAULT): (_S.STOPPING, (_I.HALT,)),
    (_S.PREPARED, _E.ENDED): (_S.DRAINING, (_I.DRAIN,)),
    (_S.RUNNING, _E.ENDED): (_S.DRAINING, (_I.DRAIN,)),
    (_S.RUNNING, _E.STOP): (_S.STOPPING, (_I.HALT,)),
    (_S.RUNNING, _E.FAULT): (_S.STOPPING, (_I.HALT,)),
    (_S.STOPPING, _E.STOP): (_S.STOPPING, ()),
    (_S.STOPPING, _E.ENDED): (_S.STOPPING, ()),
    (_S.STOPPING, _E.FAULT): (_S.STOPPING, ()),
    (_S.STOPPING, _E.HALTED): (_S.DRAINING, (_I.DRAIN,)),
    (_S.DRAINING, _E.STOP): (_S.DRAINING, ()),
    (_S.DRAINING, _E.ENDED): (_S.DRAINING, ()),
    (_S.DRAINING, _E.FAULT): (_S.DRAINING, ()),
    (_S.DRAINING, _E.SETTLED): (_S.CLOSED, ()),
    (_S.CLOSED, _E.STOP): (_S.CLOSED, ()),
    (_S.CLOSED, _E.ENDED): (_S.CLOSED, ()),
    (_S.CLOSED, _E.FAULT): (_S.CLOSED, ()),
}


class Acquisition:
    """One acquisition's state, outcome and, where it failed, the first reason.

    :param name: of the acquisition and its holder, for messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.PREPARING
        self.outcome = Outcome.NONE
        self.reason = ""
        self._stopped = False

    def handle(self, event: Event, reason: str = "") -> tuple[Instruction, ...]:
        """Take an event and return what is to be done.

        :param event: what happened.
        :param reason: with ``FAULT``, what went wrong; only the first is kept.
        :raises StateError: the event can't happen in this state; nothing changed.
        """
        cell = TRANSITIONS.get((self.state, event))
        if cell is None:
            allowed = ", ".join(e for s, e in TRANSITIONS if s is self.state)
            raise StateError(f"{self.name}: {event} can't happen while {self.state}, only {allowed}")
        if event is Event.FAULT and self.state is not State.CLOSED and not self.reason:
            self.reason = reason or "unknown fault"
        self._stopped |= event is Event.STOP and self.state in (State.PREPARING, State.PREPARED, State.RUNNING)
        self.state, instructions = cell
        if self.state is State.CLOSED and self.outcome is Outcome.NONE:
            self.outcome = self.forecast()
        return instructions

    @property
    def stopped(self) -> bool:
        """Whether it was stopped before its end."""
        return self._stopped

    def resume(self, state: State, stopped: bool, reason: str) -> tuple[Instruction, ...]:
        """Go on where the machine of a holder that died had come to, and return what is to be done once more.

        :param state: that it had; not closed.
        :param stopped: as ``stopped`` said.
        :param reason: as ``reason`` said.
        """
        self.state, self._stopped, self.reason = state, stopped, reason
        return {State.STOPPING: (Instruction.HALT,), State.DRAINING: (Instruction.DRAIN,)}.get(state, ())

    def complete_anyway(self) -> None:
        """Note that nothing is missing: an open-ended acquisition that was stopped with all settled is complete."""
        self._stopped = False

    def forecast(self) -> Outcome:
        """Return the outcome that it would have, were it closed now."""
        if self.reason:
            return Outcome.FAILED
        return Outcome.STOPPED if self._stopped else Outcome.COMPLETE
