"""A client of one conductor: commands with deadlines, and the published state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import zmq
import zmq.asyncio

from lima2_processing.frame import AcquisitionId

from .errors import ProtocolError
from .messages import (
    AcquisitionClosed,
    Deadlines,
    Describe,
    Description,
    Done,
    Finish,
    FrameLocation,
    GetLedger,
    GetState,
    GetValues,
    LedgerReport,
    LocateFrame,
    Prepare,
    Prepared,
    Start,
    Stop,
    SystemState,
    Trigger,
    Values,
    Welcome,
    decode_reply,
)
from .plan import AcquisitionPlan
from .published import AcquisitionState
from .security.keys import Credentials, load_credentials
from .security.reach import Reach, reach
from .transport.requests import MAX_MESSAGE_BYTES, Requester

log = logging.getLogger(__name__)


class ConductorClient:
    """A connection to a conductor. Making one does no I/O; ``connect`` makes the sockets in the running event loop.

    :param commands: the conductor's command endpoint.
    :param state: the endpoint that it publishes its state on.
    :param name: of this client, for the conductor's log.
    :param timeout: deadline of a command in seconds.
    :param key: file of this client's private key, with ``conductor.key`` beside it, for ``tcp`` endpoints; None: there
        is none.
    """

    def __init__(
        self, commands: str, state: str, *, name: str = "client", timeout: float = 5.0, key: Path | None = None
    ) -> None:
        self.name = name
        self.key = key
        self.state: SystemState | None = None
        self._deadlines = Deadlines(prepare=0.0, stop=0.0)  # until the conductor has said its own
        self._requester = Requester(commands, "conductor", timeout)
        self._endpoint = state
        self._socket: zmq.asyncio.Socket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[SystemState], None]] = []
        self._heard = time.monotonic()

    @property
    def endpoint(self) -> str:
        """The conductor's command endpoint."""
        return self._requester.endpoint

    @property
    def silent(self) -> float:
        """Seconds since the last state arrived."""
        return time.monotonic() - self._heard

    async def connect(self) -> Welcome:
        """Connect, check the protocol's version, and get a first state.

        :raises UnreachableError: the conductor does not answer.
        :raises VersionError: it speaks another version.
        :raises ProtocolError: this is no conductor.
        :raises ConfigError: the key can't be used.
        """
        credentials = None
        if self.key is not None and {reach(self.endpoint), reach(self._endpoint)} != {Reach.FILES}:
            credentials = load_credentials(self.key)
        self._requester.open(credentials)
        try:
            welcome = await self._greet()
            if self._socket is None:
                self._subscribe(credentials)
            self._take(await self._requester.request(GetState(), SystemState))
        except BaseException:
            await self.close()
            raise
        return welcome

    async def close(self) -> None:
        """Close the sockets. The conductor and its acquisitions don't notice."""
        if self._reader is not None and self._socket is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            self._socket.close(linger=0)
            self._socket = None
        await self._requester.close()

    def listen(self, callback: Callable[[SystemState], None]) -> Callable[[], None]:
        """Call back with every state that arrives, and at once with the latest.

        :returns: a function that ends it.
        """
        self._listeners.append(callback)
        if self.state is not None:
            callback(self.state)

        def end() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return end

    async def describe(self) -> Description:
        """Return what the system is: detector, pipelines, limits."""
        return await self._requester.request(Describe(), Description)

    async def prepare(
        self, acquisition: AcquisitionId, plan: AcquisitionPlan, timeout: float | None = None
    ) -> Prepared:
        """Check a plan whole and make everything ready to start.

        :param timeout: seconds; None: long enough for the conductor's own deadlines.
        :raises PlanError: something in the plan can't be done; nothing has moved.
        """
        seconds = self._deadlines.prepare + self._requester.timeout if timeout is None else timeout
        return await self._requester.request(Prepare(acquisition, plan), Prepared, seconds)

    async def start(self, acquisition: AcquisitionId) -> None:
        """Start a prepared acquisition."""
        await self._requester.request(Start(acquisition), Done)

    async def trigger(
        self, acquisition: AcquisitionId, n_frames: int = 0, expo_time: float = 0.0, latency_time: float = -1.0
    ) -> None:
        """Give one software trigger; see ``messages.Trigger``."""
        await self._requester.request(Trigger(acquisition, n_frames, expo_time, latency_time), Done)

    async def finish(self, acquisition: AcquisitionId) -> None:
        """Give no more triggers; see ``messages.Finish``."""
        await self._requester.request(Finish(acquisition), Done)

    async def stop(self, acquisition: AcquisitionId, timeout: float | None = None) -> AcquisitionState:
        """Stop an acquisition and return how it ended, when its files are closed. Idempotent.

        :param timeout: seconds; None: long enough for the conductor's own deadlines.
        """
        seconds = self._deadlines.stop + self._requester.timeout if timeout is None else timeout
        closed = await self._requester.request(Stop(acquisition), AcquisitionClosed, seconds)
        return closed.final

    async def values(self, acquisition: AcquisitionId, frame: int = -1) -> Values:
        """Return the scalars of one settled frame; see ``messages.GetValues``."""
        return await self._requester.request(GetValues(acquisition, frame), Values)

    async def ledger(self, acquisition: AcquisitionId) -> LedgerReport:
        """Return what became of all frames of an acquisition so far."""
        return await self._requester.request(GetLedger(acquisition), LedgerReport)

    async def locate(self, acquisition: AcquisitionId, frame: int = -1, output: str = "") -> FrameLocation:
        """Return where a frame is, and what became of it; ``lookup.find_frame`` returns its pixels."""
        return await self._requester.request(LocateFrame(acquisition, frame, output), FrameLocation)

    def _subscribe(self, credentials: Credentials | None) -> None:
        socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
        socket.linger = 0
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        socket.subscribe(b"")
        if credentials is not None and reach(self._endpoint) is not Reach.FILES:
            credentials.apply(socket)
        socket.connect(self._endpoint)
        self._socket = socket
        self._reader = asyncio.create_task(self._read(socket), name="state of the conductor")

    async def _greet(self) -> Welcome:
        welcome = await self._requester.hello(self.name)
        if welcome.deadlines is None:
            raise ProtocolError(f"got {welcome.role} at {self.endpoint}, expected a conductor")
        self._deadlines = welcome.deadlines
        return welcome

    def _take(self, state: SystemState) -> None:
        self._heard = time.monotonic()
        latest = self.state
        if latest is not None and latest.instance == state.instance and latest.sequence >= state.sequence:
            return
        self.state = state
        for callback in list(self._listeners):
            callback(state)

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            data = await socket.recv()
            try:
                state = decode_reply(data)
            except ProtocolError as error:
                log.warning("unreadable state from the conductor: %s", error)
                continue
            if isinstance(state, SystemState):
                self._take(state)
