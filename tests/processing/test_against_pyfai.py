"""The radial background, the sparse pixels and the peaks as pyFAI finds them on the same device."""

import functools
from dataclasses import dataclass

import numpy as np
import pytest

from lima2_processing.calibration import CalibrationFile
from lima2_processing.frame import Frame, FrameSpec
from lima2_processing.pipelines.smx import Smx
from lima2_processing.pipelines.smx_params import ErrorModel, SmxParams
from lima2_processing.testing import check_result

SHAPE = (200, 220)
N_BINS = 60
PIXEL = 75e-6
DISTANCE = 0.1
OPTIONS = {"cutoff_clip": 5.0, "cycle": 3, "noise": 0.5, "cutoff_pick": 4.0}
PEAKS = {"cutoff_peak": 5.0, "patch_size": 5, "connected": 3}


@dataclass(frozen=True)
class Case:
    """A frame, what is masked, and where the beam is.

    :param center: (row, col) of the point of normal incidence.
    :param tilt: rotation of the detector about its vertical axis, radians.
    :param masked_ring: radii in pixels between which all is masked.
    :param saturated: share of the pixels that hold the largest value of the type.
    """

    seed: int
    level: float
    dtype: str = "<u2"
    center: tuple[float, float] = (90.3, 120.7)
    tilt: float = 0.0
    masked_ring: tuple[float, float] = (0.0, 0.0)
    saturated: float = 0.0
    model: str = "azimuthal"
    cutoff_clip: float = 5.0
    n_spots: int = 20

    def radius(self):
        y, x = np.indices(SHAPE)
        return np.hypot(y - self.center[0], x - self.center[1])

    def frame(self):
        rng = np.random.default_rng(self.seed)
        y, x = np.indices(SHAPE)
        radius = self.radius()
        image = rng.poisson(self.level * (0.3 + np.exp(-((radius - 60) ** 2) / 400))).astype(np.float64)
        for _ in range(self.n_spots):
            row, col = rng.uniform(5, SHAPE[0] - 5), rng.uniform(5, SHAPE[1] - 5)
            strength = rng.uniform(20, 100) * np.sqrt(self.level + 1)
            image += rng.poisson(strength * np.exp(-((y - row) ** 2 + (x - col) ** 2) / 1.5))
        mask = rng.random(SHAPE) < 0.003
        mask[95:99] = True
        low, high = self.masked_ring
        mask |= (radius >= low) & (radius < high)
        hot = rng.random(SHAPE) < self.saturated
        if self.dtype == "<f4":
            image[hot] = np.nan
        else:
            image = np.minimum(image, np.iinfo(self.dtype).max - 1)
            image[hot] = np.iinfo(self.dtype).max
        return image.astype(self.dtype), mask.astype(np.int8)

    @property
    def dummy(self):
        return None if self.dtype == "<f4" else float(np.iinfo(self.dtype).max)


CASES = [
    *(
        Case(int(level), level, dtype, model=model, cutoff_clip=cutoff_clip)
        for dtype in ("<u2", "<f4")
        for level in (0.1, 4.0, 2000.0)
        for model, cutoff_clip in (("azimuthal", 0.0), ("azimuthal", 5.0), ("poisson", 5.0))
    ),
    *(Case(20 + at, level, dtype) for at, level in enumerate((0.01, 1.0, 30.0, 5000.0)) for dtype in ("<u4", "<f4")),
    Case(40, 3.0, center=(-50.0, 110.0)),
    Case(41, 3.0, center=(250.0, 400.0), dtype="<f4"),
    Case(42, 3.0, tilt=0.3),
    Case(43, 300.0, tilt=-0.2, dtype="<u4"),
    Case(44, 3.0, masked_ring=(30.0, 45.0)),
    Case(45, 3.0, masked_ring=(0.0, 25.0), dtype="<f4"),
    Case(46, 3.0, saturated=0.02),
    Case(47, 500.0, saturated=0.3, dtype="<u4"),
    Case(48, 3.0, saturated=0.1, dtype="<f4"),
    Case(49, 0.0, n_spots=0),
    Case(50, 0.0, n_spots=0, dtype="<f4"),
    Case(51, 0.0, n_spots=5),
]


def geometry_of(case):
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    poni = [(at + 0.5) * PIXEL for at in case.center]
    return AzimuthalIntegrator(
        dist=DISTANCE,
        poni1=poni[0],
        poni2=poni[1],
        rot1=case.tilt,
        detector=Detector(PIXEL, PIXEL, max_shape=SHAPE),
        wavelength=1e-10,
    )


def theirs_of(device, case, image, mask):
    """Run pyFAI's OpenCL peak finder on a frame; device first, since it teaches PoCL the CPU's name."""
    from pyFAI.opencl.peak_finder import OCL_PeakFinder
    from pyFAI.units import to_unit

    unit, geometry = to_unit("r_mm"), geometry_of(case)
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
    dummy = {} if case.dummy is None else {"dummy": case.dummy, "delta_dummy": 0.5}
    options = OPTIONS | {"cutoff_clip": case.cutoff_clip}
    return finder.sparsify(image, error_model=case.model, **PEAKS, **options, **dummy)


