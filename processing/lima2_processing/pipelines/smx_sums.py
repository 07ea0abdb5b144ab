"""Sums of corrected frames, of hits and of the others, by windows of frames."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pyopencl as cl
from numpy.typing import NDArray

from ..device import Device
from ..frame import Accumulated, Batch, Output, OutputKind
from ..stages.accumulate import Accumulate, sum_type
from ..stages.pixels import Pixels

STREAM = "accumulated"
_BEHIND = 1  # windows before the newest that frames may still come for


class Sums:
    """What a pipeline sums up, and how far it is.

    :param device: where sums are kept.
    :param queue: that the images are made in.
    :param pixels: of the images.
    :param bad: pixels without a value (rows, cols).
    :param window: frames of the acquisition whose sums are saved together.
    """

    def __init__(
        self, device: Device, queue: cl.CommandQueue, pixels: Pixels, bad: NDArray[np.bool_], window: int
    ) -> None:
        self._queue = queue
        self._size = window
        self._window = -1  # which one is being summed
        self._kept: dict[int, dict[str, NDArray[np.generic]]] = {}  # sums so far of others that frames may come for
        self._over = 0  # windows below it were returned
        self._sums = {hit: Accumulate(device, pixels, bad) for hit in (True, False)}
        self._counts = {True: 0, False: 0}

    def add(self, images: cl.Buffer, frames: Batch, hits: list[bool]) -> tuple[Accumulated, ...]:
        """Enqueue the addition of a batch, and return the windows that are over.

        Frames that come after later ones are still added while their window is the last but ``_BEHIND``; to windows
        that were returned, nothing is.

        :param images: of the batch.
        :param hits: which frames are hits.
        """
        for window, group in groupby(range(len(frames)), lambda at: frames[at].index // self._size):
            if window < self._over:
                continue
            if window != self._window:
                self._collect()
                self._window = window
            inside = set(group)
            for hit, accumulate in self._sums.items():
                taken = [at in inside and one is hit for at, one in enumerate(hits)]
                accumulate.enqueue(self._queue, images, taken)
                self._counts[hit] += sum(taken)
        return self._return_below(max((self._window, *self._kept)) - _BEHIND)

    def finish(self) -> tuple[Accumulated, ...]:
        """Return all windows that have frames and were not returned."""
        self._collect()
        return self._return_below(max(self._kept, default=-1) + 1)

    def reset(self) -> None:
        """Forget all frames."""
        self._collect()
        self._kept.clear()
        self._window, self._over = -1, 0

    def _return_below(self, limit: int) -> tuple[Accumulated, ...]:
        self._over = max(self._over, limit)
        return tuple(Accumulated(window, self._kept.pop(window)) for window in sorted(self._kept) if window < limit)

    def _collect(self) -> None:
        """Take the sums off the device."""
        if not any(self._counts.values()):
            return
        hits, others = (self._sums[hit].take(self._queue) for hit in (True, False))
        n_hits, n_others = self._counts[True], self._counts[False]
        self._counts = {True: 0, False: 0}
        values: dict[str, NDArray[np.generic]] = {
            "acc_corrected": _together(hits, others),
            "acc_hit": hits,
            "acc_non_hit": others,
            "acc_n_corrected": np.array(n_hits + n_others, np.uint32),
            "acc_n_hit": np.array(n_hits, np.uint32),
            "acc_n_non_hit": np.array(n_others, np.uint32),
        }
        before = self._kept.get(self._window)
        if before is not None:
            values = {name: _together(before[name], value) for name, value in values.items()}
        self._kept[self._window] = values


def sum_outputs(pixels: Pixels, shape: tuple[int, ...], window: int, unit: str) -> tuple[Output, ...]:
    """Return what ``Sums`` gives.

    :param pixels: of the images.
    :param shape: of the images (rows, cols).
    :param window: frames of the acquisition whose sums are saved together.
    :param unit: of the images.
    """
    image, scalar, dtype = OutputKind.IMAGE, OutputKind.SCALAR, sum_type(pixels)
    kinds = {"corrected": "frames", "hit": "hits", "non_hit": "frames that are no hits"}
    images = [
        Output(f"acc_{name}", image, dtype, shape, STREAM, unit, f"sum of {label}", window=window)
        for name, label in kinds.items()
    ]
    counts = [
        Output(f"acc_n_{name}", scalar, "<u4", (), STREAM, "", f"number of {label}", window=window)
        for name, label in kinds.items()
    ]
    return (*images, *counts)


def _together(one: NDArray[np.generic], other: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the sum of two sums, which is as careful with counts as the kernel is."""
    if one.dtype.kind == "f":
        return np.add(one, other)
    nothing = np.iinfo(np.uint32).max
    total = np.minimum(np.add(one, other, dtype=np.uint64), nothing - 1)
    return np.asarray(np.where((one == nothing) | (other == nothing), nothing, total), np.uint32)
