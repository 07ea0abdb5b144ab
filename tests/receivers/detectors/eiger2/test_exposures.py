"""Triggers that overlap with each other and with stops, and a detector that misbehaves meanwhile."""

import asyncio
import contextlib
import re
import threading

import pytest

from lima2_receivers.detectors.eiger2.control import Eiger2Control
from lima2_receivers.detectors.eiger2.params import Eiger2Settings
from lima2_receivers.detectors.eiger2.simplon import Simplon
from lima2_receivers.errors import ConfigError, DetectorError, StateError
from lima2_receivers.plan import TriggerMode
from lima2_receivers.topology import Dispatch

from .test_control import Bench, plan

LONG = 0.2  # seconds of an image, three of which are a trigger's


@pytest.fixture
async def bench(sockets):
    made = Bench(sockets, timeout=1.0)
    yield made
    await made.close()


def commands(bench):
    return [name for name in bench.detector.calls if name in ("arm", "trigger", "cancel", "disarm")]


async def test_an_exposure_that_breaks_leaves_the_count_open(bench, monkeypatch):
    """It gave some of its images, and nobody can say how many."""
    send, sent = bench.detector._send, []

    def break_off(*parts):
        sent.append(parts)
        if len(sent) > 2:  # the start, and one image
            raise PermissionError("broken")
        send(*parts)

    await bench.control.prepare(1, plan(40, mode=TriggerMode.INTERNAL, per_trigger=1))
    sent.append(())
    monkeypatch.setattr(bench.detector, "_send", break_off)
    with contextlib.suppress(DetectorError):
        await bench.control.trigger(40, 0.001, 0.0)
    status = await bench.until(lambda status: status.fault)
    assert "broken" in status.fault
    assert (await bench.control.stop()).sent == -1
    monkeypatch.undo()
    bench.detector.state = "idle"
    await bench.control.prepare(2, plan())
    assert (await bench.control.status()).sent == 0


async def test_a_trigger_that_waits_is_not_given_after_a_stop(bench):
    await bench.control.prepare(1, plan(6, expo=LONG))
    await bench.control.trigger(3, LONG, 0.0)
    waiting = asyncio.create_task(bench.control.trigger(3, LONG, 0.0))
    await asyncio.sleep(0)
    status = await bench.control.stop()
    with pytest.raises(StateError, match="was stopped before it was triggered"):
        await waiting
    assert (status.sent, status.busy) == (-1, False)
    assert commands(bench).count("trigger") == 1
    assert commands(bench)[-2:] == ["cancel", "disarm"] or commands(bench)[-1] == "cancel"
    assert not (await bench.control.status()).fault


async def test_triggers_that_wait_are_given_in_turn(bench):
    await bench.control.prepare(1, plan(9))
    await asyncio.gather(*(bench.control.trigger(3, 0.001, 0.0) for _ in range(3)))
    status = await bench.until(lambda status: not status.busy)
    assert (status.triggered, status.sent, status.fault) == (9, 9, "")
    assert commands(bench).count("trigger") == 3


async def test_a_stop_cancels_what_another_control_has_begun(bench):
    """As after a restart of the conductor."""
    await bench.control.prepare(1, plan(6, expo=LONG))
    await bench.control.trigger(3, LONG, 0.0)
    after = Eiger2Control(Eiger2Settings(bench.server.url), (), 1.0, Dispatch.DYNAMIC)
    try:
        assert (await after.status()).busy
        assert (await after.stop()).sent == -1
    finally:
        await after.close()
    assert "cancel" in commands(bench)
    assert bench.detector.state == "idle"


async def test_a_cancel_that_is_refused_does_not_keep_it_from_being_disarmed(bench, monkeypatch):
    await bench.control.prepare(1, plan(6, expo=LONG))
    await bench.control.trigger(3, LONG, 0.0)
    real = bench.detector.command

    def refuse(name):
        if name == "cancel":
            raise PermissionError("not now")
        return real(name)

    monkeypatch.setattr(bench.detector, "command", refuse)
    with pytest.raises(DetectorError, match="cancel was refused"):
        await bench.control.stop()
    assert "disarm" in commands(bench)


async def test_a_trigger_that_does_not_begin_is_taken_back(bench, monkeypatch):
    """Nothing may come of a trigger that the caller was told has failed."""
    released = threading.Event()
    expose = bench.detector._expose

    def late():
        released.wait(5)
        if not bench.detector._cancelled.is_set():
            expose()

    monkeypatch.setattr(bench.detector, "_expose", late)
    await bench.control.prepare(1, plan())
    too_late = r"no exposure began within 1 s|no answer to PUT detector/command/trigger"  # whichever is noticed first
    with pytest.raises(DetectorError, match=too_late):
        await bench.control.trigger(3, 0.001, 0.0)
    released.set()
    assert "disarm" in commands(bench)
    status = await bench.control.status()
    assert (status.sent, status.busy) == (-1, False)
    assert re.search(too_late, status.fault)


@contextlib.asynccontextmanager
async def server(answer):
    """An HTTP server that gives every request the same treatment."""

    serving = set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"
    finally:
        made.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def test_an_answer_that_trickles_in_is_given_up(sockets):
    async def trickle(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(100):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with server(trickle) as url:
        simplon = Simplon(url, "1.8.0", 0.3)
        with pytest.raises(DetectorError, match=r"no answer to GET detector/status/state within 0\.3 s"):
            await asyncio.wait_for(simplon.text("detector/status", "state"), 3)
        await simplon.close()


async def test_an_answer_that_leads_elsewhere_is_a_refusal(sockets):
    async def lead_on(writer):
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with server(lead_on) as url:
        simplon = Simplon(url, "1.8.0", 1.0)
        with pytest.raises(DetectorError, match="was refused: 302 Found"):
            await simplon.command("trigger")
        await simplon.close()


def test_an_address_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"detector\.settings\.url: got 'http://eiger:port'"):
        Simplon("http://eiger:port", "1.8.0", 1.0)
