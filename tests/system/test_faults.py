"""Parts that die or freeze: the acquisition fails with its cause in time, and what was acknowledged stays."""

from __future__ import annotations

import signal
import time

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest

from lima2_receivers.errors import UnreachableError

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
        again, _ = await running(site, client, helpers, "again")
        assert (await client.stop(again)).outcome == "complete"
    finally:
        await client.close()


@pytest.mark.parametrize("name", ["receiver_0", "conductor"])
async def test_sigterm_closes_the_files_readable(make_site, helpers, name):
    site = make_site()
    async with site.running() as client:
        _, before = await running(site, client, helpers)
        assert site.end(name) == 0
        part = {"receiver_0": "run_dense_0.h5", "conductor": "run_ledger.h5"}[name]
        with h5py.File(site.data / part, "r"):
            pass  # opens without SWMR: it was closed
        check_readable(site, "run", before.written)


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
