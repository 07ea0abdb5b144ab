"""What lets bluesky's suspenders watch signals of ophyd-async, such as a detector's health."""

from __future__ import annotations

from typing import Any, Generic

from bluesky.suspenders import SuspenderBase
from ophyd_async.core import SignalDatatypeT, SignalR


class SuspenderSignal(Generic[SignalDatatypeT]):
    """A signal of ophyd-async, in the form that one of bluesky's suspenders subscribes to.

    ``RE.install_suspender(SuspendBoolLow(SuspenderSignal(detector.healthy)))`` holds plans while the detector is not
    healthy. An exposure that is under way then is not repeated: the plan fails.

    :param signal: of a connected device.
    """

    def __init__(self, signal: SignalR[SignalDatatypeT]) -> None:
        self._signal = signal
        self._suspender: SuspenderBase | None = None

    @property
    def name(self) -> str:
        """The signal's name, for bluesky's messages."""
        return self._signal.name

    def subscribe(self, suspender: SuspenderBase, **_: object) -> None:
        """Call a suspender back with every value, from the RunEngine's event loop."""
        self._suspender = suspender
        _loop_of(suspender).call_soon_threadsafe(self._signal.subscribe_reading, self._take)

    def clear_sub(self, suspender: SuspenderBase) -> None:
        """Call it back no more."""
        self._suspender = None
        _loop_of(suspender).call_soon_threadsafe(self._signal.clear_sub, self._take)

    def _take(self, reading: dict[str, Any]) -> None:
        if self._suspender is not None:
            self._suspender(reading[self._signal.name]["value"])


def _loop_of(suspender: SuspenderBase) -> Any:
    engine = suspender.RE
    if engine is None:
        raise RuntimeError(f"{suspender!r} is not installed in a RunEngine")
    return engine.loop
