"""Sending what was captured once more: the same messages, byte for byte, to a receiver's data endpoint.

Nothing arms a detector or prepares an acquisition: it is for looking at what a receiver, or another capture, makes of a
stream. A receiver takes the messages of acquisitions that live, by their series' number, and refuses others. The Reader
plays the frames of a capture in an acquisition.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Protocol

import zmq

from ..config import Config
from ..control import Transport
from ..errors import ConfigError, DetectorError
from ..plugins import DETECTORS
from ..transport.datagrams import split_endpoint
from ..transport.endpoints import bind, connect
from .format import Capture
from .record import Tally

PATIENCE = 10.0  # seconds that a message waits for its receiver
SLICE = 0.1  # seconds after which a wait looks whether it is to end
SEND_QUEUE = 2  # messages that ZeroMQ holds for the receiver
LINGER = 2000  # milliseconds that the last ones have to leave
SEND_BUFFER = 1024 * 1024  # bytes of datagrams; a full one makes the sender wait


class Spout(Protocol):
    """The sending end of a data endpoint."""

    def send(self, port: int, parts: list[memoryview], ended: threading.Event) -> bool:
        """Send a record; False: it was time to end.

        :raises DetectorError: the receiver does not take it.
        """
        ...

    def close(self) -> None:
        """Free the sockets, once the last message has left."""
        ...


def open_spout(capture: Capture, config: Config, rank: int) -> Spout:
    """Open the sending end of a receiver's data endpoint.

    :raises ConfigError: there is no such receiver, or the configuration is of another kind of detector.
    """
    place, endpoint, _ = config.stream(rank)
    plugin = DETECTORS.get(config.detector.plugin)
    if plugin.name != capture.head.plugin:
        raise ConfigError(f"detector.plugin: got {plugin.name!r}, {capture.path} is of {capture.head.plugin!r}")
    if plugin.transport is Transport.UDP:
        return _Datagrams(endpoint, place)
    return _Messages(endpoint, place, binds=plugin.transport is Transport.ZMQ_CONNECT)


def play(capture: Capture, spout: Spout, ended: threading.Event, hurry: bool = False) -> Tally:
    """Send all records of a capture.

    :param ended: set when it is to end.
    :param hurry: False: at the times that they came, from the first on; True: as fast as they go.
    :raises DetectorError: the receiver does not take them.
    """
    began = time.monotonic()
    count = nbytes = 0
    for entry in capture.entries:
        if not entry.sizes:  # nothing of the kind is recorded, but a file may hold anything
            continue
        due = began + entry.time - capture.entries[0].time
        if not hurry and ended.wait(min(max(0.0, due - time.monotonic()), threading.TIMEOUT_MAX)):
            break
        if ended.is_set() or not spout.send(entry.port, capture.parts(entry), ended):
            break
        count += len(entry.sizes) if isinstance(spout, _Datagrams) else 1
        nbytes += entry.nbytes
    return Tally(count, nbytes, time.monotonic() - began)


class _Messages:
    """A ZeroMQ PUSH socket."""

    def __init__(self, endpoint: str, place: str, binds: bool) -> None:
        self._endpoint = endpoint
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.sndhwm = SEND_QUEUE
        self._socket.immediate = 1  # nothing is queued for a receiver that is away
        self._socket.linger = LINGER
        try:
            (bind if binds else connect)(self._socket, endpoint, place)
        except BaseException:
            self._socket.close(linger=0)
            raise

    def send(self, port: int, parts: list[memoryview], ended: threading.Event) -> bool:
        """Send a message, waiting for its receiver."""
        del port
        deadline = time.monotonic() + PATIENCE
        while not ended.is_set():
            if self._socket.poll(int(SLICE * 1000), zmq.POLLOUT):
                try:
                    self._socket.send_multipart(parts, zmq.NOBLOCK)
                except zmq.Again:  # the receiver went away since
                    continue
                return True
            if time.monotonic() > deadline:
                raise DetectorError(f"{self._endpoint}: no receiver took a message within {PATIENCE:g} s")
        return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class _Datagrams:
    """A UDP socket; nothing waits for the receiver."""

    def __init__(self, endpoint: str, place: str) -> None:
        self._host, self._port = split_endpoint(endpoint, place)
        self._socket = socket.socket(socket.AF_INET6 if ":" in self._host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def send(self, port: int, parts: list[memoryview], ended: threading.Event) -> bool:
        """Send datagrams."""
        del ended
        try:
            for part in parts:
                self._socket.sendto(part, (self._host, self._port + port))
        except (OSError, OverflowError) as error:
            raise DetectorError(f"udp port {self._host}:{self._port + port}: {error}") from error
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
