import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lima2_processing.geometry import radial_bins, radius_map
from lima2_processing.stages.pixels import pixels_of
from lima2_processing.stages.radial_background import RadialBackground

SHAPE = (40, 50)
CENTER = (12.3, 60.7)


@pytest.fixture(scope="session")
def background(device, download):
    def run(images, bins, cutoff=0.0, cycles=3, poisson=False, dtype="<f4", saturation=0.0):
        queue = device.queue()
        stage = RadialBackground(device, bins, pixels_of(dtype, saturation), cutoff, cycles, poisson, len(images))
        result = stage.enqueue(queue, device.upload(np.asarray(images, dtype)), len(images))
        queue.finish()
        shape = (len(images), len(bins.radius))
        return download(result.mean, shape), download(result.deviation, shape)

    return run


def make_bins(n_bins, masked=None):
    radius = radius_map(SHAPE, (1e-3, 1e-3), CENTER)
    return radial_bins(radius, np.zeros(SHAPE, bool) if masked is None else masked, n_bins)


def by_bin(image, bins):
    return np.split(np.float32(image).ravel()[bins.pixels], bins.ends[:-1].astype(int))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10000),
    level=st.sampled_from([0.01, 0.3, 5.0, 5000.0, 1e6]),
    n_bins=st.sampled_from([1, 7, 64, 65, 300]),
    cutoff=st.sampled_from([0.0, 2.0, 5.0]),
    cycles=st.integers(1, 6),
    poisson=st.booleans(),
    counts=st.booleans(),
)
def test_as_the_reference(background, reference, seed, level, n_bins, cutoff, cycles, poisson, counts):
    rng = np.random.default_rng(seed)
    image = (rng.poisson(level, SHAPE) if counts else rng.normal(level, level / 3, SHAPE)).astype(np.float32)
    image[rng.random(SHAPE) < 0.02] *= 50
    image[rng.random(SHAPE) < 0.02] = rng.choice([np.nan, np.inf])
    bins = make_bins(n_bins)
    expected = [reference.sigma_clip(values, cutoff, cycles, poisson) for values in by_bin(image, bins)]
    assume(all(clip.margin > 1e-5 for clip in expected))  # a nearer value falls as float32 rounds
    mean, deviation = background([image], bins, cutoff, cycles, poisson)
    means, deviations = np.array([[clip.mean, clip.deviation] for clip in expected]).T
    scale = np.abs(means) + deviations + 1e-9
    np.testing.assert_allclose(mean[0] / scale, means / scale, atol=1e-5)
    np.testing.assert_allclose(deviation[0] / scale, deviations / scale, atol=3e-5)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10000),
    level=st.sampled_from([0.01, 0.3, 5.0, 30.0, 90.0, 125.0, 5000.0]),
    dtype=st.sampled_from(["|u1", "<u2", "<u4"]),
    n_bins=st.sampled_from([1, 7, 65, 300]),
    cutoff=st.sampled_from([0.0, 2.0, 5.0]),
    cycles=st.integers(1, 6),
    poisson=st.booleans(),
    outliers=st.sampled_from([0.0, 0.001, 0.02, 0.3]),
)
def test_integers_give_what_their_values_give(
    background, reference, seed, level, dtype, n_bins, cutoff, cycles, poisson, outliers
):
    """Whatever part of the values is too high for the table."""
    rng = np.random.default_rng(seed)
    largest = np.iinfo(dtype).max
    image = rng.poisson(level, SHAPE).astype(np.float64)
    image[rng.random(SHAPE) < outliers] *= rng.choice([20, 2000])
    image = np.clip(image, 0, min(largest - 1, 2**24))
    image[rng.random(SHAPE) < 0.02] = largest
    bins = make_bins(n_bins)
    values = np.where(image == largest, np.nan, image)
    expected = [reference.sigma_clip(part, cutoff, cycles, poisson) for part in by_bin(values, bins)]
    assume(all(clip.margin > 1e-5 for clip in expected))
    mean, deviation = background([image], bins, cutoff, cycles, poisson, dtype)
    means, deviations = np.array([[clip.mean, clip.deviation] for clip in expected]).T
    scale = np.abs(means) + deviations + 1e-9
    np.testing.assert_allclose(mean[0] / scale, means / scale, atol=1e-5)
    np.testing.assert_allclose(deviation[0] / scale, deviations / scale, atol=3e-5)


@pytest.mark.parametrize("saturation", [3.0, 3.5, 60.0, 127.0, 300.0])
def test_saturated_integers_are_not_used(background, reference, saturation):
    """Neither those that the table has a column for nor higher ones."""
    rng = np.random.default_rng(0)
    image = rng.poisson(2, SHAPE)
    image[rng.random(SHAPE) < 0.2] = np.ceil(saturation)
    image[rng.random(SHAPE) < 0.1] = 4000
    bins = make_bins(7)
    used = np.where(image >= saturation, np.nan, image)
    expected = [reference.sigma_clip(part, 5.0, 3) for part in by_bin(used, bins)]
    mean, deviation = background([image], bins, 5.0, 3, dtype="<u2", saturation=saturation)
    np.testing.assert_allclose(mean[0], [clip.mean for clip in expected], rtol=1e-5)
    np.testing.assert_allclose(deviation[0], [clip.deviation for clip in expected], rtol=1e-5)


def test_bins_without_values_are_nan(background):
    masked = np.zeros(SHAPE, bool)
    masked[:, 10:30] = True
    bins = make_bins(60, masked)
    image = np.where(bins.position < 5, np.nan, 1.0)
    mean, deviation = background([image], bins)
    counts = np.array([np.isfinite(values).sum() for values in by_bin(image, bins)])
    np.testing.assert_array_equal(np.isnan(mean[0]), counts == 0)
    np.testing.assert_array_equal(np.isnan(deviation[0]), counts == 0)
    assert (counts == 0).any()
    assert (mean[0][counts > 0] == 1).all()


@pytest.mark.parametrize("place", ["middle", "anywhere"])
def test_one_huge_outlier_costs_no_precision(background, place):
    rng = np.random.default_rng(3)
    image = rng.normal(7, 0.5, SHAPE).astype(np.float32)
    bins = make_bins(4)
    for values_at in np.split(bins.pixels, bins.ends[:-1].astype(int)):
        at = len(values_at) // 2 if place == "middle" else 1
        image.flat[values_at[at]] = 1e9
    mean, deviation = background([image], bins, 5.0, 5)
    np.testing.assert_allclose(mean, 7, atol=0.1)
    np.testing.assert_allclose(deviation, 0.5, atol=0.1)


def test_frames_of_a_batch_do_not_mix(background):
    images = np.stack([np.full(SHAPE, level) for level in (1.0, 2.0, 3.0)])
    mean, deviation = background(images, make_bins(10))
    np.testing.assert_array_equal(mean, np.repeat([[1.0], [2.0], [3.0]], 10, axis=1))
    assert not deviation.any()


def test_many_values_in_one_bin(background, device):
    rng = np.random.default_rng(0)
    shape = (1500, 1500)
    image = rng.normal(1000, 3, shape).astype(np.float32)
    bins = radial_bins(radius_map(shape, (1e-3, 1e-3), (0, 0)), np.zeros(shape, bool), 1)
    mean, deviation = background([image], bins, 100.0)
    np.testing.assert_allclose(mean, image.mean(dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(deviation, image.std(dtype=np.float64), rtol=1e-4)
