"""Serial crystallography: correct, assemble, mask, take off the radial background, pick pixels, find peaks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..errors import DeviceError, ParameterError, ProcessingError
from ..frame import (
    Batch,
    Constant,
    Frame,
    FrameResult,
    FrameSpec,
    Output,
    OutputKind,
    PixelKind,
    Results,
    SparseFrame,
)
from ..geometry import (
    RadialBins,
    assembly,
    double_pixels,
    image_shape,
    radial_bins,
    radius_from_poni,
    radius_map,
)
from ..pipeline import Calibration, Pipeline, Stage
from ..stages.assemble import Assemble
from ..stages.convert import Convert
from ..stages.gain_pedestal import GainPedestal
from ..stages.mask import Mask
from ..stages.peaks import COLUMNS, Peaks
from ..stages.radial_background import Background, RadialBackground
from ..stages.sparsify import Picked, Sparsify
from .smx_params import ErrorModel, GainUnit, SmxParams


@dataclass(frozen=True, slots=True)
class _Work:
    """What a pipeline holds on the device: where frames are put, and the stages that they go through."""

    upload: cl.Buffer
    stages: list[Stage]
    background: RadialBackground
    sparsify: Sparsify
    peaks: Peaks


class Smx(Pipeline[SmxParams]):
    """The ``smx`` pipeline; see ``SmxParams`` for what each parameter does.

    :raises ParameterError: parameters or calibration do not fit the frames.
    """

    params_type: ClassVar[type[msgspec.Struct]] = SmxParams

    def __init__(
        self, params: SmxParams, spec: FrameSpec, device: Device, files: Mapping[str, Calibration], batch: int = 1
    ) -> None:
        super().__init__(params, spec, device, files, batch)
        _check(params, spec)
        self._shape = image_shape(spec)
        self._queue = device.queue()
        self._bad = np.zeros(self._shape, np.bool_)
        stages = self._image_stages(files)
        bins, radius = self._radial_bins(files)
        self._radius = bins.radius
        self._radius_map = radius.astype(np.float32)
        self._unused = np.isnan(bins.position)
        poisson = params.error_model is ErrorModel.POISSON
        sparsify = Sparsify(device, bins, params.cutoff_pick, params.noise, batch)
        self._work: _Work | None = _Work(
            upload=device.allocate(batch * spec.nbytes),
            stages=stages,
            background=RadialBackground(device, bins, params.cutoff_clip, params.cycle, poisson, batch),
            sparsify=sparsify,
            peaks=Peaks(
                device,
                self._shape,
                sparsify,
                params.n_bins,
                params.cutoff_peak,
                params.noise,
                params.patch_size,
                params.connected,
            ),
        )

    def outputs(self) -> tuple[Output, ...]:
        """Return everything that this pipeline makes of a frame."""
        bins, peaks = (self.params.n_bins,), (self.params.max_peaks, len(COLUMNS))
        unit = "photons" if self.params.pedestal else ""
        image, profile, table, scalar = OutputKind.IMAGE, OutputKind.PROFILE, OutputKind.TABLE, OutputKind.SCALAR
        return (
            Output("dense", image, "<f4", self._shape, "dense", unit, "corrected frame"),
            Output("sparse", OutputKind.SPARSE, "<f4", self._shape, "sparse", unit, "pixels above background"),
            Output("background_avg", profile, "<f4", bins, "sparse", unit, "radial background"),
            Output("background_std", profile, "<f4", bins, "sparse", unit, "deviation of the background"),
            Output("peaks", table, "<f4", peaks, "results", "", ", ".join(COLUMNS)),
            Output("n_peaks", scalar, "<i4", (), "results", "", "number of peaks", hinted=True),
            Output("is_hit", scalar, "|u1", (), "results", "", "hit", hinted=True),
            Output("peaks_overflow", scalar, "|u1", (), "results", "", "more peaks than max_peaks"),
        )

    def constants(self) -> tuple[Constant, ...]:
        """Return the radius of bins and pixels, as sparse files carry them."""
        unit = {"r_mm": "mm", "q_nm^-1": "1/nm", "2th_deg": "deg"}[self.params.unit]
        return (
            Constant("radius", self._radius, "sparse", unit, "radius of each bin"),
            Constant(
                "mask",
                np.where(self._unused, np.float32(np.nan), self._radius_map),
                "sparse",
                unit,
                "radius of each pixel, NaN where masked",
            ),
        )

    def process(self, frames: Batch) -> Results:
        """Process a batch.

        :raises ProcessingError: a frame has another shape than was agreed, or the device failed.
        """
        if self._work is None:
            raise ProcessingError("smx: closed")
        results: list[FrameResult] = []
        for start in range(0, len(frames), self.batch):
            results += self._process(self._work, frames[start : start + self.batch])
        return Results(tuple(results))

    def close(self) -> None:
        """Wait for the device and free its memory."""
        self._queue.finish()
        self._work = None

    def _process(self, work: _Work, frames: Batch) -> list[FrameResult]:
        n = len(frames)
        data = [self._pixels(frame) for frame in frames]
        try:
            for at, pixels in enumerate(data):
                cl.enqueue_copy(self._queue, work.upload, pixels, dst_offset=at * self.spec.nbytes, is_blocking=False)
            images = work.upload
            for stage in work.stages:
                images = stage.enqueue(self._queue, images, n)
            background = work.background.enqueue(self._queue, images, n)
            picked = work.sparsify.run(self._queue, images, background, n)
            peaks = work.peaks.run(self._queue, images, background, picked)
            return self._read_back(frames, images, background, picked, peaks)
        except cl.Error as error:
            raise DeviceError(f"{self.device.name}: {error}") from error

    def _pixels(self, frame: Frame) -> NDArray[np.generic]:
        """Return a frame's pixels as the device takes them; modules that are missing read as masked.

        :raises ProcessingError: the frame is not what was agreed.
        """
        if frame.data.shape != self.spec.shape or frame.data.dtype != np.dtype(self.spec.dtype):
            got = f"{frame.data.dtype.str} {frame.data.shape}"
            raise ProcessingError(f"frame {frame.index}: got {got}, expected {self.spec.dtype} {self.spec.shape}")
        missing = [module for module in range(self.spec.n_modules) if not frame.modules >> module & 1]
        if not missing:
            return np.ascontiguousarray(frame.data)
        data = frame.data.copy()
        part = np.s_[missing] if self.spec.layout is not None else np.s_[...]
        data[part] = np.nan if data.dtype.kind == "f" else np.iinfo(self.spec.dtype).max
        return data

    def _read_back(
        self,
        frames: Batch,
        images: cl.Buffer,
        background: Background,
        picked: Picked,
        peaks: list[NDArray[np.float32]],
    ) -> list[FrameResult]:
        n, total = len(frames), int(picked.ends[-1])
        dense = np.empty((n, *self._shape), np.float32)
        mean, deviation = np.empty((2, n, self.params.n_bins), np.float32)
        index, intensity = np.empty(total, np.uint32), np.empty(total, np.float32)
        copies = [(dense, images), (mean, background.mean), (deviation, background.deviation)]
        if total:
            copies += [(index, picked.index), (intensity, picked.intensity)]
        for host, buffer in copies:
            cl.enqueue_copy(self._queue, host, buffer, is_blocking=False)
        self._queue.finish()
        indices, intensities = np.split(index, picked.ends[:-1]), np.split(intensity, picked.ends[:-1])
        results = []
        for at, frame in enumerate(frames):
            scalars = self._table(peaks[at])
            values: dict[str, NDArray[np.generic] | SparseFrame] = {
                "dense": dense[at],
                "sparse": SparseFrame(indices[at], intensities[at]),
                "background_avg": mean[at],
                "background_std": deviation[at],
                **scalars,
            }
            results.append(FrameResult(frame.index, values))
        return results

    def _table(self, peaks: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Return the outputs that peaks (n, 4) give: the strongest, in the order of their pixels."""
        limit = self.params.max_peaks
        if self.params.radius_max:
            rows, cols = np.clip(np.rint(peaks[:, :2]).astype(int), 0, np.array(self._shape) - 1).T
            peaks = peaks[self._radius_map[rows, cols] <= self.params.radius_max]
        overflow = len(peaks) > limit
        if overflow:
            strongest = np.sort(np.argsort(peaks[:, 2], kind="stable")[::-1][:limit])
            kept = peaks[strongest]
        else:
            kept = peaks
        table = np.full((limit, len(COLUMNS)), np.nan, np.float32)
        table[: len(kept)] = kept
        return {
            "peaks": table,
            "n_peaks": np.array(len(peaks), np.int32),
            "is_hit": np.array(len(peaks) >= self.params.min_nb_peaks, np.uint8),
            "peaks_overflow": np.array(overflow, np.uint8),
        }

    def _image_stages(self, files: Mapping[str, Calibration]) -> list[Stage]:
        """Make the stages that turn what the detector sent into images, and note bad pixels."""
        spec, device, batch = self.spec, self.device, self.batch
        stages: list[Stage] = []
        if self.params.pedestal:
            gain = _stack("gain", files) * self._gain_scale()
            correction = GainPedestal(device, spec, _stack("pedestal", files), gain, batch)
            stages.append(correction)
            bad = correction.bad
        else:
            stages.append(Convert(device, spec, batch))
            bad = np.zeros(int(np.prod(spec.shape)), np.bool_)
        if spec.layout is None:
            self._bad |= bad.reshape(self._shape)
        else:
            plan = assembly(spec, spec.layout)
            self._bad |= np.where(plan.source < 0, True, bad[plan.source])
            if not plan.is_identity:
                stages.append(Assemble(device, spec, batch))
        if self.params.mask is not None:
            masked = _array("mask", files)
            if masked.size == np.prod(self._shape):
                masked = masked.reshape(self._shape)  # files of raw values have no shape
            stages.append(Mask(device, FrameSpec(self._shape, "<f4"), masked))
            self._bad |= masked != 0
        return stages

    def _gain_scale(self) -> float:
        if self.params.gain_unit is GainUnit.ADU_PER_PHOTON:
            return 1.0
        if not self.params.photon_energy:
            raise ParameterError("pipeline.params.photon_energy", 0, "more than 0 eV where gains are in ADU/keV")
        return self.params.photon_energy * 1e-3

    def _radial_bins(self, files: Mapping[str, Calibration]) -> tuple[RadialBins, NDArray[np.float64]]:
        params = self.params
        if params.poni is not None:
            text = files["poni"]
            if not isinstance(text, str):
                raise ParameterError("pipeline.params.poni", params.poni.path, "a .poni file")
            radius = radius_from_poni(text, self._shape, params.unit)
        else:
            middle = ((self._shape[0] - 1) / 2, (self._shape[1] - 1) / 2)
            center = params.beam_center or middle
            energy = params.photon_energy
            radius = radius_map(self._shape, self.spec.pixel_size, center, params.unit, params.distance, energy)
        excluded = self._bad.copy()
        if self.spec.layout is not None:
            excluded |= double_pixels(self.spec, self.spec.layout)
        return radial_bins(radius, excluded, params.n_bins), radius


def _check(params: SmxParams, spec: FrameSpec) -> None:
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
        expected = (
            "pedestals and gains: the detector sends ADC values and gain stages"
            if needed
            else ("none: the detector sends values, not ADC values and gain stages")
        )
        raise ParameterError("pipeline.params.pedestal", params.pedestal or "none", expected)


def _array(name: str, files: Mapping[str, Calibration]) -> NDArray[np.generic]:
    data = files[name]
    if isinstance(data, str):
        raise ParameterError(f"pipeline.params.{name}", "a text file", "an array")
    return data


def _stack(name: str, files: Mapping[str, Calibration]) -> NDArray[np.floating]:
    """Return the three stages' maps, from one file or three."""
    parts = [np.ravel(_array(key, files)) for key in sorted(files) if key.startswith(f"{name}.")]
    return np.concatenate(parts).astype(np.float64)
