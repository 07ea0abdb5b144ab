"""REST interfaces: answers that are slow, endless, or none at all."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from lima2_receivers.detectors import rest
from lima2_receivers.detectors.rest import Rest
from lima2_receivers.errors import ConfigError, DetectorError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def serving(answer):
    """An interface whose server calls ``answer(writer)`` for each request."""

    async def serve(reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    interface = Rest(f"http://127.0.0.1:{port}", timeout=0.3)
    try:
        yield interface
    finally:
        await interface.close()
        server.close()


async def test_an_answer_that_never_ends_is_an_error_in_time():
    """Each byte comes in time, all of them don't."""

    async def drip(writer):
        writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with serving(drip) as interface:
        with pytest.raises(DetectorError, match=r"no answer to GET /x within 0\.3 s"):
            await asyncio.wait_for(interface.ask("GET", "/x"), 10)


async def test_an_answer_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(rest, "MAX_BODY", 1000)

    async def much(writer):
        writer.write(HEAD + b"Content-Length: 5000\r\n\r\n" + b" " * 5000)
        await writer.drain()

    async with serving(much) as interface:
        with pytest.raises(DetectorError, match=r"GET the state: got more than 1000 bytes"):
            await interface.ask("GET", "/x", what="the state")


async def test_what_is_no_json_and_what_is_refused_is_shown():
    async def say(writer):
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 3\r\n\r\nno!")
        await writer.drain()

    async with serving(say) as interface:
        answer = await interface.ask("GET", "/x")
        with pytest.raises(DetectorError, match=r"/x was refused: 302 Found: no!"):
            interface.require_good(answer, "/x")
        with pytest.raises(DetectorError, match=r"/x: got no!: Input data was truncated"):
            interface.decode(answer, int, "/x")


async def test_a_connection_that_is_closed_is_an_error():
    async def hang_up(writer):
        writer.close()

    async with serving(hang_up) as interface:
        with pytest.raises(DetectorError, match="GET /x: Server disconnected"):
            await interface.ask("GET", "/x")


def test_a_url_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"detector\.settings\.url: got 'http://eiger:port': "):
        Rest("http://eiger:port", 1.0)
