"""All sparse frames of an acquisition in one file, as pyFAI's ``sparsify-Bragg`` and FabIO have it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import SavingError
from ..ledger import has_data
from ..plan import FileExistsPolicy
from ..topology import EVERY_RECEIVER, Places
from .claim import Claim
from .h5 import claim, create, give_up, group, growing, saving_errors
from .master import ENTRY, MEASUREMENT
from .part import SPARSE_GROUP
from .read import find_dataset, find_group, open_file, read_rows
from .table import pieces_of, rows_per_file

BLOCK = 1024  # frames that are moved together
CONSTANTS = ("radius", "mask", "normalization")
PROFILES = ("background_avg", "background_std")


@dataclass(frozen=True, slots=True)
class FrameTable:
    """Where frames are, from a master file.

    :param frames: numbers of the frames (n,).
    :param places: of those that have data (n,).
    :param parts: path of each receiver's sparse file, or of the first of them.
    :param per_file: rows of each of a receiver's files; 0: it has one.
    :param processing: JSON text of the pipeline's name and parameters; empty where there is none.
    """

    frames: NDArray[np.int64]
    places: Places
    parts: tuple[Path, ...]
    per_file: int
    processing: str


def read_table(master: Path, hits_only: bool = False) -> FrameTable:
    """Read where the sparse frames of an acquisition are.

    :param hits_only: leave out the frames that are no hits.
    :raises SavingError: the file can't be read, or its acquisition has no sparse frames.
    """
    with open_file(master) as file:
        measurement = find_group(file, MEASUREMENT)
        if "sparse_0" not in measurement:
            raise SavingError(f"reading {master}: there are no sparse frames")
        ranks = itertools.takewhile(lambda rank: f"sparse_{rank}" in measurement, itertools.count())
        links = [measurement.get(f"sparse_{rank}", getlink=True) for rank in ranks]
        parts = tuple(master.parent / link.filename for link in links if isinstance(link, h5py.ExternalLink))
        columns = [find_dataset(measurement, name)[()] for name in ("receiver", "row", "frame_status")]
        texts = [find_dataset(place, "processing")[()] for place in _params(file) if "processing" in place]
        processing = texts[0].decode() if texts else ""
        per_file = rows_per_file(file)
    if (columns[0] == EVERY_RECEIVER).any():
        raise SavingError(
            f"reading {master}: each receiver has sparse frames of its own modules, with their own background, which "
            "one file can't hold; each of their files is such a file by itself"
        )
    n_frames = min(len(column) for column in columns)
    frames = np.arange(n_frames)
    if hits_only:
        frames = np.flatnonzero(read_rows(master, f"{MEASUREMENT}/is_hit", 0, n_frames) == 1)
    receivers, rows, statuses = (column[frames] for column in columns)
    return FrameTable(frames, Places(receivers, rows).only(has_data(statuses)), parts, per_file, processing)


def merge_sparse(master: Path, output: Path, *, hits_only: bool = False, overwrite: bool = False) -> int:
    """Write one file with all sparse frames of an acquisition, in the order of frames.

    It opens in FabIO and can be made dense by ``densify_Bragg``. Frames that were lost have no pixels, and a background
    of NaN; ``frame_number`` says which frame a row is.

    :param hits_only: leave out the frames that are no hits.
    :param overwrite: replace a file that is there.
    :returns: how many frames it has.
    :raises SavingError: a file can't be read or written; nothing is left behind.
    """
    table = read_table(master, hits_only)
    claimed = claim(output, FileExistsPolicy.OVERWRITE if overwrite else FileExistsPolicy.ABORT)
    try:
        _write(table, claimed)
    except BaseException:
        claimed.drop()
        raise
    claimed.written()
    claimed.keep()
    return len(table.frames)


def _write(table: FrameTable, claimed: Claim) -> None:
    made = create(claimed)
    try:
        with saving_errors(claimed.path, "writing"):
            data = _begin(made, table)
        with open_file(table.parts[0]) as part:
            first = find_group(part, f"{ENTRY}/{SPARSE_GROUP}")
            with saving_errors(claimed.path, "writing"):
                _declare(data, first)
        for start in range(0, len(table.frames), BLOCK):
            _move(table, slice(start, start + BLOCK), data, claimed.path)
        with saving_errors(claimed.path, "closing"):
            made.close()
    finally:
        give_up(made)


def _begin(made: h5py.File, table: FrameTable) -> h5py.Group:
    made.attrs["default"] = "entry_0000"
    entry = group(made, "entry_0000", "NXentry")
    entry.attrs["default"] = SPARSE_GROUP
    entry.attrs["pyFAI_sparse_frames"] = SPARSE_GROUP
    data = group(entry, SPARSE_GROUP, "NXdata")
    data["frame_number"] = table.frames
    if table.processing:
        configuration = group(group(entry, "sparsify", "NXprocess"), "configuration", "NXnote")
        configuration["type"] = "text/json"
        # FabIO looks for the cut here.
        params = msgspec.json.decode(table.processing)["params"]
        configuration["data"] = msgspec.json.encode({"sparsify": params, "lima2": table.processing}).decode()
    return data


def _declare(data: h5py.Group, first: h5py.Group) -> None:
    for name, value in first.attrs.items():
        data.attrs[name] = value
    for name in CONSTANTS:
        if name in first:
            first.copy(name, data)
    for name in ("index", "intensity", *PROFILES):
        like = find_dataset(first, name)
        rows = like.chunks[0] if like.chunks else 1
        made = growing(data, name, like.shape[1:], like.dtype.str, like.fillvalue, rows)
        for key, value in like.attrs.items():
            made.attrs[key] = value
    frame_ptr = growing(data, "frame_ptr", (), "<u8", 0, BLOCK)
    frame_ptr.resize(1, axis=0)
    frame_ptr[0] = 0


def _move(table: FrameTable, part: slice, data: h5py.Group, path: Path) -> None:
    """Append some frames."""
    n = len(table.frames[part])
    columns = {name: find_dataset(data, name) for name in ("index", "intensity", "frame_ptr", *PROFILES)}
    found: list[tuple[NDArray[np.generic], NDArray[np.generic]]] = [(np.empty(0, "<u4"), np.empty(0, "<f4"))] * n
    profiles = {name: np.full((n, *columns[name].shape[1:]), np.nan, columns[name].dtype) for name in PROFILES}
    places = Places(table.places.receivers[part], table.places.rows[part])
    for piece in pieces_of(places, table.parts, table.per_file):
        for at, pixels, levels in _read(piece.path, piece.rows):
            found[piece.frames[at]] = pixels
            for name in PROFILES:
                profiles[name][piece.frames[at]] = levels[name]
    with saving_errors(path, "writing"):
        ends = np.cumsum([len(index) for index, _ in found])
        before = len(columns["index"])
        _append(columns["index"], np.concatenate([index for index, _ in found]))
        _append(columns["intensity"], np.concatenate([intensity for _, intensity in found]))
        _append(columns["frame_ptr"], before + ends)
        for name in PROFILES:
            _append(columns[name], profiles[name])


def _append(column: h5py.Dataset, values: NDArray[np.generic]) -> None:
    before = len(column)
    column.resize(before + len(values), axis=0)
    column[before:] = values


def _read(
    file: Path, rows: NDArray[np.int64]
) -> Iterator[tuple[int, tuple[NDArray[np.generic], NDArray[np.generic]], dict[str, NDArray[np.generic]]]]:
    """Yield (position in ``rows``, (index, intensity), profiles) of the rows that the file has; they ascend."""
    with open_file(file) as opened:
        data = find_group(opened, f"{ENTRY}/{SPARSE_GROUP}")
        first, last = int(rows[0]), int(rows[-1]) + 1
        ends = find_dataset(data, "frame_ptr")[first : last + 1].astype(np.int64)
        if len(ends) < 2:
            return
        index, intensity = (find_dataset(data, name)[ends[0] : ends[-1]] for name in ("index", "intensity"))
        levels = {name: find_dataset(data, name)[first:last] for name in PROFILES}
    for at, row in enumerate(rows - first):
        if row + 1 < len(ends) and all(row < len(level) for level in levels.values()):
            pixels = slice(ends[row] - ends[0], ends[row + 1] - ends[0])
            yield at, (index[pixels], intensity[pixels]), {name: level[row] for name, level in levels.items()}


def _params(file: h5py.File) -> Iterator[h5py.Group]:
    """Yield the groups that hold an acquisition's parameters; they lie below instrument and detector."""
    for instrument in find_group(file, ENTRY).values():
        if isinstance(instrument, h5py.Group) and instrument.attrs.get("NX_class") == "NXinstrument":
            for detector in instrument.values():
                if isinstance(detector, h5py.Group) and isinstance(params := detector.get("params"), h5py.Group):
                    yield params
