"""Requests and replies between our own processes, over DEALER and ROUTER sockets: numbered, each with a deadline."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import zmq
import zmq.asyncio

from ..errors import AccessError, ProtocolError, ReceiverError, UnreachableError, VersionError, error_from_code
from ..messages import MAJOR, MINOR, Failed, Hello, Message, Welcome, decode_reply, encode, failed
from ..security.guard import Guard, protect
from ..security.handshakes import MISMATCH, HandshakeWatch
from ..security.keys import Credentials
from ..security.reach import Reach, reach
from ..security.refusals import Refusals
from ..security.roles import LOCAL, Peer, Role, check_role
from .endpoints import bind

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
MAX_UNDER_WAY = 1000  # requests that a daemon carries out at once; the next waits until one is done
R = TypeVar("R", bound=Message)
M = TypeVar("M", bound=Message)


class Requester:
    """The asking side of a connection to one daemon.

    Nothing is queued for a daemon that is away: a request to it fails at its deadline and is never carried out later.

    :param endpoint: of the daemon.
    :param who: the daemon's name for messages, such as ``receiver 1``.
    :param timeout: default deadline of a request in seconds.
    :param decode: turns bytes into a reply, or raises ProtocolError.
    """

    def __init__(
        self, endpoint: str, who: str, timeout: float, decode: Callable[[bytes], Message] = decode_reply
    ) -> None:
        self.endpoint = endpoint
        self.who = who
        self.timeout = timeout
        self._decode = decode
        self._numbers = itertools.count(1)
        self._waiting: dict[bytes, asyncio.Future[Message]] = {}
        self._socket: zmq.asyncio.Socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._watch: HandshakeWatch | None = None
        self._refusal = ""  # why the daemon let us not in at the last attempt

    def open(self, credentials: Credentials | None = None) -> None:
        """Make the socket in the running event loop; done already, it does nothing.

        :param credentials: keys, for a ``tcp`` endpoint; None: there are none.
        """
        if self._socket is not None:
            return
        socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
        socket.linger = 0
        socket.immediate = 1
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        socket.set(zmq.RECONNECT_IVL, 50)
        socket.set(zmq.RECONNECT_IVL_MAX, 500)
        if reach(self.endpoint) is not Reach.FILES:
            self._watch_handshakes(socket, credentials)
        socket.connect(self.endpoint)
        self._socket = socket
        self._reader = asyncio.create_task(self._read(socket), name=f"replies of {self.who}")

    async def hello(self, peer: str) -> Welcome:
        """Make the first exchange.

        :param peer: who asks.
        :raises VersionError: the daemon speaks another major version.
        """
        welcome = await self.request(Hello(peer=peer), Welcome)
        if welcome.major != MAJOR:
            raise VersionError(
                f"{self.who} at {self.endpoint} speaks protocol {welcome.major}, expected {MAJOR}.{MINOR}"
            )
        return welcome

    async def request(self, message: Message, expected: type[R], timeout: float | None = None) -> R:
        """Send a request and return its reply.

        :param expected: type of the reply.
        :param timeout: seconds; None: the connection's default.
        :raises UnreachableError: no reply came within the deadline.
        :raises ReceiverError: the daemon refused, with its own kind of error.
        """
        if self._socket is None:
            raise UnreachableError(f"{self.who} at {self.endpoint}: not connected")
        seconds = self.timeout if timeout is None else timeout
        number = next(self._numbers).to_bytes(8, "little")
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(seconds):
                await self._socket.send_multipart([number, encode(message)])
                reply = await future
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # ``close`` cancelled what waited here, and not the task that waits
            raise UnreachableError(f"{self.who} at {self.endpoint}: connection closed") from None
        except TimeoutError:
            raise UnreachableError(
                f"{self.who} at {self.endpoint} did not answer {type(message).__name__} within {seconds:g} s"
                f"{self._refusal}"
            ) from None
        finally:
            self._waiting.pop(number, None)
        if isinstance(reply, Failed):
            raise error_from_code(reply.code, reply.message)
        if not isinstance(reply, expected):
            raise ProtocolError(f"{self.who}: got {type(reply).__name__}, expected {expected.__name__}")
        return reply

    async def close(self) -> None:
        """Close the socket; requests under way fail."""
        if self._socket is None or self._reader is None:
            return
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        if self._watch is not None:
            await self._watch.close()
            self._watch = None
        socket, self._socket = self._socket, None
        socket.close(linger=0)
        for future in self._waiting.values():
            future.cancel()

    def _watch_handshakes(self, socket: zmq.asyncio.Socket, credentials: Credentials | None) -> None:
        if credentials is not None:
            credentials.apply(socket)

        def failed(address: str, event: zmq.Event, value: int) -> None:
            del address
            if credentials is None:
                self._refusal = ": it lets in nobody without a key, or is no daemon of ours"
            elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._refusal = f": the key of {credentials.own.name} is not authorized there"
            elif value == MISMATCH:
                self._refusal = ": it has no keys, and this side insists on them"
            else:
                self._refusal = ": it has another key than the one that is known here, or is no daemon of ours"

        def succeeded() -> None:
            self._refusal = ""

        self._watch = HandshakeWatch(socket, failed, succeeded)

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            parts = await socket.recv_multipart()
            future = self._waiting.get(parts[0])
            if len(parts) != 2 or future is None or future.done():
                continue  # a reply that came after its deadline
            try:
                future.set_result(self._decode(parts[1]))
            except ProtocolError as error:
                future.set_exception(error)


class Responder(Generic[M]):
    """The answering side: calls a handler for every request, each in a task of its own.

    :param endpoint: to bind.
    :param place: of the endpoint in the configuration, for errors.
    :param decode: turns bytes into a request, or raises ProtocolError.
    :param handler: carries out a request and returns the reply.
    :param guard: lets peers in by their keys; None: there are none.
    :raises ConfigError: the endpoint can't be bound, or needs keys and there are none.
    """

    def __init__(
        self,
        endpoint: str,
        place: str,
        decode: Callable[[bytes], M],
        handler: Callable[[M], Awaitable[Message]],
        guard: Guard | None = None,
    ) -> None:
        self._decode = decode
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(MAX_UNDER_WAY)
        self._refusals = guard.refusals if guard is not None else Refusals()
        self._watch: HandshakeWatch | None = None
        self._socket = zmq.asyncio.Context.instance().socket(zmq.ROUTER)
        self._socket.linger = 200
        self._socket.maxmsgsize = MAX_MESSAGE_BYTES
        try:
            self._guard = protect(self._socket, endpoint, place, guard)
            bind(self._socket, endpoint, place)
        except ReceiverError:
            self._socket.close(linger=0)
            raise
        if self._guard is not None:
            self._watch = HandshakeWatch(self._socket, self._guard.note_handshake(place))

    async def serve(self) -> None:
        """Answer until cancelled."""
        while True:
            frames = await self._socket.recv_multipart(copy=False)
            if len(frames) != 3:
                self._refusals.note("a message", f"it has {len(frames)} parts, expected 3")
            else:
                await self._free.acquire()
                task = asyncio.create_task(self._answer(*frames))
                self._tasks.add(task)
                task.add_done_callback(self._done)
            await asyncio.sleep(0)  # receiving what has come already does not wait: others must get their turn

    async def close(self) -> None:
        """Cancel what is under way and close the socket."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._watch is not None:
            await self._watch.close()
        self._socket.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free.release()

    async def _answer(self, identity: zmq.Frame, number: zmq.Frame, payload: zmq.Frame) -> None:
        try:
            peer = LOCAL if self._guard is None else self._guard.peer(payload)
            request = self._decode(payload.bytes)
            self._check(peer, request)
            reply = await self._handler(request)
        except ReceiverError as error:
            if isinstance(error, AccessError):
                self._refusals.note("a request", str(error))
            reply = failed(error)
        except Exception as error:  # a bug must reach the caller and the log, and not end the daemon
            log.exception("request failed")
            reply = Failed(ReceiverError.code, f"internal error: {type(error).__name__}: {error}")
        await self._socket.send_multipart([identity.bytes, number.bytes, encode(reply)])

    def _check(self, peer: Peer, request: Message) -> None:
        """Check that a peer may ask, and speaks our version.

        :raises AccessError: it may not.
        :raises VersionError: it does not.
        """
        check_role(peer, type(request))
        if isinstance(request, Hello):
            if request.major != MAJOR:
                raise VersionError(f"got a peer of protocol {request.major}.{request.minor}, expected {MAJOR}.{MINOR}")
            if peer.role is not Role.CONDUCT:  # a conductor says hello all the time
                log.info("%.100r is %s, role %s", request.peer, peer, peer.role)
