"""Requests and replies over real sockets: deadlines, kinds of errors, absent daemons, and noise."""

import asyncio
import contextlib
import re

import pytest
import zmq
import zmq.asyncio

from lima2_receivers import messages as m
from lima2_receivers.errors import (
    ConfigError,
    PlanError,
    ProtocolError,
    StateError,
    UnreachableError,
    VersionError,
)
from lima2_receivers.transport import requests
from lima2_receivers.transport.requests import MAX_MESSAGE_BYTES, Requester, Responder

ID = "0" * 32
SOON = 0.05  # seconds: a deadline that is meant to pass
LONG = 20.0  # seconds: one that is not


class Daemon:
    """Answers requests as its ``replies`` say: a message, an error to raise, or nothing until the end."""

    def __init__(self, endpoint):
        self.seen = []
        self.replies = {}
        self.responder = Responder(endpoint, "conductor.commands", m.decode_conductor_request, self._answer)
        self._task = asyncio.create_task(self.responder.serve())

    async def _answer(self, request):
        self.seen.append(request)
        match self.replies.get(type(request), m.Done()):
            case None:
                return await asyncio.Future()
            case Exception() as error:
                raise error
            case reply:
                return reply

    async def close(self):
        assert not self._task.done()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self.responder.close()


@pytest.fixture
def endpoint(sockets):
    return f"ipc://{sockets}/conductor"


@pytest.fixture
async def start(endpoint):
    """Start a daemon that is closed with the test."""
    async with contextlib.AsyncExitStack() as stack:

        def start():
            daemon = Daemon(endpoint)
            stack.push_async_callback(daemon.close)
            return daemon

        yield start


@pytest.fixture
async def ask(endpoint):
    """A requester, open."""
    requester = Requester(endpoint, "the conductor", LONG)
    requester.open()
    yield requester
    await requester.close()


@pytest.fixture
async def raw(endpoint):
    """A bare DEALER socket, for what no requester sends."""
    socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(endpoint)
    yield socket
    socket.close(linger=0)


async def test_a_request_gets_its_reply(start, ask):
    daemon = start()
    daemon.replies[m.GetValues] = m.Values(3, {"n_peaks": 4.0})
    assert await ask.request(m.GetValues(ID, 3), m.Values) == m.Values(3, {"n_peaks": 4.0})
    assert daemon.seen == [m.GetValues(ID, 3)]


async def test_replies_find_their_requests_in_any_order(start, ask):
    daemon = start()
    daemon.replies[m.Stop] = None
    slow = asyncio.create_task(ask.request(m.Stop(ID), m.Done))
    assert await ask.request(m.Start(ID), m.Done) == m.Done()
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_opening_twice_is_opening_once(start, ask):
    start()
    ask.open()
    assert await ask.request(m.Start(ID), m.Done) == m.Done()


async def test_a_daemon_that_does_not_answer_is_named_with_the_deadline(start, ask, endpoint):
    start().replies[m.Stop] = None
    said = f"^the conductor at {re.escape(endpoint)} did not answer Stop within 0.05 s$"
    with pytest.raises(UnreachableError, match=said):
        await ask.request(m.Stop(ID), m.Done, SOON)


async def test_a_daemon_that_is_away_is_named_and_gets_nothing_later(start, ask, endpoint):
    said = f"^the conductor at {re.escape(endpoint)} did not answer Start within 0.05 s$"
    for _ in range(3):
        with pytest.raises(UnreachableError, match=said):
            await ask.request(m.Start(ID), m.Done, SOON)
    daemon = start()
    assert await ask.request(m.GetValues(ID, 3), m.Done) == m.Done()
    assert daemon.seen == [m.GetValues(ID, 3)]


async def test_a_daemon_that_is_back_is_found_again(start, ask, endpoint):
    """What was sent while the old connection died is lost, and is not carried out by the next daemon."""
    first = Daemon(endpoint)
    await ask.request(m.Start(ID), m.Done)
    await first.close()
    with pytest.raises(UnreachableError):
        await ask.request(m.Start(ID), m.Done, SOON)
    second = start()
    assert await ask.request(m.Stop(ID), m.Done) == m.Done()
    assert second.seen == [m.Stop(ID)]


