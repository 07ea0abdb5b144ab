"""Receivers that have some modules each of every frame: the same plan, and the same frames in the files."""

from __future__ import annotations

import zlib

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest

from lima2_ophyd.tiled.sparse import SparseStack
from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import PlanError, SavingError
from lima2_receivers.lookup import find_frame
from lima2_receivers.saving.cxi import write_cxi
from lima2_receivers.saving.merge import merge_sparse
from lima2_receivers.saving.read import read_rows, read_sparse_frame, read_statuses

MEASUREMENT = "/entry_0000/measurement"
EVERYWHERE = 65534
SAVED, LOST, FAILED = 1, 3, 4
GENTLE = "[deadlines]\ncommand = 1.0\ndrain = 0.5\nstalled = 5.0"


@pytest.fixture
def make_tiles(make_site):
    """Make a site of a detector of 2 x 2 modules."""

    def make(n_receivers, dispatch="partial_frame", **options):
        site = make_site(n_receivers=n_receivers, dispatch=dispatch, **options)
        text = site.config.read_text().replace('size = "tiny"', 'size = "tiles"')
        site.config.write_text(text.replace(f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {4 * 64 * 128 * 2}"))
        return site

    return make


def crcs(frames):
    return [zlib.crc32(np.ascontiguousarray(frame).data) for frame in frames]


async def take(site, helpers, prefix, n_frames, **options):
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan(prefix, n_frames, **options))
        await client.start(acquisition)
        return await helpers.until(client, acquisition, lambda state: state.state == "closed")


@pytest.mark.parametrize("n_receivers", [2, 3, 4])
async def test_parts_are_put_together(make_tiles, helpers, n_receivers):
    site = make_tiles(n_receivers)
    final = await take(site, helpers, "run", 12, lose=[3, 11])
    assert (final.outcome, final.announced, final.written) == ("complete", 12, 12)
    assert (final.counts.saved, final.counts.lost, final.received) == (10, 2, 10)
    assert sum(final.reasons.values()) == 2
    master, journal = site.data / "run_master.h5", read_journal(latest_journal(site.detector))
    raw = read_rows(master, f"{MEASUREMENT}/raw", 0, 12)
    with h5py.File(master) as file:
        plain = {name: file[f"{MEASUREMENT}/{name}"][()] for name in ("raw", "receiver", "row", "modules")}
    np.testing.assert_array_equal(plain["raw"], raw[: len(plain["raw"])])
    assert plain["receiver"].tolist() == [EVERYWHERE] * 12
    assert plain["row"].tolist() == list(range(12))
    for frame in range(12):
        if frame in (3, 11):
            assert plain["modules"][frame] == 0
        else:
            assert crcs([raw[frame]]) == [journal.scene_of(frame).crc32]
            assert plain["modules"][frame] == 0b1111


@pytest.mark.parametrize("n_receivers", [2, 3])
async def test_what_is_made_of_pixels_is_that_of_one_receiver(make_tiles, helpers, n_receivers):
    """Bit for bit, where a pixel's value needs no others; background and peaks are each part's own."""
    site = make_tiles(n_receivers)
    several = site.config.read_text()
    assert (await take(site, helpers, "parts", 10, pipeline=True)).counts.saved == 10
    site.close()
    site.n_receivers = 1
    site.config.write_text("[[receivers]]".join(several.split("[[receivers]]")[:2]))
    assert (await take(site, helpers, "one", 10, pipeline=True)).counts.saved == 10
    parts, one = site.data / "parts_master.h5", site.data / "one_master.h5"
    for name in ("raw", "data", "dense"):
        np.testing.assert_array_equal(
            read_rows(parts, f"{MEASUREMENT}/{name}"), read_rows(one, f"{MEASUREMENT}/{name}")
        )
    with h5py.File(parts) as file, h5py.File(one) as other:
        np.testing.assert_array_equal(file[f"{MEASUREMENT}/mask"][()], other[f"{MEASUREMENT}/mask"][()])
        assert file[f"{MEASUREMENT}/radius"].shape == (n_receivers, 500)
        assert file[f"{MEASUREMENT}/background_avg"].shape == (10, n_receivers, 500)
        assert "is_hit" not in file[MEASUREMENT]
        n_peaks, peaks = (file[f"{MEASUREMENT}/{name}"][()] for name in ("n_peaks", "peaks"))
        whole = other[f"{MEASUREMENT}/n_peaks"][()]
    assert n_peaks.shape == (10, n_receivers)
    assert n_peaks.sum() > 0.8 * whole.sum() > 0
    for frame in range(10):
        dense = read_rows(one, f"{MEASUREMENT}/dense", frame, frame + 1)[0]
        sparse = read_sparse_frame(parts, frame)
        assert (np.diff(sparse.index.astype(int)) > 0).all()
        np.testing.assert_array_equal(dense.ravel()[sparse.index], sparse.intensity)
        with SparseStack(str(parts), dense.shape) as stack:
            np.testing.assert_array_equal(stack[frame : frame + 1][0].ravel()[sparse.index], sparse.intensity)
            assert np.count_nonzero(stack[frame : frame + 1]) == np.count_nonzero(sparse.intensity)
        for rank in range(n_receivers):
            for row, col in np.rint(peaks[frame, rank, : n_peaks[frame, rank], :2]).astype(int):
                assert np.isfinite(dense[row, col])

    for export in (merge_sparse, write_cxi):
        with pytest.raises(SavingError, match="of its own modules"):
            export(parts, site.data / "export.h5")
    assert not (site.data / "export.h5").exists()


async def test_parts_are_read_while_they_come(make_tiles, helpers):
    site = make_tiles(2)
    async with site.running() as client:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, site.plan("run", 0, mode="software", pipeline=True))
        shapes = {dataset.name: dataset.shape for dataset in prepared.datasets}
        image = prepared.frame_spec.layout.image_shape
        assert (shapes["raw"], shapes["dense"], shapes["n_peaks"]) == ((4, 64, 128), image, (2,))
        await client.start(acquisition)
        journal = None
        for n_frames in (5, 10):
            await client.trigger(acquisition, 5)
            await helpers.until(client, acquisition, lambda state, n=n_frames: state.written == n)
            journal = read_journal(latest_journal(site.detector))
            raw = read_rows(site.data / "run_master.h5", f"{MEASUREMENT}/raw")
            assert crcs(raw) == [journal.scene_of(frame).crc32 for frame in range(n_frames)]
        found = await find_frame(client, acquisition, -1, "raw")
        assert (found.location.frame, found.source, found.place) == (9, "file", None)
        assert crcs([found.data]) == [journal.scene_of(9).crc32]
        final = await client.stop(acquisition)
        assert (final.outcome, final.counts.saved) == ("complete", 10)


