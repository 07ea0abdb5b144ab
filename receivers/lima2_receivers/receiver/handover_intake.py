"""The thread that takes messages from an ingest, and tells it when they are safe."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import zmq

from lima2_processing.frame import FrameIdx

from ..errors import ProtocolError
from ..handover import (
    HEARTBEAT,
    INLINE,
    Admit,
    Attached,
    Hand,
    Join,
    Leave,
    Over,
    Report,
    ToIngest,
    decode_to_receiver,
    encode,
)
from ..security.keys import Credentials
from ..security.reach import Reach, reach
from ..transport.endpoints import connect, largest_part
from ..transport.shared_slots import SlotReader
from .delivery import Delivered, Delivery, Taker
from .ring import FrameRing, Slot

log = logging.getLogger(__name__)

BUSY_MILLISECONDS, IDLE_MILLISECONDS = 5, 50  # between looks for free slots and settled frames, and without either
ALIGNMENT = 8  # bytes, of the largest pixel
JOIN_SECONDS = 1.0  # after which an ingest that did not answer is asked again


@dataclass(frozen=True, slots=True)
class _Kept:
    """A frame that is not safe yet."""

    taker: Taker
    frame: FrameIdx


class HandoverIntake:
    """Receives from an ingest into ring slots.

    Each slot that it holds is room for one message, which it grants to the ingest. It holds half of the ring at most.
    Pixels from shared memory are copied into it; of what comes through the socket, it only stands for the room.
    A message is done with when the conductor knows what became of its frame.

    :param endpoint: of the ingest, to connect to.
    :param place: of the endpoint in the configuration.
    :param rank: of this receiver.
    :param ring: where frames go.
    :param delivery: knows the acquisitions that they belong to.
    :param takers: returns these acquisitions.
    :param credentials: keys, for a ``tcp`` endpoint; None: there are none.
    :raises ConfigError: the endpoint is none.
    """

    def __init__(
        self,
        endpoint: str,
        place: str,
        rank: int,
        ring: FrameRing,
        delivery: Delivery,
        takers: Callable[[], Iterable[Taker]],
        credentials: Credentials | None = None,
    ) -> None:
        self._rank = rank
        self._ring = ring
        self._most = max(1, ring.slots // 2)
        self._delivery = delivery
        self._takers = takers
        self._slots: list[Slot] = []
        self._session = 0  # 0: none
        self._memory: SlotReader | None = None
        self._got = 0  # messages in this session
        self._granted = 0  # what the ingest was told last
        self._kept: dict[int, _Kept] = {}  # by number of the message
        self._done: list[int] = []
        self._refused: list[int] = []
        self._looked = -math.inf  # when frames were last asked for
        self._said = -math.inf  # when the ingest was last told something
        self._stop = threading.Event()
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.linger = 200  # so that a goodbye is said
        self._socket.sndhwm = self._socket.rcvhwm = 0  # grants bound what is under way
        self._socket.setsockopt(zmq.MAXMSGSIZE, largest_part(ring.slot_bytes))
        for option, value in _PATIENCE.items():
            self._socket.set(option, value)
        if credentials is not None and reach(endpoint) is not Reach.FILES:
            credentials.apply(self._socket)
        try:
            connect(self._socket, endpoint, place)
        except BaseException:
            self._socket.close(linger=0)
            raise
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    @property
    def strangers(self) -> int:
        """Messages so far that broke the protocol."""
        return self._delivery.strangers

    def start(self) -> None:
        """Start receiving."""
        self._thread.start()

    def close(self) -> None:
        """Stop receiving: what is not safe yet goes to others."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._socket.close()
        if self._memory is not None:
            self._memory.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._delivery.offer_early()
                self._take_slots()
                self._settle()
                self._speak()
                busy = self._kept or len(self._slots) < self._most
                if self._socket.poll(BUSY_MILLISECONDS if busy else IDLE_MILLISECONDS):
                    self._listen()
            except Exception:  # a bug in one message must not end the intake of all
                log.exception("internal error")
        if self._session:
            self._send(Leave(self._session))
        for slot in self._slots:
            self._ring.give(slot)

    # --- what is said ---

    def _take_slots(self) -> None:
        while len(self._slots) < self._most and (slot := self._ring.take(0)) is not None:
            self._slots.append(slot)

    def _settle(self) -> None:
        """Find the frames that are safe by now. Those of acquisitions that the conductor has forgotten are, too."""
        now = time.monotonic()
        if now - self._looked < BUSY_MILLISECONDS / 1000:
            return
        self._looked = now
        living = set(map(id, self._takers())) if self._kept else set[int]()
        for number, kept in list(self._kept.items()):
            if id(kept.taker) not in living or kept.taker.recorded(kept.frame):
                del self._kept[number]
                self._done.append(number)

    def _speak(self) -> None:
        silent = time.monotonic() - self._said
        if not self._session:
            if silent > JOIN_SECONDS:
                self._send(Join(self._rank))
            return
        granted = self._got + len(self._slots)
        if granted == self._granted and not self._done and not self._refused and silent < HEARTBEAT:
            return
        self._granted = granted
        self._send(Report(self._session, granted, tuple(self._done), tuple(self._refused)))
        self._done.clear()
        self._refused.clear()

    def _send(self, message: ToIngest) -> None:
        self._said = time.monotonic()
        self._socket.send(encode(message))

    # --- what is heard ---

    def _listen(self) -> None:
        """Take one message from the ingest."""
        frames = self._socket.recv_multipart(copy=False)
        try:
            match decode_to_receiver(frames[0].buffer):
                case Admit() as admit:
                    self._begin(admit)
                case Hand() as hand:
                    if hand.session == self._session:  # else it has gone to others
                        self._take(hand, frames[1:])
                case Over(session):
                    if session == self._session:
                        self._end()
        except ProtocolError as error:
            self._delivery.refuse(str(error))

    def _begin(self, admit: Admit) -> None:
        self._end()
        self._session = admit.session
        log.info("the ingest hands messages over")
        if admit.memory is None:
            return
        try:
            self._memory = SlotReader(admit.memory)
        except ProtocolError as error:
            log.info("all comes through the socket: %s", error)
            return
        self._send(Attached(self._session))

    def _end(self) -> None:
        """Begin anew: what was not done with goes to others, or comes here again."""
        if self._session:
            log.warning("the ingest has given up this receiver, or was restarted")
        self._session = self._got = self._granted = 0
        self._said = -math.inf
        self._kept.clear()
        self._done.clear()
        self._refused.clear()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def _take(self, hand: Hand, parts: list[zmq.Frame]) -> None:
        self._got += 1
        try:
            self._deliver(hand, parts)
        except Exception:
            self._refused.append(hand.number)  # so that the ingest does not keep it for ever
            raise

    def _deliver(self, hand: Hand, parts: list[zmq.Frame]) -> None:
        if not self._slots:
            raise ProtocolError("the ingest has handed over more than there is room for")
        slot = self._slots[-1]
        message = self._receive(hand, parts, slot)
        if message is None:
            return  # it was overwritten: it has gone to others
        delivered = self._delivery.deliver(message, slot)
        if delivered.kept:
            self._slots.pop()
        self._note(hand.number, delivered)

    def _note(self, number: int, delivered: Delivered) -> None:
        if not delivered.known:
            self._refused.append(number)
        elif delivered.taker is None or delivered.frame is None:
            self._done.append(number)
        else:
            self._kept[number] = _Kept(delivered.taker, delivered.frame)

    def _receive(self, hand: Hand, parts: list[zmq.Frame], slot: Slot) -> list[memoryview] | None:
        """Put a message together; None: it is not there any more.

        :raises ProtocolError: it is not what an ingest hands over.
        """
        if sum(size < 0 for size in hand.sizes) != len(parts):
            raise ProtocolError(f"got {len(parts)} parts, expected {hand.sizes.count(-1)}")
        outside, at = iter(parts), 0
        message: list[memoryview] = []
        for size in hand.sizes:
            if size < 0:
                part = next(outside).buffer
                message.append(_placed(part, slot) if len(message) == 1 else part)
                continue
            if self._memory is None:
                raise ProtocolError("got a message in shared memory, expected one through the socket")
            fits = len(message) == 1 and size <= len(slot.memory)
            into = slot.memory[:size] if fits else np.empty(size, np.uint8)
            if not self._memory.read(hand.slot, hand.number, at, into):
                return None
            message.append(memoryview(into.data))
            at += size
        return message


def _placed(part: memoryview, slot: Slot) -> memoryview:
    """Return a part that came through the socket: where it is, if that does, else in a slot, as far as it fits there.

    A large one stays in the memory of its message: a copy would cost a third of what its transport does.
    """
    pixels = np.frombuffer(part, np.uint8)
    if len(pixels) > INLINE and pixels.ctypes.data % ALIGNMENT == 0:
        return part
    size = min(len(pixels), len(slot.memory))
    slot.memory[:size] = pixels[:size]
    return memoryview(slot.memory.data)[:size]


_PATIENCE = {zmq.HEARTBEAT_IVL: 1000, zmq.HEARTBEAT_TIMEOUT: 5000, zmq.RECONNECT_IVL: 50, zmq.RECONNECT_IVL_MAX: 500}
