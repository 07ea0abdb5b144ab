"""When the conductor is told to start, trigger and stop."""

from __future__ import annotations

from ophyd_async.core import DetectorAcquireLogic, SignalR

from lima2_receivers.errors import UnreachableError

from ._session import Session
from ._trigger_logic import Lima2TriggerLogic


class Lima2AcquireLogic(DetectorAcquireLogic):
    """Starts an acquisition once a stage, triggers it, and stops it once.

    :param session: of the detector.
    :param trigger_logic: knows whether a parameter was changed.
    :param events: how many events the next kickoff is for.
    """

    def __init__(self, session: Session, trigger_logic: Lima2TriggerLogic, events: SignalR[int]) -> None:
        self._session = session
        self._trigger_logic = trigger_logic
        self._events = events

    async def ensure_ready(self) -> None:
        """Stop what an earlier stage left behind, and see that the conductor talks.

        :raises UnreachableError: it is silent.
        """
        await self._session.stop()
        connection = self._session.connection
        if connection.connected and connection.silent:
            raise UnreachableError(
                f"the conductor at {connection.endpoint} has been silent for {connection.client.silent:.1f} s"
            )

    async def start_acquiring(self) -> None:
        """Deliver one software trigger; in external modes arm.

        :raises PlanError: a parameter was changed since prepare.
        """
        await self._trigger_logic.require_unchanged()
        events = await self._events.get_value()
        await self._session.trigger(events * self._session.collections_per_event)

    async def wait_for_idle(self) -> None:
        """Return: when all frames that were asked for are settled, nothing is going on."""
        self._session.raise_failure()

    async def ensure_stopped(self) -> None:
        """Stop the acquisition and return when its files are closed. Idempotent."""
        await self._session.stop()
