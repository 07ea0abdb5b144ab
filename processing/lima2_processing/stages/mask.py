"""Masking pixels that are not to be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..errors import ParameterError
from ..frame import FrameSpec

CHUNK = 16384  # pixels of one work-item on a CPU


class Mask:
    """Sets masked pixels of float32 images to NaN, in place.

    :param device: where it runs.
    :param spec: of the images.
    :param masked: not 0 where a pixel is masked (rows, cols).
    :raises ParameterError: the mask has another shape, or masks everything.
    """

    def __init__(self, device: Device, spec: FrameSpec, masked: NDArray[np.generic]) -> None:
        if masked.shape != spec.shape:
            raise ParameterError("pipeline.params.mask", masked.shape, f"the image's shape {spec.shape}")
        if masked.all():
            raise ParameterError("pipeline.params.mask", "every pixel masked", "some pixels left")
        self._n_pixels = int(masked.size)
        self._cut = device.cut(self._n_pixels, CHUNK)
        self._masked = device.upload((masked != 0).astype(np.uint8))
        self._kernel = cl.Kernel(device.build(Path(__file__).with_suffix(".cl")), "mask")

    def resolve(self, spec: FrameSpec) -> FrameSpec:
        """Return the same images."""
        return spec

    def enqueue(self, queue: cl.CommandQueue, frames: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the masking of ``n_frames`` images; the result is the same buffer."""
        self._kernel(
            queue,
            *self._cut.launch(n_frames),
            frames,
            self._masked,
            np.uint32(self._n_pixels),
            np.uint32(self._cut.chunk),
        )
        return frames
