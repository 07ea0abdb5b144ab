"""Picking the pixels that stand above the background: exact, in order, and with room for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..geometry import RadialBins
from .pixels import SOURCE, Pixels
from .radial_background import Background

CHUNK = 8192  # pixels of one work-item on a CPU
_LEAST = 64  # on a GPU: what one finds is put together on the host


@dataclass(frozen=True, slots=True)
class Picked:
    """The picked pixels of a batch.

    :param index: on the device, uint32 positions within their frame, ascending, frame after frame.
    :param intensity: on the device, float32.
    :param ends: where each frame's pixels end (frames,).
    """

    index: cl.Buffer
    intensity: cl.Buffer
    ends: NDArray[np.int64]


class Sparsify:
    """Picks every pixel with value > background + cutoff x sqrt(deviation^2 + noise^2).

    Each chunk of pixels writes what it finds to its own room; then all is packed. So nothing can overflow, and the
    order is that of the pixels.

    :param device: where it runs.
    :param bins: which pixels belong to which bin.
    :param pixels: of the images.
    :param cutoff: see above.
    :param noise: of the detector, in the unit of the values.
    :param batch: frames of one call at most.
    """

    def __init__(
        self, device: Device, bins: RadialBins, pixels: Pixels, cutoff: float, noise: float, batch: int
    ) -> None:
        self._device = device
        self._n_pixels = bins.position.size
        self._n_bins = len(bins.radius)
        self._cut = device.cut(self._n_pixels, CHUNK, _LEAST)
        self._position = device.upload(bins.position)
        self._number = device.upload(bins.number)
        self._limit = device.allocate(batch * (self._n_bins + 1) * 4)
        self._found = device.allocate(batch * self._n_pixels * 4)
        self._counts = device.allocate(batch * self._cut.items * 4)
        self._offsets = device.allocate(batch * self._cut.items * 4)
        self._most = batch * self._n_pixels  # that can be picked at all
        self._room = 0
        self._index, self._intensity = self._grow(4096)
        self._cuts = (np.float32(cutoff), np.float32(noise))
        self._ceiling = np.float32(pixels.ceiling)
        program = build_with_background(device, Path(__file__).with_suffix(".cl"), pixels)
        self._limits, self._find, self._pack = (cl.Kernel(program, name) for name in ("limits", "find", "pack"))

    @property
    def position(self) -> cl.Buffer:
        """Position of each pixel on the scale of bins, on the device."""
        return self._position

    def run(self, queue: cl.CommandQueue, images: cl.Buffer, background: Background, n_frames: int) -> Picked:
        """Pick pixels of ``n_frames`` images. Waits for their number, so that the result has just the room."""
        n, bins, chunk = np.uint32(self._n_pixels), np.uint32(self._n_bins), np.uint32(self._cut.chunk)
        levels = (background.mean, background.deviation, self._limit)
        self._limits(queue, (self._n_bins + 1, n_frames), None, *levels, *self._cuts, bins)
        size = self._cut.launch(n_frames)
        places = (images, self._number, self._position, *levels, self._found, self._counts)
        self._find(queue, *size, *places, *self._cuts, self._ceiling, n, bins, chunk)
        counts = np.empty((n_frames, self._cut.items), np.uint32)
        cl.enqueue_copy(queue, counts, self._counts)
        ends = np.cumsum(counts, dtype=np.int64)
        offsets = (ends - counts.ravel()).astype(np.uint32)
        if ends[-1] > self._room:
            self._index, self._intensity = self._grow(int(ends[-1]))
        cl.enqueue_copy(queue, self._offsets, offsets)
        packed = (self._index, self._intensity)
        self._pack(queue, *size, images, self._found, self._counts, self._offsets, *packed, n, chunk)
        return Picked(*packed, ends.reshape(n_frames, -1)[:, -1])

    def _grow(self, n_picked: int) -> tuple[cl.Buffer, cl.Buffer]:
        room = min(2 * n_picked, self._most)
        buffers = self._device.allocate(4 * room), self._device.allocate(4 * room)
        self._room = room  # only now: an allocation that fails must not count as room
        return buffers


def build_with_background(
    device: Device, source: Path, pixels: Pixels, constants: Mapping[str, int] | None = None
) -> cl.Program:
    """Build a kernel file behind ``pixels.cl`` and ``background.cl``, which it uses."""
    before = (SOURCE, Path(__file__).with_name("background.cl"))
    return device.build(source, {**pixels.constants, **(constants or {})}, before)
