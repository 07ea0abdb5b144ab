"""Commands that overtake each other, and daemons that are ended in the middle of one.

Conductor or receiver run in the test's own process where it has to hold one of their steps.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading

import msgspec
import pytest

from lima2_receivers.conductor import prepare as conductor_prepare
from lima2_receivers.conductor.daemon import ConductorDaemon
from lima2_receivers.conductor.run import Run
from lima2_receivers.config import load_config
from lima2_receivers.detectors.simulator.control import SimulatorControl
from lima2_receivers.errors import DetectorError, ReceiverError, StateError, UnreachableError
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.receiver.daemon import ReceiverDaemon
from lima2_receivers.receiver.shares import ShareMaker

SECONDS = 20.0
OLD = "what an earlier acquisition saved"


class Gate:
    """Holds a function of the program when it is called, until it is let go on."""

    def __init__(self, monkeypatch, owner, name, calls=1):
        self.begun, self._go = threading.Event(), threading.Event()
        self._left = calls
        function = getattr(owner, name)

        def held(*args, **options):
            if self._left:
                self._left -= 1
                self.begun.set()
                assert self._go.wait(SECONDS)
            return function(*args, **options)

        monkeypatch.setattr(owner, name, held)

    async def reached(self):
        assert await asyncio.to_thread(self.begun.wait, SECONDS)

    def open(self):
        self._go.set()


@contextlib.asynccontextmanager
async def inside(site, name):
    """Run the whole site, one daemon of it in this process; its task ends it as SIGTERM does."""
    config = load_config(site.config)
    daemon = ConductorDaemon(config) if name == "conductor" else ReceiverDaemon(config, int(name[-1]))
    task = asyncio.create_task(daemon.run())
    client = site.client()
    try:
        site.start(*(other for other in site.names() if other != name))
        await site.connect(client)
        yield client, task
    finally:
        await end(task)
        await client.close()


async def end(task):
    task.cancel()
    async with asyncio.timeout(SECONDS):
        await asyncio.wait({task})


def replacing(site, prefix, **options):
    """Return the plan of an acquisition that is to replace files, which are made here."""
    for name in (f"{prefix}_master.h5", f"{prefix}_ledger.h5", f"{prefix}_raw_0.h5", f"{prefix}_raw_1.h5"):
        (site.data / name).write_text(OLD)
    plan = site.plan(prefix, 0, **options)
    saving = msgspec.structs.replace(plan.saving, file_exists_policy=FileExistsPolicy.OVERWRITE)
    return msgspec.structs.replace(plan, saving=saving)


def check_restored(site):
    assert {path.name: path.read_bytes()[: len(OLD)] for path in site.data.iterdir()} == {
        name: OLD.encode() for name in ("a_master.h5", "a_ledger.h5", "a_raw_0.h5", "a_raw_1.h5")
    }


async def test_a_stop_that_overtakes_a_start_is_no_failure_and_triggers_nothing(make_site, helpers, monkeypatch):
    site = make_site()
    first, second = helpers.new_id(), helpers.new_id()
    gate = Gate(monkeypatch, Run, "keep_files")
    async with inside(site, "conductor") as (client, _):
        await client.prepare(first, site.plan("a", 50))
        start = asyncio.create_task(client.start(first))
        await gate.reached()
        stop = asyncio.create_task(client.stop(first))
        await helpers.until(client, first, lambda state: state.state == "draining")
        await client.prepare(second, site.plan("b", 50))
        gate.open()
        with pytest.raises(StateError, match="was stopped as its start came"):
            await start
        final = await stop
        assert (final.outcome, final.reason, final.announced) == ("stopped", "", 0)
        await client.start(second)
        after = await helpers.until(client, second, lambda state: state.state == "closed")
        assert (after.outcome, after.announced, after.counts.saved) == ("complete", 50, 50)


async def test_a_stop_ends_a_prepare_and_what_it_made_is_undone(make_site, helpers, monkeypatch):
    site = make_site()
    first, second = helpers.new_id(), helpers.new_id()
    gate = Gate(monkeypatch, ShareMaker, "make")
    async with inside(site, "receiver_1") as (client, _):
        prepare = asyncio.create_task(client.prepare(first, replacing(site, "a")))
        await gate.reached()
        stop = asyncio.create_task(client.stop(first))
        asyncio.get_running_loop().call_later(0.2, gate.open)
        final = await stop
        assert (final.state, final.outcome) == ("closed", "stopped")
        with pytest.raises(StateError, match="was stopped while it was prepared"):
            await prepare
        check_restored(site)
        await client.prepare(second, site.plan("b", 4))
        assert (await client.stop(second)).outcome == "stopped"


async def test_a_stop_reaches_a_prepare_that_waits_for_its_turn(make_site, helpers, monkeypatch):
    site = make_site()
    first, second = helpers.new_id(), helpers.new_id()
    gate = Gate(monkeypatch, ShareMaker, "make")
    async with inside(site, "receiver_1") as (client, _):
        prepare = asyncio.create_task(client.prepare(first, site.plan("a", 4)))
        await gate.reached()
        waiting = asyncio.create_task(client.prepare(second, site.plan("b", 4)))
        await client.describe()  # the conductor has the prepare before this
        assert (await client.stop(second)).outcome == "stopped"
        with pytest.raises(StateError, match="was stopped while it was prepared"):
            await waiting
        again = asyncio.create_task(client.prepare(first, site.plan("c", 4)))
        with pytest.raises(StateError, match="is being prepared already"):
            await again
        gate.open()
        await prepare
        await client.start(first)
        final = await helpers.until(client, first, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 4)


async def test_a_conductor_that_ends_while_it_writes_the_master_undoes_the_prepare(make_site, helpers, monkeypatch):
    site = make_site()
    gate = Gate(monkeypatch, conductor_prepare, "write_master")
    async with inside(site, "conductor") as (client, conductor):
        prepare = asyncio.create_task(client.prepare(helpers.new_id(), replacing(site, "a"), timeout=SECONDS))
        await gate.reached()
        conductor.cancel()
        await asyncio.wait({conductor}, timeout=0.2)
        gate.open()
        await end(conductor)
        with pytest.raises(ReceiverError):
            await prepare
        check_restored(site)


async def test_a_conductor_that_ends_undoes_what_receivers_are_still_making(make_site, helpers, monkeypatch):
    site = make_site()
    gate = Gate(monkeypatch, ShareMaker, "make")
    conductor = ConductorDaemon(load_config(site.config))
    running = asyncio.create_task(conductor.run())
    names, site.names = site.names(), lambda: ["detector", "receiver_0"]
    assert "conductor" in names
    async with inside(site, "receiver_1") as (client, _):
        prepare = asyncio.create_task(client.prepare(helpers.new_id(), replacing(site, "a"), timeout=SECONDS))
        await gate.reached()
        running.cancel()
        await asyncio.wait({running}, timeout=0.2)
        gate.open()
        await end(running)
        with pytest.raises(ReceiverError):
            await prepare
        check_restored(site)


async def test_a_receiver_that_ends_while_it_makes_its_share_removes_it(make_site, helpers, monkeypatch):
    site = make_site()
    gate = Gate(monkeypatch, ShareMaker, "_make_files")
    async with inside(site, "receiver_1") as (client, receiver):
        prepare = asyncio.create_task(client.prepare(helpers.new_id(), replacing(site, "a")))
        await gate.reached()
        receiver.cancel()
        await asyncio.wait({receiver}, timeout=0.2)
        gate.open()
        await end(receiver)
        with pytest.raises(UnreachableError, match="receiver 1"):
            await prepare
        check_restored(site)


async def test_a_trigger_that_a_stop_breaks_off_takes_nothing_from_the_final_count(make_site, helpers, monkeypatch):
    site = make_site()
    acquisition = helpers.new_id()
    original = SimulatorControl.trigger
    broken = []

    async def trigger(self, n_frames, expo_time, latency_time):
        await original(self, n_frames, expo_time, latency_time)
        if n_frames == 2:
            broken.append(n_frames)
            await helpers.until(client, acquisition, lambda state: state.state in ("draining", "closed"))
            raise DetectorError("stopped while it was armed")

    monkeypatch.setattr(SimulatorControl, "trigger", trigger)
    async with inside(site, "conductor") as (client, _):
        await client.prepare(acquisition, site.plan("a", 9, mode="software", expo=0.001))
        await client.start(acquisition)
        await client.trigger(acquisition, 4)
        await helpers.until(client, acquisition, lambda state: state.written == 4)
        late = asyncio.create_task(client.trigger(acquisition, 2))
        await helpers.until(client, acquisition, lambda state: bool(broken) and state.written == 6)
        final = await client.stop(acquisition)
        with pytest.raises(DetectorError, match="stopped while it was armed"):
            await late
        assert (final.outcome, final.announced, final.counts.saved) == ("stopped", 6, 6)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (state.announced, state.written) == (6, 6)


async def test_a_receiver_that_is_restarted_during_a_prepare_is_noticed(make_site, helpers, monkeypatch):
    site = make_site()
    acquisition = helpers.new_id()
    gate = Gate(monkeypatch, ShareMaker, "make")
    async with inside(site, "receiver_1") as (client, _):
        prepare = asyncio.create_task(client.prepare(acquisition, site.plan("a", 0, expo=0.005)))
        await gate.reached()
        async with asyncio.timeout(SECONDS):
            while not (site.data / "a_raw_0.h5").exists():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)
        site.kill("receiver_0")
        site.start("receiver_0")
        await site.connect(client)
        gate.open()
        with contextlib.suppress(ReceiverError):  # it may be noticed before or after the prepare has ended
            await prepare
            await client.start(acquisition)
            final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
            assert final.outcome == "failed"
            assert "receiver 0" in final.reason
