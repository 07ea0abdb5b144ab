"""What the logics of one detector share: the acquisition of the present stage, and its watch."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, cast

from ophyd_async.core import WatchableAsyncStatus, Watcher, WatcherUpdate

from lima2_processing.frame import AcquisitionId, OutputKind
from lima2_receivers.acquisition import Outcome, State
from lima2_receivers.errors import DetectorError, ReceiverError, StateError, UnreachableError
from lima2_receivers.messages import Dataset, LedgerReport, Prepared, Values
from lima2_receivers.plan import AcquisitionPlan, TriggerMode
from lima2_receivers.published import AcquisitionState

from ._commands import Commands, unpack
from ._connection import QUIET, Connection
from ._plan_signals import Place, encode_plan

log = logging.getLogger(__name__)

LAST_WORD = 2.0
"""Seconds that a conductor which is silent already gets to answer a stop."""
SENT_SECONDS = 30.0
"""Seconds beside the exposures within which a detector must have sent its frames: receivers may hold it up."""
SIGNAL_SECONDS = 30 * 86400.0
"""Seconds that a signal may be away by default, since beams go down; ``first_trigger_timeout`` can be shorter."""


class Session:
    """One acquisition a stage: made by the first prepare, stopped once.

    :param connection: to the conductor.
    :param commands: to it.
    """

    def __init__(self, connection: Connection, commands: Commands) -> None:
        self.connection = connection
        self.commands = commands
        self.acquisition: AcquisitionId | None = None
        self.prepared: Prepared | None = None
        self.plan: AcquisitionPlan | None = None
        self.place: Place | None = None
        self.collections_per_event = 1
        self.requested = 0
        self.collected = 0
        self.described = False
        self.started = False
        self.failed = False
        self._stopping = False
        self._lock = asyncio.Lock()

    @property
    def mode(self) -> TriggerMode:
        """What starts the exposures of this stage's acquisition."""
        return self.plan.acquisition.trigger_mode if self.plan else TriggerMode.SOFTWARE

    @property
    def scalars(self) -> tuple[Dataset, ...]:
        """The scalars of a frame that tables show."""
        found = self.prepared.datasets if self.prepared else ()
        return tuple(dataset for dataset in found if dataset.kind is OutputKind.SCALAR and dataset.hinted)

    @property
    def busy(self) -> bool:
        """Whether frames were triggered that no document refers to yet."""
        return self.collected < self.requested

    async def prepare(self, plan: AcquisitionPlan, place: Place) -> Prepared:
        """Make this stage's acquisition.

        :param plan: the whole specification.
        :param place: where its files go.
        :raises ReceiverError: it was refused, or the conductor did not answer.
        """
        if self.acquisition is not None:
            await self.stop()  # an earlier prepare that may have gone through, though nobody heard of it
        async with self._lock:
            acquisition = AcquisitionId(uuid.uuid4().hex)
            self.acquisition = acquisition
            self.failed = False
            try:
                answer = await self.commands.prepare_acquisition.execute(acquisition, encode_plan(plan))
                self.prepared = unpack(answer, Prepared)
            except (UnreachableError, TimeoutError, asyncio.CancelledError):
                self.failed = True  # it may have been prepared all the same: the stop at unstage sees to it
                raise
            except ReceiverError:
                self._clear()
                raise
            self.plan = plan
            self.place = place
            self.connection.follow(acquisition)
            return self.prepared

    async def trigger(self, n_frames: int) -> None:
        """Start the acquisition if that was not done yet, and deliver one trigger where software does.

        :param n_frames: that the trigger is for.
        :raises ReceiverError: the acquisition has failed, or it was refused.
        """
        if self.acquisition is None or self.plan is None:
            raise StateError("the detector was not prepared since it was staged")
        self.raise_failure()
        try:
            if not self.started:
                await self._start(self.acquisition)
                self.started = True
            self.requested += n_frames
            if self.mode is TriggerMode.SOFTWARE:
                await self._trigger(self.acquisition, self.plan, n_frames)
        except ReceiverError:
            self.failed = True
            raise

    async def _start(self, acquisition: AcquisitionId) -> None:
        instance = self.connection.instance
        try:
            await self.commands.start_acquisition.execute(acquisition)
        except UnreachableError:
            if not await self.connection.taken_over(instance):
                raise
            with suppress(StateError):  # it had been started
                await self.commands.start_acquisition.execute(acquisition)

    async def _trigger(self, acquisition: AcquisitionId, plan: AcquisitionPlan, n_frames: int) -> None:
        """Give a trigger; where the conductor was killed, and another took over, once more if the detector got none."""
        timing, instance = plan.acquisition, self.connection.instance

        async def give() -> None:
            await self.commands.trigger_frames.execute(acquisition, n_frames, timing.expo_time, timing.latency_time)

        try:
            await give()
        except UnreachableError:
            if not await self.connection.taken_over(instance):
                raise
            if (await self.ledger()).announced < self.requested:
                await give()

    async def values(self, frame: int) -> Values:
        """Return the scalars of a settled frame.

        :param frame: its number.
        """
        if self.acquisition is None:
            raise StateError("the detector was not prepared since it was staged")
        acquisition = self.acquisition
        found = await self.connection.ask(lambda: self.commands.read_values.execute(acquisition, frame))
        return unpack(found, Values)

    async def ledger(self) -> LedgerReport:
        """Return what became of all frames of this stage's acquisition so far, or of the last one."""
        last = self.connection.acquisition
        acquisition = self.acquisition or (last.acquisition if last else None)
        if acquisition is None:
            raise StateError("there was no acquisition yet")
        found = await self.connection.ask(lambda: self.commands.read_ledger.execute(acquisition))
        return unpack(found, LedgerReport)

    async def finish(self) -> None:
        """Give no more triggers in this stage, and return when the detector has sent all that was asked for.

        From then on it is free for an acquisition of another device, while this one's last frames are saved.

        :raises ReceiverError: the acquisition failed, or the conductor is gone; with the reason.
        """
        if self.acquisition is None or self.plan is None or not self.started:
            raise StateError("the detector was not triggered since it was staged")
        timing = self.plan.acquisition
        seconds = SIGNAL_SECONDS
        if self.mode is TriggerMode.SOFTWARE:
            seconds = self.requested * (timing.expo_time + timing.latency_time) + SENT_SECONDS
        try:
            async with asyncio.timeout(seconds):
                if self.mode is not TriggerMode.SOFTWARE:  # a signal goes on: it ends when all is there
                    await self._until(lambda found: found.announced >= self.requested)
                acquisition = self.acquisition
                await self.connection.ask(lambda: self.commands.finish_acquisition.execute(acquisition))
                await self._until(lambda found: found.state in (State.DRAINING, State.CLOSED))
        except TimeoutError as error:
            self.failed = True
            raise DetectorError(f"not all frames were sent within {seconds:g} s: {self._diagnosis()}") from error

    async def _until(self, holds: Callable[[AcquisitionState], bool]) -> None:
        """Wait until something holds of the acquisition; where it is a mock, it does at once."""
        if not self.connection.connected:
            return
        changed = asyncio.Event()
        end = self.connection.listen(changed.set)
        try:
            while (found := self.connection.acquisition) is None or not holds(found):
                self.raise_failure()
                changed.clear()
                await changed.wait()
            self.raise_failure()
        finally:
            end()

    async def stop(self) -> None:
        """Stop this stage's acquisition, if there is one, and return when its files are closed. Idempotent.

        After a failure that the plan knows of, more trouble is only logged, so that it never hides the cause.

        :raises ReceiverError: the stop failed, or the acquisition had failed and nobody knew.
        """
        async with self._lock:
            if self.acquisition is None:
                return
            self._stopping = True
            self.connection.notify()
            try:
                timeout = LAST_WORD if self.connection.silent else 0.0  # 0: the conductor's own
                acquisition = self.acquisition
                answer = await self.connection.ask(lambda: self.commands.stop_acquisition.execute(acquisition, timeout))
                final = unpack(answer, AcquisitionState)
                self.connection.note(final)
                if final.outcome is Outcome.FAILED:
                    raise DetectorError(f"acquisition {final.acquisition} failed: {final.reason or 'no reason given'}")
            except (ReceiverError, TimeoutError) as error:
                if not self.failed:
                    raise
                log.error("while stopping after a failure: %s", error)  # noqa: TRY400 - the cause was raised already
            finally:
                self._clear()

    def raise_failure(self) -> None:
        """Raise if the acquisition can't deliver what was asked of it.

        :raises ReceiverError: with the reason.
        """
        error = self.connection.failure(self.requested)
        if error is not None:
            self.failed = True
            raise error

    async def guard(self, status: WatchableAsyncStatus[int]) -> AsyncIterator[WatcherUpdate[int]]:
        """Pass on the updates of a status that waits for counters, and fail as soon as the acquisition does.

        Where this device stops the acquisition itself, because the plan was aborted, the wait just ends.

        :param status: of a trigger or of a fly scan's completion.
        :raises ReceiverError: the acquisition failed, or the conductor is gone; with the reason.
        """
        news: asyncio.Queue[WatcherUpdate[int] | ReceiverError | None] = asyncio.Queue()

        def update(*_: object, current: int = 0, initial: int = 0, target: int = 0, **more: Any) -> None:
            news.put_nowait(WatcherUpdate(current, initial, target, **more))

        def check() -> None:
            if self._stopping:
                news.put_nowait(None)
            elif not status.done and (error := self.connection.failure(self.requested)) is not None:
                news.put_nowait(error)

        status.watch(cast("Watcher[int]", update))
        status.add_callback(lambda _: news.put_nowait(None))
        end = self.connection.listen(check)
        try:
            while (item := await news.get()) is not None:
                if isinstance(item, ReceiverError):
                    raise item
                yield item
            if status.done:
                await status
        except TimeoutError as error:
            self.failed = True
            raise DetectorError(f"no frame was settled within the exposure's timeout: {self._diagnosis()}") from error
        except ReceiverError:
            self.failed = True
            raise
        finally:
            end()
            await _cancel(status)

    def _diagnosis(self) -> str:
        system, found = self.connection.system, self.connection.acquisition
        if system is None or found is None:
            return "the conductor has said nothing about the acquisition"
        silent = self.connection.client.silent
        return (
            f"detector {system.detector}, acquisition {found.state}, {self.requested} frames asked for, "
            f"{found.announced} announced, {found.received} received, {found.written} settled"
            f"{', no trigger has come yet' if found.waiting else ''}"
            f"{f', the conductor silent for {silent:.1f} s' if silent > QUIET else ''}"
        )

    def _clear(self) -> None:
        self.connection.release()
        self.acquisition = None
        self.prepared = None
        self.plan = None
        self.place = None
        self.requested = 0
        self.collected = 0
        self.described = False
        self.started = False
        self.failed = False
        self._stopping = False


async def _cancel(status: WatchableAsyncStatus[int]) -> None:
    """Cancel a status until it has ended: up to Python 3.11, ``wait_for`` swallows a cancellation that meets news."""
    while not status.done:
        status.task.cancel()
        await asyncio.wait([status.task], timeout=0.05)
    status.exception()  # marks it as retrieved: what it says is not the cause
