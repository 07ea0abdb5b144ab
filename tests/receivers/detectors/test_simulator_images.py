"""The simulator where it is no Jungfrau: scenes of known content, any type, size and number of channels."""

import asyncio
import threading
import zlib

import msgspec
import numpy as np
import pytest

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.simulator.images import as_pixels
from lima2_receivers.detectors.simulator.params import Scenery, SimulatorSettings, Size, frame_spec
from lima2_receivers.detectors.simulator.patterns import PEAK, gauss, gauss_center, gauss_counts, spiral
from lima2_receivers.detectors.simulator.supply import simulate_supply
from lima2_receivers.errors import DetectorError

SHAPE = (120, 160)
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"]


def settings(**changed):
    table = {"control": "unused", "folder": "/unused", "n_distinct": 8, **changed}
    return msgspec.convert(table, SimulatorSettings)


def centroid(image):
    rows, cols = np.indices(image.shape)
    return (rows * image).sum() / image.sum(), (cols * image).sum() / image.sum()


@pytest.mark.parametrize(
    ("changed", "shape", "dtype"),
    [
        ({"scene": "gauss", "size": "tiny", "gap_pixels": False}, (64, 128), "<u2"),
        ({"scene": "spiral", "shape": [20, 30]}, (20, 30), "<u2"),
        ({"dtype": "uint16", "size": "module"}, (514, 1030), "<u2"),
        ({"shape": [20, 30], "dtype": "int8"}, (20, 30), "|i1"),
        ({"channels": 3, "shape": [20, 30], "dtype": "float32"}, (3, 20, 30), "<f4"),
    ],
)
def test_frames_look_as_they_were_asked_for(changed, shape, dtype):
    assert frame_spec(settings(**changed)) == FrameSpec(shape, dtype)


def test_the_default_is_a_jungfrau():
    assert settings().is_jungfrau
    assert frame_spec(settings(size="4m")).shape == (8, 512, 1024)


