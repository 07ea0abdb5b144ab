"""Handshakes that fail: ZeroMQ says nothing of them to the sockets that they are for, only to a monitor."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket as sockets
from collections.abc import Callable

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

MISMATCH, CRYPTOGRAPHIC = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH, zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)
_numbers = itertools.count()


class HandshakeWatch:
    """Tells of each handshake of a socket that fails, or succeeds.

    :param target: the socket.
    :param failed: called with the peer's address (empty: it was gone before it could be asked for), the event, and its
        value.
    :param succeeded: called without anything.
    """

    def __init__(
        self,
        target: zmq.asyncio.Socket,
        failed: Callable[[str, zmq.Event, int], None],
        succeeded: Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self._failed = failed
        self._succeeded = succeeded
        self._addresses: dict[int, str] = {}  # by file descriptor
        address = f"inproc://handshakes-{next(_numbers)}"
        target.monitor(address, _EVENTS)
        self._socket = target.context.socket(zmq.PAIR)
        self._socket.rcvhwm = 0  # ZeroMQ's own thread would wait for room
        self._socket.linger = 0
        self._socket.connect(address)
        self._task = asyncio.create_task(self._watch(), name="handshakes")

    async def close(self) -> None:
        """Stop watching; before the socket is closed."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._target.disable_monitor()
        self._socket.close(linger=0)

    async def _watch(self) -> None:
        pending: tuple[zmq.Event, int] | None = None  # what failed: the event after it has the file descriptor
        while True:
            message = parse_monitor_message(await self._socket.recv_multipart())
            event, value = zmq.Event(message["event"]), int(message["value"])
            match event:
                case zmq.Event.ACCEPTED:
                    self._addresses[value] = _peer_address(value)
                case zmq.Event.HANDSHAKE_SUCCEEDED:
                    self._succeeded()
                case zmq.Event.DISCONNECTED:
                    address = self._addresses.pop(value, "")
                    if pending is not None:
                        self._failed(address, *pending)
                        pending = None
                case _:
                    pending = event, value & 0xFFFFFFFF


def _peer_address(descriptor: int) -> str:
    """Return the address at the other end of a connection that ZeroMQ has accepted; empty where it is gone already."""
    try:
        with sockets.socket(fileno=os.dup(descriptor)) as connection:
            return str(connection.getpeername()[0])
    except (OSError, IndexError):
        return ""
