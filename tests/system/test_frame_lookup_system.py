"""``lima2 frame`` and the look-up behind it: the frame that was sent, from memory or file, and the fate of others."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import zlib

import fabio
import numpy as np
import pytest
from PIL import Image

from lima2_receivers.detectors.journal import latest_journal, read_journal
from lima2_receivers.errors import StateError
from lima2_receivers.lookup import find_frame


async def lima2_frame(site, *words):
    command = [str(site.scripts / "lima2"), "frame", str(site.config), *words]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)


def crc(site, number):
    return read_journal(latest_journal(site.detector)).scene_of(number).crc32


async def test_frames_come_from_memory_while_they_are_there_and_else_from_the_file(make_site, helpers):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        prepared = await client.prepare(acquisition, site.plan("run", 0, mode="software", pipeline=True, lose=[3]))
        with pytest.raises(StateError, match="no frame is saved yet, 0 are settled"):
            await find_frame(client, acquisition)
        await client.start(acquisition)
        await client.trigger(acquisition, 12)
        await helpers.until(client, acquisition, lambda state: state.written == 12)
        for number in (-1, 11, 10, 0, 4):
            found = await find_frame(client, acquisition, number, "raw")
            frame = number if number >= 0 else 11
            assert (found.location.frame, found.location.place.receiver) == (frame, frame % 2)
            assert found.location.place.row == frame // 2
            assert found.source == ("memory" if frame >= 10 else "file")
            assert zlib.crc32(found.data.data) == crc(site, frame)
        dense = await find_frame(client, acquisition)
        sparse = await find_frame(client, acquisition, 11, "sparse")
        assert (dense.source, dense.data.shape, dense.data.dtype) == ("memory", (66, 130), np.dtype("<f4"))
        picked = sparse.data != 0
        assert picked.any()
        np.testing.assert_array_equal(sparse.data[picked], dense.data[picked])
        hit = await find_frame(client, acquisition, 0, "is_hit")
        assert (hit.source, hit.data.shape) == ("file", ())
        with pytest.raises(StateError, match="frame 3 was lost: never arrived, later frames did"):
            await find_frame(client, acquisition, 3)
        with pytest.raises(StateError, match="frame 12 is not there, 12 frames are settled"):
            await find_frame(client, acquisition, 12)
        await client.stop(acquisition)
        closed = await find_frame(client, acquisition, -1, "raw")
        assert (closed.source, zlib.crc32(closed.data.data)) == ("file", crc(site, 11))
        assert closed.location.master_file == prepared.master_file


async def test_a_frame_is_described_and_saved_by_the_command(make_site, helpers, tmp_path):
    site = make_site()
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 6, lose=[2]))
        await client.start(acquisition)
        await helpers.until(client, acquisition, lambda state: state.state == "closed")
        raw = (await find_frame(client, acquisition)).data
        for name in ("a.npy", "a.tiff", "a.png"):
            done = await lima2_frame(site, acquisition, "-1", "--output", str(tmp_path / name))
            assert done.returncode == 0, done.stderr
            assert f"saved as {tmp_path / name}" in done.stdout
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), raw)
        np.testing.assert_array_equal(fabio.open(str(tmp_path / "a.tiff")).data, raw.reshape(64, 128))
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.size == (128, 64)
        done = await lima2_frame(site, acquisition, "5", "--stream", "raw", "--json")
        report = json.loads(done.stdout)
        assert (report["frame"], report["output"], report["shape"], report["dtype"]) == (
            5,
            "raw",
            [1, 64, 128],
            "uint16",
        )
        assert (report["minimum"], report["maximum"], report["total"]) == (raw.min(), raw.max(), raw.sum())
        assert (report["status"], report["receiver"], report["row"], report["source"]) == ("saved", 1, 2, "file")
        for words, expected in (
            (["2"], "frame 2 was lost: "),
            (["6"], "frame 6 is not there, 6 frames are settled"),
            (["--stream", "dense"], "got output 'dense', expected one that is saved: raw"),
            (["--output", str(tmp_path / "a.npy")], "expected a new file"),
            (["--output", "a.jpg"], "expected one that ends in .npy, .tiff, .tif, .png"),
        ):
            done = await lima2_frame(site, acquisition, *words)
            assert done.returncode == 2
            assert done.stderr.startswith("error: ")
            assert expected in done.stderr
        done = await lima2_frame(site, "nobody")
        assert "there is no acquisition nobody" in done.stderr


async def test_a_receiver_that_does_not_answer_leaves_the_file(make_site, helpers):
    site = make_site(extra="[deadlines]\ncommand = 30.0\n")  # the conductor is patient here
    async with site.running() as client:
        acquisition = helpers.new_id()
        await client.prepare(acquisition, site.plan("run", 0, mode="software"))
        await client.start(acquisition)
        await client.trigger(acquisition, 4)
        await helpers.until(client, acquisition, lambda state: state.written == 4)
        site.signal("receiver_1", signal.SIGSTOP)
        found = await find_frame(client, acquisition, 3)
        assert (found.source, zlib.crc32(found.data.data)) == ("file", crc(site, 3))
        site.signal("receiver_1", signal.SIGCONT)
        assert (await client.stop(acquisition)).outcome == "complete"


async def test_what_is_saved_of_a_vetoed_frame_is_found(make_site, helpers):
    """Its raw frame and its sparse one; the dense one was left out."""
    site = make_site(settings="hit_fraction = 0.0")
    async with site.running() as client:
        acquisition = helpers.new_id()
        params = {"veto": "skip_dense", "min_nb_peaks": 50}
        await client.prepare(acquisition, site.plan("run", 6, pipeline=True, params=params))
        await client.start(acquisition)
        final = await helpers.until(client, acquisition, lambda state: state.state == "closed")
        assert final.counts.vetoed == 6
        for number in (0, 5):
            found = await find_frame(client, acquisition, number, "raw")
            assert (found.location.status.name, zlib.crc32(found.data.tobytes())) == ("VETOED", crc(site, number))
            assert (await find_frame(client, acquisition, number, "sparse")).data.shape == (66, 130)
            with pytest.raises(StateError, match=f"frame {number} was vetoed: vetoed by the pipeline"):
                await find_frame(client, acquisition, number)
