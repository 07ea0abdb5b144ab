"""The radial background, the sparse pixels and the peaks as pyFAI finds them on the same device."""

import numpy as np
import pytest

from lima2_processing.calibration import CalibrationFile
from lima2_processing.frame import Frame, FrameSpec
from lima2_processing.pipelines.smx import Smx
from lima2_processing.pipelines.smx_params import ErrorModel, SmxParams
from lima2_processing.testing import check_result

SHAPE = (200, 220)
N_BINS = 60
CENTER = (90.3, 120.7)


@pytest.fixture(scope="module")
def pyfai(device):
    """Runs pyFAI's OpenCL peak finder on a frame; device first, since it teaches PoCL the CPU's name."""
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator
    from pyFAI.opencl.peak_finder import OCL_PeakFinder
    from pyFAI.units import to_unit

    detector = Detector(75e-6, 75e-6, max_shape=SHAPE)
    geometry = AzimuthalIntegrator(
        dist=0.1, poni1=(CENTER[0] + 0.5) * 75e-6, poni2=(CENTER[1] + 0.5) * 75e-6, detector=detector, wavelength=1e-10
    )
    unit = to_unit("r_mm")

    def run(image, mask, **options):
        integrator = geometry.setup_sparse_integrator(
            SHAPE, N_BINS, mask=mask, unit=unit, split="no", algo="CSR", scale=False
        )
        finder = OCL_PeakFinder(
            integrator.lut,
            image_size=image.size,
            unit=unit,
            bin_centers=integrator.bin_centers,
            radius=geometry.array_from_unit(typ="center", unit=unit, scale=False),
            mask=mask,
            ctx=device.context,
            block_size=64,
        )
        return finder.sparsify(image, cutoff_peak=5.0, patch_size=5, connected=3, **options)

    return run


def make_frame(seed, level, dtype):
    rng = np.random.default_rng(seed)
    y, x = np.indices(SHAPE)
    radius = np.hypot(y - CENTER[0], x - CENTER[1])
    image = rng.poisson(level * (0.3 + np.exp(-((radius - 60) ** 2) / 400))).astype(np.float64)
    for _ in range(20):
        row, col = rng.uniform(5, SHAPE[0] - 5), rng.uniform(5, SHAPE[1] - 5)
        strength = rng.uniform(20, 100) * np.sqrt(level + 1)
        image += rng.poisson(strength * np.exp(-((y - row) ** 2 + (x - col) ** 2) / 1.5))
    mask = rng.random(SHAPE) < 0.003
    mask[95:99] = True
    return image.astype(dtype), mask.astype(np.int8)


@pytest.mark.parametrize("dtype", ["<u2", "<f4"])
@pytest.mark.parametrize("level", [0.1, 4.0, 2000.0])
@pytest.mark.parametrize(("model", "cutoff_clip"), [("azimuthal", 0.0), ("azimuthal", 5.0), ("poisson", 5.0)])
def test_same_as_pyfai(device, pyfai, dtype, level, model, cutoff_clip):
    image, mask = make_frame(int(level), level, dtype)
    options = {"cutoff_clip": cutoff_clip, "cycle": 3, "noise": 0.5, "cutoff_pick": 4.0}
    theirs = pyfai(image, mask, error_model=model, **options)

    spec = FrameSpec(SHAPE, dtype)
    params = SmxParams(
        mask=CalibrationFile("/mask"),
        beam_center=CENTER,
        n_bins=N_BINS,
        error_model=ErrorModel(model),
        cutoff_peak=5.0,
        connected=3,
        **options,
    )
    pipeline = Smx(params, spec, device, {"mask": mask})
    result = pipeline.process((Frame(0, image, 1, 0.0),)).frames[0]
    check_result(result, pipeline.outputs())
    pipeline.close()
    ours = result.values

    filled = theirs.background_std > 0
    scale = np.hypot(theirs.background_std, 0.5)
    for name, expected in (("background_avg", theirs.background_avg), ("background_std", theirs.background_std)):
        difference = np.abs(ours[name] - expected)[filled] / scale[filled]
        assert (difference < 1e-3).mean() > 0.99, name

    index = np.sort(theirs.index)
    common = np.intersect1d(ours["sparse"].index, index)
    assert len(common) >= 0.995 * max(len(index), len(ours["sparse"].index))
    np.testing.assert_array_equal(image.flat[common], ours["sparse"].intensity[np.isin(ours["sparse"].index, common)])

    peaks = ours["peaks"][: ours["n_peaks"]]
    places = np.stack([theirs.peaks["pos0"], theirs.peaks["pos1"]], axis=1)
    assert len(peaks) == len(places) > 5
    order = np.argsort(theirs.peaks["index"])
    np.testing.assert_allclose(peaks[:, :2], places[order], atol=0.01)
    np.testing.assert_allclose(peaks[:, 2], theirs.peaks["intensity"][order], rtol=1e-3)
    np.testing.assert_allclose(peaks[:, 3], theirs.peaks["sigma"][order], rtol=1e-3)
    np.testing.assert_allclose(peaks[:, 4], (theirs.peaks["intensity"] / theirs.peaks["sigma"])[order], rtol=1e-3)
