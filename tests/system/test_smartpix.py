"""A Smartpix through the whole chain: transfer rings, receivers, files; detector and transfer are simulated."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
import zlib
from functools import partial

import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import PlanError
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, PipelineChoice, SavingParams, TriggerMode
from lima2_receivers.receiver.transfers import OVERWRITTEN
from lima2_receivers.saving.read import read_rows
from lima2_receivers.transport.shared_ring import FOLDER

DATA = "/entry_0000/measurement/data"
SECONDS = 20.0


def make_plan(site, nb_frames, expo=0.003, mode="internal", per_trigger=1, prefix="run", pipeline=None, **detector):
    return AcquisitionPlan(
        saving=SavingParams(str(site.data), prefix),
        acquisition=AcquisitionParams(nb_frames, expo, 0.0, TriggerMode(mode), per_trigger),
        pipeline=PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode(pipeline))) if pipeline else None,
        detector=msgspec.Raw(msgspec.msgpack.encode(detector)),
    )


@pytest.fixture
def make_smartpix(make_site):
    """Make a site whose receivers a simulated Smartpix writes to: ``make_smartpix(2, loss=0.1)``."""
    names = []

    def make(n_receivers=1, chips=(1, 2), gap=(0, 3), modules=1, slots=64, **faults):
        site = make_site(n_receivers=n_receivers)
        site.rings = [f"test-{uuid.uuid4().hex}" for _ in range(n_receivers)]
        names.extend(site.rings)
        _, rest = site.config.read_text().split("[conductor]")
        for rank, name in enumerate(site.rings):
            rest = rest.replace(f"ipc://{site.sockets}/d{rank}", f"rashpa:///{name}")
        slot_bytes = chips[0] * chips[1] * 256 * 256 * 4
        rest = rest.replace(f"slot_bytes = {64 * 128 * 2}", f"slot_bytes = {slot_bytes}")
        site.config.write_text(
            f'[detector]\nplugin = "smartpix"\n[detector.settings]\ncontrol = "ipc://{site.sockets}/sim"\n'
            f'folder = "{site.detector}"\nmodules = {modules}\nchips = {list(chips)}\nchip_gap = {list(gap)}\n'
            f"transfer_slots = {slots}\n[conductor]{rest}"
        )
        options = [text for name, value in {"frames": 5, **faults}.items() for text in (f"--{name}", str(value))]
        command = site.command
        played = [str(site.scripts / "lima2"), "simulate", "smartpix", str(site.config), *options]
        site.command = lambda name: played if name == "detector" else command(name)
        site.make_plan = partial(make_plan, site)
        return site

    yield make
    for name in names:
        for left in FOLDER.glob(f"*{name}"):
            left.unlink()


async def acquire(client, helpers, wanted):
    acquisition = helpers.new_id()
    prepared = await client.prepare(acquisition, wanted)
    await client.start(acquisition)
    return prepared, await helpers.until(client, acquisition, lambda state: state.state == "closed")


def sent_of(site):
    return read_journal(latest_journal(site.detector)).sent


def same_as_sent(site, indices, prefix="run"):
    """Those of the frames that are saved as they were sent."""
    journal = read_journal(latest_journal(site.detector))
    saved = read_rows(site.data / f"{prefix}_master.h5", DATA)
    return [index for index in indices if zlib.crc32(saved[index]) == journal.scene_of(index).crc32]


@pytest.mark.parametrize(
    ("n_receivers", "depth", "dtype"), [(1, 6, "|u1"), (2, 12, "<u2"), (3, 24, "<u4")], ids=["6", "12", "24"]
)
async def test_what_is_sent_is_what_is_saved(make_smartpix, helpers, n_receivers, depth, dtype):
    site = make_smartpix(n_receivers, reordering=0.1, duplication=0.1)
    async with site.running() as client:
        prepared, state = await acquire(client, helpers, site.make_plan(20, depth=depth))
    assert (prepared.frame_spec.shape, prepared.frame_spec.dtype) == ((2, 256, 256), dtype)
    assert prepared.frame_spec.layout.image_shape == (256, 515)
    assert (state.reason, state.reasons, state.counts.saved) == ("", {}, 20)
    assert same_as_sent(site, range(20)) == list(range(20))
    assert (read_rows(site.data / "run_master.h5", DATA) < 1 << depth).all()


async def test_a_roi_is_an_image_with_the_gaps_between_chips(make_smartpix, helpers):
    site = make_smartpix(2, modules=2)
    async with site.running() as client:
        plan = site.make_plan(12, roi=[10, 200, 100, 120], module=1)
        prepared, state = await acquire(client, helpers, plan)
    assert prepared.frame_spec.shape == (100, 120)
    assert (state.reason, state.counts.saved) == ("", 12)
    assert same_as_sent(site, range(12)) == list(range(12))
    saved = read_rows(site.data / "run_master.h5", DATA)
    assert (saved == 0xFFFF).all(axis=(0, 1)).nonzero()[0].tolist() == [56, 57, 58]


async def test_every_third_frame_beside_other_streams(make_smartpix, helpers):
    """Frame n of the main stream is frame 3 n of the detector; others share the rings, and are told apart."""
    site = make_smartpix(2, reordering=0.1)
    streams = [
        {"name": "fast", "roi": [0, 0, 16, 16], "block": 2},
        {"name": "slow", "every": 5, "destinations": [1]},
    ]
    async with site.running() as client:
        _, state = await acquire(client, helpers, site.make_plan(20, every=3, streams=streams))
        assert [receiver.strangers for receiver in client.state.receivers] == [0, 0]
    assert (state.reason, state.reasons, state.counts.saved) == ("", {}, 20)
    assert same_as_sent(site, range(20)) == list(range(20))
    saved = read_rows(site.data / "run_master.h5", DATA)
    assert all((saved[n] == saved[n + 5]).all() for n in range(15))  # of 5 distinct frames: 0, 3, 1, 4, 2, 0, ...
    others = [int(site.log(f"receiver_{rank}").split(" completions were of other")[0].split()[-1]) for rank in range(2)]
    assert others == [30, 28 + 12]  # of frames 0 to 57


async def test_lost_completions_are_lost_frames(make_smartpix, helpers):
    site = make_smartpix(2, loss=0.1, reordering=0.1)
    async with site.running() as client:
        _, state = await acquire(client, helpers, site.make_plan(80))
    whole = [frame.index for frame in sent_of(site) if not frame.missing]
    assert 0 < len(whole) < 80
    assert (state.reason, state.counts.saved, state.counts.lost) == ("", len(whole), 80 - len(whole))
    assert same_as_sent(site, whole) == whole


async def test_frames_that_are_overwritten_are_lost_and_say_so(make_smartpix, helpers):
    """A receiver that is held up; what it still gets is right, and every frame is accounted for."""
    site = make_smartpix(2, slots=4, loss=0.02)
    n_frames = 400
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.make_plan(n_frames, expo=0.002, depth=6))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written > 0)
        site.signal("receiver_0", signal.SIGSTOP)
        deadline = time.monotonic() + SECONDS
        while len(sent_of(site)) < n_frames:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        site.signal("receiver_0", signal.SIGCONT)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    counts = state.counts
    assert state.reason == ""
    assert counts.saved + counts.lost == state.announced == n_frames
    assert state.reasons[OVERWRITTEN] > 0
    journal, saved = sent_of(site), read_rows(site.data / "run_master.h5", DATA)
    there = [index for index in range(n_frames) if (saved[index] != 0xFF).any()]
    assert len(there) == counts.saved
    assert same_as_sent(site, there) == there
    assert not any(journal[index].missing for index in there)
    assert sum(state.reasons.values()) == counts.lost


async def test_receivers_take_turns_over_triggers(make_smartpix, helpers):
    site = make_smartpix(2)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.make_plan(9, mode="software", per_trigger=3, every=2))
        await client.start(acquisition)
        for n_frames in (3, 6, 9):
            await client.trigger(acquisition, 3)
            await helpers.until(client, acquisition, lambda state, n=n_frames: state.written >= n)
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
    assert (state.reason, state.counts.saved) == ("", 9)
    assert [frame.receiver for frame in sent_of(site)] == [i % 2 for i in range(9)]
    assert same_as_sent(site, range(9)) == list(range(9))


async def test_a_receiver_that_was_killed_comes_back_with_a_new_ring(make_smartpix, helpers):
    """The detector's process stays the same. In the end, nothing is left in shared memory."""
    site = make_smartpix(1)
    files = [path for name in site.rings for path in FOLDER.glob(f"*{name}")]
    assert files == []
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.make_plan(0, prefix="before"))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.written > 0)
        site.kill("receiver_0")
        (left,) = [path for name in site.rings for path in FOLDER.glob(f"*{name}")]
        assert left.stat().st_mode & 0o777 == 0o600
        site.start("receiver_0")
        state = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert "receiver 0" in state.reason
        helpers.until_logged(site, "receiver_0", "which a receiver has left behind")
        await site.connect(client)
        for number in range(2):
            _, state = await acquire(client, helpers, site.make_plan(5, prefix=f"after{number}"))
            assert (state.reason, state.counts.saved) == ("", 5)
            assert same_as_sent(site, range(5), f"after{number}") == list(range(5))
    site.close()
    assert [path for name in site.rings for path in FOLDER.glob(f"*{name}")] == []


