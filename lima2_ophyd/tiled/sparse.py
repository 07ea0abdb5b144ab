"""The sparse frames of an acquisition as if they were images: one array, made dense frame by frame when it is read."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
from numpy.typing import NDArray

from lima2_receivers.ledger import has_data
from lima2_receivers.rollover import nth_name, split_rows
from lima2_receivers.topology import EVERY_RECEIVER, NO_RECEIVER

MEASUREMENT = "/entry_0000/measurement"
PARTS = "/entry_0000/parts"
"""The group of a master file that says where part files have what it does not show while they are written."""
DATASET = f"{MEASUREMENT}/sparse"
"""The path that sparse frames are announced under; the file has no dataset there, but one group for each receiver."""


class SparseStack:
    """Looks like an HDF5 dataset of images (frames, rows, cols): 0 where no pixel was picked.

    :param master: path of the master file.
    :param shape: of an image.
    """

    fillvalue = 0.0
    name = DATASET

    def __init__(self, master: str, shape: tuple[int, ...]) -> None:
        self._master = Path(master)
        self._image = shape
        self.shape: tuple[int, ...] = (0, *shape)

    def __enter__(self) -> Self:
        with open_file(self._master) as file:
            self.shape = (len(open_dataset(file, f"{MEASUREMENT}/frame_status")), *self._image)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        return

    def __getitem__(self, index: slice | tuple[slice, ...]) -> NDArray[np.float32]:
        """Return frames, or parts of them; slices beyond the end are cut, as HDF5 does."""
        rows, *rest = index if isinstance(index, tuple) else (index,)
        frames = [self._dense(frame) for frame in range(self.shape[0])[rows]]
        stack = np.stack(frames) if frames else np.empty((0, *self._image), np.float32)
        return stack[(np.s_[:], *rest)]

    def _dense(self, frame: int) -> NDArray[np.float32]:
        """Return one frame; what was lost has no pixels."""
        with open_file(self._master) as file:
            receiver, row, status = (
                open_dataset(file, f"{MEASUREMENT}/{name}")[frame] for name in ("receiver", "row", "frame_status")
            )
            per_file = rows_per_file(file)
            links = _links(file)
        if not links:
            raise OSError(f"{self._master} has no sparse frames")
        image = np.zeros(self._image, np.float32)
        everywhere = receiver == EVERY_RECEIVER  # the status is that of the worst part: others may be there
        if receiver == NO_RECEIVER or not (everywhere or has_data(status)):
            return image
        (number,), (row,) = split_rows(np.array([row], np.int64), per_file)
        for link in links if everywhere else links[receiver : receiver + 1]:
            with open_file(self._master.parent / nth_name(str(link.filename), int(number))) as part:
                # The pointers first: the writer has flushed the pixels before them.
                ends = open_dataset(part, f"{link.path}/frame_ptr")[row : row + 2]
                if len(ends) == 2:
                    pixels = slice(int(ends[0]), int(ends[1]))
                    index, intensity = (
                        open_dataset(part, f"{link.path}/{name}")[pixels] for name in ("index", "intensity")
                    )
                    image.ravel()[index] = intensity
        return image


def _links(master: h5py.File) -> list[h5py.ExternalLink]:
    """Return the links to the receivers' sparse frames, by rank."""
    found: list[h5py.ExternalLink] = []
    while True:
        link = master.get(f"{MEASUREMENT}/sparse_{len(found)}", getlink=True, default=None)
        if not isinstance(link, h5py.ExternalLink):
            return found
        found.append(link)


def open_file(path: Path) -> h5py.File:
    """Open a file of ours that may still be written."""
    return h5py.File(path, "r", swmr=True, libver="latest", locking=False)


def rows_per_file(master: h5py.File) -> int:
    """Return how many rows each file of a receiver has; 0: it has one file."""
    parts = master.get(PARTS)
    return int(parts.attrs.get("rows_per_file", 0)) if isinstance(parts, h5py.Group) else 0


def open_dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """Return a dataset.

    :raises OSError: there is none.
    """
    found = file.get(path)
    if not isinstance(found, h5py.Dataset):
        raise OSError(f"{file.filename} has no dataset {path}")
    return found
