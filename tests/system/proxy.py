"""A proxy of TCP connections on loopback, on which the network can be slow, cut, or half open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Proxy:
    """Forwards what comes to a port of its own to another one.

    :param target: port that it forwards to.
    """

    def __init__(self, target: int) -> None:
        self.delay = 0.0  # seconds that everything takes longer, one way
        self._target = target
        self._whole = asyncio.Event()  # nothing is forwarded while it is not set, and nobody is told
        self._whole.set()
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return self._server.sockets[0].getsockname()[1]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield self
        finally:
            self._server.close()
            self.cut()

    def cut(self) -> None:
        """Break all connections, and take no new ones until ``heal``."""
        self._refuses = True
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def hold(self) -> None:
        """Keep connections, and take new ones, but let nothing through until ``heal``: they are half open."""
        self._whole.clear()

    def heal(self) -> None:
        """Let all through again."""
        self._refuses = False
        self._whole.set()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        if self._refuses:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(back)
        await asyncio.gather(self._forward(reader, back), self._forward(there, writer), return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._whole.wait()
                if self.delay:
                    await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        finally:
            writer.transport.abort()
