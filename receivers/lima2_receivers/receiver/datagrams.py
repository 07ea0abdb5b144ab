"""The thread that takes packets off a receiver's ports, and hands them to the acquisitions that they belong to."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..transport.datagrams import BATCH, DatagramBatch, bind_datagrams, dropped
from .assembly import Strangers

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05  # how soon the thread notices that it is to end, or that a frame's time is over
LOOK_SECONDS = 1.0  # between looks at what the kernel dropped


class PacketTaker(Protocol):
    """What takes the packets of one acquisition."""

    @property
    def n_packets(self) -> int:
        """Packets of a frame."""
        ...

    def place(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Strangers:
        """Take packets, and say which are not its own; see ``Assembler.place``."""
        ...

    def expire(self) -> None:
        """Close the frames whose time is over."""
        ...

    def fail_by(self, error: Exception) -> str:
        """Fail the acquisition by an error that nobody expected here, and return the reason."""
        ...


class DatagramIntake:
    """Receives packets from UDP ports. One thread serves them all.

    Nothing makes the sender wait: while the ring is full, whole frames are dropped and said to be lost, so that those
    that find room are complete.

    :param endpoint: ``udp://HOST:PORT`` of the first port.
    :param n_ports: how many, from that one upwards.
    :param packet_bytes: of a datagram, header and pixels.
    :param receive_buffer: bytes that the kernel is asked to hold for each.
    :param place: of the endpoint in the configuration.
    :param takers: returns the acquisitions that live now, the newest first.
    :raises ConfigError: a port can't be bound.
    """

    def __init__(
        self,
        endpoint: str,
        n_ports: int,
        packet_bytes: int,
        receive_buffer: int,
        place: str,
        takers: Callable[[], Iterable[PacketTaker]],
    ) -> None:
        self.strangers = 0
        self._takers = takers
        self._told: set[str] = set()
        self._dropped = 0
        self._stop = threading.Event()
        self._batch = DatagramBatch(packet_bytes)
        self._sockets: list[socket.socket] = []
        try:
            for offset in range(n_ports):
                self._sockets.append(bind_datagrams(endpoint, offset, receive_buffer, place))
        except BaseException:
            self._close_sockets()
            raise
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def start(self) -> None:
        """Start receiving."""
        self._thread.start()

    def close(self) -> None:
        """Stop receiving and close the sockets."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._close_sockets()

    def _close_sockets(self) -> None:
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        poll = select.poll()
        for each in self._sockets:
            poll.register(each, select.POLLIN)
        expired = looked = time.monotonic()
        while not self._stop.is_set():
            for fd, _ in poll.poll(POLL_SECONDS * 1000):
                self._receive(fd)
            now = time.monotonic()
            if now - expired > POLL_SECONDS:
                self._expire()
                expired = now
            if now - looked > LOOK_SECONDS:
                self._look()
                looked = now

    def _receive(self, fd: int) -> None:
        try:
            packets, sizes = self._batch.receive(fd, self._limit())
        except OSError as error:  # an ICMP message, such as of a port that is not there; what comes next is fine
            self._refuse(1, str(error))
            return
        if len(packets):
            self._deliver(packets, sizes)

    def _limit(self) -> int:
        """Return how many packets a port gives before it is another's turn: those of a frame, where there are several.

        More would let the frames of one port run ahead, and overtake those that wait for the packets of the others.
        """
        if len(self._sockets) == 1:
            return BATCH
        return max(1, min((taker.n_packets // len(self._sockets) for taker in self._takers()), default=BATCH))

    def _deliver(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> None:
        """Offer packets to one acquisition after the other, each those that are not the former's."""
        for taker in self._takers():
            try:
                found = taker.place(packets, sizes)
            except Exception as error:  # a bug in one acquisition's source must not end the intake of all
                self._refuse(len(packets), taker.fail_by(error))
                continue
            for why, count in found.refusals.items():
                self._refuse(count, why)
            if not found.others.any():
                return
            if not found.others.all():
                packets, sizes = packets[found.others], sizes[found.others]
        self._refuse(len(packets), "it is of no acquisition that is known here")

    def _expire(self) -> None:
        for taker in self._takers():
            try:
                taker.expire()
            except Exception as error:  # see ``_deliver``
                taker.fail_by(error)

    def _look(self) -> None:
        lost = sum(map(dropped, self._sockets))
        if lost > self._dropped:
            log.warning("the kernel dropped %d packets: they came faster than they were taken", lost - self._dropped)
            self._dropped = lost

    def _refuse(self, count: int, why: str) -> None:
        self.strangers += count
        if why not in self._told and len(self._told) < 100:
            self._told.add(why)
            log.warning("dropped %d packets, the first since %s (more of this kind are only counted)", count, why)
