"""Frames that the master file does not show live, as one array: found by the table of the ledger, in the part files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import h5py
import hdf5plugin  # noqa: F401 - registers the decompressors
import numpy as np
from numpy.typing import NDArray

from lima2_receivers.ledger import has_data
from lima2_receivers.rollover import nth_name, split_rows
from lima2_receivers.topology import NO_RECEIVER

from .sparse import MEASUREMENT, PARTS, open_dataset, open_file, rows_per_file


def is_table(master: str, dataset: str) -> bool:
    """Tell whether a dataset of a master file is to be read by the table."""
    if not dataset.startswith(f"{MEASUREMENT}/"):
        return False
    with open_file(Path(master)) as file:
        return f"{PARTS}/{PurePosixPath(dataset).name}" in file


class TableStack:
    """Looks like an HDF5 dataset (frames, ...) whose frames are in the files of several receivers.

    :param master: path of the master file.
    :param dataset: path in it.
    """

    def __init__(self, master: str, dataset: str) -> None:
        self._master = Path(master)
        self.name = dataset
        self.shape: tuple[int, ...] = ()
        self.fillvalue: Any = 0
        self._places: list[tuple[Path, str]] = []
        self._per_file = 0

    def __enter__(self) -> Self:
        with open_file(self._master) as file:
            parts = file.get(f"{PARTS}/{PurePosixPath(self.name).name}")
            if not isinstance(parts, h5py.Group):
                raise OSError(f"{self._master} does not say where {self.name} is")
            links = [parts.get(str(rank), getlink=True) for rank in range(len(parts))]
            self._places = [
                (self._master.parent / str(link.filename), str(link.path))
                for link in links
                if isinstance(link, h5py.ExternalLink)
            ]
            self._per_file = rows_per_file(file)
            self.fillvalue = np.asarray(parts.attrs["fill"])[()]
            image = tuple(int(size) for size in np.atleast_1d(np.asarray(parts.attrs["shape"])))
            self.shape = (len(open_dataset(file, f"{MEASUREMENT}/receiver")), *image)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        return

    def __getitem__(self, index: slice | tuple[slice, ...]) -> NDArray[Any]:
        """Return frames, or parts of them; slices beyond the end are cut, as HDF5 does."""
        frames, *rest = index if isinstance(index, tuple) else (index,)
        with open_file(self._master) as file:
            receivers, rows, statuses = (
                open_dataset(file, f"{MEASUREMENT}/{name}")[frames] for name in ("receiver", "row", "frame_status")
            )
        found = np.full((len(receivers), *self.shape[1:]), self.fillvalue)
        numbers, within = split_rows(rows.astype(np.int64), self._per_file)
        there = has_data(statuses) & (receivers != NO_RECEIVER)
        for rank, number in sorted(set(zip(receivers[there].tolist(), numbers[there].tolist(), strict=True))):
            first, dataset = self._places[rank]
            with open_file(first.with_name(nth_name(first.name, number))) as file:
                part = open_dataset(file, dataset)
                mine = np.flatnonzero(there & (receivers == rank) & (numbers == number) & (within < len(part)))
                mine = mine[np.argsort(within[mine])]  # HDF5 wants rising rows
                found[mine] = part[within[mine]]
        return found[(np.s_[:], *rest)]
