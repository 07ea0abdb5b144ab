"""The conductor's end of the process that runs PSI's client: requests with a deadline for each call."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TypeVar

import msgspec

from ...cancellation import to_the_end
from ...errors import DetectorError, ProtocolError, error_from_code
from ...messages import Done, Failed, Message
from .sls_messages import LENGTH, Calling, Reply, Request, decode_reply, frame

R = TypeVar("R", bound=Message)
_MODULE = "lima2_receivers.detectors.jungfrau.sls_worker"
_START_SECONDS = 30.0  # that loading PSI's client may take, also from a slow disk


class SlsProcess:
    """Runs PSI's client. One request at a time; a call that does not return in time costs the process its life.

    :param who: the detector, for errors.
    :param timeout: of each call of PSI's client, in seconds.
    """

    def __init__(self, who: str, timeout: float) -> None:
        self._who = who
        self._timeout = timeout
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether requests can be made."""
        return self._process is not None and self._process.returncode is None

    async def start(self, first: Request) -> None:
        """Start the process and make a first request, unless it runs. No other request comes before that one.

        :raises DetectorError: PSI's client could not be loaded, or the request failed; the process has ended.
        """
        await to_the_end(self._start_in_turn(first))

    async def ask(self, request: Request, expected: type[R]) -> R:
        """Make a request and return its reply. Other requests are waited for, each of which has deadlines.

        :raises DetectorError: a call failed or did not return in time, or the process has ended.
        :raises ReceiverError: what the request raised.
        """
        return await to_the_end(self._ask_in_turn(request, expected))  # its reply must not be taken for another's

    async def close(self) -> None:
        """End the process, at once if it is in a call."""
        process, self._process = self._process, None
        if process is not None:
            await self._end(process, wait=not self._turn.locked())

    async def _start_in_turn(self, first: Request) -> None:
        async with self._turn:
            if self.running:
                return
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", _MODULE), stdin=pipe, stdout=pipe, start_new_session=True
            )
            try:
                await self._load(process)
                self._check(await self._exchange(process, first), Done)
            except BaseException:
                await self._end(process, wait=True)
                raise
            self._process = process

    async def _load(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._read(process)
        except TimeoutError:
            raise DetectorError(f"{self._who}: PSI's client did not load within {_START_SECONDS:g} s") from None
        except EOFError as error:
            raise DetectorError(f"{self._who}: PSI's client could not be loaded: see the conductor's log") from error

    async def _ask_in_turn(self, request: Request, expected: type[R]) -> R:
        async with self._turn:
            if self._process is None or not self.running:
                raise DetectorError(f"{self._who}: PSI's client is not running")
            reply = await self._exchange(self._process, request)
        return self._check(reply, expected)

    def _check(self, reply: Reply, expected: type[R]) -> R:
        if isinstance(reply, Failed):
            error = error_from_code(reply.code, reply.message)
            raise type(error)(f"{self._who}: {error}") from error
        if not isinstance(reply, expected):
            raise ProtocolError(f"{self._who}: got {type(reply).__name__}, expected {expected.__name__}")
        return reply

    async def _exchange(self, process: asyncio.subprocess.Process, request: Request) -> Reply:
        call = "the request"
        try:
            await self._write(process, request)
            while True:
                async with asyncio.timeout(self._timeout):
                    reply = await self._read(process)
                if not isinstance(reply, Calling):
                    return reply
                call = reply.name
        except TimeoutError:
            await self._end(process, wait=False)
            raise DetectorError(f"{self._who}: {call} did not return within {self._timeout:g} s") from None
        except (OSError, EOFError) as error:
            await self._end(process, wait=True)  # it ends by itself
            raise DetectorError(
                f"{self._who}: PSI's client ended with status {process.returncode} in {call}"
            ) from error

    async def _write(self, process: asyncio.subprocess.Process, request: Request) -> None:
        if process.stdin is None:
            raise EOFError("no pipe")
        process.stdin.write(frame(request))
        async with asyncio.timeout(self._timeout):
            await process.stdin.drain()

    async def _read(self, process: asyncio.subprocess.Process) -> Reply:
        stream = process.stdout
        if stream is None:
            raise EOFError("no pipe")
        (length,) = LENGTH.unpack(await stream.readexactly(LENGTH.size))
        data = await stream.readexactly(length)
        try:
            return decode_reply(data)
        except msgspec.MsgspecError as error:
            raise ProtocolError(f"{self._who}: reply of {length} bytes: {error}") from error

    async def _end(self, process: asyncio.subprocess.Process, wait: bool) -> None:
        """Wait for its end, or kill it."""
        if process.stdin is not None:
            process.stdin.close()
        if wait:
            await self._ended(process)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await self._ended(process)

    async def _ended(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await process.wait()
