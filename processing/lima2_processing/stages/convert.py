"""Counts to float, for detectors that need no correction."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyopencl as cl

from ..device import Device
from ..frame import FrameSpec
from .pixels import Pixels

CHUNK = 16384  # pixels of one work-item on a CPU


class Convert:
    """Turns counts into float32; what is not to be used becomes NaN.

    :param device: where it runs.
    :param spec: of the frames.
    :param pixels: of the frames.
    :param dummy: a value that is not to be used; None: there is none.
    :param batch: frames of one call at most.
    """

    def __init__(self, device: Device, spec: FrameSpec, pixels: Pixels, dummy: float | None, batch: int) -> None:
        self._n_pixels = int(np.prod(spec.shape))
        self._cut = device.cut(self._n_pixels, CHUNK)
        self._marks = (np.float32(pixels.ceiling), np.float32(np.nan if dummy is None else dummy))
        self._values = device.allocate(batch * self._n_pixels * 4)
        self._kernel = cl.Kernel(device.build(Path(__file__).with_suffix(".cl"), pixels.constants), "convert")

    def resolve(self, spec: FrameSpec) -> FrameSpec:
        """Return the same frames as float32."""
        return msgspec.structs.replace(spec, dtype="<f4")

    def enqueue(self, queue: cl.CommandQueue, frames: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the conversion of ``n_frames`` frames."""
        n = self._n_pixels
        self._kernel(
            queue,
            *self._cut.launch(n_frames),
            frames,
            self._values,
            *self._marks,
            np.uint32(n),
            np.uint32(self._cut.chunk),
        )
        return self._values
