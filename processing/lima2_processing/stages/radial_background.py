"""The radial background of a frame: sigma-clipped mean and deviation of each radial bin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyopencl as cl

from ..device import Device
from ..geometry import RadialBins
from .pixels import SOURCE, Pixels

_LEVELS = 128  # columns of the table of values: backgrounds up to about 50 counts never need the values themselves
_PARTS = 8  # tables of one frame at most on a CPU, where each is counted by one work-item
_ITEMS = 64  # work-items that share the bins of a frame on a CPU: enough to keep the cores busy
_CHUNK = 65536  # pixels of one work-item on a CPU
_LEAST = 256  # pixels of one work-item on a GPU
_LANES = 8  # as in the kernel
_CLIP = Path(__file__).with_name("clip.cl")


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
    ``sigma_clip``. Images of unsigned integers are clipped on a table of how often each value occurs in each bin. Any
    others, and bins with so many high values that their table says too little, are clipped on the values themselves.

    :param device: where it runs.
    :param bins: which pixels belong to which bin.
    :param pixels: of the images.
    :param cutoff: deviations; 0: Chauvenet's criterion alone.
    :param cycles: times to clip at most.
    :param poisson: True: the variance of a value is itself, at least 1, as in pyFAI; else it comes from their spread.
    :param batch: frames of one call at most.
    """

    def __init__(
        self,
        device: Device,
        bins: RadialBins,
        pixels: Pixels,
        cutoff: float,
        cycles: int,
        poisson: bool,
        batch: int,
    ) -> None:
        size = batch * len(bins.radius)
        self._background = Background(device.allocate(size * 4), device.allocate(size * 4))
        self._pending = device.upload(np.ones(size, np.uint8), writable=True)
        options = (np.float32(cutoff), np.int32(cycles), np.int32(poisson))
        self._table = _ValueTable(device, bins, pixels, options, batch) if pixels.unsigned else None
        self._by_value = _Values(device, bins, pixels, options, batch)

    def enqueue(self, queue: cl.CommandQueue, images: cl.Buffer, n_frames: int) -> Background:
        """Enqueue the background of ``n_frames`` images; the result is valid until the next call."""
        if self._table is not None:
            self._table.enqueue(queue, images, self._background, self._pending, n_frames)
        self._by_value.enqueue(queue, images, self._background, self._pending, n_frames)
        return self._background


_Options = tuple[np.float32, np.int32, np.int32]


class _ValueTable:
    """Clips bins by how often each value occurs in them."""

    def __init__(self, device: Device, bins: RadialBins, pixels: Pixels, options: _Options, batch: int) -> None:
        self._n_bins, self._n_pixels = len(bins.radius), bins.number.size
        self._options = options
        self._ceiling = np.uint32(math.ceil(pixels.ceiling))
        self._number = device.upload(bins.number)
        parts = min(_PARTS, device.compute_units)
        self._pixels = device.cut(self._n_pixels, -(-self._n_pixels // parts), _LEAST)
        self._bins = device.cut(self._n_bins, -(-self._n_bins // _ITEMS))
        self._shared = device.many_items  # all work-items of a frame count into one table
        self._n_parts = 1 if self._shared else self._pixels.items
        rows = batch * self._n_parts * (self._n_bins + 1)
        self._counts = device.allocate(rows * _LEVELS * 4)
        self._excess = device.allocate(rows * 8)
        source = Path(__file__).with_name("value_table.cl")
        shared = {"SHARED": 1} if self._shared else {}
        program = device.build(source, {**pixels.constants, "LEVELS": _LEVELS, **shared}, (_CLIP,))
        self._count, self._clip = (cl.Kernel(program, name) for name in ("count_values", "clip_table"))

    def enqueue(
        self, queue: cl.CommandQueue, images: cl.Buffer, result: Background, pending: cl.Buffer, n_frames: int
    ) -> None:
        if self._shared:
            for buffer in (self._counts, self._excess):
                cl.enqueue_fill_buffer(queue, buffer, np.zeros(1, np.uint32), 0, buffer.size)
        sizes = (np.uint32(self._n_pixels), np.uint32(self._n_bins), np.uint32(self._pixels.chunk))
        buffers = (images, self._number, self._counts, self._excess)
        self._count(queue, *self._pixels.launch(n_frames), *buffers, self._ceiling, *sizes)
        sizes = (np.uint32(self._n_parts), np.uint32(self._n_bins), np.uint32(self._bins.chunk))
        buffers = (self._counts, self._excess, result.mean, result.deviation, pending)
        self._clip(queue, *self._bins.launch(n_frames), *buffers, *self._options, *sizes)


class _Values:
    """Clips the bins that are pending by their values, put next to each other first."""

    def __init__(self, device: Device, bins: RadialBins, pixels: Pixels, options: _Options, batch: int) -> None:
        self._n_bins, self._n_pixels = len(bins.radius), bins.number.size
        self._options = options
        self._ceiling = np.float32(pixels.ceiling)
        self._pixels = device.cut(self._n_pixels, _CHUNK, _LEAST)
        self._bins = device.cut(self._n_bins, -(-self._n_bins // _ITEMS))
        sizes = np.diff(bins.ends.astype(np.int64), prepend=0)
        room = np.cumsum(-(-sizes // _LANES) * _LANES)  # each bin begins at a vector
        starts = np.concatenate([[0], room[:-1]])
        self._room = int(room[-1])
        self._starts, self._sizes = device.upload(starts.astype(np.uint32)), device.upload(sizes.astype(np.uint32))
        self._values = device.upload(np.full(batch * (self._room + 1), np.nan, np.float32), writable=True)
        program = device.build(Path(__file__).with_suffix(".cl"), pixels.constants, (SOURCE, _CLIP))
        names = ("sort_values", "gather_values", "clip_values")
        self._sort, self._gather, self._clip = (cl.Kernel(program, name) for name in names)
        places = np.full(self._n_pixels, self._room, np.uint32)
        places[bins.pixels] = np.arange(len(bins.pixels)) + np.repeat(starts + sizes - bins.ends, sizes)
        self._places = device.upload(places)
        # Where there is no table, all bins are always pending, and nothing is gathered.
        self._lists = (device.upload(bins.pixels), device.upload(bins.ends)) if pixels.unsigned else None

    def enqueue(
        self, queue: cl.CommandQueue, images: cl.Buffer, result: Background, pending: cl.Buffer, n_frames: int
    ) -> None:
        n_pixels, n_bins, room = map(np.uint32, (self._n_pixels, self._n_bins, self._room))
        sizes = (n_pixels, n_bins, room, np.uint32(self._pixels.chunk))
        self._sort(
            queue, *self._pixels.launch(n_frames), images, self._places, self._values, pending, self._ceiling, *sizes
        )
        per_item, items = np.uint32(self._bins.chunk), self._bins.launch(n_frames)
        if self._lists is not None:
            buffers = (images, *self._lists, self._starts, self._values, pending)
            sizes = (n_pixels, n_bins, room, per_item)
            self._gather(queue, *items, *buffers, self._ceiling, *sizes)
        buffers = (self._values, self._starts, self._sizes, result.mean, result.deviation, pending)
        self._clip(queue, *items, *buffers, *self._options, n_bins, room, per_item)
