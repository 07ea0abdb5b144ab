"""Binding endpoints, with the checks that ZeroMQ leaves out, and connecting to them."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import zmq
import zmq.asyncio

from ..errors import ConfigError

LARGEST = 8  # slots that a message may be as large as: flatfield and mask of an Eiger2 have more bytes than its images
LARGEST_HEADER = 16 * 1024 * 1024  # bytes beside that
RECEIVE_QUEUE = 2  # messages that ZeroMQ may hold beside the ring
_KEEPALIVE = {
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
}


def largest_part(slot_bytes: int) -> int:
    """Return how many bytes of a message's part a data endpoint takes at most.

    :param slot_bytes: of the largest frame that its receiver takes.
    """
    return LARGEST * slot_bytes + LARGEST_HEADER


def bind(target: zmq.SyncSocket | zmq.asyncio.Socket, endpoint: str, place: str) -> None:
    """Bind a ZeroMQ socket to an endpoint.

    ZeroMQ takes over the path of an ``ipc`` endpoint that another process serves, without an error; this refuses it. A
    socket file that nobody serves is removed, and a missing folder is made for this user alone. A folder that is there
    must be closed to users who are neither its owner nor in its group: its mode is all that protects the socket.

    :param target: the socket.
    :param endpoint: ``ipc://PATH`` or ``tcp://HOST:PORT``.
    :param place: of the endpoint in the configuration, for the error.
    :raises ConfigError: another process serves the endpoint, its folder is open to all, or it can't be bound for
        another reason.
    """
    if endpoint.startswith("ipc://"):
        _clear_path(Path(endpoint.removeprefix("ipc://")), endpoint, place)
    try:
        target.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"{place}: {endpoint} is in use by another process") from error
        raise ConfigError(f"{place}: {endpoint} can't be bound: {error.strerror}") from error


def connect(target: zmq.SyncSocket | zmq.asyncio.Socket, endpoint: str, place: str) -> None:
    """Connect a ZeroMQ socket to an endpoint that another process binds, now or later.

    :param target: the socket.
    :param endpoint: ``ipc://PATH`` or ``tcp://HOST:PORT``.
    :param place: of the endpoint in the configuration, for the error.
    :raises ConfigError: it is no endpoint.
    """
    try:
        target.connect(endpoint)
    except zmq.ZMQError as error:
        raise ConfigError(f"{place}: {endpoint} can't be connected to: {error.strerror}") from error


def open_stream(endpoint: str, place: str, slot_bytes: int, connects: bool) -> zmq.SyncSocket:
    """Open a PULL socket that a detector sends its frames to.

    :param endpoint: to bind, or to connect to.
    :param place: of the endpoint in the configuration.
    :param slot_bytes: of the largest frame.
    :param connects: whether the other side binds.
    :raises ConfigError: the endpoint can't be bound, or is none.
    """
    stream = zmq.Context.instance().socket(zmq.PULL)
    stream.linger = 0
    stream.rcvhwm = RECEIVE_QUEUE
    stream.setsockopt(zmq.MAXMSGSIZE, largest_part(slot_bytes))
    # A peer that lost its power says nothing: without this, its connection would stay for ever.
    for option, value in _KEEPALIVE.items():
        stream.setsockopt(option, value)
    try:
        (connect if connects else bind)(stream, endpoint, place)
    except BaseException:
        stream.close(linger=0)
        raise
    return stream


def _clear_path(path: Path, endpoint: str, place: str) -> None:
    try:
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700, parents=True)
        found = path.parent.stat()
        if found.st_mode & stat.S_IRWXO or found.st_uid not in (0, os.geteuid()):
            raise ConfigError(
                f"{place}: {endpoint}: folder {path.parent} has mode {stat.S_IMODE(found.st_mode):04o} and is of user "
                f"{found.st_uid}, expected 0700 (or 0750, for a group) and of user {os.geteuid()}"
            )
        if not path.exists():
            return
        if not path.is_socket():
            raise ConfigError(f"{place}: {endpoint}: {path} is there and is not a socket")
        if _is_served(path):
            raise ConfigError(f"{place}: {endpoint} is in use by another process")
        path.unlink()
    except OSError as error:
        raise ConfigError(f"{place}: {endpoint} can't be bound: {error.strerror}") from error


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except TimeoutError:
            return True
    return True
