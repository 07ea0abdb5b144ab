"""Reading our files, also while they are written and after their writers were killed.

Three hazards of HDF5, and what these helpers do about them:

- HDF5 shares an open file among all who open it in one process: a second open sees the first one's old extent. So one
  lock is held from open to close, and nothing stays open; keep what you do inside ``open_file`` short.
- A part file that is opened directly and through the master's virtual datasets in one process can give wrong pixels.
  So read frames from the master; ``read_sparse``, which needs a part file, has it alone.
- A file that is written, or whose writer was killed, opens with ``swmr`` alone: that is how all are opened.

An extent never tells what is valid: rows of lost frames have data that read as fill, and what was written after the
last count that was published may be torn. Ask ``read_statuses``, or the count.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import hdf5plugin  # noqa: F401  registers the filters that our images are compressed with
import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import LocalIdx, SparseFrame, fill_value

from ..errors import SavingError
from ..ledger import FrameStatus, has_data
from ..rollover import nth_name, split_rows
from ..topology import EVERY_RECEIVER, NO_RECEIVER, Places
from .h5 import saving_errors
from .ledger_file import GROUP, LedgerSummary
from .master import MEASUREMENT
from .part import SPARSE_GROUP
from .table import find_table, pieces_of, room_of, rows_per_file, take_rows

_lock = threading.Lock()


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open a master, ledger or part file for reading, alone in this process.

    :raises SavingError: it can't be read.
    """
    with _lock, saving_errors(path, "reading"), h5py.File(path, "r", swmr=True, libver="latest", locking=False) as file:
        yield file


def read_rows(master: Path, dataset: str, first: int = 0, last: int | None = None) -> NDArray[np.generic]:
    """Return frames ``first`` to ``last`` - 1 of a dataset of the master file.

    :param dataset: path in the file, as in ``messages.Dataset``.
    :param last: None: all that are there.
    :returns: (frames, ...); fewer frames than asked for where the dataset is shorter.
    :raises SavingError: the file can't be read, or has no such dataset.
    """
    with open_file(master) as file:
        table = find_table(file, dataset, first, last)
        if table is None:
            return np.asarray(find_dataset(file, dataset)[first:last])
    found = room_of(table)
    for piece in pieces_of(table.places, table.files, table.per_file):
        with open_file(piece.path) as part:
            take_rows(found, piece, find_dataset(part, table.dataset))
    return found


def read_frame(master: Path, dataset: str, frame: int) -> NDArray[np.generic]:
    """Return one frame of a dataset of the master file.

    :param dataset: path in the file, as in ``messages.Dataset``.
    :raises SavingError: the file can't be read, or has no such dataset or frame.
    """
    found = read_rows(master, dataset, frame, frame + 1) if frame >= 0 else np.empty(0)
    if not len(found):
        raise SavingError(f"reading {master}: {dataset} has no frame {frame}")
    return found[0]


def read_statuses(ledger: Path) -> NDArray[np.uint8]:
    """Return what became of each frame so far (frames,): the numbers of ``FrameStatus``."""
    with open_file(ledger) as file:
        return np.asarray(find_dataset(file, f"{GROUP}/frame_status")[()])


class LedgerRows(NamedTuple):
    """What a ledger file says of the leading frames.

    :param statuses: the numbers of ``FrameStatus`` (n,).
    :param places: where they are.
    :param timestamps: seconds since the epoch (n,).
    :param modules: bitmaps of those that are saved (n,).
    """

    statuses: NDArray[np.uint8]
    places: Places
    timestamps: NDArray[np.float64]
    modules: NDArray[np.uint64]


def read_ledger(ledger: Path) -> LedgerRows:
    """Return what a ledger file says of all frames that it has whole."""
    with open_file(ledger) as file:
        found = [
            np.asarray(find_dataset(file, f"{GROUP}/{name}")[()])
            for name in ("frame_status", "receiver", "row", "timestamp", "modules")
        ]
    n = min(map(len, found))
    unknown = np.flatnonzero((found[0][:n] == FrameStatus.PENDING) | (found[0][:n] == FrameStatus.UNKNOWN))
    end = int(unknown[0]) if len(unknown) else n  # what was not flushed as its writer died
    statuses, receivers, rows, timestamps, modules = (column[:end] for column in found)
    return LedgerRows(statuses, Places(receivers, rows), timestamps, modules)


def read_summary(ledger: Path) -> LedgerSummary | None:
    """Return the sum of an acquisition; None: it is not closed, or its conductor was killed."""
    with open_file(ledger) as file:
        texts = find_dataset(file, f"{GROUP}/summary")[()]
    return msgspec.json.decode(texts[0], type=LedgerSummary) if len(texts) else None


