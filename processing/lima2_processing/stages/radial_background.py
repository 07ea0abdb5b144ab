"""The radial background of a frame: sigma-clipped mean and deviation of each radial bin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyopencl as cl

from ..device import Device
from ..geometry import RadialBins

_ITEMS = 64  # work-items of one frame: enough to keep the cores busy; each has room for the largest bin's values
_LANES = 8  # as in the kernel


@dataclass(frozen=True, slots=True)
class Background:
    """The background of a batch, on the device.

    :param mean: float32 (frames, bins); NaN for a bin without values.
    :param deviation: likewise.
    """

    mean: cl.Buffer
    deviation: cl.Buffer


class RadialBackground:
    """Clips the values of each bin around their mean, again and again, until none is clipped any more.

    The cut in each cycle is the larger of ``cutoff`` and Chauvenet's for the number of values left, as in pyFAI's
    ``sigma_clip``.

    :param device: where it runs.
    :param bins: which pixels belong to which bin.
    :param cutoff: deviations; 0: Chauvenet's criterion alone.
    :param cycles: times to clip at most.
    :param poisson: True: the variance of a value is itself, at least 1, as in pyFAI; else it comes from their spread.
    :param batch: frames of one call at most.
    """

    def __init__(self, device: Device, bins: RadialBins, cutoff: float, cycles: int, poisson: bool, batch: int) -> None:
        self._n_bins = len(bins.radius)
        self._n_pixels = bins.position.size
        self._pixels = device.upload(bins.pixels)
        self._ends = device.upload(bins.ends)
        self._per_item = -(-self._n_bins // _ITEMS)
        self._n_items = -(-self._n_bins // self._per_item)
        largest = int(np.diff(bins.ends.astype(np.int64), prepend=0).max())
        self._room = -(-largest // _LANES) * _LANES
        self._gathered = device.allocate(batch * self._n_items * self._room * 4)
        self._background = Background(
            device.allocate(batch * self._n_bins * 4), device.allocate(batch * self._n_bins * 4)
        )
        self._options = (np.float32(cutoff), np.int32(cycles), np.int32(poisson))
        self._kernel = cl.Kernel(device.build(Path(__file__).with_suffix(".cl")), "radial_background")

    def enqueue(self, queue: cl.CommandQueue, images: cl.Buffer, n_frames: int) -> Background:
        """Enqueue the background of ``n_frames`` float32 images; the result is valid until the next call."""
        size = (self._n_items, n_frames)
        self._kernel(
            queue,
            size,
            (1, 1),
            images,
            self._pixels,
            self._ends,
            self._gathered,
            self._background.mean,
            self._background.deviation,
            *self._options,
            np.uint32(self._n_pixels),
            np.uint32(self._n_bins),
            np.uint32(self._room),
            np.uint32(self._per_item),
        )
        return self._background
