"""Parameters of the ``smx`` pipeline. Imports no OpenCL, so that clients and conductors can use it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..calibration import CalibrationFile
from ..pipeline import PipelinePlugin


class GainUnit(StrEnum):
    """What the gain maps are in."""

    ADU_PER_PHOTON = "ADU/photon"
    ADU_PER_KEV = "ADU/keV"  # PSI's own maps


class ErrorModel(StrEnum):
    """Where the uncertainty of the background comes from."""

    AZIMUTHAL = "azimuthal"  # from the spread of the values in a radial bin
    POISSON = "poisson"  # counting statistics: a value's variance is the value itself, at least 1


class Veto(StrEnum):
    """What becomes of frames that are no hits."""

    OFF = "off"  # they are saved like hits
    MARK = "mark"  # they are saved like hits, and count as vetoed
    SKIP_DENSE = "skip_dense"  # they have no dense frame, and count as vetoed
    SPARSE_ONLY = "sparse_only"  # no frame has a dense one


class SmxParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Serial crystallography: correction, radial background, sparse pixels, peaks.

    :param pedestal: pedestals in ADU of the three gain stages: one file of three planes, or three files; none: frames
        are images already and are not corrected.
    :param gain: gains likewise, in ``gain_unit``; needed with ``pedestal``.
    :param gain_unit: unit of the gains; ``ADU/keV`` needs ``photon_energy``.
    :param photon_energy: eV; 0: not known.
    :param mask: pixels not to be used, not 0 where masked, shaped as the image; none: all are used.
    :param saturation: raw values from here on are saturated and not used; 0: only the largest value of an integer type,
        which marks masked pixels. A Jungfrau marks saturated pixels itself.
    :param dummy: value of pixels without data, in the raw frame; none: only the largest value of an integer type.
    :param poni: geometry as a PONI file; none: ``beam_center`` and ``distance``.
    :param beam_center: (row, col) of the beam in pixels of the image, also outside it; pixel centres are whole numbers;
        none: the middle of the image.
    :param distance: from sample to detector in metres; 0: not known.
    :param unit: of the radius.
    :param solid_angle: True: frames are divided by the solid angle of each pixel, relative to one at the point of
        normal incidence; needs ``poni`` or ``distance``.
    :param polarization: frames are divided by the polarization of a beam of this factor, 1: horizontal, -1: vertical;
        none: they are not; needs ``poni`` or ``distance``.
    :param n_bins: radial bins of the background.
    :param error_model: where the uncertainty of the background comes from.
    :param cutoff_clip: deviations from the mean at which values are clipped; 0: Chauvenet's criterion.
    :param cycle: times to clip at most.
    :param noise: of the detector, in photons, added in quadrature to the background's deviation.
    :param cutoff_pick: uncertainties above the background at which a pixel is kept in the sparse frame.
    :param cutoff_peak: uncertainties above the background at which a pixel counts for a peak, at least ``cutoff_pick``.
    :param patch_size: side in pixels, odd, of the patch in which a peak is the highest pixel.
    :param connected: pixels of the patch that must count for a peak.
    :param min_nb_peaks: peaks that make a frame a hit.
    :param max_peaks: peaks that are saved a frame, the strongest; ``peaks_overflow`` tells where there were more.
    :param radius_max: peaks further out don't count, in ``unit``; 0: no limit.
    :param veto: what becomes of frames that are no hits.
    :param sample_rate: share of the frames that are no hits and are not vetoed all the same.
    :param dense_type: of the dense frames' pixels. Values that do not fit saturate; pixels without a value are NaN, the
        smallest of a signed or the largest of an unsigned integer type.
    :param dense_factor: dense frames hold value times factor plus offset.
    :param dense_offset: see ``dense_factor``.
    :param acc_nb_frames_xfer: frames of the acquisition whose sums are saved together: of all corrected frames, of hits
        and of the others, each receiver its own; 0: none are.
    """

    pedestal: tuple[CalibrationFile, ...] = ()
    gain: tuple[CalibrationFile, ...] = ()
    gain_unit: GainUnit = GainUnit.ADU_PER_PHOTON
    photon_energy: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    mask: CalibrationFile | None = None
    saturation: Annotated[float, Meta(ge=0)] = 0.0
    dummy: float | None = None
    poni: CalibrationFile | None = None
    beam_center: tuple[float, float] | None = None
    distance: Annotated[float, Meta(ge=0, le=1000)] = 0.0
    unit: Literal["r_mm", "q_nm^-1", "2th_deg"] = "r_mm"
    solid_angle: bool = False
    polarization: Annotated[float, Meta(ge=-1, le=1)] | None = None
    n_bins: Annotated[int, Meta(ge=1, le=16384)] = 500
    error_model: ErrorModel = ErrorModel.AZIMUTHAL
    cutoff_clip: Annotated[float, Meta(ge=0)] = 0.0
    cycle: Annotated[int, Meta(ge=1, le=100)] = 3
    noise: Annotated[float, Meta(gt=0)] = 0.5
    cutoff_pick: Annotated[float, Meta(gt=0)] = 4.0
    cutoff_peak: Annotated[float, Meta(gt=0)] = 5.0
    patch_size: Annotated[int, Meta(ge=3, le=31)] = 5
    connected: Annotated[int, Meta(ge=1)] = 3
    min_nb_peaks: Annotated[int, Meta(ge=1)] = 20
    max_peaks: Annotated[int, Meta(ge=1, le=100_000)] = 2048
    radius_max: Annotated[float, Meta(ge=0)] = 0.0
    veto: Veto = Veto.OFF
    sample_rate: Annotated[float, Meta(ge=0, le=1)] = 0.0
    dense_type: Literal["int32", "int16", "uint16", "float16", "float32"] = "float32"
    dense_factor: float = 1.0
    dense_offset: float = 0.0
    acc_nb_frames_xfer: Annotated[int, Meta(ge=0)] = 0


def whole_frames(params: SmxParams) -> str:
    """Return why these parameters need whole frames; empty: parts of frames are processed as well."""
    if params.veto in (Veto.MARK, Veto.SKIP_DENSE):
        return f"pipeline.params.veto: got {params.veto}, expected off or sparse_only: only whole frames tell hits"
    if params.acc_nb_frames_xfer:
        return "pipeline.params.acc_nb_frames_xfer: expected 0: only whole frames tell hits from others"
    return ""


PLUGIN = PipelinePlugin(
    name="smx",
    params=SmxParams,
    implementation="lima2_processing.pipelines.smx:Smx",
    streams=("dense", "sparse", "results", "accumulated"),
    whole_frames=whole_frames,
)
