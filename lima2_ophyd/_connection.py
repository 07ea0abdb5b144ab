"""One detector device's view of its conductor: the client, the acquisition it follows, and what is wrong with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from lima2_processing.frame import AcquisitionId
from lima2_receivers.acquisition import Outcome, State
from lima2_receivers.client import ConductorClient
from lima2_receivers.errors import DetectorError, ReceiverError, StateError, UnreachableError
from lima2_receivers.messages import SystemState
from lima2_receivers.published import AcquisitionState, DetectorState

T = TypeVar("T")
log = logging.getLogger(__name__)

SILENCE = 8.0
"""Seconds without a word from the conductor after which it counts as dead, by default: systemd is faster."""
QUIET = 1.0
"""Seconds without a word after which a conductor that did not answer may have been killed: it speaks every 0.2 s."""
CHECK_PERIOD = 0.5


@dataclass(frozen=True, slots=True)
class Followed:
    """The acquisition that a device follows.

    :param acquisition: its id.
    :param since: when following began, monotonic seconds.
    :param instance: of the conductor that first published it; empty: none did yet.
    """

    acquisition: AcquisitionId
    since: float
    instance: str = ""


def find_failure(
    state: SystemState, followed: Followed, requested: int, now: float, endpoint: str
) -> ReceiverError | None:
    """Return why an acquisition can't deliver what was asked of it; None while it can.

    :param state: the conductor's latest snapshot.
    :param followed: the acquisition.
    :param requested: frames that triggers asked for.
    :param now: monotonic seconds.
    :param endpoint: of the conductor, for the message.
    """
    name = f"acquisition {followed.acquisition}"
    found = _find(state, followed.acquisition)
    if found is None:
        if followed.instance and state.instance != followed.instance:
            return StateError(f"the conductor at {endpoint} was restarted, and does not know {name} any more")
        if followed.instance or now - followed.since > SILENCE:
            return StateError(f"the conductor at {endpoint} does not know {name} any more")
        return None
    if found.reason or found.outcome is Outcome.FAILED:
        return DetectorError(f"{name} failed: {found.reason or 'no reason given'}")
    if found.state is State.CLOSED and found.written < requested:
        return StateError(f"{name} was stopped after {found.written} of {requested} frames")
    return None


class Connection:
    """A conductor, as one device follows it. Making one does no I/O.

    :param commands: the conductor's command endpoint.
    :param state: the endpoint that it publishes its state on.
    :param name: of the client, for the conductor's log.
    :param key: file of a private key, for ``tcp`` endpoints; None: there is none.
    :param patience: seconds that the conductor may be silent before it counts as dead.
    """

    def __init__(
        self, commands: str, state: str, *, name: str, key: Path | None = None, patience: float = SILENCE
    ) -> None:
        self.client = ConductorClient(commands, state, name=name, key=key)
        self._patience = patience
        self.silent = False
        self.connected = False
        self._followed: Followed | None = None
        self._last: AcquisitionState | None = None
        self._listeners: list[Callable[[], None]] = []
        self._unlisten: Callable[[], None] | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        """The conductor's command endpoint."""
        return self.client.endpoint

    @property
    def system(self) -> SystemState | None:
        """The latest snapshot; None before the first."""
        return self.client.state

    @property
    def instance(self) -> str:
        """Of the conductor that has spoken last; empty: none has."""
        return self.system.instance if self.system is not None else ""

    @property
    def acquisition(self) -> AcquisitionState | None:
        """The latest state of the acquisition that is followed, or of the last one; None before the first."""
        return self._last

    @property
    def healthy(self) -> bool:
        """Whether the conductor talks, all receivers live and the detector has no fault."""
        system = self.system
        if system is None or self.silent or not self.connected:
            return False
        faulty = system.detector in (DetectorState.FAULT, DetectorState.OFFLINE)
        return not faulty and all(receiver.alive for receiver in system.receivers)

    async def connect(self, timeout: float, force_reconnect: bool = False) -> None:
        """Connect in the running event loop; connected already, it does nothing.

        :param timeout: seconds.
        :param force_reconnect: begin afresh.
        :raises ReceiverError: the conductor does not answer or speaks another version of the protocol.
        """
        if self.connected and not force_reconnect:
            return
        await self.disconnect()
        try:
            async with asyncio.timeout(timeout):
                await self.client.connect()
        except TimeoutError:
            await self.client.close()
            raise UnreachableError(f"conductor at {self.endpoint} did not answer within {timeout:g} s") from None
        self.connected = True
        self.silent = False
        self._unlisten = self.client.listen(self._take)
        self._watcher = asyncio.create_task(self._watch(), name=f"watch over {self.endpoint}")

    async def disconnect(self) -> None:
        """Close the sockets; the conductor and its acquisitions don't notice."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
            self._watcher = None
        if self._unlisten is not None:
            self._unlisten()
            self._unlisten = None
        if self.connected:
            self.connected = False
            await self.client.close()

    def follow(self, acquisition: AcquisitionId) -> None:
        """Follow another acquisition from now on: its counters begin at 0, whatever was published before."""
        self._followed = Followed(acquisition, time.monotonic())
        self._last = None
        self.notify()

    def release(self) -> None:
        """Follow nothing from now on; the counters keep the last that was known."""
        self._followed = None

    def note(self, final: AcquisitionState) -> None:
        """Take the state that a stop replied with, which is newer than any snapshot."""
        if self._followed is not None and final.acquisition == self._followed.acquisition:
            self._last = final
            self.notify()

    async def ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request that can be made twice, and make it again where another conductor has taken over meanwhile.

        :raises UnreachableError: it was not answered.
        """

        async def once() -> T:
            return await request()

        instance = self.instance
        work, other = asyncio.create_task(once()), asyncio.create_task(self._other_than(instance))
        try:
            await asyncio.wait({work, other}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
        except UnreachableError:
            if not await self.taken_over(instance):
                raise
        finally:
            work.cancel()
            other.cancel()
            await asyncio.gather(work, other, return_exceptions=True)
        return await request()

    async def _other_than(self, instance: str) -> None:
        """Wait until another conductor has taken over."""
        changed = asyncio.Event()
        end = self.listen(changed.set)
        try:
            while not instance or self.instance == instance:
                changed.clear()
                await changed.wait()
        finally:
            end()

    async def taken_over(self, instance: str) -> bool:
        """Tell whether a conductor that did not answer was killed, and another has taken over; wait while it may be.

        :param instance: of the one that was asked.
        """
        changed = asyncio.Event()
        end = self.listen(changed.set)
        try:
            while self.connected and self.instance == instance and QUIET < self.client.silent <= self._patience:
                changed.clear()
                await changed.wait()  # the watch speaks every CHECK_PERIOD
        finally:
            end()
        return self.connected and self.instance != instance

    def listen(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back when anything may have changed, and at once.

        :returns: a function that ends it.
        """
        self._listeners.append(callback)
        callback()

        def end() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return end

    def notify(self) -> None:
        """Call all listeners back."""
        for callback in list(self._listeners):
            callback()

    def failure(self, requested: int) -> ReceiverError | None:
        """Return why the acquisition that is followed can't deliver; None while it can, and in mock mode.

        :param requested: frames that triggers asked for.
        """
        if not self.connected:
            return None
        if self.silent:
            return UnreachableError(
                f"the conductor at {self.endpoint} has been silent for {self.client.silent:.1f} s, "
                f"expected news every 0.2 s"
            )
        system = self.system
        if system is None or self._followed is None:
            return None
        return find_failure(system, self._followed, requested, time.monotonic(), self.endpoint)

    def _take(self, state: SystemState) -> None:
        self.silent = False
        followed = self._followed
        if followed is not None and (found := _find(state, followed.acquisition)) is not None:
            if not followed.instance:
                self._followed = Followed(followed.acquisition, followed.since, state.instance)
            if self._last is None or self._last.state is not State.CLOSED:
                self._last = found
        self.notify()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_PERIOD)
            if self.client.silent > self._patience:
                # After the event loop was held up, news may wait to be read: let the reader have a turn first.
                await asyncio.sleep(CHECK_PERIOD)
            silent = self.client.silent > self._patience
            if silent and not self.silent:
                log.error("the conductor at %s has been silent for %.1f s", self.endpoint, self.client.silent)
            self.silent = silent
            self.notify()


def _find(state: SystemState, acquisition: AcquisitionId) -> AcquisitionState | None:
    return next((found for found in state.acquisitions if found.acquisition == acquisition), None)
