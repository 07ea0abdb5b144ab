"""Scaling each pixel by a factor of its own, as for solid angle and polarization."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..frame import FrameSpec
from .pixels import SOURCE, Pixels

CHUNK = 16384  # pixels of one work-item on a CPU


class Scale:
    """Multiplies images of any type by a map of factors; the result is float32, NaN where there is no value.

    :param device: where it runs.
    :param pixels: of the images.
    :param factor: of each pixel (rows, cols).
    :param batch: frames of one call at most.
    """

    def __init__(self, device: Device, pixels: Pixels, factor: NDArray[np.float32], batch: int) -> None:
        self._n_pixels = factor.size
        self._cut = device.cut(self._n_pixels, CHUNK)
        self._factor = device.upload(factor.astype(np.float32))
        self._scaled = device.allocate(batch * factor.size * 4)
        self._ceiling = np.float32(pixels.ceiling)
        self._kernel = cl.Kernel(device.build(Path(__file__).with_suffix(".cl"), pixels.constants, (SOURCE,)), "scale")

    def resolve(self, spec: FrameSpec) -> FrameSpec:
        """Return the same images as float32."""
        return msgspec.structs.replace(spec, dtype="<f4")

    def enqueue(self, queue: cl.CommandQueue, frames: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the scaling of ``n_frames`` images."""
        counts = (np.uint32(self._n_pixels), np.uint32(self._cut.chunk))
        self._kernel(queue, *self._cut.launch(n_frames), frames, self._factor, self._scaled, self._ceiling, *counts)
        return self._scaled
