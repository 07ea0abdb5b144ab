import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_processing.errors import ParameterError
from lima2_processing.frame import FrameSpec
from lima2_processing.layouts import grid, jungfrau
from lima2_processing.stages.assemble import Assemble
from lima2_processing.stages.convert import Convert
from lima2_processing.stages.mask import Mask
from lima2_processing.stages.pixels import pixels_of


@settings(deadline=None, max_examples=40)
@given(
    modules=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    chips=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    chip=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    gap_pixels=st.booleans(),
    module_gap=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_any_grid_as_the_reference(device, run_stage, reference, modules, chips, chip, gap_pixels, module_gap):
    module_shape = (chips[0] * chip[0], chips[1] * chip[1])
    spec = grid(modules, module_shape, chip, gap_pixels, module_gap)
    raw = np.random.default_rng(0).normal(5, 2, (2, *spec.shape)).astype(np.float32)
    image = run_stage(Assemble(device, spec, 2), raw, spec.layout.image_shape)
    expected = np.stack([reference.assemble(frame, spec.layout) for frame in raw])
    np.testing.assert_allclose(image, expected, rtol=1e-6)


@pytest.mark.parametrize("gap_pixels", [True, False])
def test_no_charge_is_lost_on_a_real_layout(device, run_stage, gap_pixels):
    spec = jungfrau(2, gap_pixels)
    raw = np.random.default_rng(0).poisson(3, (1, *spec.shape)).astype(np.float32)
    image = run_stage(Assemble(device, spec, 1), raw, spec.layout.image_shape)
    assert np.nansum(image, dtype=np.float64) == raw.sum(dtype=np.float64)
    assert np.isnan(image).sum() == 36 * spec.layout.image_shape[1]


def test_assembling_needs_a_layout(device):
    with pytest.raises(ParameterError, match=r"frame\.layout"):
        Assemble(device, FrameSpec((10, 20), "<f4"), 1)


@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4", "<i2", "<i4"])
def test_largest_count_is_masked(device, run_stage, dtype):
    top = np.iinfo(dtype).max
    counts = np.array([[[0, 1, 100, top]]], dtype)
    values = run_stage(Convert(device, FrameSpec((1, 4), dtype), pixels_of(dtype), None, 1), counts, (1, 4))
    np.testing.assert_array_equal(values, [[[0, 1, 100, np.nan]]])


def test_floats_stay_what_they_are(device, run_stage):
    values = np.array([[[0, -1.5, 1e30, np.nan]]], np.float32)
    converted = run_stage(Convert(device, FrameSpec((1, 4), "<f4"), pixels_of("<f4"), None, 1), values, (1, 4))
    np.testing.assert_array_equal(converted, values)


def test_type_that_cannot_be_converted(device):
    with pytest.raises(ParameterError, match=r"frame\.dtype: got '<c8', expected one of"):
        pixels_of("<c8")


def test_masked_pixels_are_nan_in_every_frame(device, run_stage):
    masked = np.array([[0, 1], [255, 0]])
    image = run_stage(Mask(device, FrameSpec((2, 2), "<f4"), masked), np.ones((2, 2, 2), np.float32), (2, 2))
    np.testing.assert_array_equal(image, [[[1, np.nan], [np.nan, 1]]] * 2)


@pytest.mark.parametrize(("masked", "message"), [(np.zeros((2, 3)), r"\(2, 2\)"), (np.ones((2, 2)), "every pixel")])
def test_wrong_masks(device, masked, message):
    with pytest.raises(ParameterError, match=message):
        Mask(device, FrameSpec((2, 2), "<f4"), masked)
