"""One stream, one ingest, many receivers: nothing is lost that the ingest had, whoever dies behind it."""

from __future__ import annotations

import asyncio
import signal
import time
import zlib
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import UnreachableError
from lima2_receivers.plan import PipelineChoice
from lima2_receivers.saving.read import read_rows, read_sparse_frame, read_statuses

RAW = "/entry_0000/measurement/raw"
SAVED = 1
RING = "ring = { slots = 32, slot_bytes = 16384 }"
QUICK = "[deadlines]\ncommand = 1.0\ndrain = 0.5\nstalled = 8.0"
OUTPUTS = ("raw", "data", "n_peaks", "is_hit", "peaks", "background_avg", "background_std")
STAND_INS = str(Path(__file__).parent / "stand_ins" / "pipelines")
SECONDS = 30.0


def check_raw(site, prefix, n_frames):
    """See that the files hold all that the simulator says that it sent."""
    journal = read_journal(latest_journal(site.detector))
    assert (read_statuses(site.data / f"{prefix}_ledger.h5") == SAVED).all()
    raw = read_rows(site.data / f"{prefix}_master.h5", RAW)
    assert len(raw) == n_frames
    assert {journal.sent[frame].fate for frame in range(n_frames)} == {"sent"}
    assert [zlib.crc32(frame.data) for frame in raw] == [journal.scene_of(frame).crc32 for frame in range(n_frames)]


async def started(site, client, helpers, prefix, nb_frames, **options):
    acquisition = helpers.new_id()
    await client.prepare(acquisition, site.plan(prefix, nb_frames, **options))
    await client.start(acquisition)
    return acquisition


async def until_ingest(client, condition):
    """Wait until the ingest, as it is published, fulfils a condition."""
    deadline = time.monotonic() + SECONDS
    while not condition(client.state.ingest):
        assert time.monotonic() < deadline, client.state.ingest
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize("n_receivers", [1, 2, 4])
async def test_every_frame_is_saved_once(make_site, helpers, n_receivers, shared):
    site = make_site(n_receivers=n_receivers, ingest=f"{RING}\nshared_memory = {shared}")
    async with site.running() as client:
        acquisition = await started(site, client, helpers, "run", 60)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.written) == ("complete", 60, 60)
        assert final.counts.saved == 60
        assert all(receiver.received > 0 for receiver in final.receivers)
        await until_ingest(client, lambda ingest: (ingest.held, ingest.free_slots, ingest.strangers) == (0, 32, 0))
    check_raw(site, "run", 60)
    raw = read_rows(site.data / "run_master.h5", RAW)
    with h5py.File(site.data / "run_master.h5") as file:
        np.testing.assert_array_equal(file[RAW][()], raw)


async def test_the_results_are_those_of_one_receiver(make_site, helpers):
    """Whatever receiver a frame goes to, each output of each frame is the same, bit for bit."""
    found = []
    site = make_site(n_receivers=2, ingest=RING)
    text = site.config.read_text()
    before, rest = text.split("[ingest]")
    alone = "[[receivers]]" + rest.split("[[receivers]]")[1] + f'data = "ipc://{site.sockets}/d0"\n'
    for prefix in ("many", "one"):
        async with site.running() as client:
            acquisition = await started(site, client, helpers, prefix, 30, pipeline=True)
            final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
            assert (final.outcome, final.counts.saved) == ("complete", 30)
        site.close()
        master = site.data / f"{prefix}_master.h5"
        found.append([read_rows(master, f"/entry_0000/measurement/{name}") for name in OUTPUTS])
        sparse = [read_sparse_frame(master, frame) for frame in range(30)]
        found[-1] += [part for frame in sparse for part in (frame.index, frame.intensity)]
        site.n_receivers, site.ingest = 1, None
        site.config.write_text(before + alone)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
async def test_what_a_lost_receiver_had_is_saved_by_the_others(make_site, helpers, number):
    site = make_site(n_receivers=3, extra=QUICK, ingest=RING)
    async with site.running() as client:
        acquisition = await started(site, client, helpers, "run", 0, expo=0.003, pipeline=True)
        before = await helpers.until(client, acquisition, lambda state: state.written >= 30)
        site.signal("receiver_1", number)
        await until_ingest(client, lambda ingest: ingest.joined == (0, 2))
        after = await helpers.until(client, acquisition, lambda state: state.written >= before.written + 100)
        assert (after.state, after.reason) == ("running", "")
        final = await client.stop(acquisition)
        assert (final.outcome, final.reason) == ("complete", "")
        assert final.counts.saved == final.announced == final.written
        check_raw(site, "run", final.announced)
        site.end("receiver_1")
        site.start("receiver_1")
        await site.connect(client)
        again = await started(site, client, helpers, "again", 30)
        final = await helpers.until(client, again, lambda state: state.state == "closed")
        assert final.counts.saved == 30
        assert all(receiver.received for receiver in final.receivers)
    check_raw(site, "again", 30)


async def test_a_receiver_that_wakes_up_again_harms_nothing(make_site, helpers):
    """What it had has gone to others; what it still saves counts no more, and the next acquisition has it again."""
    site = make_site(n_receivers=2, extra=QUICK, ingest=RING)
    async with site.running() as client:
        acquisition = await started(site, client, helpers, "run", 0, expo=0.003)
        before = await helpers.until(client, acquisition, lambda state: state.written >= 20)
        site.signal("receiver_0", signal.SIGSTOP)
        await until_ingest(client, lambda ingest: ingest.joined == (1,))
        site.signal("receiver_0", signal.SIGCONT)
        # Whether the conductor missed it, too, depends on when: it takes part again, or not before the next one.
        await helpers.until(client, acquisition, lambda state: state.written >= before.written + 200)
        final = await client.stop(acquisition)
        assert (final.outcome, final.counts.saved) == ("complete", final.announced)
        check_raw(site, "run", final.announced)
        again = await started(site, client, helpers, "again", 30)
        final = await helpers.until(client, again, lambda state: state.state == "closed")
        assert final.counts.saved == 30
        assert all(receiver.received for receiver in final.receivers)
    check_raw(site, "again", 30)


