"""Publishing state: a PUB socket that lets only peers with keys in, and lets go of those whose key is revoked."""

from __future__ import annotations

import asyncio
import logging

import zmq
import zmq.asyncio

from ..errors import ReceiverError
from ..security.guard import Guard, protect
from ..security.handshakes import HandshakeWatch
from .endpoints import bind

log = logging.getLogger(__name__)

MAX_SUBSCRIPTION_BYTES = 64 * 1024


class Publisher:
    """Publishes snapshots.

    ZeroMQ asks for a subscriber's key when it connects, and never again. So when a key was revoked the socket is closed
    and bound anew: subscribers whose keys are good connect again by themselves.

    :param endpoint: to bind.
    :param place: of the endpoint in the configuration, for errors.
    :param guard: lets peers in by their keys; None: there are none.
    :raises ConfigError: the endpoint can't be bound, or needs keys and there are none.
    """

    def __init__(self, endpoint: str, place: str, guard: Guard | None = None) -> None:
        self._endpoint = endpoint
        self._place = place
        self._guard = guard
        self._watch: HandshakeWatch | None = None
        self._renew = asyncio.Event()
        self._socket: zmq.asyncio.Socket | None = self._bind()
        if guard is not None:
            guard.on_revoked(self._renew.set)

    async def send(self, data: bytes) -> None:
        """Publish a snapshot. One that can't be sent is dropped: the next one says it all."""
        if self._renew.is_set():
            self._renew.clear()
            await self.close()
        if self._socket is None:
            try:
                self._socket = self._bind()
            except ReceiverError as error:
                log.error("nothing is published: %s", error)  # noqa: TRY400 - the cause is in the message
                return
        await self._socket.send(data)

    async def close(self) -> None:
        """Close the socket."""
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        if self._socket is not None:
            self._socket.close(linger=0)
            self._socket = None

    def _bind(self) -> zmq.asyncio.Socket:
        socket = zmq.asyncio.Context.instance().socket(zmq.PUB)
        socket.linger = 0
        socket.maxmsgsize = MAX_SUBSCRIPTION_BYTES
        try:
            guard = protect(socket, self._endpoint, self._place, self._guard)
            bind(socket, self._endpoint, self._place)
        except ReceiverError:
            socket.close(linger=0)
            raise
        if guard is not None:
            self._watch = HandshakeWatch(socket, guard.note_handshake(self._place))
        return socket
