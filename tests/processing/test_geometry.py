import numpy as np
import pytest

from lima2_processing.errors import ParameterError
from lima2_processing.frame import FrameSpec
from lima2_processing.geometry import (
    double_pixels,
    geometry_from_poni,
    image_shape,
    radial_bins,
    radius_map,
    radius_of,
)
from lima2_processing.layouts import grid, jungfrau

PIXEL = (75e-6, 75e-6)
SHAPE = (60, 80)
PONI = """poni_version: 2
Detector: Detector
Detector_config: {"pixel1": 7.5e-05, "pixel2": 7.5e-05, "max_shape": [60, 80], "orientation": 3}
Distance: 0.2
Poni1: 0.0015375
Poni2: -0.0002625
Rot1: 0.0
Rot2: 0.0
Rot3: 0.0
Wavelength: 1e-10
"""  # the beam at row 20, column -4: a PONI counts from the pixel's edge
ENERGY = 12398.419843320026  # eV of 1 angstrom


@pytest.mark.parametrize("unit", ["r_mm", "2th_deg", "q_nm^-1"])
def test_radius_agrees_with_pyfai(unit):
    ours = radius_map(SHAPE, PIXEL, (20, -4), unit, 0.2, ENERGY)
    np.testing.assert_allclose(ours, radius_of(geometry_from_poni(PONI, SHAPE), SHAPE, unit), rtol=1e-6, atol=1e-6)


def test_radius_is_0_in_the_beam():
    radius = radius_map(SHAPE, PIXEL, (20, 30))
    assert radius[20, 30] == 0
    np.testing.assert_allclose([radius[20, 31], radius[24, 33]], [0.075, 0.375])


@pytest.mark.parametrize(("unit", "missing"), [("2th_deg", "distance"), ("q_nm^-1", "photon_energy")])
def test_units_that_need_more(unit, missing):
    with pytest.raises(ParameterError, match=missing):
        radius_map(SHAPE, PIXEL, (0, 0), unit, 0.2 if missing == "photon_energy" else 0.0)


@pytest.mark.parametrize("text", ["", "no poni", "poni_version: 2\nDistance: far", "Detector: NoSuch\n"])
def test_wrong_poni(text):
    with pytest.raises(ParameterError, match=r"pipeline\.params\.poni"):
        radius_of(geometry_from_poni(text, SHAPE), SHAPE)


def test_poni_of_another_detector():
    with pytest.raises(ParameterError, match=r"pipeline\.params\.poni"):
        geometry_from_poni(PONI, (61, 80))


def test_bins_hold_each_pixel_once():
    radius = radius_map(SHAPE, PIXEL, (20, 30))
    masked = np.zeros(SHAPE, bool)
    masked[:, 10:20] = True
    bins = radial_bins(radius, masked, 25)
    assert sorted(bins.pixels) == np.flatnonzero(~masked).tolist()
    assert bins.ends[-1] == len(bins.pixels)
    edges = np.linspace(radius[~masked].min(), radius[~masked].max(), 26)
    for bin_, (begin, end) in enumerate(zip(np.r_[0, bins.ends], bins.ends, strict=False)):
        inside = radius.ravel()[bins.pixels[begin:end]]
        assert (inside >= edges[bin_] - 1e-9).all()
        assert (inside <= edges[bin_ + 1] + 1e-9).all()
    np.testing.assert_allclose(bins.radius, (edges[1:] + edges[:-1]) / 2, rtol=1e-6)
    assert np.isnan(bins.position[masked]).all()
    assert bins.position[~masked].min() == 0
    assert bins.position[~masked].max() == 24


def test_one_radius_only():
    bins = radial_bins(np.full((3, 3), 2.0), np.zeros((3, 3), bool), 4)
    assert bins.ends.tolist() == [9, 9, 9, 9]


def test_everything_masked():
    with pytest.raises(ParameterError, match="every pixel"):
        radial_bins(np.ones((3, 3)), np.ones((3, 3), bool), 4)


def test_double_pixels_are_at_the_edges_between_chips():
    spec = grid((2, 1), (4, 6), (2, 3), gap_pixels=False, module_gap=(1, 0))
    expected = np.zeros((9, 6), bool)
    expected[[1, 2, 6, 7]] = True
    expected[:4, 2:4] = expected[5:, 2:4] = True
    np.testing.assert_array_equal(double_pixels(spec, spec.layout), expected)


def test_no_double_pixels_where_their_charge_is_shared():
    spec = jungfrau(1, gap_pixels=True)
    assert not double_pixels(spec, spec.layout).any()


def test_image_shape():
    assert image_shape(jungfrau(8)) == (2164, 2068)
    assert image_shape(FrameSpec((10, 20), "<u2")) == (10, 20)
    with pytest.raises(ParameterError, match="layout"):
        image_shape(FrameSpec((2, 10, 20), "<u2"))
