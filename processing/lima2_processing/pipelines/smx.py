"""Serial crystallography: correct, assemble, mask, take off the radial background, pick pixels, find peaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..errors import DeviceError, ProcessingError
from ..frame import (
    Accumulated,
    Batch,
    Constant,
    Frame,
    FrameIdx,
    FrameResult,
    FrameSpec,
    Output,
    OutputKind,
    PipelineFacts,
    Results,
    SparseFrame,
)
from ..geometry import image_shape
from ..parts import embed, positions_in_whole, whole_shape
from ..pipeline import Calibration, Pipeline, Stage
from ..result_pool import ResultPool
from ..stages.dense import Dense
from ..stages.peaks import COLUMNS, Peaks
from ..stages.pixels import FLOAT
from ..stages.radial_background import Background, RadialBackground
from ..stages.sparsify import Picked, Sparsify
from ..stages.upload import Sent, Upload
from .smx_params import ErrorModel, SmxParams, Veto, whole_frames
from .smx_setup import check, make_bins, make_images, unused_pixels
from .smx_sums import Sums, sum_outputs


@dataclass(frozen=True, slots=True)
class _Work:
    """What a pipeline holds on the device: where frames are sent, and the stages that they go through.

    :param dense: makes the images that are saved; None: they are saved as they are.
    :param sums: None: frames are not accumulated.
    """

    upload: Upload
    stages: tuple[Stage, ...]
    background: RadialBackground
    sparsify: Sparsify
    peaks: Peaks
    dense: Dense | None
    sums: Sums | None


@dataclass(frozen=True, slots=True)
class _Enqueued:
    """What is on the device for a batch."""

    images: cl.Buffer
    background: Background
    picked: Picked


class Smx(Pipeline[SmxParams]):
    """The ``smx`` pipeline; see ``SmxParams`` for what each parameter does. ``bins`` says how pixels fall into bins.

    :raises ParameterError: parameters or calibration do not fit the frames.
    """

    params_type: ClassVar[type[msgspec.Struct]] = SmxParams

    def __init__(
        self, params: SmxParams, spec: FrameSpec, device: Device, files: Mapping[str, Calibration], batch: int = 1
    ) -> None:
        super().__init__(params, spec, device, files, batch)
        if spec.part is not None and (why := whole_frames(params)):
            raise ProcessingError(f"smx on parts of frames: {why}")
        check(params, spec)
        before = device.allocated
        self._shape = image_shape(spec)
        self._queue = device.queue()
        images = make_images(params, spec, device, files, batch)
        bins, radius = make_bins(params, spec, files, images.bad)
        self.bins = bins
        self._radius_map = radius.astype(np.float32)
        self._unused = np.isnan(bins.position)
        pixels, poisson = images.pixels, params.error_model is ErrorModel.POISSON
        sparsify = Sparsify(device, bins, pixels, params.cutoff_pick, params.noise, batch)
        scaled = (params.dense_type, params.dense_factor, params.dense_offset)
        as_they_are = pixels is FLOAT and scaled == ("float32", 1.0, 0.0)
        ahead = 0 if params.veto is Veto.SPARSE_ONLY else 2 * batch + _WAITING
        self._dense_arrays = ResultPool(self._shape, self._dense_type, ahead)
        self._work: _Work | None = _Work(
            upload=Upload(device, spec.nbytes, batch),
            stages=images.stages,
            background=RadialBackground(device, bins, pixels, params.cutoff_clip, params.cycle, poisson, batch),
            sparsify=sparsify,
            peaks=Peaks(
                device,
                self._shape,
                pixels,
                sparsify,
                params.n_bins,
                params.cutoff_peak,
                params.noise,
                params.patch_size,
                params.connected,
            ),
            dense=None if as_they_are else Dense(device, pixels, images.bad, self._dense_type, *scaled[1:], batch),
            sums=Sums(device, self._queue, pixels, images.bad, window)
            if (window := params.acc_nb_frames_xfer)
            else None,
        )
        self._pixels = pixels
        self._warm_up(self._work)
        self._facts = PipelineFacts(device.name, device.allocated - before, unused_pixels(images, bins))

    def _warm_up(self, work: _Work) -> None:
        """Process empty frames: kernels are finished, and memory is there, before the first real frame comes."""
        data = np.zeros(self.spec.shape, self.spec.dtype)
        self._work_on(
            work, tuple(Frame(FrameIdx(at), data, self.spec.all_modules, 0.0) for at in range(2 * self.batch))
        )
        if work.dense is not None:
            images = work.upload.send([data] * self.batch).arrive(self._queue)
            for stage in work.stages:
                images = stage.enqueue(self._queue, images, self.batch)
            work.dense.enqueue(self._queue, images, self.batch)
        if work.sums is not None:
            work.sums.reset()
        self._queue.finish()

    @property
    def _dense_type(self) -> str:
        return np.dtype(self.params.dense_type).newbyteorder("<").str

    def outputs(self) -> tuple[Output, ...]:
        """Return everything that this pipeline makes of a frame."""
        window = self.params.acc_nb_frames_xfer
        bins, peaks = (self.params.n_bins,), (self.params.max_peaks, len(COLUMNS))
        unit = "photons" if self.params.pedestal else ""
        image, profile, table, scalar = OutputKind.IMAGE, OutputKind.PROFILE, OutputKind.TABLE, OutputKind.SCALAR
        dense = Output(
            name="dense",
            kind=image,
            dtype=self._dense_type,
            shape=self._shape,
            stream="dense",
            unit=unit if (self.params.dense_factor, self.params.dense_offset) == (1.0, 0.0) else "",
            label="corrected frame",
            optional=self.params.veto in (Veto.SKIP_DENSE, Veto.SPARSE_ONLY),
        )
        return (
            dense,
            Output(
                "sparse", OutputKind.SPARSE, "<f4", whole_shape(self.spec), "sparse", unit, "pixels above background"
            ),
            Output("background_avg", profile, "<f4", bins, "sparse", unit, "radial background"),
            Output("background_std", profile, "<f4", bins, "sparse", unit, "deviation of the background"),
            Output("peaks", table, "<f4", peaks, "results", "", ", ".join(COLUMNS)),
            Output("n_peaks", scalar, "<i4", (), "results", "", "number of peaks", hinted=True),
            *(() if self.spec.part else (Output("is_hit", scalar, "|u1", (), "results", "", "hit", hinted=True),)),
            Output("peaks_overflow", scalar, "|u1", (), "results", "", "more peaks than max_peaks"),
            *(sum_outputs(self._pixels, self._shape, window, unit) if window else ()),
        )

    def constants(self) -> tuple[Constant, ...]:
        """Return the radius of bins and pixels, as sparse files carry them."""
        unit = {"r_mm": "mm", "q_nm^-1": "1/nm", "2th_deg": "deg"}[self.params.unit]
        return (
            Constant("radius", self.bins.radius, "sparse", unit, "radius of each bin"),
            Constant(
                "mask",
                embed(np.where(self._unused, np.float32(np.nan), self._radius_map), self.spec, np.nan),
                "sparse",
                unit,
                "radius of each pixel, NaN where masked",
            ),
        )

    def facts(self) -> PipelineFacts:
        """Return memory on the device, and the pixels that are not used."""
        return self._facts

    def process(self, frames: Batch) -> Results:
        """Process a batch.

        :raises ProcessingError: a frame has another shape than was agreed, or the device failed.
        """
        if self._work is None:
            raise ProcessingError("smx: closed")
        return self._work_on(self._work, frames)

    def finish(self) -> tuple[Accumulated, ...]:
        """Return the sums of the last window.

        :raises DeviceError: the device failed.
        """
        if self._work is None or self._work.sums is None:
            return ()
        try:
            return self._work.sums.finish()
        except cl.Error as error:
            raise DeviceError(f"{self.device.name}: {error}") from error

    def renew(self) -> bool:
        """Forget all frames, as far as any are kept in sums."""
        if self._work is None:
            return False
        try:
            if self._work.sums is not None:
                self._work.sums.reset()
            self._queue.finish()
        except cl.Error:
            return False
        return True

    def close(self) -> None:
        """Wait for the device and free its memory."""
        self._queue.finish()
        self._work = None

    def _work_on(self, work: _Work, frames: Batch) -> Results:
        """Process any number of frames: while a batch is worked on, the next one is sent."""
        batches = [frames[start : start + self.batch] for start in range(0, len(frames), self.batch)]
        raw = [[self._raw(frame) for frame in batch] for batch in batches]
        results = Results(())
        try:
            sent = work.upload.send(raw[0])
            for at, batch in enumerate(batches):
                here, sent = sent, work.upload.send(raw[at + 1]) if at + 1 < len(batches) else sent
                part = self._process(work, here, batch)
                work.upload.done(here, self._queue)
                results = Results(results.frames + part.frames, results.accumulated + part.accumulated)
        except cl.Error as error:
            raise DeviceError(f"{self.device.name}: {error}") from error
        return results

    def _process(self, work: _Work, sent: Sent, frames: Batch) -> Results:
        n = len(frames)
        images = sent.arrive(self._queue)
        for stage in work.stages:
            images = stage.enqueue(self._queue, images, n)
        background = work.background.enqueue(self._queue, images, n)
        picked = work.sparsify.run(self._queue, images, background, n)
        peaks = work.peaks.run(self._queue, images, background, picked)
        results = self._read_back(work, frames, _Enqueued(images, background, picked), peaks)
        if work.sums is None:
            return Results(results)
        hits = [bool(result.values["is_hit"]) for result in results]  # whole frames: see ``whole_frames``
        return Results(results, work.sums.add(images, frames, hits))

    def _raw(self, frame: Frame) -> NDArray[np.generic]:
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
        self, work: _Work, frames: Batch, done: _Enqueued, peaks: list[NDArray[np.float32]]
    ) -> tuple[FrameResult, ...]:
        n, total = len(frames), int(done.picked.ends[-1])
        tables = [self._table(found) for found in peaks]
        vetoed = [self._is_vetoed(frame, table) for frame, table in zip(frames, tables, strict=True)]
        mean, deviation = np.empty((2, n, self.params.n_bins), np.float32)
        index, intensity = np.empty(total, np.uint32), np.empty(total, np.float32)
        copies = [(mean, done.background.mean), (deviation, done.background.deviation)]
        if total:
            copies += [(index, done.picked.index), (intensity, done.picked.intensity)]
        # Events are kept until the queue has finished: pyopencl waits where one is dropped.
        events = [cl.enqueue_copy(self._queue, host, buffer, is_blocking=False) for host, buffer in copies]
        dense = self._read_dense(work, done.images, vetoed, events)
        self._queue.finish()
        indices, intensities = np.split(index, done.picked.ends[:-1]), np.split(intensity, done.picked.ends[:-1])
        results = []
        for at, frame in enumerate(frames):
            values: dict[str, NDArray[np.generic] | SparseFrame] = {
                "sparse": SparseFrame(positions_in_whole(indices[at], self.spec), intensities[at]),
                "background_avg": mean[at],
                "background_std": deviation[at],
                **tables[at],
            }
            if (image := dense[at]) is not None:
                values["dense"] = image
            results.append(FrameResult(frame.index, values, vetoed[at]))
        return tuple(results)

    def _read_dense(
        self, work: _Work, images: cl.Buffer, vetoed: list[bool], events: list[cl.Event]
    ) -> list[NDArray[np.generic] | None]:
        """Return the images that are saved, once the queue has finished; None: not that of this frame."""
        match self.params.veto:
            case Veto.SPARSE_ONLY:
                wanted = [False] * len(vetoed)
            case Veto.SKIP_DENSE:
                wanted = [not one for one in vetoed]
            case Veto.OFF | Veto.MARK:
                wanted = [True] * len(vetoed)
        if work.dense is not None and any(wanted):
            images = work.dense.enqueue(self._queue, images, len(vetoed))
        read: list[NDArray[np.generic] | None] = []
        for at, one in enumerate(wanted):
            image = self._dense_arrays.take() if one else None
            if image is not None:
                offset = at * image.nbytes
                events.append(cl.enqueue_copy(self._queue, image, images, src_offset=offset, is_blocking=False))
            read.append(image)
        return read

    def _is_vetoed(self, frame: Frame, table: Mapping[str, NDArray[np.generic]]) -> bool:
        if self.params.veto in (Veto.OFF, Veto.SPARSE_ONLY) or table["is_hit"]:
            return False
        # Whatever receiver has the frame, and whenever it is looked at: the same frames are kept.
        return (frame.index * _GOLDEN % 2**64) / 2**64 >= self.params.sample_rate

    def _table(self, peaks: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Return the outputs that peaks (n, columns) give: the strongest, in the order of their pixels."""
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
        if self.spec.part is not None:
            table[:, :2] += np.array(self.spec.part.origin, np.float32)
        found: dict[str, NDArray[np.generic]] = {
            "peaks": table,
            "n_peaks": np.array(len(peaks), np.int32),
            "peaks_overflow": np.array(overflow, np.uint8),
        }
        if self.spec.part is None:  # the peaks of a part don't tell
            found["is_hit"] = np.array(len(peaks) >= self.params.min_nb_peaks, np.uint8)
        return found


_WAITING = 4  # dense frames that may still be on their way to the files while the next are made
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: spreads consecutive numbers evenly (Knuth, TAOCP 6.4)
