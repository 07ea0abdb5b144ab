"""Reading frames from the part files that have them: a table says which receiver and row hold each.

That is where the master file does not show them while files are written, or can't be relied on to see new files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
from numpy.typing import NDArray

from ..ledger import has_data
from ..rollover import nth_name, split_rows
from ..topology import NO_RECEIVER, Places
from .master import ENTRY, MEASUREMENT, PARTS, PER_FILE

_COLUMNS = ("receiver", "row", "frame_status")
_NOTHING = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class TableSlice:
    """Where some frames are.

    :param places: of the frames that have data (n,).
    :param files: path of each receiver's part file, or of the first of them.
    :param per_file: rows of each of a receiver's files; 0: it has one.
    :param dataset: path in them.
    :param shape: of one frame.
    :param fill: of a frame that nobody has, and of the right type.
    """

    places: Places
    files: tuple[Path, ...]
    per_file: int
    dataset: str
    shape: tuple[int, ...]
    fill: NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some frames that are in one file.

    :param frames: their places among those that are wanted (k,).
    :param rows: in the file, rising (k,).
    """

    path: Path
    frames: NDArray[np.int64]
    rows: NDArray[np.int64]


def find_table(master: h5py.File, dataset: str, first: int, last: int | None) -> TableSlice | None:
    """Return where frames ``first`` to ``last`` - 1 of a dataset are; None: the master file itself shows them.

    :param dataset: path in the master file.
    """
    parts = master.get(f"{ENTRY}/{PARTS}/{PurePosixPath(dataset).name}")
    if not isinstance(parts, h5py.Group) or str(PurePosixPath(dataset).parent) != MEASUREMENT:
        return None
    columns = [master.get(f"{MEASUREMENT}/{name}") for name in _COLUMNS]
    receivers, rows, fates = (
        np.asarray(column[first:last]) if isinstance(column, h5py.Dataset) else _NOTHING for column in columns
    )
    statuses = fates.astype(np.uint8)
    links = [parts.get(str(rank), getlink=True) for rank in range(len(parts))]
    files = [link for link in links if isinstance(link, h5py.ExternalLink)]
    n = min(len(receivers), len(rows), len(statuses))
    places = Places(receivers[:n].astype(np.uint16), rows[:n].astype(np.uint64))
    return TableSlice(
        places=places.only(has_data(statuses[:n])),
        files=tuple(Path(master.filename).parent / str(file.filename) for file in files),
        per_file=rows_per_file(master),
        dataset=str(files[0].path),
        shape=tuple(int(size) for size in np.atleast_1d(np.asarray(parts.attrs["shape"]))),
        fill=np.asarray(parts.attrs["fill"]),
    )


def rows_per_file(master: h5py.File) -> int:
    """Return how many rows each of a receiver's files has; 0: it has one file a stream."""
    parts = master.get(f"{ENTRY}/{PARTS}")
    return int(parts.attrs.get(PER_FILE, 0)) if isinstance(parts, h5py.Group) else 0


def room_of(table: TableSlice) -> NDArray[np.generic]:
    """Return an array for all frames of a table, filled (n, ...)."""
    return np.full((len(table.places.receivers), *table.shape), table.fill, table.fill.dtype)


def pieces_of(places: Places, files: tuple[Path, ...], per_file: int) -> list[Piece]:
    """Return which file has which frames; those that nobody has are left out.

    :param files: see ``TableSlice``.
    """
    found: list[Piece] = []
    for rank in np.unique(places.receivers):
        if rank == NO_RECEIVER:
            continue
        mine = np.flatnonzero(places.receivers == rank)
        mine = mine[np.argsort(places.rows[mine], kind="stable")]  # in dynamic dispatch, frames may overtake each other
        numbers, rows = split_rows(places.rows[mine].astype(np.int64), per_file)
        cuts = np.flatnonzero(np.diff(numbers)) + 1
        for frames, number, there in zip(*(np.split(each, cuts) for each in (mine, numbers, rows)), strict=True):
            first = files[rank]
            found.append(Piece(first.with_name(nth_name(first.name, int(number[0]))), frames, there))
    return found


def take_rows(found: NDArray[np.generic], piece: Piece, part: h5py.Dataset) -> None:
    """Copy frames out of their part file.

    :param found: as ``room_of`` gives it.
    """
    there = piece.rows < len(part)
    frames, rows = piece.frames[there], piece.rows[there]
    if not len(rows):
        return
    dense = rows[-1] - rows[0] == len(rows) - 1
    found[frames] = part[rows[0] : rows[-1] + 1] if dense else part[rows]