async def test_what_the_detector_can_not_send_is_refused(make_smartpix, helpers):
    site = make_smartpix(1)
    wrong = {
        "roi: got [0, 500, 10, 16], expected it within the image of 256 x 515": {"roi": [0, 500, 10, 16]},
        "roi: got [1, 2], expected [row, col, height, width]": {"roi": [1, 2]},
        "module: got 1, the detector has 1": {"module": 1},
        "detector.streams[0].destinations: got 3, there are 1": {"streams": [{"name": "a", "destinations": [3]}]},
        "streams[0].name: got 'main'": {"streams": [{"name": "main"}]},
        "Invalid enum value 8": {"depth": 8},
    }
    async with site.running() as client:
        for said, detector in wrong.items():
            with pytest.raises(PlanError) as caught:
                await client.prepare(helpers.new_id(), site.make_plan(5, **detector))
            assert said in str(caught.value)
        _, state = await acquire(client, helpers, site.make_plan(5))
    assert (state.reason, state.counts.saved) == ("", 5)
    assert np.ptp(read_rows(site.data / "run_master.h5", DATA)) > 0


@pytest.mark.parametrize("roi", [[], [4, 5, 250, 500]], ids=["chips", "roi"])
async def test_the_pipeline_finds_the_spots_that_were_sent(make_smartpix, helpers, roi):
    """Of counting pixels, which need no maps; what is between chips is no background, and no peak."""
    site = make_smartpix(2)
    async with site.running() as client:
        plan = site.make_plan(10, expo=0.02, pipeline={"min_nb_peaks": 3}, roi=roi)
        _, state = await acquire(client, helpers, plan)
    assert (state.reason, state.counts.saved) == ("", 10)
    journal = read_journal(latest_journal(site.detector))
    peaks = read_rows(site.data / "run_master.h5", "/entry_0000/measurement/n_peaks")
    for index, found in enumerate(peaks):
        spots = len(journal.scene_of(index).spots)
        assert spots * 0.8 <= found <= spots * 1.2 if spots else found <= 2