async def test_a_late_reply_is_not_taken_for_another(start, ask):
    daemon = start()
    gate = asyncio.Event()

    async def answer(request):
        if isinstance(request, m.Stop):
            await gate.wait()
            return m.Failed(3, "late")
        return m.Done()

    daemon.responder._handler = answer
    with pytest.raises(UnreachableError):
        await ask.request(m.Stop(ID), m.Done, SOON)
    gate.set()
    assert [await ask.request(m.Start(ID), m.Done) for _ in range(5)] == [m.Done()] * 5


@pytest.mark.parametrize("error", [PlanError("$.noize: unknown"), StateError("not now"), ConfigError("no such plugin")])
async def test_kind_and_text_of_an_error_survive(start, ask, error):
    start().replies[m.Start] = error
    with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
        await ask.request(m.Start(ID), m.Done)


@pytest.mark.parametrize("bug", [ZeroDivisionError("by zero"), TimeoutError(), KeyError("x"), TypeError("encode")])
async def test_a_bug_is_an_error_reply_and_the_daemon_lives(start, ask, bug, caplog):
    daemon = start()
    daemon.replies[m.Start] = bug
    with pytest.raises(Exception, match=f"^internal error: {type(bug).__name__}: "):
        await ask.request(m.Start(ID), m.Done)
    assert "request failed" in caplog.text
    assert await ask.request(m.Stop(ID), m.Done) == m.Done()


async def test_another_reply_than_expected_is_refused(start, ask):
    start()
    with pytest.raises(ProtocolError, match="the conductor: got Done, expected Values"):
        await ask.request(m.GetValues(ID), m.Values)


async def test_a_request_that_is_not_for_this_daemon_is_refused_by_it(start, ask):
    daemon = start()
    with pytest.raises(ProtocolError, match=r"^request to the conductor of .*'GetRow'"):
        await ask.request(m.GetRow(ID, 0), m.Done)
    assert daemon.seen == []


async def test_a_reply_that_cannot_be_read_fails_its_request_and_no_other(endpoint):
    def decode(data):
        if b"Values" in data:
            raise ProtocolError("unreadable")
        return m.decode_reply(data)

    daemon, ask = Daemon(endpoint), Requester(endpoint, "it", LONG, decode)
    daemon.replies[m.GetValues] = m.Values(0, {})
    ask.open()
    with pytest.raises(ProtocolError, match="unreadable"):
        await ask.request(m.GetValues(ID), m.Values)
    assert await ask.request(m.Start(ID), m.Done) == m.Done()
    await ask.close()
    await daemon.close()


async def test_the_first_exchange_tells_who_is_there(start, ask):
    daemon = start()
    daemon.replies[m.Hello] = m.Welcome("conductor", "i1", minor=99)
    assert (await ask.hello("a client")).instance == "i1"
    assert daemon.seen == [m.Hello(peer="a client")]


async def test_an_older_client_is_refused_by_the_daemon(start, ask):
    daemon = start()
    with pytest.raises(VersionError, match=r"got a peer of protocol 0\.9, expected 1\.0"):
        await ask.request(m.Hello(0, 9), m.Welcome)
    assert daemon.seen == []


async def test_a_newer_daemon_is_refused_by_the_client(start, ask):
    start().replies[m.Hello] = m.Welcome("conductor", "i1", major=2)
    with pytest.raises(VersionError, match=r"the conductor at .* speaks protocol 2, expected 1\.0"):
        await ask.hello("a client")


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"noise"],
        [b"1", b"2", b"3"],
        [b"", b"", b"", b""],
        [b"number", b"\xc1"],
        [b"number", b""],
        [b"", m.encode(m.Done())],
        [b"number", b"\x82\xa4type\xa5Hello\xa4peer\xa1\xff"],
        [b"number", b"\x82\xa4type\xa5Hello\xa4more" + b"\x91" * 100_000],
        [b"number", bytes(MAX_MESSAGE_BYTES + 1)],
    ],
    ids=lambda parts: f"{len(parts)} parts, {sum(map(len, parts))} bytes",
)
async def test_noise_does_no_harm(start, ask, raw, parts):
    """The daemon goes on answering: those that ask properly, and the one that made the noise."""
    daemon = start()
    await ask.request(m.Start(ID), m.Done)
    await raw.send_multipart(parts)
    assert await ask.request(m.Stop(ID), m.Done) == m.Done()
    await raw.send_multipart([b"proper", m.encode(m.GetState())])
    async with asyncio.timeout(LONG):
        while (answer := await raw.recv_multipart())[0] != b"proper":
            assert isinstance(m.decode_reply(answer[1]), m.Failed)
    assert m.decode_reply(answer[1]) == m.Done()
    assert daemon.seen == [m.Start(ID), m.Stop(ID), m.GetState()]