def read_sparse(part: Path, row: LocalIdx) -> SparseFrame:
    """Return the sparse frame in a row of a receiver's part file.

    :raises SavingError: the file can't be read, or has no such row yet.
    """
    with open_file(part) as file:
        data = f"/entry_0000/{SPARSE_GROUP}"
        # The pointers first: the writer has flushed the pixels before them.
        ends = find_dataset(file, f"{data}/frame_ptr")[row : row + 2]
        if row < 0 or len(ends) < 2:
            raise SavingError(f"reading {part}: row {row} is not there")
        pixels = slice(int(ends[0]), int(ends[1]))
        index, intensity = find_dataset(file, f"{data}/index"), find_dataset(file, f"{data}/intensity")
        for column in (index, intensity):
            column.refresh()
        return SparseFrame(index[pixels], intensity[pixels])


def read_sparse_frame(master: Path, frame: int) -> SparseFrame:
    """Return the sparse frame of an acquisition, whichever receivers have it; what was lost has no pixels.

    :raises SavingError: the files can't be read, or the frame is not there yet.
    """
    with open_file(master) as file:
        columns = [find_dataset(file, f"{MEASUREMENT}/{name}") for name in ("receiver", "row", "frame_status")]
        if not 0 <= frame < len(columns[0]):
            raise SavingError(f"reading {master}: frame {frame} is not there, {len(columns[0])} are")
        receiver, row, status = (column[frame] for column in columns)
        everywhere = receiver == EVERY_RECEIVER  # the status is that of the worst part: others may be there
        there = everywhere or (receiver != NO_RECEIVER and has_data(status))
        per_file = rows_per_file(file)
        files = _sparse_files(find_group(file, MEASUREMENT), int(receiver) if there else 0)
        if not files:
            raise SavingError(f"reading {master}: there are no sparse frames")
    if not there:
        return SparseFrame(np.empty(0, np.uint32), np.empty(0, np.float32))
    number, at = split_rows(np.array([row], np.int64), per_file)
    names = [nth_name(name, int(number[0])) for name in files]
    if not everywhere:
        return read_sparse(master.parent / names[0], LocalIdx(int(at[0])))
    parts = [_read_part(master.parent / name, int(at[0])) for name in names]
    index, intensity = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(index, kind="stable")
    return SparseFrame(index[order], intensity[order])


def _sparse_files(measurement: h5py.Group, receiver: int) -> list[str]:
    """Return the names of the part files that have a receiver's sparse frames, or every receiver's."""
    ranks = [receiver]
    if receiver == EVERY_RECEIVER:
        ranks = list(itertools.takewhile(lambda rank: f"sparse_{rank}" in measurement, itertools.count()))
    links = [measurement.get(f"sparse_{rank}", getlink=True) for rank in ranks]
    return [str(link.filename) for link in links if isinstance(link, h5py.ExternalLink)]


def _read_part(part: Path, row: int) -> tuple[NDArray[np.uint32], NDArray[np.generic]]:
    """Return a part's pixels; none where it was lost, and its file is shorter."""
    with open_file(part) as file:
        if row + 1 >= len(find_dataset(file, f"/entry_0000/{SPARSE_GROUP}/frame_ptr")):
            return np.empty(0, np.uint32), np.empty(0, np.float32)
    found = read_sparse(part, LocalIdx(row))
    return found.index, found.intensity


def read_accumulated(master: Path, name: str, window: int) -> tuple[NDArray[np.generic], int]:
    """Return an accumulated image (rows, cols), summed over all receivers, and how many frames are in it.

    Counts are uint64 there, with the largest for pixels without a value; other images float64 with NaN.

    :param name: ``corrected``, ``hit`` or ``non_hit``.
    :param window: number of the window.
    :raises SavingError: the file can't be read, has nothing accumulated, or not that window yet.
    """
    with open_file(master) as file:
        counts = find_dataset(file, f"{MEASUREMENT}/acc_n_{name}")
        if not 0 <= window < len(counts):
            raise SavingError(f"reading {master}: window {window} is not there, {len(counts)} are")
        n_frames = np.asarray(counts[window])
        with_frames = n_frames != fill_value(n_frames.dtype.str)
        parts = np.asarray(find_dataset(file, f"{MEASUREMENT}/acc_{name}")[window])[with_frames]
    nothing = fill_value(parts.dtype.str)
    total = parts.sum(axis=0, dtype="<u8" if parts.dtype.kind == "u" else "<f8")
    if total.dtype.kind == "u":
        total[(parts == nothing).any(axis=0)] = fill_value("<u8")
    return total, int(n_frames[with_frames].sum())


def find_dataset(place: h5py.Group, path: str) -> h5py.Dataset:
    """Return a dataset below a group or file.

    :raises SavingError: there is none.
    """
    found = place.get(path)
    if not isinstance(found, h5py.Dataset):
        raise SavingError(f"reading {place.file.filename}: there is no dataset {path}")
    return found


def find_group(place: h5py.Group, path: str) -> h5py.Group:
    """Return a group below a group or file.

    :raises SavingError: there is none.
    """
    found = place.get(path)
    if not isinstance(found, h5py.Group):
        raise SavingError(f"reading {place.file.filename}: there is no group {path}")
    return found
