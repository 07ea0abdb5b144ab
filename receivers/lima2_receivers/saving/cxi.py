"""Peak lists as CrystFEL and Cheetah read them: CXI's ``/entry_1/result_1``.

The layout: ``nPeaks`` (n,), and ``peakXPosRaw`` (the column), ``peakYPosRaw`` (the row), ``peakTotalIntensity`` and
``peakSNR`` (n, max), padded with zeros; ``/entry_1/data_1/data`` has the same n frames in the same order. Positions are
whole numbers at pixel centres; CrystFEL adds its half a pixel itself. Sources: CXI file format 1.7, and CrystFEL's
manual on ``--peaks=cxi``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import fill_value

from ..errors import SavingError
from ..ledger import has_data
from ..plan import FileExistsPolicy
from ..topology import EVERY_RECEIVER, Places
from .h5 import claim, create, give_up, group, saving_errors
from .mapping import map_frames
from .master import DATA, MEASUREMENT
from .read import find_dataset, find_group, open_file, read_rows
from .table import find_table

COLUMNS = {"peakXPosRaw": 1, "peakYPosRaw": 0, "peakTotalIntensity": 2, "peakSNR": 4}  # columns of ``peaks``


@dataclass(frozen=True, slots=True)
class _Images:
    """Where the images of the listed frames are.

    :param files: part file and dataset of each receiver.
    :param per_file: rows of each of a receiver's files, ``files`` naming the first; 0: it has one.
    :param shape: of one.
    :param dtype: likewise.
    """

    files: tuple[tuple[str, str], ...]
    per_file: int
    shape: tuple[int, ...]
    dtype: np.dtype


def write_cxi(master: Path, output: Path, *, hits_only: bool = False, overwrite: bool = False) -> int:
    """Write the peaks of an acquisition as CXI, with its images as a virtual dataset on the part files.

    :param hits_only: leave out the frames that are no hits; ``frame_number`` says which are there.
    :param overwrite: replace a file that is there.
    :returns: how many frames it has.
    :raises SavingError: a file can't be read or written, or the acquisition has no peaks; nothing is left behind.
    """
    with open_file(master) as file:
        measurement = find_group(file, MEASUREMENT)
        if measurement.get("peaks", getlink=True) is None:
            raise SavingError(f"reading {master}: there are no peaks")
        columns = [find_dataset(measurement, name)[()] for name in ("frame_status", "receiver", "row")]
        if (columns[1] == EVERY_RECEIVER).any():
            raise SavingError(f"reading {master}: each receiver has the peaks of its own modules, which CXI can't hold")
        n_frames = min(len(column) for column in columns)
        images = _find_images(file)
    counts, hits, peaks = (
        read_rows(master, f"{MEASUREMENT}/{name}", 0, n_frames) for name in ("n_peaks", "is_hit", "peaks")
    )
    frames = np.flatnonzero(hits == 1) if hits_only else np.arange(n_frames)
    statuses, receivers, rows = (column[frames] for column in columns)
    places, peaks = Places(receivers, rows).only(has_data(statuses)), peaks[frames]
    kept = np.clip(counts[frames].astype(np.int64), 0, peaks.shape[1])  # lost frames have a count of their fill value
    claimed = claim(output, FileExistsPolicy.OVERWRITE if overwrite else FileExistsPolicy.ABORT)
    try:
        made = create(claimed)
        try:
            with saving_errors(output, "writing"):
                entry = group(made, "entry_1", "NXentry")
                _write_peaks(entry, peaks, kept)
                entry["frame_number"] = frames
                folder = Path() if master.parent.resolve() == output.parent.resolve() else master.parent.resolve()
                _link_images(group(entry, "data_1", "NXdata"), images, places, folder)
                made.close()
        finally:
            give_up(made)
    except BaseException:
        claimed.drop()
        raise
    claimed.written()
    claimed.keep()
    return len(frames)


def _write_peaks(entry: h5py.Group, peaks: NDArray[np.generic], counts: NDArray[np.int64]) -> None:
    result = group(entry, "result_1", "NXcollection")
    result["nPeaks"] = counts.astype("<i4")
    width = max(1, int(counts.max(initial=0)))
    inside = np.arange(width) < counts[:, None]
    for name, column in COLUMNS.items():
        result[name] = np.where(inside, peaks[:, :width, column], 0).astype("<f4")


def _find_images(file: h5py.File) -> _Images:
    """Return where a master file has its main images: in dynamic dispatch, its dataset may still be to be made."""
    path = f"{MEASUREMENT}/{DATA}"
    table = find_table(file, path, 0, 0)
    if table is not None:
        files = tuple((part.name, table.dataset) for part in table.files)
        return _Images(files, table.per_file, table.shape, table.fill.dtype)
    image = find_dataset(file, path)
    files = tuple((source.file_name, source.dset_name) for source in image.virtual_sources())
    return _Images(files, 0, image.shape[1:], image.dtype)


def _link_images(data: h5py.Group, images: _Images, places: Places, folder: Path) -> None:
    """Make a virtual dataset on the part files: one on the master's would not see that those have grown."""
    sources = [(str(folder / name), path) for name, path in images.files]
    fill = np.asarray(fill_value(images.dtype.str), images.dtype)
    map_frames(data, "data", images.shape, fill, places, sources, [0] * len(sources), images.per_file)
    data.attrs["signal"] = "data"