async def test_a_part_that_is_lost_leaves_the_others_readable(make_tiles, helpers):
    """Messages to one receiver get lost: the frame is lost, and the ledger says whose modules there are."""
    site = make_tiles(2, extra="[deadlines]\ndrain = 0.5")
    plain = site.command
    lossy = [str(site.scripts / "lima2"), "simulate", "simulator", str(site.config), "--loss", "0.2", "--seed", "5"]
    site.command = lambda name: lossy if name == "detector" else plain(name)
    final = await take(site, helpers, "run", 30)
    assert (final.outcome, final.written, final.counts.settled) == ("complete", 30, 30)
    assert 3 < final.counts.lost < 27
    journal = read_journal(latest_journal(site.detector))
    missing = sum(journal.sent[frame].missing for frame in range(30))
    raw = read_rows(site.data / "run_master.h5", f"{MEASUREMENT}/raw", 0, 30)
    statuses = read_statuses(site.data / "run_ledger.h5")
    with h5py.File(site.data / "run_master.h5") as file:
        modules = file[f"{MEASUREMENT}/modules"][()]
    assert sum(2 - (bits & 0b11 > 0) - (bits & 0b1100 > 0) for bits in modules.tolist()) == missing
    for frame, bits in enumerate(modules.tolist()):
        assert (statuses[frame] == SAVED) == (bits == 0b1111) == (journal.sent[frame].missing == 0)
        if bits == 0b1111:
            assert crcs([raw[frame]]) == [journal.scene_of(frame).crc32]
        for module in range(4):
            there = (raw[frame][module] != np.iinfo(raw.dtype).max).any()
            assert there == bool(bits >> module & 1)


async def test_a_receiver_that_is_killed_takes_only_its_part(make_tiles, helpers):
    site = make_tiles(2, extra=GENTLE)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software"))
        await client.start(acquisition)
        await client.trigger(acquisition, 10)
        await helpers.until(client, acquisition, lambda state: state.written == 10)
        site.kill("receiver_1")
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.settled) == ("failed", final.announced)
        assert read_statuses(site.data / "run_ledger.h5")[:10].tolist() == [SAVED] * 10
        journal = read_journal(latest_journal(site.detector))
        raw = read_rows(site.data / "run_master.h5", f"{MEASUREMENT}/raw", 0, 10)
        assert crcs(raw) == [journal.scene_of(frame).crc32 for frame in range(10)]
        site.start("receiver_1")
        await site.connect(client)
        again = helpers.new_id()
        await client.prepare(again, site.plan("again", 5))
        await client.start(again)
        assert (await helpers.until(client, again, lambda state: state.state == "closed")).counts.saved == 5