async def test_who_floods_a_daemon_does_not_keep_it_from_its_other_work(endpoint):
    """Receiving what has come already does not wait by itself."""
    responder = Responder(endpoint, "conductor.commands", m.decode_conductor_request, lambda _: asyncio.sleep(0))
    with zmq.Context() as context, context.socket(zmq.DEALER) as flood:
        flood.connect(endpoint)
        for _ in range(900):  # no more than ZeroMQ queues
            flood.send_multipart([b"too", b"many", b"parts"])
        turns = 0
        serving = asyncio.create_task(responder.serve())
        async with asyncio.timeout(LONG):
            while sum(responder._refusals.counts().values()) < 900:
                turns += 1
                await asyncio.sleep(0)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await responder.close()
    assert turns >= 900


async def test_a_daemon_works_on_so_many_requests_and_takes_the_next_when_one_is_done(endpoint, raw, monkeypatch):
    monkeypatch.setattr(requests, "MAX_UNDER_WAY", 10)
    seen = []
    full, goes_on = asyncio.Event(), asyncio.Event()

    async def answer(request):
        seen.append(request)
        if len(seen) == 10:
            full.set()
        await goes_on.wait()
        return m.Done()

    responder = Responder(endpoint, "conductor.commands", m.decode_conductor_request, answer)
    serving = asyncio.create_task(responder.serve())
    for number in range(50):
        await raw.send_multipart([str(number).encode(), m.encode(m.GetState())])
    async with asyncio.timeout(LONG):
        await full.wait()
        assert not await raw.poll(100)
        assert len(seen) == 10
        goes_on.set()
        replies = [await raw.recv_multipart() for _ in range(50)]
    assert sorted(int(number) for number, _ in replies) == list(range(50))
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await responder.close()


async def test_nothing_is_asked_before_opening(endpoint):
    with pytest.raises(UnreachableError, match=r"^it at ipc://.*: not connected$"):
        await Requester(endpoint, "it", LONG).request(m.Start(ID), m.Done)


async def test_closing_fails_what_waits_for_a_reply(start, endpoint):
    daemon = start()
    daemon.replies[m.Stop] = None
    ask = Requester(endpoint, "it", LONG)
    ask.open()
    await ask.request(m.Start(ID), m.Done)
    waiting = asyncio.create_task(ask.request(m.Stop(ID), m.Done))
    await ask.request(m.Start(ID), m.Done)  # comes after the Stop
    assert m.Stop(ID) in daemon.seen
    await ask.close()
    await ask.close()
    with pytest.raises(UnreachableError, match="connection closed"):
        await waiting


async def test_closing_fails_what_could_not_even_be_sent(endpoint):
    ask = Requester(endpoint, "it", LONG)
    ask.open()
    waiting = asyncio.create_task(ask.request(m.Stop(ID), m.Done))
    await asyncio.sleep(0)
    await ask.close()
    with pytest.raises(UnreachableError, match="connection closed"):
        await waiting


async def test_a_place_that_is_taken_is_refused(start, endpoint):
    daemon = start()
    with pytest.raises(ConfigError, match=rf"conductor\.commands: {re.escape(endpoint)} is in use"):
        Daemon(endpoint)
    ask = Requester(endpoint, "it", LONG)
    ask.open()
    assert await ask.request(m.Start(ID), m.Done) == m.Done()
    await ask.close()
    assert daemon.seen == [m.Start(ID)]
