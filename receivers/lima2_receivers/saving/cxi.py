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
from ..plan import FileExistsPolicy
from .h5 import claim, create, give_up, group, saving_errors
from .master import DATA, MEASUREMENT
from .read import find_dataset, find_group, open_file

COLUMNS = {"peakXPosRaw": 1, "peakYPosRaw": 0, "peakTotalIntensity": 2, "peakSNR": 4}  # columns of ``peaks``


@dataclass(frozen=True, slots=True)
class _Images:
    """Where the images of the listed frames are.

    :param files: part file and dataset of each receiver.
    :param receiver: that has each frame (n,).
    :param row: of each frame there (n,).
    """

    files: tuple[tuple[str, str], ...]
    shape: tuple[int, ...]
    dtype: str
    receiver: NDArray[np.generic]
    row: NDArray[np.int64]


def write_cxi(master: Path, output: Path, *, hits_only: bool = False, overwrite: bool = False) -> int:
    """Write the peaks of an acquisition as CXI, with its images as a virtual dataset on the part files.

    :param hits_only: leave out the frames that are no hits; ``frame_number`` says which are there.
    :param overwrite: replace a file that is there.
    :returns: how many frames it has.
    :raises SavingError: a file can't be read or written, or the acquisition has no peaks; nothing is left behind.
    """
    with open_file(master) as file:
        measurement = find_group(file, MEASUREMENT)
        if "peaks" not in measurement:
            raise SavingError(f"reading {master}: there are no peaks")
        n_frames = len(find_dataset(measurement, "frame_status"))
        counts = find_dataset(measurement, "n_peaks")[:n_frames]
        hits = find_dataset(measurement, "is_hit")[:n_frames] == 1
        frames = np.flatnonzero(hits) if hits_only else np.arange(n_frames)
        peaks = find_dataset(measurement, "peaks")[:n_frames][frames]
        image = find_dataset(measurement, DATA)
        images = _Images(
            files=tuple((source.file_name, source.dset_name) for source in image.virtual_sources()),
            shape=image.shape[1:],
            dtype=image.dtype.str,
            receiver=find_dataset(measurement, "receiver")[()][frames],
            row=find_dataset(measurement, "row")[()][frames].astype(np.int64),
        )
    kept = np.minimum(np.maximum(counts[frames], 0), peaks.shape[1])  # lost frames have a count of their fill value
    claimed = claim(output, FileExistsPolicy.OVERWRITE if overwrite else FileExistsPolicy.ABORT)
    try:
        made = create(claimed)
        try:
            with saving_errors(output, "writing"):
                entry = group(made, "entry_1", "NXentry")
                _write_peaks(entry, peaks, kept)
                entry["frame_number"] = frames
                folder = Path() if master.parent.resolve() == output.parent.resolve() else master.parent.resolve()
                _link_images(group(entry, "data_1", "NXdata"), images, folder)
                made.close()
        finally:
            give_up(made)
    except BaseException:
        claimed.drop()
        raise
    claimed.keep()
    return len(frames)


def _write_peaks(entry: h5py.Group, peaks: NDArray[np.float32], counts: NDArray[np.int32]) -> None:
    result = group(entry, "result_1", "NXcollection")
    result["nPeaks"] = counts.astype("<i4")
    width = max(1, int(counts.max(initial=0)))
    inside = np.arange(width) < counts[:, None]
    for name, column in COLUMNS.items():
        result[name] = np.where(inside, peaks[:, :width, column], 0).astype("<f4")


def _link_images(data: h5py.Group, images: _Images, folder: Path) -> None:
    """Make a virtual dataset on the part files: one on the master's would not see that those have grown."""
    n_frames = len(images.row)
    layout = h5py.VirtualLayout((n_frames, *images.shape), images.dtype)
    for rank, (name, path) in enumerate(images.files):
        mine = np.flatnonzero(images.receiver == rank)
        if not len(mine):
            continue
        rows = images.row[mine]
        shape = (int(rows[-1]) + 1, *images.shape)
        source = h5py.VirtualSource(str(folder / name), path, shape, images.dtype)
        if len(mine) > 1 and len({*np.diff(mine)}) == len({*np.diff(rows)}) == 1:
            layout[_every(mine)] = source[_every(rows)]
        else:
            for at, row in zip(mine.tolist(), rows.tolist(), strict=True):
                layout[at] = source[row]
    data.create_virtual_dataset("data", layout, fillvalue=fill_value(images.dtype))
    data.attrs["signal"] = "data"


def _every(numbers: NDArray[np.int64]) -> slice:
    """Return the slice that has these evenly spaced numbers."""
    return slice(int(numbers[0]), int(numbers[-1]) + 1, int(numbers[1] - numbers[0]))
