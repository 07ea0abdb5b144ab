"""Sums of images that stay on the device until they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..frame import fill_value
from .pixels import SOURCE, Pixels

CHUNK = 2048  # pixels of one work-item on a CPU: their sums stay in its cache
_MOST = 64  # frames of one kernel call: the bits of its argument


class Accumulate:
    """The sum of the images that it is given.

    Sums of unsigned integers are exact, and saturate one below the marker of pixels without a value. Other sums are
    compensated (Kahan), so that they are as exact as their type allows, however many images they are of.

    :param device: where it runs.
    :param pixels: of the images.
    :param masked: True for pixels without a value (rows, cols). A pixel that has none in one of the images, has none in
        the sum either.
    """

    def __init__(self, device: Device, pixels: Pixels, masked: NDArray[np.bool_]) -> None:
        self.dtype = sum_type(pixels)
        self._masked = masked
        self._cut = device.cut(masked.size, CHUNK)
        self._ceiling = np.float32(pixels.ceiling)
        self._sum = device.upload(np.zeros(masked.shape, self.dtype), writable=True)
        kept = 1 if pixels.unsigned else masked.size
        self._carry = device.upload(np.zeros(kept, np.float32), writable=True)
        constants = {**pixels.constants, **({"COUNTS": 1} if pixels.unsigned else {})}
        program = device.build(Path(__file__).with_suffix(".cl"), constants, (SOURCE,))
        self._kernel = cl.Kernel(program, "accumulate")

    def enqueue(self, queue: cl.CommandQueue, images: cl.Buffer, taken: Sequence[bool]) -> None:
        """Enqueue the addition of some of the images of a batch.

        :param images: of the batch, one after the other.
        :param taken: whether each is added.
        """
        n_pixels = self._masked.size
        for first in range(0, len(taken), _MOST):
            chosen = taken[first : first + _MOST]
            if not any(chosen):
                continue
            bits = sum(1 << at for at, one in enumerate(chosen) if one)
            self._kernel(
                queue,
                *self._cut.launch(1),
                images,
                np.uint32(first),
                np.uint64(bits),
                np.uint32(len(chosen)),
                self._sum,
                self._carry,
                self._ceiling,
                np.uint32(n_pixels),
                np.uint32(self._cut.chunk),
            )

    def take(self, queue: cl.CommandQueue) -> NDArray[np.generic]:
        """Return the sum (rows, cols), and begin anew. Waits for the queue."""
        found = np.empty(self._masked.shape, self.dtype)
        cl.enqueue_copy(queue, found, self._sum, is_blocking=True)
        for buffer in (self._sum, self._carry):
            cl.enqueue_fill_buffer(queue, buffer, np.zeros(1, np.uint32), 0, buffer.size)
        found[self._masked] = fill_value(self.dtype)
        return found


def sum_type(pixels: Pixels) -> str:
    """Return the NumPy type string of the sums of such pixels."""
    return "<u4" if pixels.unsigned else "<f4"
