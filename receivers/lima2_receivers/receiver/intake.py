"""The thread that takes messages off the detector's stream, into the ring, and hands frames to their acquisitions."""

from __future__ import annotations

import threading

import zmq

from ..transport.endpoints import open_stream
from .delivery import Delivery
from .ring import FrameRing, Slot

POLL_SECONDS = 0.1  # how soon the thread notices that it is to end
NOBODYS = "a message of no acquisition that is known here"


class Intake:
    """Receives from a ZeroMQ PULL socket into ring slots.

    A full ring makes it stop receiving, so that back-pressure reaches the sender.

    :param endpoint: to bind, or to connect to.
    :param place: of the endpoint in the configuration.
    :param ring: where frames go.
    :param delivery: knows the acquisitions that they belong to.
    :param connects: whether the other side binds.
    :raises ConfigError: the endpoint can't be bound, or is none.
    """

    def __init__(self, endpoint: str, place: str, ring: FrameRing, delivery: Delivery, connects: bool = False) -> None:
        self._ring = ring
        self._delivery = delivery
        self._stop = threading.Event()
        self._socket = open_stream(endpoint, place, ring.slot_bytes, connects)
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    @property
    def strangers(self) -> int:
        """Messages so far that belonged to no acquisition or broke the protocol."""
        return self._delivery.strangers

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
            self._delivery.offer_early()
            if slot is None or not self._socket.poll(int(POLL_SECONDS * 1000)):
                continue
            message = self._receive(slot)
            self._delivery.offer_early()
            delivered = self._delivery.deliver(message, slot)
            if not delivered.known:
                self._delivery.refuse(NOBODYS)
            if delivered.kept:
                slot = None
        if slot is not None:
            self._ring.give(slot)

    def _receive(self, slot: Slot) -> list[memoryview]:
        """Receive one message: all parts but the second as they are, not copied, the second into the slot."""
        parts = [self._socket.recv(copy=False).buffer]
        while self._socket.getsockopt(zmq.RCVMORE):
            if len(parts) == 1:
                size = self._socket.recv_into(slot.memory.data)
                parts.append(memoryview(slot.memory.data)[: min(size, self._ring.slot_bytes)])
            else:
                parts.append(self._socket.recv(copy=False).buffer)
        return parts
