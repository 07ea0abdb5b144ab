"""What the smx pipeline makes at prepare: checks, geometry, and the stages that turn raw frames into images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..device import Device
from ..errors import ParameterError
from ..frame import FrameSpec, PixelKind
from ..geometry import (
    RadialBins,
    assembly,
    double_pixels,
    geometry_from_poni,
    image_shape,
    normalization_of,
    radial_bins,
    radius_map,
    radius_of,
    upright_geometry,
)
from ..parts import crop, own_modules, whole_shape
from ..pipeline import Calibration, Stage
from ..stages.assemble import Assemble
from ..stages.convert import Convert
from ..stages.gain_pedestal import GainPedestal
from ..stages.mask import Mask
from ..stages.pixels import FLOAT, Pixels, pixels_of
from ..stages.scale import Scale
from .smx_params import GainUnit, SmxParams

if TYPE_CHECKING:
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator


@dataclass(frozen=True, slots=True)
class Images:
    """How images come about.

    :param stages: what raw frames go through; none: they are images already.
    :param pixels: of the images.
    :param bad: pixels that have no value (rows, cols).
    :param why: which of them are bad for which reason; several may hold of one pixel.
    """

    stages: tuple[Stage, ...]
    pixels: Pixels
    bad: NDArray[np.bool_]
    why: Mapping[str, NDArray[np.bool_]]


def check(params: SmxParams, spec: FrameSpec) -> None:
    """Check what depends on several parameters, or on the frames.

    :raises ParameterError: they do not fit together.
    """
    if bool(params.pedestal) != bool(params.gain):
        raise ParameterError("pipeline.params.gain", params.gain, "gains and pedestals, or neither")
    for name in params.__struct_fields__:
        value = getattr(params, name)
        numbers = value if name == "beam_center" and value else (value,)
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ParameterError(f"pipeline.params.{name}", value, "a finite number")
    for name in ("pedestal", "gain"):
        if len(getattr(params, name)) not in (0, 1, 3):
            raise ParameterError(f"pipeline.params.{name}", f"{len(getattr(params, name))} files", "1 or 3")
    if params.cutoff_peak < params.cutoff_pick:
        expected = f"at least cutoff_pick, {params.cutoff_pick:g}"
        raise ParameterError("pipeline.params.cutoff_peak", params.cutoff_peak, expected)
    if params.patch_size % 2 == 0:
        raise ParameterError("pipeline.params.patch_size", params.patch_size, "an odd number")
    if params.connected > params.patch_size**2:
        expected = f"at most the patch's {params.patch_size**2} pixels"
        raise ParameterError("pipeline.params.connected", params.connected, expected)
    needed = spec.pixels is PixelKind.GAIN_ADC
    if needed != bool(params.pedestal):
        raise ParameterError(
            "pipeline.params.pedestal",
            params.pedestal or "none",
            "pedestals and gains: the detector sends ADC values and gain stages"
            if needed
            else "none: the detector sends values, not ADC values and gain stages",
        )


def make_images(
    params: SmxParams, spec: FrameSpec, device: Device, files: Mapping[str, Calibration], batch: int
) -> Images:
    """Make the stages that turn what the detector sent into images, and note bad pixels.

    :raises ParameterError: calibration or mask do not fit the frames.
    """
    shape = image_shape(spec)
    stages: list[Stage] = []
    bad = np.zeros(int(np.prod(spec.shape)), np.bool_)
    why: dict[str, NDArray[np.bool_]] = {}
    pixels = FLOAT
    if params.pedestal:
        gain = _stack("gain", spec, files) * _gain_scale(params)
        correction = GainPedestal(device, spec, _stack("pedestal", spec, files), gain, batch)
        stages.append(correction)
        bad = correction.bad
    elif _as_they_came(params, spec):
        pixels = pixels_of(spec.dtype, params.saturation)
    else:
        stages.append(Convert(device, spec, pixels_of(spec.dtype, params.saturation), params.dummy, batch))
    if spec.layout is None:
        bad = bad.reshape(shape)
    else:
        plan = assembly(spec, spec.layout)
        why["gaps"] = plan.source < 0
        bad = ~why["gaps"] & bad[plan.source]
        if not plan.is_identity:
            stages.append(Assemble(device, spec, batch))
    if params.pedestal:
        why["without pedestal or gain"] = bad
    bad = bad | why["gaps"] if "gaps" in why else bad
    if params.solid_angle or params.polarization is not None:
        geometry = _geometry(params, spec, files)
        divisor = crop(normalization_of(geometry, whole_shape(spec), params.solid_angle, params.polarization), spec)
        factor = np.where(divisor > 0, 1 / np.maximum(divisor, np.finfo(np.float32).tiny), np.nan).astype(np.float32)
        stages.append(Scale(device, pixels, factor, batch))
        pixels = FLOAT
    if params.mask is not None:
        masked, whole = array("mask", files), whole_shape(spec)
        if masked.size == np.prod(whole):
            masked = np.ascontiguousarray(crop(masked.reshape(whole), spec))  # files of raw values have no shape
        stage = Mask(device, FrameSpec(shape, "<f4"), masked)
        if pixels is FLOAT:
            stages.append(stage)
        why["masked"] = masked != 0
        bad = bad | why["masked"]
    return Images(tuple(stages), pixels, bad, why)


def unused_pixels(images: Images, bins: RadialBins) -> dict[str, int]:
    """Count pixels by why they have no part in background and peaks, and all of them as ``unused``."""
    found = {reason: int(np.count_nonzero(pixels)) for reason, pixels in images.why.items()}
    return {**found, "unused": int(np.count_nonzero(np.isnan(bins.position)))}


def make_bins(
    params: SmxParams, spec: FrameSpec, files: Mapping[str, Calibration], bad: NDArray[np.bool_]
) -> tuple[RadialBins, NDArray[np.float64]]:
    """Return the radial bins, and the radius of each pixel (rows, cols).

    :raises ParameterError: the geometry can't be read or does not fit, or every pixel is masked.
    """
    shape = whole_shape(spec)
    if params.poni is not None:
        radius = radius_of(_geometry(params, spec, files), shape, params.unit)
    else:
        center = _center(params, shape)
        radius = radius_map(shape, spec.pixel_size, center, params.unit, params.distance, params.photon_energy)
    radius = np.ascontiguousarray(crop(radius, spec), np.float64)
    excluded = bad.copy()
    if spec.layout is not None:
        excluded |= double_pixels(spec, spec.layout)
    return radial_bins(radius, excluded, params.n_bins), radius


def array(name: str, files: Mapping[str, Calibration]) -> NDArray[np.generic]:
    """Return the array that a parameter's file held.

    :raises ParameterError: it held text.
    """
    data = files[name]
    if isinstance(data, str):
        raise ParameterError(f"pipeline.params.{name}", "a text file", "an array")
    return data


def _geometry(params: SmxParams, spec: FrameSpec, files: Mapping[str, Calibration]) -> AzimuthalIntegrator:
    """Return pyFAI's geometry of the whole detector, from the PONI file or from distance and beam centre."""
    shape = whole_shape(spec)
    if params.poni is None:
        return upright_geometry(shape, spec.pixel_size, _center(params, shape), params.distance)
    text = files["poni"]
    if not isinstance(text, str):
        raise ParameterError("pipeline.params.poni", params.poni.path, "a .poni file")
    return geometry_from_poni(text, shape)


def _center(params: SmxParams, shape: tuple[int, int]) -> tuple[float, float]:
    return params.beam_center or ((shape[0] - 1) / 2, (shape[1] - 1) / 2)


def _as_they_came(params: SmxParams, spec: FrameSpec) -> bool:
    """Tell whether raw frames are images that all kernels can take."""
    kind = np.dtype(spec.dtype)
    plain = (kind.kind == "u" and kind.itemsize <= 4) or (kind.str == "<f4" and not params.saturation)
    return plain and spec.layout is None and params.dummy is None


def _gain_scale(params: SmxParams) -> float:
    if params.gain_unit is GainUnit.ADU_PER_PHOTON:
        return 1.0
    if not params.photon_energy:
        raise ParameterError("pipeline.params.photon_energy", 0, "more than 0 eV where gains are in ADU/keV")
    return params.photon_energy * 1e-3


def _stack(name: str, spec: FrameSpec, files: Mapping[str, Calibration]) -> NDArray[np.floating]:
    """Return the three stages' maps of these modules, from one file or three."""
    parts = [np.ravel(array(key, files)) for key in sorted(files) if key.startswith(f"{name}.")]
    return own_modules(np.concatenate(parts).astype(np.float64), spec, planes=3)
