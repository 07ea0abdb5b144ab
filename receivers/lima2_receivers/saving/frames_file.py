"""All receivers' frames as one where a table says which receiver and row hold each: made when all of them are settled.

A virtual dataset that grows can't follow such a table, so that this file is written at the end; until then, and in our
own readers always, frames are found by the table of the ledger and the part files. HDF5 takes a selection of any rows
for a mapping, but its cost grows with the square of the pieces: so there is a mapping for each receiver and ``BLOCK``
frames. A million frames over four receivers take 3 s to write and 0.7 s to open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import Output

from ..topology import Places
from .claim import Claim
from .h5 import create, give_up, group, saving_errors
from .master import DATA
from .part import dataset_path

BLOCK = 1024  # frames of a mapping


class FramesFile:
    """The file, empty until ``write``.

    :param claimed: where it goes.
    :param outputs: the datasets to make, each with its name.
    :param files: stream to part file name, one mapping a receiver.
    """

    def __init__(self, claimed: Claim, outputs: Sequence[tuple[str, Output]], files: Sequence[dict[str, str]]) -> None:
        self._claim = claimed
        self._outputs = outputs
        self._files = files

    def write(self, places: Places, rows: Sequence[int]) -> None:
        """Write the file.

        :param places: where the frames are; those that have no data in part files are nowhere.
        :param rows: of each receiver's part files.
        :raises SavingError: it can't be written.
        """
        made = create(self._claim)
        try:
            with saving_errors(self._claim.path, "writing"):
                data = group(group(made, "entry_0000", "NXentry"), "measurement", "NXdata")
                for name, output in self._outputs:
                    self._map(data, name, output, places, rows)
                made.close()
        finally:
            give_up(made)
            self._claim.written()

    def keep(self) -> None:
        """Let the file go that this one replaces."""
        with saving_errors(self._claim.path, "replacing the old"):
            self._claim.keep()

    def discard(self) -> None:
        """Remove the file, and put back the one that it was to replace."""
        self._claim.drop()

    def _map(self, data: h5py.Group, name: str, output: Output, places: Places, rows: Sequence[int]) -> None:
        path = dataset_path(output)
        sources = [(files[output.stream], path) for files in self._files]
        made = map_frames(data, name, output.shape, np.asarray(output.fill, output.dtype), places, sources, rows)
        made.attrs["units"], made.attrs["long_name"] = output.unit, output.label
        if name == DATA:
            made.attrs["interpretation"] = "image"


def map_frames(
    data: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    fill: NDArray[np.generic],
    places: Places,
    sources: Sequence[tuple[str, str]],
    rows: Sequence[int],
) -> h5py.Dataset:
    """Make a virtual dataset of frames that any receiver may have.

    :param data: its group.
    :param shape: of one frame.
    :param fill: of a frame that is nowhere, and of the right type.
    :param places: where the frames are; what is said to be in a file has to be there, else HDF5 reads nothing at all.
    :param sources: file and dataset of each receiver.
    :param rows: of each receiver's dataset, as far as is known.
    """
    n = len(places.receivers)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_value(fill)
    for rank, (file, path) in enumerate(sources):
        for frames, there in _pieces(places, rank):
            target = _select(n, shape, frames)
            source = _select(max(rows[rank], int(there[-1]) + 1), shape, there)
            properties.set_virtual(target, file.encode(), path.encode(), source)
    space = h5py.h5s.create_simple((n, *shape))
    kind = h5py.h5t.py_create(fill.dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(data.id, name.encode(), kind, space, dcpl=properties))


def _pieces(places: Places, rank: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield (frames, rows) of a receiver, both rising, at most ``BLOCK`` frames wide."""
    mine = np.flatnonzero(places.receivers == rank)
    rows = places.rows[mine].astype(np.int64)
    cuts = np.flatnonzero((np.diff(mine // BLOCK) != 0) | (np.diff(rows) <= 0)) + 1
    for frames, there in zip(np.split(mine, cuts), np.split(rows, cuts), strict=True):
        if len(frames):
            yield frames, there


def _select(length: int, shape: tuple[int, ...], rows: NDArray[np.int64]) -> h5py.h5s.SpaceID:
    """Return a dataspace of ``length`` rows of which some, rising, are selected."""
    space = h5py.h5s.create_simple((length, *shape))
    steps = np.diff(rows)
    if len(steps) and steps[0] > 1 and (steps == steps[0]).all():
        start, count = (int(rows[0]), *(0 for _ in shape)), (len(rows), *(1 for _ in shape))
        space.select_hyperslab(start, count, (int(steps[0]), *shape), (1, *shape))
        return space
    how = h5py.h5s.SELECT_SET
    for run in np.split(rows, np.flatnonzero(steps != 1) + 1):
        start, count = (int(run[0]), *(0 for _ in shape)), (len(run), *shape)
        space.select_hyperslab(start, count, op=how)
        how = h5py.h5s.SELECT_OR
    return space
