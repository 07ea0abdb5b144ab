"""Virtual datasets of frames that lie in several files.

HDF5 takes a selection of any rows for a mapping, but its cost grows with the square of the pieces: so there is a
mapping for each receiver and ``BLOCK`` frames, and for each file. A million frames over four receivers in one file each
take 3 s to write and 0.7 s to open.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from ..rollover import nth_name, split_rows
from ..topology import Places

BLOCK = 1024  # frames of a mapping


def map_frames(
    data: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    fill: NDArray[np.generic],
    places: Places,
    sources: Sequence[tuple[str, str]],
    rows: Sequence[int],
    per_file: int = 0,
) -> h5py.Dataset:
    """Make a virtual dataset of frames that any receiver may have.

    :param data: its group.
    :param shape: of one frame.
    :param fill: of a frame that is nowhere, and of the right type.
    :param places: where the frames are; what is said to be in a file has to be there, else HDF5 reads nothing at all.
    :param sources: file and dataset of each receiver.
    :param rows: of each receiver's dataset, as far as is known.
    :param per_file: rows of each of a receiver's files, ``sources`` naming the first; 0: it has one.
    """
    n = len(places.receivers)
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_fill_value(fill)
    for rank, (file, path) in enumerate(sources):
        for frames, number, there in _pieces(places, rank, per_file):
            target = _select(n, shape, frames)
            source = _select(max(0 if per_file else rows[rank], int(there[-1]) + 1), shape, there)
            properties.set_virtual(target, nth_name(file, number).encode(), path.encode(), source)
    space = h5py.h5s.create_simple((n, *shape))
    kind = h5py.h5t.py_create(fill.dtype, logical=True)
    return h5py.Dataset(h5py.h5d.create(data.id, name.encode(), kind, space, dcpl=properties))


def _pieces(places: Places, rank: int, per_file: int) -> Iterator[tuple[NDArray[np.int64], int, NDArray[np.int64]]]:
    """Yield (frames, file, rows in it) of a receiver, frames and rows rising, at most ``BLOCK`` frames wide."""
    mine = np.flatnonzero(places.receivers == rank)
    files, rows = split_rows(places.rows[mine].astype(np.int64), per_file)
    cuts = np.flatnonzero((np.diff(mine // BLOCK) != 0) | (np.diff(files) != 0) | (np.diff(rows) <= 0)) + 1
    for frames, file, there in zip(*(np.split(each, cuts) for each in (mine, files, rows)), strict=True):
        if len(frames):
            yield frames, int(file[0]), there


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
