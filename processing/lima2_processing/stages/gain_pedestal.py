"""Pedestal and gain correction of a Jungfrau's three gain stages."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..errors import ParameterError
from ..frame import FrameSpec

CHUNK = 16384  # pixels of one work-item on a CPU
STAGES = 3
ADC_LIMIT = 16383  # a pedestal there or at 0 is of a dead pixel


class GainPedestal:
    """Turns raw words into photons: (ADC - pedestal) / gain, by gain stage.

    :param device: where it runs.
    :param spec: of the raw frames, uint16.
    :param pedestal: ADC units, three stages of as many values as a frame has pixels.
    :param gain: ADC units a photon, likewise.
    :param batch: frames of one call at most.
    :raises ParameterError: the frames are not uint16, or the maps do not fit them.
    """

    def __init__(
        self,
        device: Device,
        spec: FrameSpec,
        pedestal: NDArray[np.floating],
        gain: NDArray[np.floating],
        batch: int,
    ) -> None:
        self._n_pixels = int(np.prod(spec.shape))
        self._cut = device.cut(self._n_pixels, CHUNK)
        planes = [_planes(name, data, self._n_pixels) for name, data in (("pedestal", pedestal), ("gain", gain))]
        self.bad = bad_pixels(*planes)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(self.bad, np.nan, 1 / planes[1]).astype(np.float32)
        self._spec = self.resolve(spec)
        self._pedestal = device.upload(np.where(self.bad, 0, planes[0]).astype(np.float32))
        self._factor = device.upload(factor)
        self._photons = device.allocate(batch * self._n_pixels * 4)
        program = device.build(Path(__file__).with_suffix(".cl"))
        self._kernel = cl.Kernel(program, "correct")

    def resolve(self, spec: FrameSpec) -> FrameSpec:
        """Return the frames in photons.

        :raises ParameterError: the frames are not uint16.
        """
        if np.dtype(spec.dtype) != np.dtype("<u2"):
            raise ParameterError("frame.dtype", spec.dtype, "<u2 for a Jungfrau's three gains")
        return msgspec.structs.replace(spec, dtype="<f4")

    def enqueue(self, queue: cl.CommandQueue, frames: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the correction of ``n_frames`` raw frames; the result holds float32 photons."""
        n = self._n_pixels
        self._kernel(
            queue,
            *self._cut.launch(n_frames),
            frames,
            self._pedestal,
            self._factor,
            self._photons,
            np.uint32(n),
            np.uint32(self._cut.chunk),
        )
        return self._photons


def bad_pixels(pedestal: NDArray[np.float64], gain: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pixels (pixels,) no stage can be trusted of.

    :param pedestal: (3, pixels).
    :param gain: (3, pixels).
    """
    dead = (pedestal <= 0) | (pedestal >= ADC_LIMIT) | ~np.isfinite(pedestal) | ~np.isfinite(gain) | (gain == 0)
    return dead.any(axis=0)


def _planes(name: str, data: NDArray[np.floating], n_pixels: int) -> NDArray[np.float64]:
    if data.size != STAGES * n_pixels:
        expected = f"{STAGES} stages of {n_pixels} values"
        raise ParameterError(f"pipeline.params.{name}", f"{data.size} values", expected)
    return np.asarray(data, np.float64).reshape(STAGES, n_pixels)
