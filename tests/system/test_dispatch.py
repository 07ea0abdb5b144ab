"""Frames that go to any receiver: the same plan, and the same frames in the files."""

from __future__ import annotations

import zlib

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import StateError
from lima2_receivers.lookup import find_frame
from lima2_receivers.saving.read import read_rows, read_sparse_frame, read_statuses

DATA = "/entry_0000/measurement/data"
COLUMNS = "/entry_0000/ledger"
SAVED, LOST = 1, 3


def check_raw(site, prefix, n_frames, lost=()):
    """See that the files hold what the simulator says that it sent, for our readers and for plain h5py."""
    master = site.data / f"{prefix}_master.h5"
    journal = read_journal(latest_journal(site.detector))
    raw = read_rows(master, "/entry_0000/measurement/raw")
    statuses = read_statuses(site.data / f"{prefix}_ledger.h5")
    assert len(raw) == len(statuses) == n_frames
    with h5py.File(master) as file:
        plain = file["/entry_0000/measurement/raw"][()]
        receivers = file["/entry_0000/measurement/receiver"][()]
    for frame in range(n_frames):
        if frame in lost:
            assert (statuses[frame], receivers[frame]) == (LOST, 65535)
            assert (raw[frame] == np.iinfo(raw.dtype).max).all()
        else:
            assert (statuses[frame], receivers[frame]) == (SAVED, journal.sent[frame].receiver)
            assert zlib.crc32(raw[frame].data) == journal.scene_of(frame).crc32
    np.testing.assert_array_equal(plain, raw)


@pytest.mark.parametrize("order", ["random", "predictive"])
@pytest.mark.parametrize("n_receivers", [2, 4])
async def test_any_frame_goes_to_any_receiver(make_site, helpers, n_receivers, order):
    site = make_site(n_receivers=n_receivers, settings=f'order = "{order}"', dispatch="dynamic")
    lost = (3, 17, 39)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 40, pipeline=True, lose=list(lost)))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.written) == ("complete", 40, 40)
        assert (final.counts.saved, final.counts.lost) == (37, 3)
        assert final.reasons == {"never arrived at any receiver": 3}
    check_raw(site, "run", 40, lost)


async def test_steps_go_on_where_frames_are_lost(make_site, helpers):
    """A frame that no receiver gets is given up once nothing moves, so that a step scan goes on."""
    site = make_site(n_receivers=2, extra="[deadlines]\ndrain = 0.5", dispatch="dynamic")
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software", pipeline=True, lose=[2, 5]))
        await client.start(acquisition)
        for step in range(1, 4):
            await client.trigger(acquisition, 3)
            state = await helpers.until(client, acquisition, lambda state, n=3 * step: state.written == n)
            assert state.announced == 3 * step
            values = await client.values(acquisition)
            assert (values.frame, bool(values.values)) == (3 * step - 1, step == 3)  # 2 and 5 were lost, 8 was not
        found = await find_frame(client, acquisition, -1, "raw")
        assert (found.location.frame, found.source) == (8, "memory")
        with pytest.raises(StateError, match="frame 5 was lost: never arrived at any receiver"):
            await find_frame(client, acquisition, 5)
        report = await client.ledger(acquisition)
        assert (report.counts.saved, report.counts.lost) == (7, 2)
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced, final.counts.settled) == ("complete", 9, 9)
    check_raw(site, "run", 9, (2, 5))


async def test_frames_are_read_while_they_come(make_site, helpers):
    site = make_site(n_receivers=3, dispatch="dynamic")
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software", pipeline=True))
        await client.start(acquisition)
        master = site.data / "run_master.h5"
        for n_frames in (10, 20):
            await client.trigger(acquisition, 10)
            await helpers.until(client, acquisition, lambda state, n=n_frames: state.written == n)
            raw = read_rows(master, "/entry_0000/measurement/raw")
            journal = read_journal(latest_journal(site.detector))
            assert [zlib.crc32(frame.data) for frame in raw] == [
                journal.scene_of(frame).crc32 for frame in range(n_frames)
            ]
            dense, peaks = read_rows(master, DATA), read_rows(master, "/entry_0000/measurement/n_peaks")
            assert (len(dense), len(peaks)) == (n_frames, n_frames)
            sparse = read_sparse_frame(master, n_frames - 1)
            np.testing.assert_array_equal(dense[-1].ravel()[sparse.index], sparse.intensity)
        await client.stop(acquisition)


async def test_the_results_are_those_of_one_receiver(make_site, helpers):
    """Whatever receiver a frame goes to, each output of each frame is the same, bit for bit."""
    outputs = ("raw", "data", "n_peaks", "is_hit", "peaks", "background_avg", "background_std")
    found = []
    site = make_site(n_receivers=3, dispatch="dynamic")
    single = site.config.read_text().replace('dispatch = "dynamic"', "")
    for prefix in ("any", "one"):
        async with site.running() as client:
            acquisition = helpers.new_id()
            await client.prepare(acquisition, site.plan(prefix, 30, pipeline=True))
            await client.start(acquisition)
            final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
            assert (final.outcome, final.counts.saved) == ("complete", 30)
        site.close()
        master = site.data / f"{prefix}_master.h5"
        found.append([read_rows(master, f"/entry_0000/measurement/{name}") for name in outputs])
        found[-1] += [part for frame in range(30) for part in _sparse(master, frame)]
        site.n_receivers = 1
        site.config.write_text("[[receivers]]".join(single.split("[[receivers]]")[:2]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def _sparse(master, frame):
    sparse = read_sparse_frame(master, frame)
    return sparse.index, sparse.intensity


@pytest.mark.parametrize("victim", ["receiver_0", "receiver_1"])
async def test_a_receiver_that_is_killed_takes_only_what_it_had(make_site, helpers, victim):
    site = make_site(n_receivers=2, extra="[deadlines]\ncommand = 1.0\ndrain = 0.5\nstalled = 5.0", dispatch="dynamic")
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software"))
        await client.start(acquisition)
        await client.trigger(acquisition, 20)
        acknowledged = (await helpers.until(client, acquisition, lambda state: state.written == 20)).written
        site.kill(victim)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert final.outcome == "failed"
        assert final.counts.settled == final.announced
        statuses = read_statuses(site.data / "run_ledger.h5")
        assert (statuses[:acknowledged] == SAVED).all()
        raw = read_rows(site.data / "run_master.h5", DATA)
        journal = read_journal(latest_journal(site.detector))
        for frame in range(acknowledged):
            assert zlib.crc32(raw[frame].data) == journal.scene_of(frame).crc32
        site.start(victim)
        await site.connect(client)
        again = helpers.new_id()
        await client.prepare(again, site.plan("again", 10))
        await client.start(again)
        assert (await helpers.until(client, again, lambda state: state.state == "closed")).counts.saved == 10
