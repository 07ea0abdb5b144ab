import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_processing.geometry import radial_bins, radius_map
from lima2_processing.stages.peaks import Peaks
from lima2_processing.stages.pixels import FLOAT
from lima2_processing.stages.radial_background import RadialBackground
from lima2_processing.stages.sparsify import Sparsify

SHAPE = (90, 110)
CENTER = (30.2, -5.1)
N_BINS = 40


@pytest.fixture(scope="session")
def pick(device, download):
    """Runs background, sparsify and peaks; returns for each frame index, intensity, peaks, mean and deviation."""

    def run(images, bins, cutoff_pick=3.0, cutoff_peak=4.0, noise=0.5, patch=5, connected=3):
        images = np.asarray(images, np.float32)
        n = len(images)
        queue = device.queue()
        buffer = device.upload(images)
        background = RadialBackground(device, bins, FLOAT, 0.0, 3, False, n).enqueue(queue, buffer, n)
        sparsify = Sparsify(device, bins, FLOAT, cutoff_pick, noise, n)
        peaks = Peaks(device, images.shape[1:], FLOAT, sparsify, len(bins.radius), cutoff_peak, noise, patch, connected)
        picked = sparsify.run(queue, buffer, background, n)
        found = peaks.run(queue, buffer, background, picked)
        queue.finish()
        mean, deviation = (download(b, (n, len(bins.radius))) for b in (background.mean, background.deviation))
        total = int(picked.ends[-1])
        index, intensity = np.empty(0, np.uint32), np.empty(0, np.float32)
        if total:
            index, intensity = download(picked.index, total, np.uint32), download(picked.intensity, total)
        parts = (np.split(part, picked.ends[:-1]) for part in (index, intensity))
        return list(zip(*parts, found, mean, deviation, strict=True))

    return run


def make_bins(masked=None, shape=SHAPE):
    radius = radius_map(shape, (1e-3, 1e-3), CENTER)
    return radial_bins(radius, np.zeros(shape, bool) if masked is None else masked, N_BINS)


def make_image(seed, level=2.0, n_spots=15, mask=True):
    rng = np.random.default_rng(seed)
    image = rng.poisson(level, SHAPE).astype(np.float64)
    y, x = np.indices(SHAPE)
    for _ in range(n_spots):
        row, col = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1])
        image += rng.poisson(rng.uniform(50, 2000) / 5 * np.exp(-((y - row) ** 2 + (x - col) ** 2) / 1.5))
    masked = rng.random(SHAPE) < (0.01 if mask else 0)
    masked[40:44] = mask
    image[rng.random(SHAPE) < 0.001] = np.inf
    image[masked | (rng.random(SHAPE) < 0.001)] = np.nan
    return image, masked


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10000), level=st.sampled_from([0.01, 0.5, 5.0, 1000.0]), cutoff=st.sampled_from([1.5, 3, 6]))
def test_sparse_pixels_are_exactly_those_above(pick, reference, seed, level, cutoff):
    image, masked = make_image(seed, level)
    bins = make_bins(masked)
    index, intensity, _, mean, deviation = pick([image], bins, cutoff)[0]
    background, uncertainty = reference.background_at(bins, mean, deviation, 0.5)
    with np.errstate(invalid="ignore"):
        excess = image - (background + cutoff * uncertainty)
        rounding = 1e-5 * (np.abs(background) + cutoff * uncertainty)
    wanted = np.flatnonzero(excess > 0)
    differing = np.setxor1d(wanted, index)
    assert (np.abs(excess.flat[differing]) < rounding.flat[differing]).all()
    assert (np.diff(index.astype(int)) > 0).all()
    np.testing.assert_array_equal(intensity, np.float32(image).flat[index])
    assert np.isinf(intensity).sum() == (np.isinf(image) & ~masked).sum()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10000),
    patch=st.sampled_from([3, 5, 7]),
    connected=st.integers(1, 6),
    level=st.sampled_from([0.02, 3.0, 200.0]),
)
def test_peaks_as_the_reference(pick, reference, seed, patch, connected, level):
    image, masked = make_image(seed, level)
    image += np.random.default_rng(seed).normal(0, 1e-3, SHAPE)  # no two pixels alike, and none on the threshold
    bins = make_bins(masked)
    _, _, peaks, mean, deviation = pick([image], bins, patch=patch, connected=connected)[0]
    background, uncertainty = reference.background_at(bins, mean, deviation, 0.5)
    expected = reference.peaks(image, background, uncertainty, 4.0, patch, connected)
    np.testing.assert_allclose(peaks, expected, rtol=1e-4, atol=1e-3)


def test_of_two_equal_pixels_the_first_is_the_peak(pick):
    image = np.ones(SHAPE)
    image[49:52, 48:53] = 50
    bins = make_bins()
    peaks = pick([image], bins)[0][2]
    assert len(peaks) == 1


def test_nothing_above_the_background(pick):
    index, intensity, peaks, mean, _ = pick([np.ones(SHAPE)], make_bins())[0]
    assert (len(index), len(intensity), len(peaks)) == (0, 0, 0)
    assert (mean == 1).all()


def test_every_pixel_picked_is_no_overflow(pick):
    masked = np.zeros(SHAPE, bool)
    rng = np.random.default_rng(0)
    image = rng.uniform(10, 20, SHAPE)
    index = pick([image], make_bins(masked), cutoff_pick=-100.0, cutoff_peak=1000.0)[0][0]
    np.testing.assert_array_equal(index, np.arange(image.size))


def test_frames_of_a_batch_do_not_mix(pick):
    images = [make_image(seed)[0] for seed in range(3)]
    images.insert(1, np.zeros(SHAPE))
    bins = make_bins()
    together, alone = pick(images, bins), [pick([image], bins)[0] for image in images]
    for one, other in zip(together, alone, strict=True):
        for part, twin in zip(one, other, strict=True):
            np.testing.assert_array_equal(part, twin)
    assert not len(together[1][0])


def test_a_bin_without_values_does_not_hide_its_neighbours(pick):
    image = np.random.default_rng(0).poisson(5, SHAPE).astype(float)
    bins = make_bins()
    place = np.rint(bins.position).astype(int)
    image[place == 20] = np.nan
    image[50, 50] = 1000
    assert 50 * SHAPE[1] + 50 in pick([image], bins)[0][0]
    row, col = np.argwhere(place == 21)[np.argmin(bins.position[place == 21])]
    image[row, col] = 1000
    assert row * SHAPE[1] + col in pick([image], bins)[0][0]
