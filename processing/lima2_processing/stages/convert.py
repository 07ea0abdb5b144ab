"""Counts to float, for detectors that need no correction."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pyopencl as cl

from ..device import Device
from ..errors import ParameterError
from ..frame import FrameSpec

CHUNK = 16384  # pixels of one work-item
_TYPES = {"<u2": "ushort", "<u4": "uint", "<f4": "float", "|u1": "uchar", "<i4": "int", "<i2": "short"}


class Convert:
    """Turns counts into float32; the largest value of an integer type is a masked pixel and becomes NaN.

    :param device: where it runs.
    :param spec: of the frames.
    :param batch: frames of one call at most.
    :raises ParameterError: the type can't be converted.
    """

    def __init__(self, device: Device, spec: FrameSpec, batch: int) -> None:
        self.resolve(spec)
        kind = np.dtype(spec.dtype)
        self._n_pixels = int(np.prod(spec.shape))
        self._ceiling = np.float32(np.inf if kind.kind == "f" else np.iinfo(kind).max)
        self._values = device.allocate(batch * self._n_pixels * 4)
        program = device.build(Path(__file__).with_suffix(".cl"), {"PIXEL": _TYPES[kind.str]})
        self._kernel = cl.Kernel(program, "convert")

    def resolve(self, spec: FrameSpec) -> FrameSpec:
        """Return the same frames as float32.

        :raises ParameterError: the type can't be converted.
        """
        if np.dtype(spec.dtype).str not in _TYPES:
            raise ParameterError("frame.dtype", spec.dtype, f"one of {', '.join(_TYPES)}")
        return msgspec.structs.replace(spec, dtype="<f4")

    def enqueue(self, queue: cl.CommandQueue, frames: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the conversion of ``n_frames`` frames."""
        n = self._n_pixels
        size = (-(-n // CHUNK), n_frames)
        self._kernel(queue, size, (1, 1), frames, self._values, self._ceiling, np.uint32(n), np.uint32(CHUNK))
        return self._values
