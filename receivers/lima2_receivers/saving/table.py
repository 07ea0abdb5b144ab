"""Reading frames where a table says which receiver and row hold each: from the part files, also while they grow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
from numpy.typing import NDArray

from ..topology import NO_RECEIVER
from .master import ENTRY, MEASUREMENT, PARTS

_NOTHING = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class TableSlice:
    """Where some frames are.

    :param receivers: (n,); ``NO_RECEIVER``: no receiver has it.
    :param rows: in that receiver's file (n,).
    :param files: path of each receiver's part file.
    :param dataset: path in them.
    :param shape: of one frame.
    :param fill: of a frame that nobody has, and of the right type.
    """

    receivers: NDArray[np.uint16]
    rows: NDArray[np.uint64]
    files: tuple[Path, ...]
    dataset: str
    shape: tuple[int, ...]
    fill: NDArray[np.generic]


def find_table(master: h5py.File, dataset: str, first: int, last: int | None) -> TableSlice | None:
    """Return where frames ``first`` to ``last`` - 1 of a dataset are; None: the master file itself shows them.

    :param dataset: path in the master file.
    """
    parts = master.get(f"{ENTRY}/{PARTS}/{PurePosixPath(dataset).name}")
    if not isinstance(parts, h5py.Group) or str(PurePosixPath(dataset).parent) != MEASUREMENT:
        return None
    columns = [master.get(f"{MEASUREMENT}/{name}") for name in ("receiver", "row")]
    receivers, rows = (column[first:last] if isinstance(column, h5py.Dataset) else _NOTHING for column in columns)
    links = [parts.get(str(rank), getlink=True) for rank in range(len(parts))]
    places = [link for link in links if isinstance(link, h5py.ExternalLink)]
    n = min(len(receivers), len(rows))
    return TableSlice(
        receivers=np.asarray(receivers[:n], np.uint16),
        rows=np.asarray(rows[:n], np.uint64),
        files=tuple(Path(master.filename).parent / str(place.filename) for place in places),
        dataset=str(places[0].path),
        shape=tuple(int(size) for size in np.atleast_1d(np.asarray(parts.attrs["shape"]))),
        fill=np.asarray(parts.attrs["fill"]),
    )


def room_of(table: TableSlice) -> NDArray[np.generic]:
    """Return an array for all frames of a table, filled (n, ...)."""
    return np.full((len(table.receivers), *table.shape), table.fill, table.fill.dtype)


def ranks_in(table: TableSlice) -> list[int]:
    """Return the receivers that have some of the frames."""
    return [int(rank) for rank in np.unique(table.receivers) if rank != NO_RECEIVER]


def take_rows(found: NDArray[np.generic], table: TableSlice, rank: int, part: h5py.Dataset) -> None:
    """Copy one receiver's frames out of its part file.

    :param found: as ``room_of`` gives it.
    """
    mine = np.flatnonzero((table.receivers == rank) & (table.rows < len(part)))
    if not len(mine):
        return
    order = mine[np.argsort(table.rows[mine], kind="stable")]
    rows = table.rows[order].astype(np.int64)
    dense = rows[-1] - rows[0] == len(rows) - 1
    found[order] = part[rows[0] : rows[-1] + 1] if dense else part[rows]
