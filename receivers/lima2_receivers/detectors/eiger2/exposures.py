"""The triggers of an Eiger2: one exposure after the other, begun, watched and stopped."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine

from ...errors import DetectorError, ReceiverError, StateError
from .simplon import Simplon

log = logging.getLogger(__name__)

STATUS = "detector/status"
_AT_REST = ("idle", "ready", "na", "error")  # nothing is exposed
_POLL = 0.02  # seconds between looks at the state while a trigger begins


class Exposures:
    """Gives triggers; SIMPLON answers each when its exposure is over, so they have a task of their own.

    :param simplon: of the detector.
    :param timeout: seconds that an exposure may take to begin.
    """

    def __init__(self, simplon: Simplon, timeout: float) -> None:
        self._simplon = simplon
        self._timeout = timeout
        self._turn = asyncio.Lock()  # of those who trigger
        self._stops = 0  # so that a trigger that waited notices a stop
        self._task: asyncio.Task[None] | None = None
        self._per_trigger = 1
        self._frame_time = 0.0
        self._known = True  # how many frames were sent
        self._sent = 0
        self.triggered = 0
        self.fault = ""

    @property
    def sent(self) -> int:
        """Frames that the exposures gave; -1: that can't be said any more, since one was cut short."""
        return self._sent if self._known else -1

    @property
    def under_way(self) -> bool:
        """Whether an exposure has not been answered yet."""
        return self._task is not None and not self._task.done()

    def arm(self, per_trigger: int, frame_time: float) -> None:
        """Begin to count anew: the detector was armed.

        :param per_trigger: images of one trigger.
        :param frame_time: seconds of one image, as the detector has it.
        """
        self._per_trigger, self._frame_time = per_trigger, frame_time
        self._known, self._sent, self.triggered, self.fault = True, 0, 0, ""

    def adopt(self, n_frames: int, exposing: bool) -> None:
        """Go on where a conductor died that had triggered; after ``arm``.

        :param n_frames: that were triggered.
        :param exposing: the last of the triggers is being exposed: wait for its end.
        """
        self.triggered = n_frames
        self._sent = n_frames - self._per_trigger if exposing else n_frames
        if exposing:
            self._task = asyncio.create_task(self._await_rest())

    async def trigger(self, n_frames: int) -> None:
        """Give as many triggers as ``n_frames`` need, and return when the first has begun.

        :raises StateError: an exposure is under way, it is no multiple of what was armed for, or all was stopped.
        :raises DetectorError: no exposure began in time. Then the detector was stopped, too, and none will.
        """
        n_triggers, rest = divmod(n_frames, self._per_trigger)
        if rest or not n_triggers:
            raise StateError(f"trigger.n_frames: got {n_frames}, expected a multiple of {self._per_trigger}")
        stops = self._stops
        async with self._turn:
            self._require_not_stopped(stops)
            if self._task is not None:  # its answer comes a little after its last frame
                _, exposing = await asyncio.wait({self._task}, timeout=self._timeout / 2)
                if exposing:
                    raise StateError("the last trigger is still being exposed")
            self._require_not_stopped(stops)
            self.triggered += n_frames
            self._task = asyncio.create_task(self._expose(n_triggers))
            try:
                await self._begun()
            except DetectorError as error:
                self.fault = self.fault or str(error)
                if stops == self._stops:
                    await self.stop()
                raise
            self._require_not_stopped(stops)

    async def stop(self) -> None:
        """Cancel what is exposed, and disarm.

        :raises DetectorError: the detector does not obey; it was told all the same.
        """
        self._stops += 1
        cut_short = await self._give_up()
        try:
            if cut_short or await self._simplon.text(STATUS, "state") not in _AT_REST:
                self._known = False
                await self._simplon.command("cancel")
        finally:
            if await self._simplon.text(STATUS, "state") not in ("idle", "na"):
                await self._simplon.command("disarm")

    async def close(self) -> None:
        """Wait no more for an exposure; the detector goes on."""
        self._stops += 1
        await self._give_up()

    def _require_not_stopped(self, stops: int) -> None:
        if stops != self._stops:
            raise StateError("the acquisition was stopped before it was triggered")

    async def _await_rest(self) -> None:
        """Wait until an exposure is over that another conductor triggered."""
        deadline = time.monotonic() + self._per_trigger * self._frame_time + self._timeout

        async def rest() -> None:
            while await self._simplon.text(STATUS, "state") not in _AT_REST:
                if time.monotonic() > deadline:
                    raise DetectorError(f"{self._simplon.url}: the exposure that was under way does not end")
                await asyncio.sleep(_POLL)
            self._sent += self._per_trigger

        await self._watch(rest())

    async def _expose(self, n_triggers: int) -> None:
        """Give triggers one after the other."""
        seconds = self._per_trigger * self._frame_time + self._timeout

        async def give() -> None:
            for _ in range(n_triggers):
                await self._simplon.command("trigger", seconds)
                self._sent += self._per_trigger

        await self._watch(give())

    async def _watch(self, work: Coroutine[None, None, None]) -> None:
        """Let the status tell what goes wrong in a task that nobody waits for."""
        try:
            await work
        except Exception as error:  # whatever it is
            self._known = False
            if isinstance(error, ReceiverError):
                self.fault = str(error)
                log.error("%s", error)  # noqa: TRY400 - it says all
            else:
                self.fault = f"internal error: {type(error).__name__}: {error}"
                log.exception("an exposure failed")

    async def _give_up(self) -> bool:
        """Wait no more for an exposure; True: one was under way."""
        task, self._task = self._task, None
        if task is None or task.done():
            return False
        self._known = False
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True

    async def _begun(self) -> None:
        """Wait until the detector exposes, or has done so.

        :raises DetectorError: it does neither in time, or refused.
        """
        deadline = time.monotonic() + self._timeout
        while self.under_way:
            if await self._simplon.text(STATUS, "state") == "acquire":
                return
            if time.monotonic() > deadline:
                raise DetectorError(f"{self._simplon.url}: no exposure began within {self._timeout:g} s")
            await asyncio.sleep(_POLL)
        if self.fault:
            raise DetectorError(self.fault)
