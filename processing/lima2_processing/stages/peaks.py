"""Finding Bragg peaks among the picked pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from .pixels import Pixels
from .radial_background import Background
from .sparsify import Picked, Sparsify, build_with_background

_PICKED = 64  # picked pixels of one work-item, about, on a CPU
_USUAL = 4096  # picked pixels of a frame that work-items are made for; of more, each takes more
COLUMNS = ("row", "col", "intensity", "sigma", "snr")


class Peaks:
    """Finds local maxima with enough strong pixels around them.

    A peak's place is the centroid of what stands above the background in its patch, its intensity the sum of that, and
    its signal to noise ratio the intensity over the uncertainty of these pixels' background, as in pyFAI. A peak nearer
    to the image's edge than half a patch is not found.

    :param device: where it runs.
    :param shape: of the image (rows, cols).
    :param pixels: of the images.
    :param sparsify: the stage that picks pixels; its map of positions is shared.
    :param n_bins: radial bins.
    :param cutoff: uncertainties that a pixel must stand above the background to count.
    :param noise: of the detector, in the unit of the values.
    :param patch_size: pixels of a patch's side, odd.
    :param connected: pixels of the patch that must count.
    """

    def __init__(
        self,
        device: Device,
        shape: tuple[int, int],
        pixels: Pixels,
        sparsify: Sparsify,
        n_bins: int,
        cutoff: float,
        noise: float,
        patch_size: int,
        connected: int,
    ) -> None:
        self._device = device
        self._position = sparsify.position
        self._cut = device.cut(_USUAL, _PICKED)
        self._options = (
            np.float32(cutoff),
            np.float32(noise),
            np.float32(pixels.ceiling),
            np.int32(patch_size // 2),
            np.int32(connected),
            np.int32(shape[0]),
            np.int32(shape[1]),
            np.uint32(n_bins),
        )
        self._ends = device.allocate(4096)
        self._room = 0
        self._peaks = self._grow(4096)
        source = Path(__file__).with_suffix(".cl")
        program = build_with_background(device, source, pixels, {"N_COLUMNS": len(COLUMNS)})
        self._kernel = cl.Kernel(program, "peaks")

    def run(
        self, queue: cl.CommandQueue, images: cl.Buffer, background: Background, picked: Picked
    ) -> list[NDArray[np.float32]]:
        """Return the peaks of each frame (peaks, columns), in the order of their pixels."""
        total = int(picked.ends[-1])
        if total == 0:
            return [np.empty((0, len(COLUMNS)), np.float32) for _ in picked.ends]
        if total > self._room:
            self._peaks = self._grow(total)
        cl.enqueue_copy(queue, self._ends, picked.ends.astype(np.uint32))
        buffers = (images, self._position, background.mean, background.deviation, picked.index, self._ends)
        self._kernel(queue, *self._cut.launch(len(picked.ends)), *buffers, self._peaks, *self._options)
        found = np.empty((total, len(COLUMNS)), np.float32)
        cl.enqueue_copy(queue, found, self._peaks)
        return [part[np.isfinite(part[:, 0])] for part in np.split(found, picked.ends[:-1])]

    def _grow(self, n_picked: int) -> cl.Buffer:
        buffer = self._device.allocate(2 * n_picked * len(COLUMNS) * 4)
        self._room = 2 * n_picked  # only now: an allocation that fails must not count as room
        return buffer
