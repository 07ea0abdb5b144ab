"""Putting the modules of a tiled detector into one image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyopencl as cl

from ..device import Device
from ..errors import ParameterError
from ..frame import FrameSpec
from ..geometry import assembly

CHUNK = 16384  # pixels of one work-item on a CPU


class Assemble:
    """Moves float32 modules to their place; the charge of double-size pixels is shared, gaps are NaN.

    :param device: where it runs.
    :param spec: of the frames in modules, with a layout.
    :param batch: frames of one call at most.
    """

    def __init__(self, device: Device, spec: FrameSpec, batch: int) -> None:
        self.resolve(spec)
        self._n_raw = int(np.prod(spec.shape))
        if spec.layout is None:
            raise ParameterError("frame.layout", None, "a layout of modules")
        plan = assembly(spec, spec.layout)
        self._n_pixels = plan.source.size
        self._cut = device.cut(self._n_pixels, CHUNK)
        self._source = device.upload(plan.source)
        self._share = device.upload(plan.share)
        self._image = device.allocate(batch * self._n_pixels * 4)
        self._kernel = cl.Kernel(device.build(Path(__file__).with_suffix(".cl")), "assemble")

    def resolve(self, spec: FrameSpec) -> FrameSpec:
        """Return the image that the modules make.

        :raises ParameterError: the frames have no layout.
        """
        if spec.layout is None:
            raise ParameterError("frame.layout", None, "a layout of modules")
        return FrameSpec(spec.layout.image_shape, "<f4", None, spec.pixel_size)

    def enqueue(self, queue: cl.CommandQueue, frames: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the assembly of ``n_frames`` frames of float32 modules."""
        counts = (np.uint32(self._n_raw), np.uint32(self._n_pixels), np.uint32(self._cut.chunk))
        self._kernel(queue, *self._cut.launch(n_frames), frames, self._source, self._share, self._image, *counts)
        return self._image
