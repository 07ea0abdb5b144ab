"""The thread that takes messages off the detector's stream, into the ring, and hands frames to their acquisitions."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import zmq

from lima2_processing.frame import Frame

from ..errors import ProtocolError
from ..source import Item, PackedFrame, Remark, SeriesEnd, Stranger
from ..transport.endpoints import bind, connect, largest_part
from .ring import FrameRing, Slot

log = logging.getLogger(__name__)

RECEIVE_QUEUE = 2  # messages that ZeroMQ may hold beside the ring
EARLY = 2  # messages that are kept for an acquisition that is still being made
_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
}
POLL_SECONDS = 0.1  # how soon the thread notices that it is to end


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

    def fail_by(self, error: Exception) -> str:
        """Fail the acquisition by an error that nobody expected here, and return the reason."""
        ...


class Intake:
    """Receives from a ZeroMQ PULL socket into ring slots.

    A full ring makes it stop receiving, so that back-pressure reaches the sender.

    :param endpoint: to bind, or to connect to.
    :param place: of the endpoint in the configuration.
    :param ring: where frames go.
    :param takers: returns the acquisitions that live now, the newest first.
    :param connects: whether the other side binds.
    :param begins: tells whether a message begins a series: it is kept for an acquisition that is still being made.
    :raises ConfigError: the endpoint can't be bound, or is none.
    """

    def __init__(
        self,
        endpoint: str,
        place: str,
        ring: FrameRing,
        takers: Callable[[], Iterable[Taker]],
        connects: bool = False,
        begins: Callable[[Sequence[memoryview]], bool] = lambda _: False,
    ) -> None:
        self.strangers = 0
        self._begins = begins
        self._early: deque[list[memoryview]] = deque(maxlen=EARLY)
        self._newest: Taker | None = None  # acquisition that was offered what came early
        self._ring = ring
        self._takers = takers
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.linger = 0
        self._socket.rcvhwm = RECEIVE_QUEUE
        self._socket.setsockopt(zmq.MAXMSGSIZE, largest_part(ring.slot_bytes))
        # A peer that lost its power says nothing: without this, its connection would stay for ever.
        for option, value in _KEEPALIVE.items():
            self._socket.setsockopt(option, value)
        try:
            (connect if connects else bind)(self._socket, endpoint, place)
        except BaseException:
            self._socket.close(linger=0)
            raise
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Start receiving."""
        self._thread.start()

    def close(self) -> None:
        """Stop receiving and close the socket."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._socket.close(linger=0)

    def _run(self) -> None:
        slot: Slot | None = None
        while not self._stop.is_set():
            slot = slot or self._ring.take(POLL_SECONDS)
            self._offer_early()
            if slot is None or not self._socket.poll(int(POLL_SECONDS * 1000)):
                continue
            message = self._receive(slot)
            self._offer_early()
            if self._deliver(message, slot):
                slot = None
        if slot is not None:
            self._ring.give(slot)

    def _receive(self, slot: Slot) -> list[memoryview]:
        """Receive one message: all parts but the second as they are, not copied, the second into the slot."""
        parts = [self._socket.recv(copy=False).buffer]
        while self._socket.getsockopt(zmq.RCVMORE):
            if len(parts) == 1:
                size = self._socket.recv_into(slot.memory)
                parts.append(memoryview(slot.memory.data)[: min(size, self._ring.slot_bytes)])
            else:
                parts.append(self._socket.recv(copy=False).buffer)
        return parts

    def _deliver(self, message: list[memoryview], slot: Slot) -> bool:
        """Find the acquisition that a message belongs to; True: the slot is taken."""
        for taker in self._takers():
            try:
                items = taker.parse(message)
            except ProtocolError as error:
                self._refuse(str(error))
                return False
            except Exception as error:  # a bug in one acquisition's source must not end the intake of all
                self._refuse(taker.fail_by(error))
                continue
            if any(isinstance(item, Stranger) for item in items):
                continue
            frames = sum(isinstance(item, Frame | PackedFrame) for item in items)
            if frames > 1:  # they would share a slot, and give it back more than once
                self._refuse(taker.fail_by(ProtocolError(f"got {frames} frames in one message, expected 1 at most")))
                return False
            return sum(_hand(taker, item, slot) for item in items) > 0
        try:
            early = self._begins(message)
        except Exception as error:  # a bug in a plugin must not end the intake
            log.exception("whether a message begins a series")
            self._refuse(f"internal error: {type(error).__name__}: {error}")
            return False
        if early:
            self._early.append([memoryview(bytes(part)) for part in message])
        else:
            self._refuse("a message of no acquisition that is known here")
        return False

    def _offer_early(self) -> None:
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
                self._refuse(str(error))
            except Exception as error:  # see ``_deliver``
                self._refuse(newest.fail_by(error))

    def _refuse(self, why: str) -> None:
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