@pytest.mark.parametrize("shape", [[0, 20], [15, 20], [20, 16385]])
def test_a_size_that_is_no_image_is_refused(shape):
    with pytest.raises(msgspec.ValidationError, match=r"shape: got \[.*expected two of 16 to 16384, or \[0, 0\]"):
        settings(shape=shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scene", list(Scenery))
def test_every_scene_has_every_type(scene, dtype):
    supply = simulate_supply(settings(scene=scene, dtype=dtype, shape=list(SHAPE), channels=2, n_distinct=3))
    assert [(frame.shape, frame.dtype) for frame in supply.frames] == [((2, *SHAPE), np.dtype(dtype))] * 3
    assert [scene.crc32 for scene in supply.scenes] == [zlib.crc32(frame) for frame in supply.frames]
    assert len({scene.crc32 for scene in supply.scenes}) == 3
    for frame in supply.frames:
        first, second = frame.astype(float)
        assert second.mean() == pytest.approx(first.mean() / 2, rel=0.1)
        assert frame.flags.c_contiguous


def test_the_hill_is_where_the_journal_says():
    supply = simulate_supply(settings(scene="gauss", dtype="float32", shape=list(SHAPE), background=0.0))
    centers = []
    for frame, scene in zip(supply.frames, supply.scenes, strict=True):
        (spot,) = scene.spots
        assert centroid(frame) == pytest.approx((spot.row, spot.col), abs=0.3)
        assert frame.sum() == pytest.approx(spot.photons, rel=0.01)
        centers.append((spot.row, spot.col))
    steps = np.hypot(*np.diff([*centers, centers[0]], axis=0).T)
    assert steps.min() > 15
    assert np.mean(centers, axis=0) == pytest.approx([59.5, 79.5])


def test_the_hill_goes_round():
    assert gauss_center(SHAPE, 0.3) == pytest.approx(gauss_center(SHAPE, 1.3))
    assert gauss_counts(SHAPE) == pytest.approx(gauss(SHAPE, 0.0).sum(), rel=1e-3)
    assert gauss((99, 99), 0.25).max() == pytest.approx(PEAK, rel=1e-2)


def test_the_spiral_turns():
    image = spiral((100, 100), 0.0)
    assert 0 <= image.min() < 1 < 99 < image.max() <= PEAK
    np.testing.assert_allclose(spiral((100, 100), 1.0), image, atol=1e-9)
    np.testing.assert_allclose(np.rot90(spiral((100, 100), 0.25)), image, atol=1e-9)
    assert np.count_nonzero(np.diff(np.sign(image[50, 50:] - PEAK / 2))) == 12  # six windings, up and down


def test_diffraction_has_its_spots_where_the_journal_says():
    supply = simulate_supply(settings(shape=[300, 400], hit_fraction=0.5, spots=12, background=1.0))
    assert sorted(len(scene.spots) for scene in supply.scenes) == [0] * 4 + [12] * 4
    blank = np.mean([frame for frame, scene in zip(supply.frames, supply.scenes, strict=True) if not scene.spots], 0)
    for frame, scene in zip(supply.frames, supply.scenes, strict=True):
        for spot in scene.spots:
            row, col = round(spot.row), round(spot.col)
            at = np.s_[row - 5 : row + 6, col - 5 : col + 6]
            excess = (frame[at] - blank[at]) * (frame[at] > 6)
            assert excess.sum() == pytest.approx(spot.photons, abs=6 * np.sqrt(spot.photons + 200))
            found = centroid(excess)
            assert (row - 5 + found[0], col - 5 + found[1]) == pytest.approx((spot.row, spot.col), abs=0.3)


def test_a_small_image_has_what_finds_room():
    for scene in simulate_supply(settings(shape=[16, 16], hit_fraction=1.0, spots=5)).scenes:
        assert len(scene.spots) == 1  # a second one would be too near


@pytest.mark.parametrize("scene", list(Scenery))
def test_the_seed_decides_everything(scene):
    def scenes(seed):
        return simulate_supply(settings(scene=scene, shape=list(SHAPE), seed=seed)).scenes

    assert scenes(1) == scenes(1) != scenes(2)


def test_counts_stop_where_their_type_ends():
    counts = np.array([-1000.0, -0.6, 0.4, 1.5, 127.6, 1e12])
    assert as_pixels(counts, "|i1").tolist() == [-128, -1, 0, 2, 127, 127]
    assert as_pixels(counts, "|u1").tolist() == [0, 0, 0, 2, 128, 255]
    assert as_pixels(counts, "<f4").tolist() == counts.astype("f4").tolist()


def test_no_files_are_written(tmp_path):
    simulate_supply(settings(folder=str(tmp_path / "none"), scene="gauss", size=Size.TINY))
    assert not list(tmp_path.iterdir())


def test_frames_that_are_not_wanted_any_more_are_not_made():
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(DetectorError, match="got 0 of 8 frames before they were not wanted any more"):
        simulate_supply(settings(scene="gauss", size="tiny"), unwanted)


async def test_channels_are_sent_and_parsed(start, bind_pull, plan):
    running = await (await start(scene="gauss", channels=2, shape=[32, 48], dtype="int32", n_distinct=3)).ready()
    pulls = [bind_pull(endpoint) for endpoint in running.endpoints]
    spec = (await running.control.prepare(1, plan(6))).frame_spec
    assert (spec.shape, spec.dtype) == ((2, 32, 48), "<i4")
    await running.control.trigger(6, 1e-4, 0.0)
    received = await asyncio.gather(*(pull.until_end(running.source(spec, 1)) for pull in pulls))
    journal = running.journal(1)
    for frame in (frame for frames, _ in received for frame in frames):
        assert zlib.crc32(frame.data) == journal.scene_of(frame.index).crc32
        (spot,) = journal.scene_of(frame.index).spots
        assert np.unravel_index(frame.data[0].argmax(), (32, 48)) == (
            pytest.approx(spot.row, abs=1.5),
            pytest.approx(spot.col, abs=1.5),
        )
