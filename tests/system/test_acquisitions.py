"""Acquisitions of real processes: what is sent is what is saved, and every frame is accounted for."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import zlib

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.saving.read import read_accumulated, read_rows


def check_raw(site, prefix: str) -> np.ndarray:
    """Compare every saved raw frame with the journal, and return the statuses."""
    journal = read_journal(latest_journal(site.detector))
    with h5py.File(site.data / f"{prefix}_master.h5", "r", swmr=True, libver="latest") as master:
        measurement = master["entry_0000/measurement"]
        status = measurement["frame_status"][:]
        raw = measurement["raw" if "raw" in measurement else "data"]
        assert len(journal.sent) == len(status) == len(raw)
        for frame, sent in enumerate(journal.sent):
            assert status[frame] == {"sent": 1, "lost": 3}[sent.fate]
            data = raw[frame]
            if sent.fate == "sent":
                assert zlib.crc32(data.data) == journal.scene_of(frame).crc32
            else:
                assert (data == 0xFFFF).all()
        assert (measurement["frame_number"][:] == np.arange(len(status))).all()
        receivers = measurement["receiver"][:]
        assert (receivers == np.arange(len(status)) % site.n_receivers).all()
    return status


@pytest.mark.parametrize("n_receivers", [1, 2, 3])
async def test_every_frame_is_saved_where_it_belongs(make_site, helpers, n_receivers):
    site = make_site(n_receivers=n_receivers)
    async with site.running() as client:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, site.plan("run", 40))
        assert prepared.master_file == str(site.data / "run_master.h5")
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.announced_by) == ("complete", 40, "triggers")
        assert final.counts.saved == final.written == 40
    check_raw(site, "run")


async def test_frames_are_accumulated_over_all_receivers(make_site, helpers):
    site = make_site(n_receivers=2)
    async with site.running() as client:
        acquisition = helpers.new_id()
        plan = site.plan("run", 25, pipeline=True, params={"acc_nb_frames_xfer": 10}, lose=[3, 4])
        await client.prepare(acquisition, plan)
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved, final.counts.lost) == ("complete", 23, 2)
    master = site.data / "run_master.h5"
    dense = read_rows(master, "/entry_0000/measurement/dense").astype(float)
    hits = read_rows(master, "/entry_0000/measurement/is_hit")
    assert 0 < (hits == 1).sum() < 23
    for window in range(3):
        inside = slice(10 * window, 10 * window + 10)
        for name, chosen in (
            ("corrected", hits[inside] != 255),
            ("hit", hits[inside] == 1),
            ("non_hit", hits[inside] == 0),
        ):
            image, n_frames = read_accumulated(master, name, window)
            assert n_frames == chosen.sum()
            np.testing.assert_allclose(image, dense[inside][chosen].sum(axis=0), rtol=1e-5, atol=1e-2)


async def test_lost_frames_shift_nothing(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 30, pipeline=True, lose=[0, 7, 8, 29]))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.counts.saved, final.counts.lost, final.outcome) == (26, 4, "complete")
        assert sum(final.reasons.values()) == 4
    status = check_raw(site, "run")
    assert np.flatnonzero(status == 3).tolist() == [0, 7, 8, 29]


async def test_software_triggers_make_one_acquisition_with_rows_that_continue(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software", pipeline=True))
        await client.start(acquisition)
        for step in range(1, 4):
            await client.trigger(acquisition, 3)
            state = await helpers.until(client, acquisition, lambda state, n=3 * step: state.written == n)
            assert state.announced == 3 * step
            values = await client.values(acquisition)
            assert values.frame == 3 * step - 1
            assert set(values.values) == {"n_peaks", "is_hit", "peaks_overflow", "fallback"}
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 9, 9)
        assert await client.stop(acquisition) == final
    check_raw(site, "run")


async def test_an_open_ended_run_is_stopped(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, expo=0.002))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written > 10)
        final = await client.stop(acquisition)
        assert final.announced_by == "control"
        assert final.announced == final.counts.saved == final.written > 10
        assert final.outcome == "complete"
    check_raw(site, "run")


async def test_a_finite_run_that_is_stopped_announces_what_was_reached(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 100_000, expo=0.002))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written > 5)
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced_by) == ("stopped", "control")
        assert final.announced == final.counts.settled < 100_000
        second = helpers.new_id()
        await client.prepare(second, site.plan("next", 4))
        await client.start(second)
        final = await helpers.until(client, second, lambda state: state.state == "closed")
        assert final.counts.saved == 4
    check_raw(site, "next")


async def test_frames_can_be_read_by_another_process_while_they_are_taken(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        code = (
            "import h5py, hdf5plugin, sys, zlib, json\n"
            "m = h5py.File(sys.argv[1], 'r', swmr=True, libver='latest')['entry_0000/measurement']\n"
            "n = int(sys.argv[2])\n"
            "print(json.dumps([m['frame_status'][:n].tolist(), [zlib.crc32(m['data'][i].data) for i in range(n)]]))\n"
        )
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, site.plan("run", 0, expo=0.005))
        await client.start(acquisition)
        for least in (5, 20):
            state = await helpers.until(client, acquisition, lambda state, least=least: state.written >= least)
            out = await asyncio.to_thread(
                subprocess.check_output,
                [sys.executable, "-c", code, prepared.master_file, str(state.written)],
                timeout=30,
            )
            status, sums = json.loads(out)
            journal = read_journal(latest_journal(site.detector))
            assert status == [1] * state.written
            assert sums == [journal.scene_of(frame).crc32 for frame in range(state.written)]
        await client.stop(acquisition)
