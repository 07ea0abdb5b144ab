"""The simulated frames: corrected and assembled, they are what was put in."""

import zlib

import numpy as np
import pytest

from lima2_receivers.detectors.simulator.params import SimulatorSettings, Size
from lima2_receivers.detectors.simulator.scene import (
    DISTANCE,
    background_rate,
    beam_center,
    place_spots,
    raw_pixel_of,
)
from lima2_receivers.detectors.simulator.supply import frame_spec, make_calibration, read_out, simulate_supply
from lima2_receivers.errors import ConfigError


def settings(folder, **changed):
    return SimulatorSettings(**{"control": "unused", "folder": str(folder), "size": Size.TINY} | changed)


def correct(raw, pedestal, gain):
    """Photons of a raw frame (modules, rows, cols); NaN where the pixel is bad."""
    stage = np.array([0, 1, -1, 2])[raw >> 14]
    rows = np.indices(raw.shape)
    at = (stage, *rows)
    return np.where(pedestal[0] > 0, ((raw & 0x3FFF) - pedestal[at]) / gain[at], np.nan)


def assemble(photons, collector):
    """The image (rows, cols) of corrected photons: each raw pixel shared among the image pixels that it covers."""
    share = np.bincount(collector[collector >= 0], minlength=photons.size)
    image = (photons.ravel() / np.maximum(share, 1))[collector]
    image[collector < 0] = np.nan
    return image


@pytest.mark.parametrize("gap_pixels", [True, False])
@pytest.mark.parametrize("size", list(Size))
def test_every_size_has_a_layout_that_covers_its_pixels(size, gap_pixels, tmp_path):
    spec = frame_spec(settings(tmp_path, size=size, gap_pixels=gap_pixels))
    collector = raw_pixel_of(spec, spec.layout)
    covered = np.bincount(collector[collector >= 0], minlength=np.prod(spec.shape))
    assert covered.min() == 1
    assert covered.max() == (4 if gap_pixels else 1)
    rows, cols = beam_center(spec.layout)
    assert 0 < rows < spec.layout.image_shape[0]
    assert 0 < cols < spec.layout.image_shape[1]


def test_the_assembled_background_is_smooth_over_chip_edges(tmp_path):
    spec = frame_spec(settings(tmp_path, size=Size.MODULE))
    collector = raw_pixel_of(spec, spec.layout)
    image = assemble(background_rate(spec, spec.layout, collector, 2.0), collector)
    assert np.nanmax(np.abs(np.diff(image, axis=0))) < 0.1  # a photon and more where double pixels are not shared
    assert np.nanmax(np.abs(np.diff(image, axis=1))) < 0.1


def test_without_gap_pixels_double_pixels_read_twice_as_much(tmp_path):
    spec = frame_spec(settings(tmp_path, size=Size.MODULE, gap_pixels=False))
    rate = background_rate(spec, spec.layout, raw_pixel_of(spec, spec.layout), 2.0)[0]
    assert rate[100, 255] / rate[100, 254] == pytest.approx(2, rel=0.02)
    assert rate[255, 256] / rate[253, 258] == pytest.approx(4, rel=0.05)
    assert rate[100, 0] / rate[100, 1] == pytest.approx(1, rel=0.02)


def test_corrected_frames_are_flat_over_chip_edges(tmp_path):
    supply = simulate_supply(settings(tmp_path, n_distinct=100, hit_fraction=0, background=10.0))
    pedestal, gain = np.load(tmp_path / "pedestal.npy"), np.load(tmp_path / "gain.npy")
    collector = raw_pixel_of(supply.spec, supply.spec.layout)
    mean = np.mean([correct(frame, pedestal, gain) for frame in supply.frames], axis=0)
    rate = background_rate(supply.spec, supply.spec.layout, collector, 10.0)
    image, expected = assemble(mean, collector), assemble(rate, collector)
    at_edges = np.isin(collector, np.flatnonzero(np.bincount(collector[collector >= 0]) > 1))
    for where in (at_edges, ~at_edges):
        assert np.nanmean(image[where]) == pytest.approx(np.nanmean(expected[where]), rel=0.01)


def test_counts_are_poisson(tmp_path):
    supply = simulate_supply(settings(tmp_path, n_distinct=200, hit_fraction=0, background=2.0))
    pedestal, gain = np.load(tmp_path / "pedestal.npy"), np.load(tmp_path / "gain.npy")
    photons = np.rint([correct(frame, pedestal, gain) for frame in supply.frames])
    good = np.isfinite(photons).all(0)
    assert photons.var(0, ddof=1)[good].mean() == pytest.approx(photons.mean(0)[good].mean(), rel=0.03)


