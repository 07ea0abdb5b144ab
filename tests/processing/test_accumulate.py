"""Sums on the device, against NumPy in more digits."""

import math

import numpy as np
import pyopencl as cl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lima2_processing.device import open_device
from lima2_processing.frame import fill_value
from lima2_processing.stages.accumulate import Accumulate, sum_type
from lima2_processing.stages.pixels import Pixels, pixels_of

SHAPE = (61, 53)  # no multiple of a work-item's pixels


def total(device, dtype, batches, masked=None, saturation=0.0):
    """The sum of those images of each batch that are taken: ``[(images, taken), ...]``."""
    queue = device.queue()
    masked = np.zeros(batches[0][0].shape[1:], bool) if masked is None else masked
    stage = Accumulate(device, pixels_of(dtype, saturation), masked)
    for images, taken in batches:
        stage.enqueue(queue, device.upload(images.astype(dtype)), taken)
    return stage.take(queue)


@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<f4", "<i4", "<i2", "|u1"])
def test_only_what_is_taken_is_added(device, dtype):
    rng = np.random.default_rng(3)
    batches = [(rng.integers(0, 100, (4, *SHAPE)), rng.random(4) < 0.6) for _ in range(5)]
    expected = sum(images[taken].sum(axis=0) for images, taken in batches)
    found = total(device, dtype, batches)
    assert found.dtype.str == ("<u4" if np.dtype(dtype).kind == "u" else "<f4")
    np.testing.assert_array_equal(found, expected)


def test_a_large_batch_is_added_whole(device):
    images = np.random.default_rng(4).integers(0, 9, (150, *SHAPE))
    taken = [at % 3 != 1 for at in range(150)]
    np.testing.assert_array_equal(total(device, "<u2", [(images, taken)]), images[taken].sum(axis=0))


def test_pixels_without_a_value_have_none_in_the_sum(device):
    images = np.ones((3, 2, 4))
    images[1, 0, 1] = np.nan
    images[2, 0, 2] = np.inf  # saturated
    masked = np.zeros((2, 4), bool)
    masked[1, 3] = True
    assert np.isnan(total(device, "<f4", [(images[2:], [True])], masked)).nonzero()[1].tolist() == [2, 3]
    batches = [(images[:2], [True, True]), (images[2:], [True]), (images[:1], [True])]
    assert np.isnan(total(device, "<f4", batches, masked)).nonzero()[0].tolist() == [0, 0, 1]
    counts = np.where(np.isfinite(images), images, 65535)
    batches = [(counts[:2], [True, True]), (counts[2:], [True]), (counts[:1], [True])]
    found = total(device, "<u2", batches, masked)
    assert found.tolist() == [[4, 2**32 - 1, 2**32 - 1, 4], [4, 4, 4, 2**32 - 1]]
    counts[0, 1, 0] = 500
    assert total(device, "<u2", [(counts, [True] * 3)], masked, saturation=500)[1, 0] == 2**32 - 1


def test_counts_saturate_below_the_marker(device):
    images = np.full((3, 1, 2), 2**31)
    images[:, 0, 1] = 1
    assert total(device, "<u4", [(images, [True] * 3)]).tolist() == [[2**32 - 2, 3]]
    assert total(device, "<u4", [(images, [True] * 3)] * 4).tolist() == [[2**32 - 2, 12]]


def test_sums_of_many_small_values_stay_exact(device):
    """Where plain float32 sums would be wrong in the fourth digit."""
    rng = np.random.default_rng(5)
    images = rng.normal(1000.0, 0.1, (40, *SHAPE)).astype(np.float32)
    batches = [(images, [True] * 40)] * 25
    expected = images.sum(axis=0, dtype=np.float64) * 25
    np.testing.assert_allclose(total(device, "<f4", batches), expected, rtol=6e-8)
    plain = np.cumsum(np.tile(images, (25, 1, 1)), axis=0, dtype=np.float32)[-1]
    assert abs(plain / expected - 1).max() > 1e-6


def test_taking_begins_anew(device):
    queue = device.queue()
    stage = Accumulate(device, pixels_of("<f4"), np.zeros(SHAPE, bool))
    image = device.upload(np.full((1, *SHAPE), 0.1, np.float32))
    for _ in range(2):
        stage.enqueue(queue, image, [True])
        np.testing.assert_array_equal(stage.take(queue), np.full(SHAPE, 0.1, np.float32))
    assert not stage.take(queue).any()


@pytest.fixture(scope="module")
def device_of_module():
    with open_device() as device:
        yield device


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_values_as_the_reference(device_of_module, data):
    dtype = data.draw(st.sampled_from(["<u2", "<u4", "<i2", "<f4"]))
    images = data.draw(hnp.arrays(dtype, (5, 3, 7)))
    taken = data.draw(st.lists(st.booleans(), min_size=5, max_size=5))
    found = total(device_of_module, dtype, [(images, taken)])
    pixels: Pixels = pixels_of(dtype)
    for at in np.ndindex(3, 7):
        values = [float(image[at]) for image, one in zip(images, taken, strict=True) if one]
        # Kernels compare in float32: of uint32, the last 128 values count as the largest.
        if not all(math.isfinite(value) and np.float32(value) < np.float32(pixels.ceiling) for value in values):
            expected = fill_value(sum_type(pixels))
        elif pixels.unsigned:
            expected = min(sum(values), 2**32 - 2)
        else:
            expected = math.fsum(values)
            biggest = max(map(abs, values), default=0.0)
            if biggest * 5 > float(np.finfo(np.float32).max):  # in float64: NumPy would warn of an overflow
                continue  # the sum may leave the type on the way
            assert abs(found[at] - expected) <= 1e-6 * biggest + 1e-37
            continue
        np.testing.assert_equal(found[at].item(), expected)


def test_nothing_to_add_is_no_kernel_call(device, monkeypatch):
    stage = Accumulate(device, pixels_of("<u2"), np.zeros(SHAPE, bool))
    monkeypatch.setattr(stage, "_kernel", None)
    stage.enqueue(device.queue(), cl.Buffer(device.context, cl.mem_flags.READ_ONLY, 4), [False, False])