async def test_a_conductor_that_is_killed_and_started_again_goes_on(make_tiles, helpers):
    site = make_tiles(2)
    async with site.running(timeout=30.0) as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software", pipeline=True, lose=[3]))
        await client.start(acquisition)
        await client.trigger(acquisition, 10)
        await helpers.until(client, acquisition, lambda state: state.written == 10)
        site.kill("conductor")
        site.start("conductor")
        await site.connect(client)
        await client.trigger(acquisition, 10)
        await helpers.until(client, acquisition, lambda state: state.written == 20)
        final = await client.stop(acquisition)
        assert (final.outcome, final.counts.saved, final.counts.lost) == ("complete", 19, 1)
    journal = read_journal(latest_journal(site.detector))
    raw = read_rows(site.data / "run_master.h5", f"{MEASUREMENT}/raw", 0, 20)
    with h5py.File(site.data / "run_master.h5") as file:
        modules = file[f"{MEASUREMENT}/modules"][()].tolist()
        stamps = file[f"{MEASUREMENT}/timestamp"][()]
    assert modules == [0 if frame == 3 else 0b1111 for frame in range(20)]
    assert np.flatnonzero(np.isnan(stamps)).tolist() == [3]
    for frame in range(20):
        if frame != 3:
            assert crcs([raw[frame]]) == [journal.scene_of(frame).crc32]


async def test_what_needs_whole_frames_is_refused(make_tiles, helpers):
    site = make_tiles(2)
    async with site.running() as client:
        for params, message in (({"veto": "mark"}, "veto: got mark"), ({"acc_nb_frames_xfer": 5}, "only whole frames")):
            with pytest.raises(PlanError, match=message):
                await client.prepare(helpers.new_id(), site.plan("run", 5, pipeline=True, params=params))
        assert not list(site.data.iterdir())


async def test_more_receivers_than_modules_are_refused(make_site, helpers):
    site = make_site(n_receivers=2, dispatch="partial_frame")  # of one module
    site.start("detector")
    assert site.processes["detector"].wait(20) != 0
    assert "dispatch: got '2 receivers', expected 1 to 1" in site.log("detector")


# --- packets ---


@pytest.mark.parametrize("interfaces", [1, 2])
async def test_modules_of_a_jungfrau_go_to_their_receivers(make_jungfrau, helpers, interfaces):
    site = make_jungfrau(n_receivers=3, modules=(2, 2), interfaces=interfaces, dispatch="partial_frame")
    async with site.running() as client:
        acquisition = helpers.new_id()
        plan = helpers.jungfrau_plan(site, 8, save_packets=True)
        await client.prepare(acquisition, plan)
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 8)
        assert all(receiver.strangers == 0 for receiver in client.state.receivers)
    journal = read_journal(latest_journal(site.detector))
    raw = read_rows(site.data / "run_master.h5", f"{MEASUREMENT}/raw", 0, 8)
    assert raw.shape == (8, 4, 64, 1024)
    assert crcs(raw) == [journal.scene_of(frame).crc32 for frame in range(8)]
    assert len(list(site.data.glob("run_*_d*_f0_0.raw"))) == 4


async def test_packets_of_one_module_get_lost(make_jungfrau, helpers):
    """Kept all the same: the ledger's bitmap says which modules are whole."""
    site = make_jungfrau(n_receivers=2, modules=(2, 2), dispatch="partial_frame", loss=0.01)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, helpers.jungfrau_plan(site, 20, partial_frames="process"))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.settled) == ("complete", 20)
    journal = read_journal(latest_journal(site.detector))
    raw = read_rows(site.data / "run_master.h5", f"{MEASUREMENT}/raw", 0, 20)
    with h5py.File(site.data / "run_master.h5") as file:
        modules = file[f"{MEASUREMENT}/modules"][()].tolist()
    assert any(bits != 0b1111 for bits in modules)
    for frame, bits in enumerate(modules):
        assert (bits == 0b1111) == (journal.sent[frame].missing == 0)
        if bits == 0b1111:
            assert crcs([raw[frame]]) == [journal.scene_of(frame).crc32]