def test_every_gain_stage_reads_back(tmp_path):
    spec = frame_spec(settings(tmp_path))
    random = np.random.default_rng(3)
    pedestal, gain = make_calibration(spec, random)
    photons = np.linspace(0, 9000, np.prod(spec.shape)).astype(np.int64).reshape(spec.shape)
    raw = read_out(photons, pedestal, gain, random)
    assert set(np.unique(raw >> 14)) == {0, 1, 3}
    found = correct(raw, pedestal, gain)
    good = np.isfinite(found)
    assert np.abs(found - photons)[good].max() < 6  # 1.5 ADU of noise and rounding at -1.43 ADU a photon
    low = good & (photons <= 23)
    assert np.abs(found - photons)[low].max() < 0.4


def test_more_than_the_last_stage_takes_reads_as_saturated(tmp_path):
    spec = frame_spec(settings(tmp_path))
    random = np.random.default_rng(3)
    pedestal, gain = make_calibration(spec, random)
    raw = read_out(np.full(spec.shape, 20000), pedestal, gain, random)
    assert (raw == 0xC000).all()


def test_spots_are_where_the_truth_says_and_as_strong(tmp_path):
    supply = simulate_supply(settings(tmp_path, size=Size.MODULE, n_distinct=2, hit_fraction=1.0, background=1.0))
    pedestal, gain = np.load(tmp_path / "pedestal.npy"), np.load(tmp_path / "gain.npy")
    collector = raw_pixel_of(supply.spec, supply.spec.layout)
    background = assemble(background_rate(supply.spec, supply.spec.layout, collector, 1.0), collector)
    offsets = np.arange(-5, 6)
    for frame, scene in zip(supply.frames, supply.scenes, strict=True):
        assert scene.crc32 == zlib.crc32(frame)
        assert len(scene.spots) == 40
        image = assemble(correct(frame, pedestal, gain), collector) - background
        for spot in scene.spots:
            row, col = round(spot.row), round(spot.col)
            box = np.nan_to_num(image[row - 5 : row + 6, col - 5 : col + 6])
            bright = box > 6
            assert box.sum() == pytest.approx(spot.photons, abs=6 * np.sqrt(spot.photons + 200))
            weights = box * bright
            assert row + (weights.sum(1) @ offsets) / weights.sum() == pytest.approx(spot.row, abs=0.3)
            assert col + (weights.sum(0) @ offsets) / weights.sum() == pytest.approx(spot.col, abs=0.3)


def test_spots_keep_apart_and_off_edges_and_switch_gains(tmp_path):
    spec = frame_spec(settings(tmp_path, size=Size.FOUR_M))
    spots = place_spots(spec.layout, (514, 1030), 120, np.random.default_rng(5))
    places = np.array([(spot.row, spot.col) for spot in spots])
    assert len(spots) == 120
    distances = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert distances[~np.eye(len(spots), dtype=bool)].min() >= DISTANCE
    collector = raw_pixel_of(spec, spec.layout)
    share = np.bincount(collector[collector >= 0])
    for row, col in places.round().astype(int):
        near = collector[row - 4 : row + 5, col - 4 : col + 5]
        assert near.min() >= 0
        assert share[near].max() == 1
    assert sum(spot.photons >= 300 for spot in spots) > 100


def test_hits_are_the_share_that_was_asked_for(tmp_path):
    supply = simulate_supply(settings(tmp_path, n_distinct=16, hit_fraction=0.25))
    assert sum(bool(scene.spots) for scene in supply.scenes) == 4
    assert len({scene.crc32 for scene in supply.scenes}) == 16


def test_the_seed_decides_everything(tmp_path):
    first, again, other = (simulate_supply(settings(tmp_path, n_distinct=3, seed=seed)).scenes for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_calibration_is_written_with_bad_pixels_marked(tmp_path):
    spec = simulate_supply(settings(tmp_path, size=Size.MODULE, n_distinct=1)).spec
    pedestal, gain = np.load(tmp_path / "pedestal.npy"), np.load(tmp_path / "gain.npy")
    assert pedestal.shape == gain.shape == (3, *spec.shape)
    assert pedestal.dtype == gain.dtype == np.float32
    assert 0 < (pedestal[0] == 0).sum() < 100
    assert np.median(gain, axis=(1, 2, 3)) == pytest.approx([508.4, -17.96, -1.428], rel=0.01)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"detector\.settings\.folder: .*file"):
        simulate_supply(settings(tmp_path / "file"))
