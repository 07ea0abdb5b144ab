"""Where a capture's messages come from: a receiver's data endpoint, opened as the receiver does."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from typing import Protocol

import zmq

from ..config import Config, detector_settings
from ..control import PacketSettings, Transport
from ..errors import ConfigError
from ..plugins import DETECTORS
from ..transport.datagrams import DatagramBatch, bind_datagrams, dropped
from ..transport.endpoints import bind, connect, largest_part

RECEIVE_QUEUE = 16  # messages that ZeroMQ may hold while the disk is slow; after that, the sender waits
DATAGRAM_BYTES = 65536  # more than any has: a capture cuts none


class Tap(Protocol):
    """A data endpoint. Used by one thread.

    :cvar datagrams: whether each part is a message of its own.
    """

    datagrams: bool

    def take(self, seconds: float) -> Iterator[tuple[int, list[memoryview]]]:
        """Wait until something has come, for so long at most, and yield ports and parts; see ``format``.

        What is yielded is only good until the next.
        """
        ...

    def dropped(self) -> int:
        """Return how many datagrams the kernel threw away, since they came faster than they were taken."""
        ...

    def close(self) -> None:
        """Free the sockets."""
        ...


def open_tap(config: Config, rank: int) -> Tap:
    """Open the data endpoint of a receiver, in its place: the receiver itself must not run.

    :raises ConfigError: there is no such receiver, or its endpoint can't be opened.
    """
    place, endpoint, slot_bytes = config.stream(rank)
    plugin = DETECTORS.get(config.detector.plugin)
    if plugin.transport is Transport.RING:
        raise ConfigError(
            f"detector.plugin: {plugin.name!r} writes into the receiver's memory: nothing comes to capture"
        )
    if plugin.transport is not Transport.UDP:
        connects = plugin.transport is Transport.ZMQ_CONNECT
        return MessageTap(endpoint, place, connects, largest_part(slot_bytes))
    settings = detector_settings(config, plugin.settings)
    if not isinstance(settings, PacketSettings):
        raise ConfigError(f"detector plugin {plugin.name!r}: its settings are no PacketSettings")
    return DatagramTap(endpoint, settings.n_ports, settings.receive_buffer, place)


class MessageTap:
    """A ZeroMQ PULL socket.

    :param endpoint: to bind, or to connect to.
    :param place: of the endpoint in the configuration.
    :param connects: whether the other side binds.
    :param largest: bytes of a part that is taken at most: a sender of a longer one is hung up on, as a receiver does.
    :raises ConfigError: the endpoint can't be opened.
    """

    datagrams = False

    def __init__(self, endpoint: str, place: str, connects: bool, largest: int) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.linger = 0
        self._socket.rcvhwm = RECEIVE_QUEUE
        self._socket.setsockopt(zmq.MAXMSGSIZE, largest)
        try:
            (connect if connects else bind)(self._socket, endpoint, place)
        except BaseException:
            self._socket.close(linger=0)
            raise

    def take(self, seconds: float) -> Iterator[tuple[int, list[memoryview]]]:
        """Yield one message, if one comes."""
        if self._socket.poll(int(seconds * 1000)):
            yield 0, [memoryview(part.buffer) for part in self._socket.recv_multipart(copy=False)]

    def dropped(self) -> int:
        """Return 0: the sender waits."""
        return 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(linger=0)


class DatagramTap:
    """UDP ports.

    :param endpoint: ``udp://HOST:PORT`` of the first.
    :param n_ports: how many, from that one upwards.
    :param receive_buffer: bytes that the kernel is asked to hold for each.
    :param place: of the endpoint in the configuration.
    :raises ConfigError: a port can't be bound.
    """

    datagrams = True

    def __init__(self, endpoint: str, n_ports: int, receive_buffer: int, place: str) -> None:
        self._batch = DatagramBatch(DATAGRAM_BYTES)
        self._poll = select.poll()
        self._sockets: list[socket.socket] = []
        self._ports: dict[int, int] = {}  # by file descriptor
        try:
            for offset in range(n_ports):
                self._sockets.append(bind_datagrams(endpoint, offset, receive_buffer, place))
                self._ports[self._sockets[-1].fileno()] = offset
                self._poll.register(self._sockets[-1], select.POLLIN)
        except BaseException:
            self.close()
            raise

    def take(self, seconds: float) -> Iterator[tuple[int, list[memoryview]]]:
        """Yield the datagrams that have come to each port."""
        for fd, _ in self._poll.poll(seconds * 1000):
            try:
                packets, sizes = self._batch.receive(fd)
            except OSError:  # an ICMP message, such as of a port that is not there; what comes next is fine
                continue
            if len(packets):
                parts = zip(packets, sizes.tolist(), strict=True)
                yield self._ports[fd], [packet[:size].data for packet, size in parts]

    def dropped(self) -> int:
        """Return how many datagrams the kernel threw away."""
        return sum(map(dropped, self._sockets))

    def close(self) -> None:
        """Close the sockets."""
        for each in self._sockets:
            each.close()