async def test_one_receiver_after_the_other_is_killed_and_the_last_saves_all(make_site, helpers):
    site = make_site(n_receivers=3, extra=QUICK, ingest=RING)
    async with site.running() as client:
        acquisition = await started(site, client, helpers, "run", 400, expo=0.002)
        await helpers.until(client, acquisition, lambda state: state.written >= 20)
        site.kill("receiver_0")
        await until_ingest(client, lambda ingest: ingest.joined == (1, 2))
        site.kill("receiver_2")
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed", SECONDS)
        assert (final.outcome, final.counts.saved) == ("complete", 400)
    check_raw(site, "run", 400)


async def test_without_any_receiver_the_acquisition_fails(make_site, helpers):
    site = make_site(n_receivers=2, extra=QUICK, ingest=RING)
    async with site.running() as client:
        acquisition = await started(site, client, helpers, "run", 0, expo=0.003)
        await helpers.until(client, acquisition, lambda state: state.written >= 20)
        for rank in range(2):
            site.kill(f"receiver_{rank}")
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed", SECONDS)
        assert final.outcome == "failed"
        assert "receiver" in final.reason
        assert final.counts.settled == final.announced
        for rank in range(2):
            site.start(f"receiver_{rank}")
        await site.connect(client)
        again = await started(site, client, helpers, "again", 30)
        assert (await helpers.until(client, again, lambda state: state.state == "closed")).counts.saved == 30
    check_raw(site, "again", 30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_ingest_that_dies_or_freezes_fails_the_acquisition_and_the_next_one_works(make_site, helpers, number):
    site = make_site(n_receivers=2, extra=QUICK, ingest=RING)
    async with site.running() as client:
        acquisition = await started(site, client, helpers, "run", 0, expo=0.003, pipeline=True)
        before = await helpers.until(client, acquisition, lambda state: state.written >= 20)
        site.signal("ingest", number)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed", SECONDS)
        assert final.outcome == "failed"
        assert "the ingest at ipc://" in final.reason
        assert final.counts.settled == final.announced >= before.written
        statuses = read_statuses(site.data / "run_ledger.h5")
        assert (statuses[: before.written] == SAVED).all()
        with pytest.raises(UnreachableError, match=r"the ingest at ipc://.* does not answer"):
            await client.prepare(helpers.new_id(), site.plan("none", 5))
        site.end("ingest")
        site.start("ingest")
        await site.connect(client)
        again = await started(site, client, helpers, "again", 30)
        assert (await helpers.until(client, again, lambda state: state.state == "closed")).counts.saved == 30
    check_raw(site, "again", 30)


async def test_an_ingest_that_is_restarted_at_once_is_noticed(make_site, helpers):
    site = make_site(n_receivers=2, extra=QUICK, ingest=RING)
    async with site.running() as client:
        acquisition = await started(site, client, helpers, "run", 0, expo=0.003)
        await helpers.until(client, acquisition, lambda state: state.written >= 20)
        site.kill("ingest")
        site.start("ingest")
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed", SECONDS)
        assert final.outcome == "failed"
        assert "the ingest" in final.reason
        assert final.counts.settled == final.announced


def held(site, slow=()):
    """Let pipelines wait as long as the file ``hold`` is in their receiver's folder, and put it where it is wanted."""
    command = site.command

    def in_its_folder(name):
        folder = site.folder / f"of_{name}"
        folder.mkdir(exist_ok=True)
        if name in slow:
            (folder / "hold").touch()
        return ["env", "-C", str(folder), f"PYTHONPATH={STAND_INS}", *command(name)]

    site.command = in_its_folder


def held_plan(site, nb_frames):
    plan = site.plan("run", nb_frames)
    choice = PipelineChoice("held", msgspec.Raw(msgspec.msgpack.encode({"hold": "hold"})))
    return msgspec.structs.replace(plan, pipeline=choice)


async def test_a_slow_receiver_gets_fewer_frames(make_site, helpers):
    site = make_site(n_receivers=2, ingest=RING)
    held(site, slow=["receiver_0"])
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, held_plan(site, 60))
        await client.start(acquisition)
        state = await helpers.until(client, acquisition, lambda state: state.receivers[1].counts.saved >= 52)
        assert state.receivers[0].received <= 8  # its ring
        (site.folder / "of_receiver_0" / "hold").unlink()
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 60)
    check_raw(site, "run", 60)


async def test_full_rings_make_the_detector_wait(make_site, helpers):
    site = make_site(n_receivers=2, ingest="ring = { slots = 4, slot_bytes = 16384 }", settings="send_timeout = 60.0")
    held(site, slow=["receiver_0", "receiver_1"])
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, held_plan(site, 200))
        await client.start(acquisition)
        await until_ingest(client, lambda ingest: ingest.free_slots == 0)
        state = await helpers.until(
            client, acquisition, lambda state: sum(receiver.received for receiver in state.receivers) == 4
        )
        assert (state.state, state.counts.settled) == ("running", 0)
        for rank in range(2):
            (site.folder / f"of_receiver_{rank}" / "hold").unlink()
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed", SECONDS)
        assert (final.outcome, final.counts.saved) == ("complete", 200)
    check_raw(site, "run", 200)
