"""The thread that looks for completed transfers, and offers them to the acquisitions that they may belong to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from ..errors import ProtocolError
from ..transfers import Completion, TransferTarget
from .ring import FrameRing, Slot
from .transfers import Taken

log = logging.getLogger(__name__)

ROOM_SECONDS = 0.05  # that a full ring is waited for, before the thread looks whether it is to end
LIVE_SECONDS, IDLE_SECONDS = 0.001, 0.02  # between looks for transfers, with and without acquisitions
EXPIRE_SECONDS = 0.05  # between looks for frames that have waited long enough


class TransferTaker(Protocol):
    """What takes the transfers of one acquisition; see ``Transfers``."""

    @property
    def live(self) -> bool:
        """Whether frames may still come."""
        ...

    def take(self, completion: Completion, target: TransferTarget, slot: Slot) -> Taken:
        """Take a transfer; it may go to the slot."""
        ...

    def expire(self, now_or_never: bool = False) -> None:
        """Hand on the frames that have waited long enough for others."""
        ...

    def fail_by(self, error: Exception) -> str:
        """Fail the acquisition by an error that nobody expected here, and return the reason."""
        ...


class TransferIntake:
    """Copies completed transfers into ring slots.

    Nothing makes the detector wait: while the frame ring is full, transfers stay where they are, until they are
    overwritten.

    :param target: the ring that the detector writes into; it is closed with the intake.
    :param ring: where frames go.
    :param takers: returns the acquisitions that live now, the newest first.
    """

    def __init__(self, target: TransferTarget, ring: FrameRing, takers: Callable[[], Iterable[TransferTaker]]) -> None:
        self.strangers = 0
        self._target = target
        self._ring = ring
        self._takers = takers
        self._told: set[str] = set()
        self._missed = 0
        self._expired = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Start receiving."""
        self._thread.start()

    def close(self) -> None:
        """Stop receiving, and withdraw the ring."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._target.close()

    def _run(self) -> None:
        slot: Slot | None = None
        while not self._stop.is_set():
            slot = slot or self._room()
            if slot is None:
                continue
            self._expire()
            try:
                completion = self._target.poll()
            except ProtocolError as error:
                self._refuse(str(error))
                continue
            if completion is None:
                self._look()
                self._stop.wait(LIVE_SECONDS if any(taker.live for taker in self._takers()) else IDLE_SECONDS)
            elif self._deliver(completion, slot):
                slot = None
        if slot is not None:
            self._ring.give(slot)

    def _room(self) -> Slot | None:
        """Return a free slot; where there is none, frames that wait for others don't keep theirs any longer."""
        if (slot := self._ring.take(0)) is not None:
            return slot
        self._expire(now_or_never=True)
        return self._ring.take(ROOM_SECONDS)

    def _deliver(self, completion: Completion, slot: Slot) -> bool:
        """Find the acquisition that a transfer belongs to; True: the slot is taken."""
        for taker in self._takers():
            try:
                taken = taker.take(completion, self._target, slot)
            except ProtocolError as error:
                self._refuse(str(error))
                return False
            except Exception as error:  # a bug in one acquisition's source must not end the intake of all
                self._refuse(taker.fail_by(error))
                return False
            if taken is not Taken.STRANGE:
                return taken is Taken.KEPT
        self._refuse("it is of no acquisition that is known here")
        return False

    def _expire(self, now_or_never: bool = False) -> None:
        if not now_or_never and time.monotonic() - self._expired < EXPIRE_SECONDS:
            return
        self._expired = time.monotonic()
        for taker in self._takers():
            try:
                taker.expire(now_or_never)
            except Exception as error:  # see ``_deliver``
                taker.fail_by(error)

    def _look(self) -> None:
        missed = self._target.missed - self._missed
        if missed:
            log.warning("%d completion records were overwritten before they were read", missed)
            self._missed += missed

    def _refuse(self, why: str) -> None:
        self.strangers += 1
        if why not in self._told and len(self._told) < 100:
            self._told.add(why)
            log.warning("dropped a transfer: %s (more of this kind are only counted)", why)
