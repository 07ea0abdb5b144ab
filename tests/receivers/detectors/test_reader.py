"""Recordings: which files are played, in which order, and what is said where some are missing."""

import asyncio
import os
import shutil
import signal
import zlib
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pytest

from lima2_receivers.detectors.reader.params import ReaderSettings
from lima2_receivers.detectors.reader.recording import find_recording
from lima2_receivers.detectors.reader.supply import read_supply
from lima2_receivers.errors import ConfigError, PlanError
from lima2_receivers.source import SeriesEnd

DATA = Path(os.environ.get("LIMA2_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


@pytest.fixture
def copy(recording, tmp_path) -> Path:
    """A recording that a test may spoil."""
    return shutil.copytree(recording, tmp_path / "copy")


def test_frames_are_in_the_order_of_their_numbers(recording):
    found = find_recording(recording)
    assert [path.name for path in found.raw] == ["run_raw2.bin", "run_raw9.bin", "run_raw10.bin"]
    assert [path.name for path in found.pedestals] == [f"run_pedeG{stage}.bin" for stage in range(3)]
    assert [path.name for path in found.gains] == [f"run_gainG{stage}.bin" for stage in range(3)]
    assert found.spec.shape == (1, 512, 1024)
    assert found.spec.layout.chip_gap == 0


def open_supply(recording, **settings):
    return read_supply(ReaderSettings(control="unused", folder="/unused", recording=str(recording), **settings))


def test_frames_are_the_files(recording):
    supply = open_supply(recording)
    assert supply.limit == 3
    assert [zlib.crc32(frame) for frame in supply.frames] == [
        zlib.crc32(path.read_bytes()) for path in find_recording(recording).raw
    ]
    supply.close()


def test_a_dataset_of_what_is_no_hdf5_is_refused(recording):
    with pytest.raises(ConfigError, match=r"detector\.settings\.dataset: got '/entry/data', but .* is no HDF5 file"):
        open_supply(recording, dataset="/entry/data")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"recording {tmp_path}/none: there is no such folder"):
        find_recording(tmp_path / "none")


def test_a_folder_without_frames_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"got no raw frames, expected files named \*_rawN\.bin"):
        find_recording(tmp_path)


@pytest.mark.parametrize("name", ["run_pedeG1.bin", "run_gainG2.bin"])
def test_a_missing_map_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(ConfigError, match=f"got 0 files \\*{name.removeprefix('run')}, expected 1"):
        find_recording(copy)


def test_two_recordings_in_a_folder_are_refused(copy):
    shutil.copy(copy / "run_pedeG0.bin", copy / "other_pedeG0.bin")
    with pytest.raises(ConfigError, match="got 2 files"):
        find_recording(copy)


@pytest.mark.parametrize("name", ["run_raw9.bin", "run_gainG0.bin"])
def test_a_file_of_the_wrong_size_is_named(copy, name):
    with (copy / name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ConfigError, match=rf"{name}: got \d+4? bytes, expected \d+"):
        find_recording(copy)


def test_a_frame_that_cannot_be_read_is_named(copy):
    (copy / "run_raw9.bin").unlink()
    (copy / "run_raw9.bin").symlink_to(copy / "nowhere")
    with pytest.raises(ConfigError, match=r"run_raw9\.bin: No such file"):
        open_supply(copy)


async def test_a_recording_is_played_to_its_end_and_no_further(start, bind_pull, plan, recording):
    running = await (await start(plugin="reader", receivers=2, recording=str(recording))).ready()
    pulls = [bind_pull(endpoint) for endpoint in running.endpoints]
    with pytest.raises(PlanError, match=r"acquisition\.nb_frames: got 4, the recording has 3 frames"):
        await running.control.prepare(1, plan(4))
    with pytest.raises(PlanError, match=r"detector.*`loss`"):
        await running.control.prepare(1, plan(3, loss=0.5))
    for series, n_frames in ((2, 3), (3, 0)):
        spec = (await running.control.prepare(series, plan(n_frames))).frame_spec
        await running.control.trigger(n_frames, 1e-3, 0.0)
        received = await asyncio.gather(*(pull.until_end(running.source(spec, series)) for pull in pulls))
        frames = sorted((frame for found, _ in received for frame in found), key=lambda frame: frame.index)
        assert [frame.index for frame in frames] == [0, 1, 2]
        assert {end for _, end in received} == {SeriesEnd(3)}
        for frame, path in zip(frames, find_recording(recording).raw, strict=True):
            np.testing.assert_array_equal(frame.data[0], np.fromfile(path, "<u2").reshape(512, 1024))
            assert running.journal(series).scene_of(frame.index).crc32 == zlib.crc32(path.read_bytes())
        assert (await running.control.stop()).sent == 3
    assert await running.end(signal.SIGTERM) == 0


async def test_a_part_of_an_hdf5_file_is_played_as_fast_as_it_goes(start, bind_pull, plan, tmp_path):
    data = np.random.default_rng(0).poisson(3, (200, 64, 32)).astype("<i4")
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file.create_dataset("entry/data/data", data=data, chunks=(1, 64, 32), **hdf5plugin.Bitshuffle())
    settings = {"recording": str(tmp_path / "run.h5"), "start": 10, "count": 60, "stride": 3}
    running = await (await start(plugin="reader", receivers=2, **settings)).ready()
    pulls = [bind_pull(endpoint) for endpoint in running.endpoints]
    for series in (1, 2):
        spec = (await running.control.prepare(series, plan(0))).frame_spec
        await running.control.trigger(0, 1e-6, 0.0)
        received = await asyncio.gather(*(pull.until_end(running.source(spec, series)) for pull in pulls))
        frames = sorted((frame for found, _ in received for frame in found), key=lambda frame: frame.index)
        np.testing.assert_array_equal([frame.data for frame in frames], data[10:190:3])
        assert (await running.control.stop()).sent == 60
        journal = running.journal(series)
        assert [journal.scene_of(at).crc32 for at in range(60)] == [zlib.crc32(frame.data) for frame in frames]
    assert await running.end(signal.SIGTERM) == 0


@pytest.mark.skipif(not (DATA / "jungfrau_mod5").is_dir(), reason=f"no recorded Jungfrau frames in {DATA}")
def test_a_real_recording_is_read():
    supply = open_supply(DATA / "jungfrau_mod5")
    assert supply.limit == len(supply.frames) == 5
    assert (supply.frames[0] >> 14 != 2).all()
    supply.close()
