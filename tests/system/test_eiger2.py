"""An Eiger2 through the whole chain: SIMPLON, its stream, a receiver, files; the detector is simulated."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
import pytest

from lima2_receivers.detectors.eiger2.header import read_header
from lima2_receivers.detectors.eiger2.simulated import Look, image_of, images_of
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, PipelineChoice, SavingParams, TriggerMode
from lima2_receivers.saving.read import read_rows

LOOK = Look(rows=128, columns=192)
DATA = "/entry_0000/measurement/data"


@pytest.fixture
def make_eiger(make_site):
    """Make a site of one receiver that an Eiger2 sends to: ``make_eiger(stream="cbor", loss=0.1)``."""
    running = []

    def make(stream="cbor", n_receivers=1, **options):
        site = make_site(n_receivers=n_receivers)
        shape = {"rows": LOOK.rows, "columns": LOOK.columns, **options}
        arguments = [text for name, value in shape.items() for text in (f"--{name}", str(value))]
        command = [
            Path(sys.executable).with_name("lima2"),
            "simulate",
            "eiger2",
            "--stream",
            f"ipc://{site.sockets}/d0",
        ]
        detector = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True)
        running.append(detector)
        url = detector.stdout.readline().strip()
        _, rest = site.config.read_text().split("[conductor]")
        small, large = (f"slot_bytes = {n_pixels * 2}" for n_pixels in (64 * 128, LOOK.rows * LOOK.columns))
        settings = f'[detector.settings]\nurl = "{url}"\nstream = "{stream}"\n'
        text = f'[detector]\nplugin = "eiger2"\n{settings}[conductor]{rest}'
        site.config.write_text(text.replace(small, large))
        site.names = lambda: ["conductor", *(f"receiver_{rank}" for rank in range(n_receivers))]
        return site

    yield make
    for process in running:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        process.stdout.close()


def plan(site, nb_frames, mode=TriggerMode.INTERNAL, per_trigger=1, pipeline=False, **detector):
    return AcquisitionPlan(
        saving=SavingParams(str(site.data), "run"),
        acquisition=AcquisitionParams(nb_frames, 0.002, 0.0, mode, per_trigger),
        pipeline=PipelineChoice("smx", msgspec.Raw(msgspec.msgpack.encode({"min_nb_peaks": 5}))) if pipeline else None,
        detector=msgspec.Raw(msgspec.msgpack.encode(detector)),
    )


@pytest.mark.parametrize(("stream", "compression"), [("cbor", "bslz4"), ("legacy", "bslz4"), ("cbor", "none")])
@pytest.mark.parametrize("pipeline", [False, True])
async def test_what_is_sent_is_what_is_saved(make_eiger, helpers, stream, compression, pipeline):
    site = make_eiger(stream)
    images = images_of(LOOK)
    async with site.running() as client:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, plan(site, 30, pipeline=pipeline, compression=compression))
        assert prepared.frame_spec.shape == (LOOK.rows, LOOK.columns)
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 30, 30)
    master = site.data / "run_master.h5"
    raw = read_rows(master, "/entry_0000/measurement/raw") if pipeline else read_rows(master, DATA)
    np.testing.assert_array_equal(raw, [images[frame % len(images)] for frame in range(30)])
    if pipeline:
        assert (read_rows(master, "/entry_0000/measurement/n_peaks") >= 10).all()
    elif compression == "bslz4":  # as it came
        with h5py.File(site.data / "run_raw_0.h5", "r") as file:
            dataset = file["/entry_0000/raw/raw"]
            assert dataset.id.get_create_plist().get_filter(0)[0] == 32008


async def pulse(site, *words):
    command = [str(site.scripts / "lima2"), "simulate", "pulse", str(site.config), *words]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("mode", "per_trigger"), [(TriggerMode.EXTERNAL, 3), (TriggerMode.GATE, 1)])
async def test_a_signal_triggers_until_all_frames_are_there(make_eiger, helpers, mode, per_trigger):
    site = make_eiger()
    images = images_of(LOOK)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan(site, 12, mode, per_trigger))
        await client.start(acquisition)
        await pulse(site)
        first = await helpers.until(client, acquisition, lambda state: state.written == per_trigger)
        assert (first.state, first.announced, first.announced_by) == ("running", per_trigger, "highest")
        await pulse(site, "--number", str(12 // per_trigger - 1), "--period", "0.02")
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 12, 12)
        assert final.announced_by in ("control", "highest")  # whichever knew first
    raw = read_rows(site.data / "run_master.h5", DATA)
    np.testing.assert_array_equal(raw, [images[frame % len(images)] for frame in range(12)])


async def test_software_triggers_and_a_stop(make_eiger, helpers):
    site = make_eiger()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan(site, 20, TriggerMode.SOFTWARE, 5))
        await client.start(acquisition)
        for taken in (5, 10):
            await client.trigger(acquisition, 5)
            await helpers.until(client, acquisition, lambda state, taken=taken: state.written == taken)
        final = await client.stop(acquisition)
        assert (final.outcome, final.announced, final.counts.saved) == ("stopped", 10, 10)
        again = helpers.new_id()
        prepared = msgspec.structs.replace(plan(site, 4), saving=SavingParams(str(site.data), "again"))
        await client.prepare(again, prepared)
        await client.start(again)
        after = await helpers.until(client, again, lambda state: state.state == "closed")
        assert after.counts.saved == 4


@pytest.mark.parametrize("faults", [{"loss": 0.2, "duplicates": 0.2}, {"reordering": 0.2}])
async def test_lost_doubled_and_late_images_are_told(make_eiger, helpers, faults):
    site = make_eiger(**faults, seed=3)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan(site, 60))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced) == ("complete", 60)
        assert final.counts.lost > 3
        assert final.counts.saved + final.counts.lost == 60


def test_endpoints_that_cannot_be_bound_are_one_line_and_exit_status_2(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        for stream, more, words in (
            ("nonsense", [], "error: --stream: nonsense can't be bound: Invalid argument"),
            (f"ipc://{tmp_path}/d", ["--port", port], f"error: --port: {port} can't be bound: Address already in use"),
        ):
            command = [Path(sys.executable).with_name("lima2"), "simulate", "eiger2", "--stream", stream, *more]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 2
            assert done.stderr.splitlines()[-1].startswith(words)


async def test_an_interrupted_exposure_announces_what_came(make_eiger, helpers):
    site = make_eiger()
    async with site.running() as client:
        acquisition = helpers.new_id()
        long = plan(site, 5000)
        await client.prepare(acquisition, long)
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.receivers[0].received >= 5)
        final = await client.stop(acquisition)
        assert (final.outcome, final.reason) == ("stopped", "")
        assert final.announced_by == "highest"
        assert 5 <= final.announced < 5000
        assert final.counts.saved == final.announced


@pytest.mark.parametrize("stream", ["cbor", "legacy"])
async def test_two_receivers_share_the_stream(make_eiger, helpers, stream):
    site = make_eiger(stream, n_receivers=2)
    site.config.write_text(site.config.read_text().replace(f"ipc://{site.sockets}/d1", f"ipc://{site.sockets}/d0"))
    images = images_of(LOOK)
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, plan(site, 60, pipeline=True))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.announced, final.counts.saved) == ("complete", 60, 60)
        assert all(receiver.received > 10 for receiver in final.receivers)
    master = site.data / "run_master.h5"
    raw = read_rows(master, "/entry_0000/measurement/raw")
    np.testing.assert_array_equal(raw, [images[frame % len(images)] for frame in range(60)])
    with h5py.File(master) as file:
        np.testing.assert_array_equal(file["/entry_0000/measurement/raw"], raw)
    header = read_header(*site.data.glob("run_header_*.cbor"))
    assert header.start
    assert header.end


async def test_channels_and_what_the_detector_says_are_kept(make_eiger, helpers):
    """Two thresholds and their difference, flatfield and mask from the header, appendices of series and images."""
    site = make_eiger()
    text = site.config.read_text()
    slot = LOOK.rows * LOOK.columns * 2
    site.config.write_text(text.replace(f"slot_bytes = {slot}", f"slot_bytes = {3 * slot}"))
    wanted = plan(
        site,
        10,
        thresholds=2,
        difference=True,
        flatfield=False,
        header="all",
        header_appendix="lysozyme",
        image_appendix="a note",
    )
    async with site.running() as client:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, wanted)
        assert prepared.frame_spec.shape == (3, LOOK.rows, LOOK.columns)
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert (final.outcome, final.counts.saved) == ("complete", 10)
    saved = read_rows(site.data / "run_master.h5", DATA)
    expected = [
        [image_of(name, image) for name in ("threshold_1", "threshold_2", "difference")] for image in images_of(LOOK)
    ]
    np.testing.assert_array_equal(saved, [expected[frame % len(expected)] for frame in range(10)])
    header = read_header(site.data / "run_header_0.cbor")
    assert (header.start["user_data"], header.end["type"]) == ("lysozyme", "end")
    assert header.images == dict.fromkeys(range(10), "a note")
    masked = images_of(LOOK)[0] == np.iinfo("<u2").max
    np.testing.assert_array_equal(header.start["pixel_mask"]["threshold_2"], masked)
    assert header.start["flatfield"]["difference"].dtype == np.float32
