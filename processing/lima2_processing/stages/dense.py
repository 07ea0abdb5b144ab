"""Images in the type that they are saved in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..errors import ParameterError
from ..frame import fill_value
from .pixels import SOURCE, Pixels

CHUNK = 16384  # pixels of one work-item on a CPU
_TYPES: dict[str, dict[str, str | int]] = {  # what the kernel needs defined
    "<i4": {"RESULT": "int", "LONG": 1},
    "<i2": {"RESULT": "short"},
    "<u2": {"RESULT": "ushort"},
    "<f2": {"RESULT": "ushort", "HALF": 1},
    "<f4": {"RESULT": "float", "FLOAT": 1},
}


class Dense:
    """Scales images and converts them: rounded to the nearest integer, saturating, never wrapping.

    Pixels without a value read as rows without data do, ``fill_value``; no value comes to look like that by saturating.

    :param device: where it runs.
    :param pixels: of the images.
    :param masked: True for pixels without a value (rows, cols).
    :param dtype: NumPy type string of the result.
    :param factor: value times factor plus offset is the result.
    :param offset: see above.
    :param batch: frames of one call at most.
    :raises ParameterError: there is no such type.
    """

    def __init__(
        self,
        device: Device,
        pixels: Pixels,
        masked: NDArray[np.bool_],
        dtype: str,
        factor: float,
        offset: float,
        batch: int,
    ) -> None:
        if dtype not in _TYPES:
            raise ParameterError("pipeline.params.dense_type", dtype, f"one of {', '.join(_TYPES)}")
        kind = np.dtype(dtype)
        self._n_pixels = masked.size
        self._cut = device.cut(self._n_pixels, CHUNK)
        self._masked = device.upload(masked.astype(np.uint8))
        self._result = device.allocate(batch * masked.size * kind.itemsize)
        program = device.build(Path(__file__).with_suffix(".cl"), {**pixels.constants, **_TYPES[dtype]}, (SOURCE,))
        self._kernel = cl.Kernel(program, "dense")
        self._numbers = (np.float32(factor), np.float32(offset), *_integers(kind), np.float32(pixels.ceiling))

    def enqueue(self, queue: cl.CommandQueue, images: cl.Buffer, n_frames: int) -> cl.Buffer:
        """Enqueue the conversion of ``n_frames`` images."""
        counts = (np.uint32(self._n_pixels), np.uint32(self._cut.chunk))
        self._kernel(queue, *self._cut.launch(n_frames), images, self._masked, self._result, *self._numbers, *counts)
        return self._result


def _integers(kind: np.dtype[Any]) -> tuple[Any, Any, Any]:
    """Return the smallest and the largest integer of a type that values may become, and the marker."""
    if kind.kind == "f":  # the kernel has no use for them
        unused = np.dtype("<u2" if kind.itemsize == 2 else "<f4").type(0)
        return unused, unused, unused
    limits = np.iinfo(kind)
    signed = kind.kind == "i"
    return kind.type(limits.min + signed), kind.type(limits.max - (not signed)), kind.type(fill_value(kind.str))
