"""A conductor that is killed and started again goes on with what it had: acquisitions, ledger, detector."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
import zlib
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import ReceiverError, UnreachableError
from lima2_receivers.saving.read import read_rows, read_statuses, read_summary

sys.path.insert(0, str(Path(__file__).parent))
from supervisor import Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SECONDS = 60.0
RAW = "/entry_0000/measurement/raw"


@contextlib.asynccontextmanager
async def supervised(site, timeout=30.0):
    """A site whose conductor is started again when it is killed, and a client."""
    async with site.running(timeout) as client:
        with Supervisor(site, "conductor") as supervisor:
            yield client, supervisor


async def killed(client, supervisor, after=lambda: None):
    """Kill the conductor, and wait for news from the next one."""
    before = client.state.instance
    supervisor.kill()
    after()
    deadline = time.monotonic() + SECONDS
    while client.state.instance == before:
        assert time.monotonic() < deadline, "no other conductor"
        await asyncio.sleep(0.02)


async def closed(client, acquisition, helpers):
    return await helpers.until(client, acquisition, lambda state: state.state == "closed", SECONDS)


def check_all_saved(site, prefix, final):
    """Every frame that was sent is in the file as it was sent, and the ledger says the same as the detector."""
    journal = read_journal(latest_journal(site.detector))
    assert final.announced == len(journal.sent) == final.written
    assert (final.counts.saved, final.counts.settled) == (final.announced, final.announced)
    raw = read_rows(site.data / f"{prefix}_master.h5", RAW)
    assert len(raw) == final.announced
    for sent in journal.sent:
        assert zlib.crc32(np.ascontiguousarray(raw[sent.index]).data) == journal.scene_of(sent.index).crc32, sent
    ledger = site.data / f"{prefix}_ledger.h5"
    assert (read_statuses(ledger) == 1).all()
    summary = read_summary(ledger)
    assert summary is not None
    assert (summary.announced, summary.counts.saved, summary.outcome) == (final.announced, final.announced, "complete")
    with h5py.File(ledger) as file:  # not one that a killed writer has left
        stamps = file["/entry_0000/ledger/timestamp"][()]
    assert np.array_equal(stamps, [sent.timestamp for sent in journal.sent])
    assert not list(site.data.glob("*.again"))


async def check_the_next_one(site, client, helpers):
    acquisition = helpers.new_id()
    await client.prepare(acquisition, site.plan("next", 6))
    await client.start(acquisition)
    final = await closed(client, acquisition, helpers)
    assert final.outcome == "complete"
    check_all_saved(site, "next", final)


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
async def test_a_running_acquisition_goes_on(make_site, helpers, dispatch):
    site = make_site(dispatch=dispatch)
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 1500, expo=0.005))
        await client.start(acquisition)
        before = await helpers.until(client, acquisition, lambda state: state.written >= 20)
        counts = []
        client.listen(lambda state: counts.extend(one.written for one in state.acquisitions))
        await killed(client, supervisor)
        state = await helpers.until(client, acquisition, lambda state: state.written > before.written)
        assert state.state == "running"
        final = await closed(client, acquisition, helpers)
        assert (final.outcome, final.announced_by) == ("complete", "triggers"), final.reason
        assert counts == sorted(counts)  # what was acknowledged stays so
        check_all_saved(site, "run", final)
        assert (await client.stop(acquisition)).outcome == "complete"
        await check_the_next_one(site, client, helpers)
