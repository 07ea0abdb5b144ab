"""Where pixels lie: radii from a beam centre or a PONI file, radial bins, and the way from raw modules to the image."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import ParameterError
from .frame import FrameSpec, ModuleLayout

if TYPE_CHECKING:
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

Unit = Literal["r_mm", "q_nm^-1", "2th_deg"]
_PYFAI_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError)
PLANCK_KEV_M = 1.2398419843320026e-09  # wavelength in metres times energy in keV: h c / e, CODATA 2018


@dataclass(frozen=True, slots=True)
class RadialBins:
    """How pixels fall into radial bins.

    :param radius: centre of each bin (bins,), in the unit asked for.
    :param pixels: flat positions of all pixels that belong to a bin, bin after bin, uint32 (n,).
    :param ends: where in ``pixels`` each bin ends, uint32 (bins,).
    :param number: bin of each pixel (rows, cols), uint16; the number of bins for pixels that belong to none.
    :param position: of each pixel (rows, cols) on the scale of bins, 0 at the centre of bin 0, float32; NaN for pixels
        that belong to no bin.
    """

    radius: NDArray[np.float32]
    pixels: NDArray[np.uint32]
    ends: NDArray[np.uint32]
    number: NDArray[np.uint16]
    position: NDArray[np.float32]


def image_shape(spec: FrameSpec) -> tuple[int, int]:
    """Return the shape (rows, cols) of the image that a frame gives.

    :raises ParameterError: the frame has several channels, or no image.
    """
    if spec.layout is not None:
        return spec.layout.image_shape
    if len(spec.shape) != 2:
        raise ParameterError("frame.shape", spec.shape, "(rows, cols), or modules with a layout")
    return spec.shape[0], spec.shape[1]


def radius_map(
    shape: tuple[int, int],
    pixel_size: tuple[float, float],
    center: tuple[float, float],
    unit: Unit = "r_mm",
    distance: float = 0.0,
    photon_energy: float = 0.0,
) -> NDArray[np.float64]:
    """Return the radius of each pixel (rows, cols) for a detector that stands upright in the beam.

    :param pixel_size: metres (rows, cols).
    :param center: of the beam, pixels (row, col); pixel centres are whole numbers. It may lie outside the image.
    :param unit: of the result.
    :param distance: to the sample in metres; needed for ``q_nm^-1`` and ``2th_deg``.
    :param photon_energy: eV; needed for ``q_nm^-1``.
    :raises ParameterError: distance or energy is needed and not given.
    """
    rows, cols = np.indices(shape)
    metres = np.hypot((rows - center[0]) * pixel_size[0], (cols - center[1]) * pixel_size[1])
    if unit == "r_mm":
        return metres * 1e3
    if distance <= 0:
        raise ParameterError("pipeline.params.distance", distance, f"more than 0 metres for unit {unit}")
    two_theta = np.arctan2(metres, distance)
    if unit == "2th_deg":
        return np.degrees(two_theta)
    if photon_energy <= 0:
        raise ParameterError("pipeline.params.photon_energy", photon_energy, f"more than 0 eV for unit {unit}")
    wavelength = PLANCK_KEV_M / (photon_energy * 1e-3)
    return 4e-9 * np.pi / wavelength * np.sin(two_theta / 2)


def geometry_from_poni(text: str, shape: tuple[int, int]) -> AzimuthalIntegrator:
    """Return pyFAI's geometry as a PONI file says.

    :param text: of the PONI file.
    :param shape: of the image; the file's detector must have it, if it names one.
    :raises ParameterError: pyFAI can't read it, or it is of another detector.
    """
    from pyFAI import load  # slow to import, and rarely needed

    with tempfile.NamedTemporaryFile("w", suffix=".poni") as file:  # pyFAI reads geometry from files only
        file.write(text)
        file.flush()
        try:
            integrator = load(file.name)
            size = (integrator.detector and integrator.detector.max_shape) or shape
        except _PYFAI_ERRORS as error:
            raise ParameterError("pipeline.params.poni", text[:60], f"a PONI file that pyFAI reads: {error}") from error
    if tuple(size) != shape:
        raise ParameterError("pipeline.params.poni", f"a detector of {tuple(size)} pixels", f"{shape}")
    return integrator


def upright_geometry(
    shape: tuple[int, int], pixel_size: tuple[float, float], center: tuple[float, float], distance: float
) -> AzimuthalIntegrator:
    """Return pyFAI's geometry of a detector that stands upright in the beam; parameters as for ``radius_map``.

    :raises ParameterError: the distance is not known.
    """
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    if distance <= 0:
        raise ParameterError("pipeline.params.distance", distance, "more than 0 m for solid angle and polarization")
    return AzimuthalIntegrator(
        dist=distance,
        poni1=(center[0] + 0.5) * pixel_size[0],
        poni2=(center[1] + 0.5) * pixel_size[1],
        detector=Detector(*pixel_size, max_shape=shape),
    )


def radius_of(geometry: AzimuthalIntegrator, shape: tuple[int, int], unit: Unit = "r_mm") -> NDArray[np.float64]:
    """Return the radius of each pixel (rows, cols), by pyFAI.

    :raises ParameterError: the geometry does not give it, for lack of a wavelength or of a detector.
    """
    try:
        radius = np.asarray(geometry.array_from_unit(shape, "center", unit, scale=True), np.float64)
    except _PYFAI_ERRORS as error:
        raise ParameterError(
            "pipeline.params.poni", unit, f"a PONI file that pyFAI reads, for this unit: {error}"
        ) from error
    if radius.shape != shape:
        raise ParameterError("pipeline.params.poni", f"a detector of {radius.shape} pixels", f"{shape}")
    return radius


def normalization_of(
    geometry: AzimuthalIntegrator, shape: tuple[int, int], solid_angle: bool, polarization: float | None
) -> NDArray[np.float32]:
    """Return what the pixels (rows, cols) are to be divided by, by pyFAI.

    :param solid_angle: of each pixel, relative to one at the point of normal incidence.
    :param polarization: factor of the beam, 1: horizontal, -1: vertical; None: leave it out.
    """
    factor = np.ones(shape)
    if solid_angle:
        factor *= np.asarray(geometry.solidAngleArray(shape), np.float64)
    if polarization is not None:
        factor *= np.asarray(geometry.polarization(shape, polarization), np.float64)
    return factor.astype(np.float32)


def radial_bins(radius: NDArray[np.float64], masked: NDArray[np.bool_], n_bins: int) -> RadialBins:
    """Sort pixels into equally wide radial bins from the smallest to the largest radius that is not masked.

    Bins and positions follow pyFAI's without pixel splitting.

    :param radius: of each pixel (rows, cols).
    :param masked: True where a pixel belongs to no bin (rows, cols).
    :param n_bins: how many.
    :raises ParameterError: everything is masked.
    """
    good = ~masked & np.isfinite(radius)
    if not good.any():
        raise ParameterError("mask", "every pixel masked", "some pixels left")
    low, high = float(radius[good].min()), float(radius[good].max())
    width = (high - low) / n_bins or 1.0
    scaled = (radius - low) / width
    number = np.where(good, np.clip(scaled, 0, n_bins - 1), n_bins).astype(np.int64).ravel()
    order = np.argsort(number, kind="stable").astype(np.uint32)
    counts = np.bincount(number, minlength=n_bins + 1)[:n_bins]
    ends = np.cumsum(counts).astype(np.uint32)
    position = np.where(good, np.clip(scaled - 0.5, 0, n_bins - 1), np.nan).astype(np.float32)
    centres = (low + (np.arange(n_bins) + 0.5) * width).astype(np.float32)
    return RadialBins(centres, order[: ends[-1]], ends, number.reshape(radius.shape).astype(np.uint16), position)


@dataclass(frozen=True, slots=True)
class Assembly:
    """How raw modules become the image.

    :param source: flat raw position of each image pixel, int32 (rows, cols); -1 in gaps between modules.
    :param share: part of the raw pixel's charge that the image pixel gets, float32 (rows, cols).
    """

    source: NDArray[np.int32]
    share: NDArray[np.float32]

    @property
    def is_identity(self) -> bool:
        """Whether the raw frame is the image already."""
        return bool((self.source.ravel() == np.arange(self.source.size)).all() and (self.share == 1).all())


def assembly(spec: FrameSpec, layout: ModuleLayout) -> Assembly:
    """Return how a layout's modules become the image."""
    _, rows, cols = spec.shape
    row_source, row_share = _line(rows, layout.chip_shape[0], layout.chip_gap)
    col_source, col_share = _line(cols, layout.chip_shape[1], layout.chip_gap)
    source = np.full(layout.image_shape, -1, np.int32)
    share = np.zeros(layout.image_shape, np.float32)
    for module, (row, col) in enumerate(layout.origins):
        place = np.s_[row : row + len(row_source), col : col + len(col_source)]
        source[place] = module * rows * cols + row_source[:, None] * cols + col_source[None, :]
        share[place] = row_share[:, None] * col_share[None, :]
    return Assembly(source, share)