def ours_of(device, case, image, mask, tmp_path):
    """Run the pipeline; the geometry comes from a PONI file where the detector is tilted."""
    params = SmxParams(
        mask=CalibrationFile("/mask"),
        poni=CalibrationFile("/poni") if case.tilt else None,
        beam_center=case.center,
        n_bins=N_BINS,
        error_model=ErrorModel(case.model),
        **PEAKS,
        **(OPTIONS | {"cutoff_clip": case.cutoff_clip}),
    )
    files = {"mask": mask}
    if case.tilt:
        geometry_of(case).save(str(tmp_path / "case.poni"))
        files["poni"] = (tmp_path / "case.poni").read_text()
    pipeline = Smx(params, FrameSpec(SHAPE, case.dtype), device, files)
    result = pipeline.process((Frame(0, image, 1, 0.0),)).frames[0]
    check_result(result, pipeline.outputs())
    bins = pipeline.bins
    pipeline.close()
    return result.values, bins


def check_background(ours, theirs, image, case, bins, reference):
    """Return which bins are not as pyFAI's to a thousandth of sigma; those must be as a float64 computation says.

    A value that lies on the cut may fall either way in float32: such a bin says nothing. Bins without values are NaN
    here and 0 in pyFAI.
    """
    values = image.astype(np.float64)
    if case.dummy is not None:
        values[image == case.dummy] = np.nan
    parts = np.split(values.ravel()[bins.pixels], bins.ends[:-1].astype(int))
    empty = np.array([not np.isfinite(part).any() for part in parts])
    np.testing.assert_array_equal(np.isnan(ours["background_avg"]), empty)
    scale = np.hypot(theirs.background_std, OPTIONS["noise"])
    off = np.zeros(N_BINS, bool)
    for name in ("background_avg", "background_std"):
        off |= ~empty & ~(np.abs(ours[name] - getattr(theirs, name)) < 1e-3 * scale)
    for at in np.flatnonzero(off):
        expected = reference.sigma_clip(parts[at], case.cutoff_clip, OPTIONS["cycle"], case.model == "poisson")
        if expected.margin > 1e-5:
            close = {"rtol": 1e-4, "atol": 1e-4 * scale[at]}
            np.testing.assert_allclose(ours["background_avg"][at], expected.mean, **close)
            np.testing.assert_allclose(ours["background_std"][at], expected.deviation, **close)
    return off


def check_sparse(ours, theirs, image, case, bins, reference):
    """The same pixels, but for those that a float's rounding of background and threshold decides.

    Beside a bin without values pyFAI's background falls towards 0, and ours does not: there only the reference counts.
    """
    mean, deviation = (ours[name].astype(np.float64) for name in ("background_avg", "background_std"))
    level, uncertainty = (part.ravel() for part in reference.background_at(bins, mean, deviation, OPTIONS["noise"]))
    values = image.ravel().astype(np.float64)
    if case.dummy is not None:
        values[values == case.dummy] = np.nan
    above = values - level - OPTIONS["cutoff_pick"] * uncertainty
    near = np.abs(above) <= 1e-4 * (np.abs(values) + level + uncertainty)
    place = bins.position.ravel()
    low = np.nan_to_num(place).astype(int)
    beside_empty = np.isnan(mean[low]) | np.isnan(mean[np.minimum(low + 1, N_BINS - 1)])
    picked = ours["sparse"].index
    assert near[np.setxor1d(picked, np.flatnonzero(above > 0))].all()
    assert (near | beside_empty)[np.setxor1d(picked, theirs.index)].all()
    np.testing.assert_array_equal(ours["sparse"].intensity, image.ravel()[picked].astype(np.float32))


def tied(theirs):
    """Return the pixels that are peaks of pyFAI, and have as high a neighbour that is one too."""
    index = theirs.peaks["index"]
    values = dict(zip(theirs.index.tolist(), theirs.intensity.tolist(), strict=True))
    return [
        at for at in index if any(values.get(at + step) == values[at] for step in (1, SHAPE[1]) if at + step in index)
    ]


def check_peaks(ours, theirs):
    peaks = ours["peaks"][: ours["n_peaks"]]
    order = np.argsort(theirs.peaks["index"])
    # Of two equal pixels side by side pyFAI makes two peaks, and we one, the first.
    order = [at for at in order if not np.isin(theirs.peaks["index"][at] - [1, SHAPE[1]], tied(theirs)).any()]
    places = np.stack([theirs.peaks["pos0"], theirs.peaks["pos1"]], axis=1)[order]
    assert len(peaks) == len(places)
    np.testing.assert_allclose(peaks[:, :2], places, atol=0.01)
    np.testing.assert_allclose(peaks[:, 2], theirs.peaks["intensity"][order], rtol=1e-3)
    np.testing.assert_allclose(peaks[:, 3], theirs.peaks["sigma"][order], rtol=1e-3)
    np.testing.assert_allclose(peaks[:, 4], (theirs.peaks["intensity"] / theirs.peaks["sigma"])[order], rtol=1e-3)


@pytest.fixture(scope="module")
def compared(device, reference, tmp_path_factory):
    """Computes a case once: ours, pyFAI's, and which bins differ."""

    def compute(case):
        image, mask = case.frame()
        theirs = theirs_of(device, case, image, mask)
        ours, bins = ours_of(device, case, image, mask, tmp_path_factory.mktemp("case"))
        return image, ours, theirs, bins, check_background(ours, theirs, image, case, bins, reference)

    return functools.cache(compute)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"seed{case.seed}-{case.level:g}-{case.dtype[1:]}")
def test_same_as_pyfai(compared, reference, case):
    image, ours, theirs, bins, _ = compared(case)
    check_sparse(ours, theirs, image, case, bins, reference)
    check_peaks(ours, theirs)


def test_hardly_any_bin_differs_at_all(compared):
    """All cases together, so that a share means something."""
    off = sum(int(compared(case)[4].sum()) for case in CASES)
    assert off <= 1e-3 * len(CASES) * N_BINS
