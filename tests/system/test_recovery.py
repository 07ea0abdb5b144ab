"""A conductor that is killed and started again goes on with what it had: acquisitions, ledger, detector."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import zlib
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import ReceiverError, UnreachableError
from lima2_receivers.plan import PipelineChoice
from lima2_receivers.saving.read import read_rows, read_statuses, read_summary

from .supervisor import Supervisor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SECONDS = 60.0
STAND_INS = str(Path(__file__).parent / "stand_ins" / "pipelines")
RAW = "/entry_0000/measurement/raw"


@pytest.fixture
def stand_ins(monkeypatch):
    """Processes that are started now have the pipeline ``held``."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((STAND_INS, os.environ.get("PYTHONPATH", ""))))


def held(plan, **params):
    choice = PipelineChoice("held", msgspec.Raw(msgspec.msgpack.encode(params)))
    return msgspec.structs.replace(plan, pipeline=choice)


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


async def test_software_triggers_go_on_where_they_were(make_site, helpers):
    site = make_site()
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 12, mode="software"))
        await client.start(acquisition)
        await client.trigger(acquisition, 3)
        await client.trigger(acquisition, 2)
        await killed(client, supervisor)
        await client.trigger(acquisition, 3)
        state = await helpers.until(client, acquisition, lambda state: state.written == 8, SECONDS)
        assert (state.state, state.announced) == ("running", 8)
        await killed(client, supervisor)
        with pytest.raises(ReceiverError, match="got 5, expected at most 4"):
            await client.trigger(acquisition, 5)
        await client.trigger(acquisition, 4)
        final = await closed(client, acquisition, helpers)
        assert final.outcome == "complete"
        check_all_saved(site, "run", final)


async def test_what_runs_until_it_is_stopped_survives_two_kills(make_site, helpers):
    site = make_site()
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, expo=0.005))
        await client.start(acquisition)
        for _ in range(2):
            before = await helpers.until(client, acquisition, lambda state: state.written >= 20)
            await killed(client, supervisor)
            await helpers.until(client, acquisition, lambda state, n=before.written: state.written > n + 20, SECONDS)
        assert supervisor.starts == 2
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced_by) == ("complete", "control"), final.reason
        check_all_saved(site, "run", final)
        await check_the_next_one(site, client, helpers)


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
async def test_what_was_lost_stays_lost(make_site, helpers, dispatch):
    site = make_site(dispatch=dispatch, extra="[deadlines]\ndrain = 0.5\n")
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 12, mode="software", lose=[2, 4, 9]))
        await client.start(acquisition)
        await client.trigger(acquisition, 6)
        before = await helpers.until(client, acquisition, lambda state: state.written == 6)
        await killed(client, supervisor)
        state = await helpers.until(client, acquisition, lambda state: state.counts.settled == 6, SECONDS)
        assert (state.counts, state.reasons) == (before.counts, before.reasons)
        await client.trigger(acquisition, 6)
        final = await closed(client, acquisition, helpers)
        assert (final.outcome, final.counts.saved, final.counts.lost) == ("complete", 9, 3), final.reason
        statuses = read_statuses(site.data / "run_ledger.h5")
        assert np.flatnonzero(statuses != 1).tolist() == [2, 4, 9]
        assert (statuses[[2, 4, 9]] == 3).all()


async def test_a_signal_goes_on(make_site, helpers):
    site = make_site()
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 300, "external", pulse_period=0.02))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written >= 5)
        await killed(client, supervisor)
        final = await closed(client, acquisition, helpers)
        assert (final.outcome, final.announced) == ("complete", 300), final.reason
        check_all_saved(site, "run", final)


async def test_a_prepared_acquisition_can_be_started(make_site, helpers):
    site = make_site(dispatch="dynamic")
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 40))
        await killed(client, supervisor)
        await client.start(acquisition)
        final = await closed(client, acquisition, helpers)
        assert final.outcome == "complete", final.reason
        check_all_saved(site, "run", final)
        await check_the_next_one(site, client, helpers)


