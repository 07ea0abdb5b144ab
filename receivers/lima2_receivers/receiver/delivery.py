"""Messages of the detector's stream find the acquisitions that they belong to. It does no I/O."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lima2_processing.frame import Frame, FrameIdx

from ..errors import ProtocolError
from ..source import Item, PackedFrame, Remark, SeriesEnd, Stranger
from .ring import Slot

log = logging.getLogger(__name__)

EARLY = 2  # messages that are kept for an acquisition that is still being made


class Taker(Protocol):
    """What takes the frames of one acquisition."""

    def parse(self, message: Sequence[memoryview]) -> list[Item]:
        """Parse a message with the acquisition's own source."""
        ...

    def accept(self, frame: Frame | PackedFrame, slot: Slot) -> bool:
        """Take a frame and its slot; False: it isn't wanted, and the slot stays with the caller."""
        ...

    def series_ended(self, end: SeriesEnd) -> None:
        """Note that the detector has sent everything."""
        ...

    def remark(self, remark: Remark) -> None:
        """Keep what the detector says beside its pixels."""
        ...

    def recorded(self, index: FrameIdx) -> bool:
        """Tell whether the conductor knows what became of a frame, or nothing more becomes of it here."""
        ...

    def fail_by(self, error: Exception) -> str:
        """Fail the acquisition by an error that nobody expected here, and return the reason."""
        ...


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of a message.

    :param kept: the slot is taken.
    :param known: False: it is of no acquisition that is known here.
    :param taker: the acquisition that has its frame.
    :param frame: None: it has none, or nobody wants it.
    """

    kept: bool = False
    known: bool = True
    taker: Taker | None = None
    frame: FrameIdx | None = None


class Delivery:
    """Hands messages to acquisitions; used by one thread.

    :param takers: returns the acquisitions that live now, the newest first.
    :param begins: tells whether a message begins a series: it is kept for an acquisition that is still being made.
    """

    def __init__(
        self,
        takers: Callable[[], Iterable[Taker]],
        begins: Callable[[Sequence[memoryview]], bool] = lambda _: False,
    ) -> None:
        self.strangers = 0
        self._takers = takers
        self._begins = begins
        self._early: deque[list[memoryview]] = deque(maxlen=EARLY)
        self._newest: Taker | None = None  # acquisition that was offered what came early
        self._told: set[str] = set()

    def deliver(self, message: list[memoryview], slot: Slot) -> Delivered:
        """Find the acquisition that a message belongs to, and hand its frame over.

        :param slot: that the message's second part lies in.
        """
        for taker in self._takers():
            try:
                items = taker.parse(message)
            except ProtocolError as error:
                self.refuse(str(error))
                return Delivered()
            except Exception as error:  # a bug in one acquisition's source must not end the intake of all
                self.refuse(taker.fail_by(error))
                continue
            if any(isinstance(item, Stranger) for item in items):
                continue
            frames = [item.index for item in items if isinstance(item, Frame | PackedFrame)]
            if len(frames) > 1:  # they would share a slot, and give it back more than once
                error = ProtocolError(f"got {len(frames)} frames in one message, expected 1 at most")
                self.refuse(taker.fail_by(error))
                return Delivered()
            kept = sum(_hand(taker, item, slot) for item in items) > 0
            return Delivered(kept, taker=taker, frame=frames[0] if frames else None)
        try:
            early = self._begins(message)
        except Exception as error:  # a bug in a plugin must not end the intake
            log.exception("whether a message begins a series")
            self.refuse(f"internal error: {type(error).__name__}: {error}")
            return Delivered()
        if early:
            self._early.append([memoryview(bytes(part)) for part in message])
        return Delivered(known=early)

    def offer_early(self) -> None:
        """Offer what began a series to an acquisition that is new."""
        newest = next(iter(self._takers()), None)
        if newest is None or newest is self._newest:
            return
        self._newest = newest
        for message in list(self._early):
            try:
                items = newest.parse(message)
                own = not any(isinstance(item, Stranger) for item in items)
                if own:
                    self._early.remove(message)
                    for item in items:
                        if isinstance(item, Remark):
                            newest.remark(item)
            except ProtocolError as error:
                self._early.remove(message)
                self.refuse(str(error))
            except Exception as error:  # see ``deliver``
                self.refuse(newest.fail_by(error))

    def refuse(self, why: str) -> None:
        """Count a message that is dropped."""
        self.strangers += 1
        if why not in self._told and len(self._told) < 100:
            self._told.add(why)
            log.warning("dropped a message: %s (further ones of this kind are only counted)", why)


def _hand(taker: Taker, item: Item, slot: Slot) -> bool:
    """Give an item to its acquisition; True: it took the slot."""
    try:
        match item:
            case Frame() | PackedFrame():
                return taker.accept(item, slot)
            case SeriesEnd():
                taker.series_ended(item)
            case Remark():
                taker.remark(item)
            case Stranger():
                pass
    except Exception as error:  # see ``_deliver``
        taker.fail_by(error)
    return False
