"""Files that are closed one after the other: only what is in closed files is announced, and all of it can be read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zlib

import h5py
import hdf5plugin  # noqa: F401
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.lookup import find_frame
from lima2_receivers.saving.merge import merge_sparse
from lima2_receivers.saving.read import read_rows, read_sparse_frame, read_statuses, read_summary

DATA = "/entry_0000/measurement/data"
RAW = "/entry_0000/measurement/raw"
SAVED, LOST, FAILED = 1, 3, 4
READER = """
import json, sys, zlib
from pathlib import Path
from lima2_receivers.saving.read import read_rows
print(json.dumps([zlib.crc32(image.data) for image in read_rows(Path(sys.argv[1]), sys.argv[2], 0, int(sys.argv[3]))]))
"""


def use(site, per_file_mode="close_per_file"):
    text = site.config.read_text()
    site.config.write_text(text.replace("[saving]\n", f'[saving]\nmode = "{per_file_mode}"\n'))
    return site


def plan_of(site, prefix, nb_frames, per_file, **more):
    plan = site.plan(prefix, nb_frames, **more)
    return msgspec.structs.replace(plan, saving=msgspec.structs.replace(plan.saving, nb_frames_per_file=per_file))


def read_elsewhere(site, prefix, n_frames):
    """Checksums of raw frames, as another process reads them."""
    command = [sys.executable, "-c", READER, str(site.data / f"{prefix}_master.h5"), RAW, str(n_frames)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def check_raw(site, prefix, n_frames, lost=()):
    """See that the files hold what the simulator says that it sent."""
    journal = read_journal(latest_journal(site.detector))
    statuses = read_statuses(site.data / f"{prefix}_ledger.h5")
    found = read_elsewhere(site, prefix, n_frames)
    assert len(found) == n_frames <= len(statuses)
    for frame in range(n_frames):
        if frame in lost:
            assert statuses[frame] == LOST
        else:
            assert statuses[frame] == SAVED
            assert found[frame] == journal.scene_of(frame).crc32


def check_plain(site, prefix, n_frames, datasets=("raw", "n_peaks", "frame_status")):
    """See that plain h5py shows in the master what our readers find in the files."""
    master = site.data / f"{prefix}_master.h5"
    for name in datasets:
        path = f"/entry_0000/measurement/{name}"
        expected = read_rows(master, path, 0, n_frames)
        with h5py.File(master) as file:
            np.testing.assert_array_equal(file[path][:n_frames], expected)


def names(site, prefix, stream):
    return sorted(path.name for path in site.data.glob(f"{prefix}_{stream}_*"))


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
@pytest.mark.parametrize(("n_receivers", "nb_frames"), [(1, 25), (2, 43)])
async def test_frames_are_in_files_of_so_many(make_site, helpers, n_receivers, nb_frames, dispatch):
    """Also where frames are lost, and the last file is not full."""
    site = use(make_site(n_receivers=n_receivers, dispatch=dispatch))
    lost = (3, 17, 22)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan_of(site, "run", nb_frames, 4, pipeline=True, lose=list(lost)))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.reason) == ("complete", "")
        assert (final.written, final.counts.saved, final.counts.lost) == (nb_frames, nb_frames - 3, 3)
        found = await find_frame(client, acquisition, 0, "raw")
        assert (found.location.frame, found.source) == (0, "file")
    check_raw(site, "run", nb_frames, lost)
    check_plain(site, "run", nb_frames)
    assert not list(site.data.glob("*.writing"))
    if dispatch == "round_robin":
        per_receiver = [len(range(rank, nb_frames, n_receivers)) for rank in range(n_receivers)]
        expected = [f"run_raw_{rank}_{k:04d}.h5" for rank, n in enumerate(per_receiver) for k in range(-(-n // 4))]
        assert names(site, "run", "raw") == names(site, "run", "raw") == sorted(expected)
    for path in site.data.glob("*.h5"):
        with h5py.File(path, "r"):  # closed, each of them
            pass
    assert merge_sparse(site.data / "run_master.h5", site.data / "merged.h5") == nb_frames
    with h5py.File(site.data / "merged.h5") as merged:
        ends = merged["entry_0000/sparse_frames/frame_ptr"][()]
    for frame in range(nb_frames):
        sparse = read_sparse_frame(site.data / "run_master.h5", frame)
        assert len(sparse.index) == ends[frame + 1] - ends[frame]
        assert (len(sparse.index) == 0) == (frame in lost)


async def test_an_endless_run_is_announced_file_by_file_and_readable_live(make_site, helpers):
    site = use(make_site(n_receivers=2))
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan_of(site, "run", 0, 5, pipeline=True, expo=0.005))
        await client.start(acquisition)
        seen = set()

        def enough(state):
            seen.add(state.written)
            return state.written >= 20

        state = await helpers.until(client, acquisition, enough)
        check_raw(site, "run", state.written)  # while it runs
        assert not (site.data / "run_frames.h5").stat().st_size
        final = await client.stop(acquisition)
        assert (final.outcome, final.written) == ("complete", final.announced)
        # Files of 5 rows on two receivers: up to the first frame of the next file of the one that is behind.
        assert all(written % 10 in (0, 1) for written in seen)
    check_raw(site, "run", final.written)
    check_plain(site, "run", final.written)


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
async def test_steps_go_on_within_a_file(make_site, helpers, dispatch):
    """What a trigger asked for is readable when it is there, though the file has room for more."""
    site = use(make_site(n_receivers=2, extra="[deadlines]\ndrain = 0.5", dispatch=dispatch))
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan_of(site, "run", 0, 4, mode="software", pipeline=True))
        await client.start(acquisition)
        for step in range(1, 6):
            await client.trigger(acquisition, 3)
            state = await helpers.until(client, acquisition, lambda state, n=3 * step: state.written == n)
            assert state.announced == 3 * step
            check_raw(site, "run", 3 * step)
        final = await client.stop(acquisition)
        assert (final.outcome, final.counts.saved) == ("complete", 15)
    check_raw(site, "run", 15)
    check_plain(site, "run", 15)
    for frame in range(15):
        assert len(read_sparse_frame(site.data / "run_master.h5", frame).index)


@pytest.mark.parametrize("nb_frames", [0, 100_000])
async def test_what_was_acknowledged_outlives_its_receiver(make_site, helpers, nb_frames):
    site = use(make_site(n_receivers=2))
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan_of(site, "run", nb_frames, 3, pipeline=True, expo=0.005))
        await client.start(acquisition)
        before = await helpers.until(client, acquisition, lambda state: state.written >= 12)
        site.signal("receiver_1", signal.SIGKILL)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.settled) == ("failed", final.announced)
        assert "receiver 1" in final.reason
    statuses = read_statuses(site.data / "run_ledger.h5")
    assert (statuses[: before.written] == SAVED).all()
    journal = read_journal(latest_journal(site.detector))
    found = read_elsewhere(site, "run", len(statuses))
    saved = np.flatnonzero(statuses == SAVED)
    assert set(saved % 2) == {0, 1}
    assert (statuses[1::2] == FAILED).any()
    assert [found[frame] for frame in saved] == [journal.scene_of(int(frame)).crc32 for frame in saved]
    assert read_summary(site.data / "run_ledger.h5").outcome == "failed"


async def test_files_of_an_old_run_do_not_show_in_a_new_one(make_site, helpers):
    site = use(make_site(n_receivers=1))
    async with site.running() as client:
        for n_frames, policy in ((12, "abort"), (4, "overwrite")):
            acquisition = helpers.new_id()
            plan = plan_of(site, "run", n_frames, 3, pipeline=True)
            saving = msgspec.structs.replace(plan.saving, file_exists_policy=policy)
            await client.prepare(acquisition, msgspec.structs.replace(plan, saving=saving))
            await client.start(acquisition)
            final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
            assert (final.outcome, final.written) == ("complete", n_frames)
    assert names(site, "run", "raw") == ["run_raw_0_0000.h5", "run_raw_0_0001.h5"]
    assert zlib.crc32(read_rows(site.data / "run_master.h5", RAW)[3].data)
    check_raw(site, "run", 4)


@pytest.mark.parametrize("dispatch", ["round_robin", "dynamic"])
async def test_a_conductor_that_is_killed_and_started_again_goes_on(make_site, helpers, dispatch):
    site = use(make_site(dispatch=dispatch, extra="[deadlines]\ndrain = 0.5\n"))
    async with site.running(timeout=30.0) as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan_of(site, "run", 0, 4, mode="software"))
        await client.start(acquisition)
        await client.trigger(acquisition, 12)
        await helpers.until(client, acquisition, lambda state: state.written == 12)
        site.kill("conductor")
        assert len(read_statuses(site.data / "run_ledger.h5")) == 12
        site.start("conductor")
        await site.connect(client)
        await client.trigger(acquisition, 8)
        await helpers.until(client, acquisition, lambda state: state.written == 20)
        assert len(read_statuses(site.data / "run_ledger.h5")) >= 12
        final = await client.stop(acquisition)
        assert (final.outcome, final.counts.saved) == ("complete", 20)
    check_raw(site, "run", 20)
    check_plain(site, "run", 20, ("raw", "frame_status"))
    assert read_summary(site.data / "run_ledger.h5").counts.saved == 20