def _line(pixels: int, chip: int, gap: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return raw position and share of each image pixel along one axis of a module.

    Between two chips lie ``gap`` more pixels; the nearer chip's edge pixel covers itself and its half of them.
    """
    source: list[int] = []
    for pixel in range(pixels):
        before = gap // 2 if pixel and pixel % chip == 0 else 0
        after = gap - gap // 2 if pixel < pixels - 1 and pixel % chip == chip - 1 else 0
        source += [pixel] * (before + 1 + after)
    line = np.array(source, np.int32)
    return line, (1.0 / np.bincount(line)[line]).astype(np.float32)


def double_pixels(spec: FrameSpec, layout: ModuleLayout) -> NDArray[np.bool_]:
    """Return which pixels (rows, cols) of an image without gap pixels are double-size ones, at chip edges."""
    found = np.zeros(layout.image_shape, np.bool_)
    if layout.chip_gap:
        return found
    _, rows, cols = spec.shape
    down, across = (_edges(size, chip) for size, chip in zip((rows, cols), layout.chip_shape, strict=True))
    for row, col in layout.origins:
        found[row : row + rows, col : col + cols] = down[:, None] | across[None, :]
    return found


def _edges(size: int, chip: int) -> NDArray[np.bool_]:
    at = np.arange(size)
    return ((at % chip == 0) & (at > 0)) | ((at % chip == chip - 1) & (at < size - 1))
