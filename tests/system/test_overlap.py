"""Acquisitions that overlap on shared receivers: one is exposed while others drain, each with files of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import zlib
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.journal import read_journal
from lima2_receivers.errors import PlanError, StateError
from lima2_receivers.plan import PipelineChoice

STAND_INS = str(Path(__file__).parent / "stand_ins" / "pipelines")
N_FRAMES = 10
FRAME_BYTES = 64 * 128 * 2  # of the tiny simulated detector
MEBI = 2**20


@pytest.fixture
def make_overlapping(make_site, monkeypatch):
    """Make a site whose receivers have the pipeline ``held``, and room for what four acquisitions hold back."""

    def make(**options):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join((STAND_INS, os.environ.get("PYTHONPATH", ""))))
        site = make_site(**options)
        site.config.write_text(site.config.read_text().replace("slots = 8", "slots = 32"))
        return site

    return make


class Held:
    """Holds back the frames of one acquisition until it is let go."""

    def __init__(self, site, name):
        self.path = site.folder / f"hold_{name}"
        self.path.touch()

    def plan(self, site, prefix, nb_frames=N_FRAMES, fail="", memory=0, **options):
        params = {"hold": str(self.path), "fail": fail, "memory": memory}
        choice = PipelineChoice("held", msgspec.Raw(msgspec.msgpack.encode(params)))
        return msgspec.structs.replace(site.plan(prefix, nb_frames, **options), pipeline=choice)

    def let_go(self):
        self.path.unlink()


async def expose(client, helpers, plan):
    """Prepare and start an acquisition, and wait until the detector is free again."""
    acquisition = helpers.new_id()
    await client.prepare(acquisition, plan)
    await client.start(acquisition)
    state = await helpers.until(client, acquisition, lambda state: state.state in ("draining", "closed"))
    return acquisition, state


def journals(site):
    """The journals of all series that sent something, in their order; a prepare that was refused sent nothing."""
    paths = site.detector.glob("journal_*.jsonl")
    ordered = sorted(paths, key=lambda path: int(path.stem.removeprefix("journal_")))
    return [journal for path in ordered if (journal := read_journal(path)).sent]


def check_frames(site, prefix, journal, status, n_frames=N_FRAMES):
    """All frames of an acquisition have this status; those that are saved are what was sent."""
    with h5py.File(site.data / f"{prefix}_master.h5", "r", swmr=True, libver="latest") as master:
        measurement = master["entry_0000/measurement"]
        assert measurement["frame_status"][:].tolist() == [status] * n_frames
        raw = measurement["raw" if "raw" in measurement else "data"]
        if status == 1:
            assert [zlib.crc32(frame.data) for frame in raw[:]] == [
                journal.scene_of(number).crc32 for number in range(n_frames)
            ]
            if "total" in measurement:
                assert measurement["total"][:].tolist() == [int(frame.sum(dtype=np.uint64)) for frame in raw[:]]


async def test_four_acquisitions_at_once_each_with_own_files_pipeline_and_fate(make_overlapping, helpers):
    site = make_overlapping()
    async with site.running() as client:
        holds = {name: Held(site, name) for name in "abc"}
        fails = {"a": "", "b": "bug", "c": "frames"}
        ids = {}
        for name, hold in holds.items():
            ids[name], state = await expose(client, helpers, hold.plan(site, name, fail=fails[name]))
            assert (state.state, state.written) == ("draining", 0)
        ids["d"], _ = await expose(client, helpers, site.plan("d", N_FRAMES, pipeline=True))
        final = await helpers.until(client, ids["d"], lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", N_FRAMES)
        for name in holds:
            state = await helpers.until(client, ids[name], lambda state: True)
            assert (state.state, state.announced, state.written) == ("draining", N_FRAMES, 0)

        holds["b"].let_go()
        final = await helpers.until(client, ids["b"], lambda state: state.state == "closed")
        assert (final.outcome, final.counts.failed) == ("failed", N_FRAMES)
        assert "a bug, as the test wants" in final.reason
        for name in "ac":
            assert (await helpers.until(client, ids[name], lambda state: True)).state == "draining"
        holds["c"].let_go()
        final = await helpers.until(client, ids["c"], lambda state: state.state == "closed")
        assert (final.outcome, final.counts.failed) == ("complete", N_FRAMES)
        assert final.reasons == {"pipeline: it fails, as the test wants": N_FRAMES}
        holds["a"].let_go()
        final = await helpers.until(client, ids["a"], lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", N_FRAMES)
    for name, journal, status in zip("abcd", journals(site), (1, 4, 4, 1), strict=True):
        check_frames(site, name, journal, status)


async def test_a_stop_while_others_drain_stops_only_its_own(make_overlapping, helpers):
    """Also the stop of one that drains does not touch the detector, which exposes another."""
    site = make_overlapping()
    async with site.running() as client:
        hold = Held(site, "a")
        first, _ = await expose(client, helpers, hold.plan(site, "a"))
        second = helpers.new_id()
        await client.prepare(second, site.plan("b", 0, expo=0.005))
        await client.start(second)
        await helpers.until(client, second, lambda state: state.written > 5)
        stop = asyncio.create_task(client.stop(first))
        before = (await helpers.until(client, second, lambda state: True)).written
        state = await helpers.until(client, second, lambda state: state.written > before + 5)
        assert state.state == "running"
        hold.let_go()
        final = await stop
        assert (final.outcome, final.counts.saved) == ("complete", N_FRAMES)
        final = await client.stop(second)
        assert (final.outcome, final.announced) == ("complete", final.counts.saved)
    check_frames(site, "a", journals(site)[0], 1)


async def test_one_that_is_exposed_keeps_the_detector(make_overlapping, helpers):
    site = make_overlapping()
    async with site.running() as client:
        first, second = helpers.new_id(), helpers.new_id()
        await client.prepare(first, site.plan("a", 0, expo=0.01))
        with pytest.raises(StateError, match=f"the detector is taken by acquisition {first}, which is prepared"):
            await client.prepare(second, site.plan("b", 3))
        await client.start(first)
        with pytest.raises(StateError, match=f"the detector is taken by acquisition {first}, which is running"):
            await client.prepare(second, site.plan("b", 3))
        assert (await client.stop(first)).outcome == "complete"


async def test_no_more_triggers_free_the_detector_when_all_is_sent(make_overlapping, helpers):
    site = make_overlapping()
    async with site.running() as client:
        hold = Held(site, "a")
        first = helpers.new_id()
        await client.prepare(first, hold.plan(site, "a", 0, mode="software", expo=0.01))
        with pytest.raises(StateError, match="is prepared, finishing needs one that was started"):
            await client.finish(first)
        await client.start(first)
        await client.trigger(first, N_FRAMES)
        await client.finish(first)
        await client.finish(first)
        with pytest.raises(StateError, match="expected at most 0, what is left of nb_frames"):
            await client.trigger(first, 1)
        await helpers.until(client, first, lambda state: state.state == "draining")
        second, _ = await expose(client, helpers, site.plan("b", N_FRAMES))
        assert (await helpers.until(client, second, lambda state: state.state == "closed")).counts.saved == N_FRAMES
        hold.let_go()
        final = await helpers.until(client, first, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.announced_by) == ("complete", N_FRAMES, "triggers")
        await client.finish(first)
    for name, journal in zip("ab", journals(site), strict=True):
        check_frames(site, name, journal, 1)


@pytest.mark.parametrize("mode", ["internal", "external", "software"])
async def test_what_has_no_end_is_stopped_when_it_is_to_finish(make_overlapping, helpers, mode):
    site = make_overlapping()
    async with site.running() as client:
        acquisition = helpers.new_id()
        signal_of_its_own = {"pulse_period": 0.005} if mode == "external" else {}
        await client.prepare(acquisition, site.plan("a", 0, mode=mode, expo=0.002, **signal_of_its_own))
        await client.start(acquisition)
        if mode != "software":
            await helpers.until(client, acquisition, lambda state: state.written > 3)
        await client.finish(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", final.announced)


async def test_a_receiver_that_dies_fails_all_that_need_it_and_those_alone(make_overlapping, helpers):
    site = make_overlapping()
    async with site.running() as client:
        done, _ = await expose(client, helpers, site.plan("a", N_FRAMES))
        await helpers.until(client, done, lambda state: state.state == "closed")
        hold = Held(site, "b")
        drains, _ = await expose(client, helpers, hold.plan(site, "b"))
        runs = helpers.new_id()
        await client.prepare(runs, site.plan("c", 0, expo=0.005))
        await client.start(runs)
        await helpers.until(client, runs, lambda state: state.written > 5)
        site.signal("receiver_1", signal.SIGKILL)
        hold.let_go()
        for acquisition in (drains, runs):
            final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
            assert final.outcome == "failed"
            assert "receiver 1" in final.reason
            assert final.counts.settled == final.announced
        assert (await helpers.until(client, done, lambda state: True)).outcome == "complete"
    check_frames(site, "a", journals(site)[0], 1)


async def test_a_prepare_that_does_not_fit_the_device_is_refused_with_numbers(make_overlapping, helpers):
    site = make_overlapping()
    ring = 32 * FRAME_BYTES  # which lies in the memory of a CPU device
    text = site.config.read_text().replace("ring = {", f"opencl = {{ memory = {ring + 5 * MEBI} }}\nring = {{")
    site.config.write_text(text)
    async with site.running() as client:
        hold = Held(site, "a")
        first, _ = await expose(client, helpers, hold.plan(site, "a", memory=3 * MEBI))
        free = Held(site, "b")
        free.let_go()
        with pytest.raises(PlanError, match=r"receiver \d: the pipeline needs 6\.0 MiB, 2\.0 MiB of .* are free"):
            await client.prepare(helpers.new_id(), free.plan(site, "b", memory=6 * MEBI))
        with pytest.raises(StateError) as caught:
            await client.prepare(helpers.new_id(), free.plan(site, "b", memory=3 * MEBI))
        for words in (
            "needs 3.0 MiB, 2.0 MiB",
            "5.5 MiB in all (receivers[",
            "the ring 0.5 MiB",
            f"acquisition {first} 3.0 MiB",
        ):
            assert words in str(caught.value)
        assert not list(site.data.glob("b_*"))
        small, _ = await expose(client, helpers, free.plan(site, "b", memory=2 * MEBI))
        assert (await helpers.until(client, small, lambda state: state.state == "closed")).outcome == "complete"
        hold.let_go()
        await helpers.until(client, first, lambda state: state.state == "closed")
        last, _ = await expose(client, helpers, free.plan(site, "c", memory=5 * MEBI))
        assert (await helpers.until(client, last, lambda state: state.state == "closed")).outcome == "complete"
    for name, journal in zip("abc", journals(site), strict=True):
        check_frames(site, name, journal, 1)