async def test_what_was_being_prepared_is_undone_on_all_parts(stand_ins, make_site, helpers):
    site = make_site()
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        hold, begun = site.folder / "hold", site.folder / "hold_begun"
        hold.touch()
        plan = held(site.plan("run", 40), hold_prepare=str(hold))
        prepare = asyncio.create_task(client.prepare(acquisition, plan, timeout=1.0))
        deadline = time.monotonic() + SECONDS
        while not begun.exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await killed(client, supervisor)
        hold.unlink()
        with pytest.raises(UnreachableError):
            await prepare
        final = await client.stop(acquisition)
        assert (final.outcome, final.reason) == ("failed", "the conductor was restarted while it was prepared")
        assert list(site.data.iterdir()) == []
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 40))
        await client.start(acquisition)
        final = await closed(client, acquisition, helpers)
        check_all_saved(site, "run", final)


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
async def test_an_acquisition_goes_on_draining(stand_ins, make_site, helpers, dispatch):
    site = make_site(dispatch=dispatch)
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        hold = site.folder / "hold"
        hold.touch()
        await client.prepare(acquisition, held(site.plan("run", 12), hold=str(hold)))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.state == "draining")
        await killed(client, supervisor)
        state = await helpers.until(client, acquisition, lambda state: state.state == "draining")
        assert state.counts.settled == 0
        hold.unlink()
        final = await closed(client, acquisition, helpers)
        assert final.outcome == "complete", final.reason
        check_all_saved(site, "run", final)
        await killed(client, supervisor)
        assert await client.stop(acquisition) == final  # also one more conductor knows how it ended
        assert (await client.ledger(acquisition)).counts == final.counts
        await check_the_next_one(site, client, helpers)


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
async def test_what_a_receiver_had_saved_stays_so_if_it_dies_while_the_conductor_is_down(make_site, helpers, dispatch):
    site = make_site(dispatch=dispatch, extra="[deadlines]\ncommand = 2.0\n")
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, expo=0.005))
        await client.start(acquisition)
        before = await helpers.until(client, acquisition, lambda state: state.written >= 40)
        await killed(client, supervisor, lambda: site.kill("receiver_1"))
        final = await closed(client, acquisition, helpers)
        assert final.outcome == "failed"
        assert "receiver 1" in final.reason
        assert final.counts.settled == final.announced == final.written > before.written
        assert final.counts.failed > 0
        statuses = read_statuses(site.data / "run_ledger.h5")
        assert (statuses[: before.written] == 1).all()
        journal = read_journal(latest_journal(site.detector))
        assert len(journal.sent) == final.announced
        master = site.data / "run_master.h5"
        for frame in range(before.written):
            raw = read_rows(master, RAW, frame, frame + 1)[0]
            assert zlib.crc32(np.ascontiguousarray(raw).data) == journal.scene_of(frame).crc32
        with h5py.File(site.data / "run_ledger.h5") as file:
            stamps = file["/entry_0000/ledger/timestamp"][: before.written]
        assert np.array_equal(stamps, [sent.timestamp for sent in journal.sent[: before.written]])
        site.start("receiver_1")
        await site.connect(client)
        await check_the_next_one(site, client, helpers)


async def test_a_detector_that_was_restarted_can_not_be_taken_over(make_site, helpers):
    site = make_site()
    async with supervised(site) as (client, supervisor):
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, expo=0.005))
        await client.start(acquisition)
        before = await helpers.until(client, acquisition, lambda state: state.written >= 20)

        def restart() -> None:
            site.kill("detector")
            site.start("detector")

        await killed(client, supervisor, restart)
        final = await closed(client, acquisition, helpers)
        assert final.outcome == "failed"
        assert "the detector can't be taken over" in final.reason
        assert final.announced_by == "highest"
        assert final.counts.saved == final.announced == final.written >= before.written
        await site.wait_for_detector(client)
        await check_the_next_one(site, client, helpers)
