"""Networks that are slow, cut or half open between the daemons, by a proxy on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import zlib

import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.saving.read import read_rows, read_statuses

from .proxy import Proxy

RAW = "/entry_0000/measurement/raw"
SAVED = 1
DEADLINES = "[deadlines]\ncommand = 2.0\ndrain = 1.0\nstalled = 8.0\n[security]\ninsecure = true"
IN_TIME = 10.0  # seconds, within which the system is ready again


@contextlib.asynccontextmanager
async def proxied(site, free_tcp_ports, process, link):
    """Put a proxy between a process and ``commands`` or ``data`` of receiver 1, over TCP."""
    (port,) = free_tcp_ports(1)
    letter = {"commands": "r", "data": "d"}[link]
    text = site.config.read_text().replace(f"ipc://{site.sockets}/{letter}1", f"tcp://127.0.0.1:{port}")
    site.config.write_text(text)
    async with Proxy(port).running() as proxy:
        other = site.folder / "other.toml"
        other.write_text(text.replace(f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{proxy.port}"))
        plain = site.command
        site.command = lambda name: [
            str(other) if word == str(site.config) and name == process else word for word in plain(name)
        ]
        yield proxy


async def begin(site, client, helpers, prefix, nb_frames=0, expo=0.005):
    acquisition = helpers.new_id()
    await client.prepare(acquisition, site.plan(prefix, nb_frames, expo=expo))
    await client.start(acquisition)
    return acquisition


def check(site, prefix, final):
    """See that the ledger adds up against the simulator's journal, and that saved frames are those that were sent."""
    journal = read_journal(latest_journal(site.detector))
    assert final.counts.settled == final.announced == len(journal.sent)
    statuses = read_statuses(site.data / f"{prefix}_ledger.h5")
    raw = read_rows(site.data / f"{prefix}_master.h5", RAW, 0, len(statuses))
    assert (statuses == SAVED).sum() == final.counts.saved
    for frame in (statuses == SAVED).nonzero()[0].tolist():
        assert journal.sent[frame].fate == "sent"
        assert zlib.crc32(raw[frame].data) == journal.scene_of(frame).crc32


async def take_next(site, client, helpers):
    async with asyncio.timeout(IN_TIME):
        await site.connect(client)
        acquisition = await begin(site, client, helpers, "next", 10)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    assert final.counts.saved == 10
    check(site, "next", final)


@pytest.mark.parametrize("how", ["cut", "hold"])
async def test_a_short_break_between_conductor_and_receiver_is_survived(make_site, helpers, how):
    site = make_site(extra=DEADLINES)
    async with proxied(site, helpers.free_tcp_ports, "conductor", "commands") as proxy, site.running() as client:
        acquisition = await begin(site, client, helpers, "run")
        before = await helpers.until(client, acquisition, lambda state: state.written >= 20)
        getattr(proxy, how)()
        await asyncio.sleep(0.5)
        proxy.heal()
        await helpers.until(client, acquisition, lambda state: state.written >= before.written + 200)
        final = await client.stop(acquisition)
        assert (final.outcome, final.reason) == ("complete", "")
        assert final.counts.saved == final.announced
        check(site, "run", final)


@pytest.mark.parametrize("how", ["cut", "hold"])
async def test_a_long_break_fails_the_acquisition_in_time_and_keeps_what_was_counted(make_site, helpers, how):
    site = make_site(extra=DEADLINES)
    async with proxied(site, helpers.free_tcp_ports, "conductor", "commands") as proxy, site.running() as client:
        acquisition = await begin(site, client, helpers, "run")
        before = await helpers.until(client, acquisition, lambda state: state.written >= 20)
        getattr(proxy, how)()
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed", IN_TIME)
        assert final.outcome == "failed"
        assert "receiver 1" in final.reason
        assert final.written >= before.written
        assert (read_statuses(site.data / "run_ledger.h5")[: before.written] == SAVED).all()
        check(site, "run", final)
        proxy.heal()
        await take_next(site, client, helpers)


async def test_a_slow_network_between_conductor_and_receiver_slows_nothing_but_the_counting(make_site, helpers):
    site = make_site(extra=DEADLINES)
    async with proxied(site, helpers.free_tcp_ports, "conductor", "commands") as proxy, site.running() as client:
        proxy.delay = 0.1
        acquisition = await begin(site, client, helpers, "run", 200)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 200)
        check(site, "run", final)


@pytest.mark.parametrize("how", ["cut", "hold"])
async def test_a_break_between_detector_and_receiver_loses_what_was_on_its_way_at_most(make_site, helpers, how):
    site = make_site(extra=DEADLINES)
    async with proxied(site, helpers.free_tcp_ports, "detector", "data") as proxy, site.running() as client:
        acquisition = await begin(site, client, helpers, "run")
        before = await helpers.until(client, acquisition, lambda state: state.written >= 20)
        getattr(proxy, how)()
        await asyncio.sleep(0.5)
        proxy.heal()
        await helpers.until(client, acquisition, lambda state: state.written >= before.written + 100)
        final = await client.stop(acquisition)
        assert final.outcome == "complete"
        assert final.counts.lost == 0 or how == "cut"
        check(site, "run", final)
        await take_next(site, client, helpers)


async def test_a_detector_whose_connection_stays_half_open_goes_on_with_the_others(make_site, helpers):
    """Frames for the receiver that can't be reached are dropped, and lost; the others are saved."""
    site = make_site(extra=DEADLINES, settings="send_timeout = 0.5")
    async with proxied(site, helpers.free_tcp_ports, "detector", "data") as proxy, site.running() as client:
        acquisition = await begin(site, client, helpers, "run")
        await helpers.until(client, acquisition, lambda state: state.written >= 20)
        proxy.hold()
        await helpers.until(client, acquisition, lambda state: state.receivers[0].received >= 200)
        final = await client.stop(acquisition)
        assert final.counts.lost > 0
        statuses = read_statuses(site.data / "run_ledger.h5")
        assert (statuses[::2] == SAVED).all()
        journal = read_journal(latest_journal(site.detector))
        assert final.counts.settled == final.announced == len(journal.sent)
        proxy.heal()
        await take_next(site, client, helpers)
