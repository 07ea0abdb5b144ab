"""Dense frames in the types that they are saved in, against NumPy's own conversions, bit by bit."""

import numpy as np
import pytest

from lima2_processing.stages.dense import Dense
from lima2_processing.stages.pixels import FLOAT


def values():
    """Floats of all sizes: random bits, halves of integers, what lies around the ends of types, no numbers."""
    rng = np.random.default_rng(11)
    bits = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    bits[np.isnan(bits)] = np.nan
    halves = np.arange(-140_000, 140_000, dtype=np.float32) / 2
    tiny = (np.arange(1 << 16, dtype=np.float64) * 2.0**-26).astype(np.float32)  # halves below their normal numbers
    ends = np.array(
        [0, 32767, 65504, 65519, 65520, 65535, 2**22, 2**23, 2**24, 2**31 - 128, 2**31, 2**32, np.inf], np.float32
    )
    near = np.nextafter(ends, np.float32(0))
    odd = np.float32(2**22) + np.arange(4096, dtype=np.float32) / 2
    found = np.concatenate(
        [bits, halves, tiny, -tiny, ends, -ends, near, -near, odd, -odd, np.full(3, np.nan, np.float32)]
    )
    assert found.dtype == np.float32
    return found[None, :] + np.float32(0)  # without -0: times 1 and plus 0, it is 0


def convert(device, download, image, dtype, masked=None):
    masked = np.zeros(image.shape, bool) if masked is None else masked
    queue = device.queue()
    stage = Dense(device, FLOAT, masked, dtype, 1.0, 0.0, 1)
    result = stage.enqueue(queue, device.upload(image), 1)
    queue.finish()
    return download(result, image.shape, dtype)


@pytest.mark.parametrize("dtype", ["<i4", "<i2", "<u2"])
def test_integers_are_the_nearest_that_fit(device, download, dtype):
    image = values()
    limits = np.iinfo(dtype)
    low, high = (limits.min + 1, limits.max) if limits.min else (0, limits.max - 1)
    with np.errstate(invalid="ignore"):
        expected = np.clip(np.rint(image.astype(np.float64)), low, high)
    expected = np.where(np.isnan(image), limits.min or limits.max, expected).astype(dtype)
    np.testing.assert_array_equal(convert(device, download, image, dtype), expected)


def test_halves_are_the_nearest_and_saturate(device, download):
    image = values()
    finite = np.isfinite(image)
    with np.errstate(over="ignore"):
        expected = np.where(finite, np.clip(image, -65504, 65504), image).astype("<f2")
    found = convert(device, download, image, "<f2")
    same = found.view("<u2") == expected.view("<u2")
    assert np.isnan(found[~same]).all()
    assert np.isnan(image[~same]).all(), "only what NaN says may differ"


def test_floats_stay_as_they_are(device, download):
    image = values()
    np.testing.assert_array_equal(
        convert(device, download, image, "<f4").view("<u4")[~np.isnan(image)], image.view("<u4")[~np.isnan(image)]
    )


@pytest.mark.parametrize(("dtype", "marker"), [("<i4", -(2**31)), ("<i2", -(2**15)), ("<u2", 65535)])
def test_masked_pixels_have_the_marker(device, download, dtype, marker):
    masked = np.array([[True, False]])
    assert convert(device, download, np.array([[5, 7]], np.float32), dtype, masked).tolist() == [[marker, 7]]
