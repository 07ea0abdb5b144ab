"""Parts that die or freeze: the acquisition fails with its cause in time, and what was acknowledged stays."""

from __future__ import annotations

import asyncio
import signal
import time

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_receivers.errors import UnreachableError
from lima2_receivers.saving.ledger_file import LedgerSummary

IN_TIME = 10.0  # seconds within which a failure must be known


async def running(site, client, helpers, prefix="run", least=10):
    acquisition = helpers.new_id()
    await client.prepare(acquisition, site.plan(prefix, 0, expo=0.005, pipeline=True))
    await client.start(acquisition)
    state = await helpers.until(client, acquisition, lambda state: state.written >= least)
    return acquisition, state


def check_readable(site, prefix, written):
    """Frames that were acknowledged are there, also where their receiver is not any more."""
    with h5py.File(site.data / f"{prefix}_master.h5", "r", swmr=True, libver="latest") as master:
        measurement = master["entry_0000/measurement"]
        assert (measurement["frame_status"][:written] == 1).all()
        data = measurement["data"]
        assert len(data) >= written
        for frame in range(written):
            assert np.nanmax(data[frame]) > 0


def closed(site, *names):
    """Tell whether files can be opened without SWMR, as only those can that were closed."""
    try:
        for name in names:
            with h5py.File(site.data / name, "r"):
                pass
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_receiver_that_dies_or_freezes_fails_the_acquisition_in_time(make_site, helpers, number):
    site = make_site()
    async with site.running() as client:
        acquisition, before = await running(site, client, helpers)
        began = time.monotonic()
        site.signal("receiver_1", number)
        failed = await helpers.until(client, acquisition, lambda state: bool(state.reason))
        assert time.monotonic() - began < IN_TIME
        assert "receiver 1" in failed.reason
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert final.outcome == "failed"
        assert final.counts.settled == final.announced
        assert final.counts.failed > 0
        check_readable(site, "run", before.written)
        site.end("receiver_1")
        site.start("receiver_1")
        await site.connect(client)
        again, _ = await running(site, client, helpers, "again")
        assert (await client.stop(again)).outcome == "complete"


async def test_a_detector_that_dies_fails_the_acquisition_in_time(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition, before = await running(site, client, helpers)
        began = time.monotonic()
        site.kill("detector")
        failed = await helpers.until(client, acquisition, lambda state: bool(state.reason))
        assert time.monotonic() - began < IN_TIME
        assert "detector" in failed.reason
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced_by) == ("failed", "highest")
        assert final.counts.settled == final.announced >= before.written
        check_readable(site, "run", before.written)


async def test_a_conductor_that_dies_leaves_what_was_acknowledged(make_site, helpers):
    site = make_site()
    site.start()
    client = site.client()
    await site.connect(client)
    try:
        acquisition, before = await running(site, client, helpers)
        site.kill("conductor")
        with pytest.raises(UnreachableError, match="conductor at ipc://"):
            await client.stop(acquisition, timeout=1.0)
        check_readable(site, "run", before.written)
    finally:
        await client.close()
    site.start("conductor")
    client = site.client()
    await site.connect(client)
    try:
        final = await client.stop(acquisition)  # it went on, see test_recovery.py
        assert final.counts.saved == final.announced >= before.written
        again, _ = await running(site, client, helpers, "again")
        assert (await client.stop(again)).outcome == "complete"
    finally:
        await client.close()


async def test_a_receiver_that_is_restarted_at_once_is_noticed(make_site, helpers):
    """Also where it is back before anybody has missed it."""
    site = make_site()
    async with site.running() as client:
        acquisition, before = await running(site, client, helpers)
        began = time.monotonic()
        site.kill("receiver_1")
        site.start("receiver_1")
        failed = await helpers.until(client, acquisition, lambda state: bool(state.reason))
        assert time.monotonic() - began < IN_TIME
        assert "receiver 1" in failed.reason
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert final.counts.settled == final.announced
        check_readable(site, "run", before.written)


async def test_sigterm_of_a_receiver_closes_its_files(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        _, before = await running(site, client, helpers)
        assert site.end("receiver_0") == 0
        assert closed(site, "run_dense_0.h5")
        check_readable(site, "run", before.written)


async def test_sigterm_of_the_conductor_stops_the_detector_and_closes_all_files(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition, before = await running(site, client, helpers)
        assert site.end("conductor") == 0
        parts = [f"run_{stream}_{rank}.h5" for stream in ("dense", "sparse", "results", "raw") for rank in range(2)]
        assert closed(site, "run_ledger.h5", *parts)
        with h5py.File(site.data / "run_ledger.h5") as file:
            summary = msgspec.json.decode(file["/entry_0000/ledger/summary"][0], type=LedgerSummary)
            status = file["/entry_0000/ledger/frame_status"][()]
        assert (summary.acquisition, summary.outcome) == (acquisition, "failed")
        assert summary.reason == "the conductor was shut down"
        assert summary.counts.saved == summary.announced == len(status) >= before.written
        check_readable(site, "run", summary.announced)


async def test_receivers_close_what_no_conductor_asks_for(make_site, helpers):
    """After the conductor was killed and stayed away; the next one says so of what is left."""
    site = make_site(extra="[deadlines]\nstalled = 2.0\n")
    site.start()
    client = site.client()
    await site.connect(client)
    try:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software"))
        await client.start(acquisition)
        await client.trigger(acquisition, 6)
        await helpers.until(client, acquisition, lambda state: state.written == 6)
    finally:
        await client.close()
    site.kill("conductor")
    deadline = time.monotonic() + IN_TIME
    while not closed(site, "run_raw_0.h5", "run_raw_1.h5"):
        assert time.monotonic() < deadline, "the receivers still hold their files"
        await asyncio.sleep(0.05)
    assert all("no conductor has asked for it for 2 s" in site.log(f"receiver_{rank}") for rank in range(2))
    with h5py.File(site.data / "run_raw_1.h5") as file:
        assert len(file["/entry_0000/raw/raw"]) == 3
    site.start("conductor")
    client = site.client()
    await site.connect(client)
    try:
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved, final.written) == ("failed", 6, 6)
        await running(site, client, helpers, "again")
    finally:
        await client.close()


async def test_a_pause_longer_than_the_deadlines_harms_nothing(make_site, helpers):
    """Neither the conductor nor its receivers take an acquisition that idles for a dead one."""
    site = make_site(extra="[deadlines]\nstalled = 1.0\ndrain = 0.5\n")
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software"))
        await client.start(acquisition)
        await client.trigger(acquisition, 4)
        await helpers.until(client, acquisition, lambda state: state.written == 4)
        await asyncio.sleep(2.5)  # the pause itself is what is tested
        await client.trigger(acquisition, 4)
        await helpers.until(client, acquisition, lambda state: state.written == 8)
        await asyncio.sleep(2.5)
        final = await client.stop(acquisition)
        assert (final.outcome, final.reason, final.counts.saved) == ("complete", "", 8)


async def test_a_client_that_vanishes_disturbs_nothing(make_site, helpers):
    site = make_site()
    site.start()
    client = site.client()
    await site.connect(client)
    acquisition, before = await running(site, client, helpers)
    await client.close()
    other = site.client()
    await other.connect()
    try:
        after = await helpers.until(other, acquisition, lambda state: state.written > before.written + 5)
        assert after.state == "running"
        final = await other.stop(acquisition)
        assert final.outcome == "complete"
        assert final.counts.saved == final.announced
    finally:
        await other.close()
