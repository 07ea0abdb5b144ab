"""Stop at any moment, by several at once, also where a receiver is dead or frozen: it ends, adds up, and all go on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from lima2_receivers.errors import ReceiverError, StateError
from lima2_receivers.plan import PipelineChoice
from lima2_receivers.saving.read import read_statuses, read_summary

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

STAND_INS = str(Path(__file__).parent / "stand_ins" / "pipelines")
STAGES = ("preparing", "prepared", "running", "draining", "closed")
SECONDS = 40.0  # in which all must have happened: more than the deadlines below together


class Subject:
    """An acquisition that is brought to a stage of its life, and held there."""

    def __init__(self, site, helpers):
        self.id = helpers.new_id()
        self.hold = site.folder / "hold"
        self.prepare = None
        self._site, self._helpers = site, helpers

    async def bring(self, client, stage):
        client_until = self._helpers.until
        if stage == "preparing":
            self.hold.touch()
            self.prepare = asyncio.create_task(client.prepare(self.id, self._plan(0, hold_prepare=str(self.hold))))
            async with asyncio.timeout(SECONDS):
                begun = self.hold.with_name("hold_begun")
                while not begun.exists():  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(0.01)
            return
        if stage == "draining":
            self.hold.touch()
        endless = stage in ("prepared", "running")
        await client.prepare(self.id, self._plan(0 if endless else 10, hold=str(self.hold)))
        if stage != "prepared":
            await client.start(self.id)
        if stage == "running":
            await client_until(client, self.id, lambda state: state.written > 5)
        elif stage != "prepared":
            await client_until(client, self.id, lambda state: state.state == stage)

    def let_go(self):
        self.hold.unlink(missing_ok=True)

    def _plan(self, nb_frames, **params):
        choice = PipelineChoice("held", msgspec.Raw(msgspec.msgpack.encode(params)))
        return msgspec.structs.replace(self._site.plan("run", nb_frames, expo=0.005), pipeline=choice)


@pytest.fixture
def site(make_site, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((STAND_INS, os.environ.get("PYTHONPATH", ""))))
    made = make_site(extra="[deadlines]\ncommand = 1.5\nstalled = 4.0\ndrain = 1.0\n")
    made.config.write_text(made.config.read_text().replace("slots = 8", "slots = 32"))
    return made


@pytest.mark.parametrize("fault", [None, signal.SIGKILL, signal.SIGSTOP], ids=["alive", "killed", "frozen"])
@pytest.mark.parametrize("stage", STAGES)
async def test_stops_at_the_same_time_and_once_more(site, helpers, stage, fault):
    async with site.running() as client:
        subject = Subject(site, helpers)
        await subject.bring(client, stage)
        others = [site.client(), site.client()]
        for other in others:
            await other.connect()
        try:
            if fault is not None:
                site.signal("receiver_1", fault)
            stops = [asyncio.create_task(one.stop(subject.id)) for one in (client, *others)]
            asyncio.get_running_loop().call_later(0.3, subject.let_go)
            async with asyncio.timeout(SECONDS):
                finals = await asyncio.gather(*stops)
                finals.append(await client.stop(subject.id))
        finally:
            for other in others:
                await other.close()
        assert all(final == finals[0] for final in finals)
        check(site, finals[0], stage, fault)
        if subject.prepare is not None:
            with pytest.raises(ReceiverError):
                await subject.prepare
        await check_the_next_one(site, helpers, client, fault)


def check(site, final, stage, fault):
    """What is expected of it, and that its sums are right, also in the ledger file."""
    outcomes = {
        "preparing": ("stopped", "failed"),  # whichever was first, where the receiver died
        "prepared": ("stopped", "failed", "complete"),
        "running": ("complete",),
        "draining": ("complete",),
        "closed": ("complete",),
    }[stage]
    if fault is None and stage == "preparing":
        outcomes = ("stopped",)
    elif fault is not None and stage in ("running", "draining"):
        outcomes = ("failed",)
    assert final.state == "closed"
    assert final.outcome in outcomes
    assert final.counts.settled == final.announced
    if final.outcome == "failed":
        assert "receiver 1" in final.reason
    if stage == "preparing":
        assert final.announced == 0
        return
    ledger = site.data / "run_ledger.h5"
    statuses, summary = read_statuses(ledger), read_summary(ledger)
    assert len(statuses) == final.announced
    assert 0 not in statuses
    assert (summary.announced, summary.outcome, summary.counts) == (final.announced, final.outcome, final.counts)
    if stage in ("prepared", "running", "closed") and final.outcome == "complete":
        assert set(statuses.tolist()) <= {1}


async def check_the_next_one(site, helpers, client, fault):
    if fault is not None:
        site.end("receiver_1") if fault is signal.SIGKILL else site.signal("receiver_1", signal.SIGCONT)
    if fault is signal.SIGKILL:
        site.start("receiver_1")
    await site.connect(client)
    acquisition = helpers.new_id()
    await client.prepare(acquisition, site.plan("again", 8))
    await client.start(acquisition)
    final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    assert (final.outcome, final.counts.saved) == ("complete", 8)


async def test_what_nobody_ever_heard_of_can_not_be_stopped(site, helpers):
    async with site.running() as client:
        acquisition = helpers.new_id()
        with pytest.raises(StateError, match=f"there is no acquisition {acquisition}"):
            await client.stop(acquisition)
        with pytest.raises(ReceiverError):
            await client.prepare(acquisition, site.plan("run", 3, mode="internal", lose=[-1]))
        final = await client.stop(acquisition)
        assert (final.state, final.outcome, final.announced) == ("closed", "failed", 0)
        assert "lose" in final.reason
        await client.prepare(acquisition, site.plan("run", 3))
        assert (await client.stop(acquisition)).outcome == "stopped"
