"""The file of all frames in dynamic dispatch, made once more where its conductor was killed before it was whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import SavingError
from ..ledger import has_data
from ..plan import FileExistsPolicy
from ..topology import Places
from .findings import LedgerTable
from .frames_file import map_frames
from .h5 import claim, create, give_up, group, saving_errors
from .master import DATA, ENTRY, MEASUREMENT, PARTS
from .mend import is_busy, view
from .read import find_dataset, find_group
from .repair_ledger import has_summary, read_table


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the part files have an output.

    :param files: name of the part file and path of the dataset in it, of each receiver.
    :param shape: of a frame.
    :param fill: of a frame that is nowhere, and of the right type.
    """

    files: tuple[tuple[str, str], ...]
    shape: tuple[int, ...]
    fill: NDArray[np.generic]


def check_sources(ledger: Path, master: Path, closed: bool) -> None:
    """See whether the file could be made.

    :param closed: whether the ledger has to be closed; else it may be one that is still to be repaired.
    :raises SavingError: the acquisition is not over, or a file can't be read.
    """
    if is_busy(ledger):
        raise SavingError(f"{ledger}: it is being written: the acquisition is not over")
    with view(ledger) as file:
        if closed and not has_summary(file):
            raise SavingError(f"{ledger}: it is not closed, repair it first")
    if not _sources(master):
        raise SavingError(f"{master}: it shows no frames by a table, and needs no file of all frames")


def remake_frames(path: Path, master: Path, ledger: Path) -> None:
    """Make the file of all frames; what is there under its name was not finished, and is replaced.

    :param ledger: says which receiver and row hold each frame; rows that part files don't have are left out.
    :raises SavingError: it can't be made; all is as it was.
    """
    table, sources = read_table(ledger), _sources(master)
    claimed = claim(path, FileExistsPolicy.OVERWRITE)
    try:
        made = create(claimed)
        try:
            with saving_errors(path, "writing"):
                data = group(group(made, "entry_0000", "NXentry"), "measurement", "NXdata")
                for name, source in sources.items():
                    _map(data, name, source, table, path.parent)
                made.close()
        finally:
            give_up(made)
    except BaseException:
        claimed.drop()
        raise
    claimed.written()
    with saving_errors(path, "replacing the old"):
        claimed.keep()


def _map(data: h5py.Group, name: str, source: _Source, table: LedgerTable, folder: Path) -> None:
    there = has_data(table.statuses)
    lengths: list[int] = []
    attributes: Mapping[str, object] = {}
    for rank, (file, dataset) in enumerate(source.files):
        mine = table.receivers == rank
        length = 0
        if (folder / file).is_file():
            with view(folder / file) as part:
                found = find_dataset(part, dataset)
                length, attributes = len(found), dict(found.attrs)
        there &= ~mine | (table.rows < length)
        lengths.append(length)
    places = Places(table.receivers, table.rows).only(there)
    made = map_frames(data, name, source.shape, source.fill, places, source.files, lengths)
    for key in ("units", "long_name"):
        if key in attributes:
            made.attrs[key] = attributes[key]
    if name == DATA:
        made.attrs["interpretation"] = "image"


def _sources(master: Path) -> Mapping[str, _Source]:
    """Return where the part files have the outputs, by their names in the file of all frames."""
    found: dict[str, _Source] = {}
    with view(master) as file:
        parts, measurement = file.get(f"{ENTRY}/{PARTS}"), find_group(file, MEASUREMENT)
        for alias in parts if isinstance(parts, h5py.Group) else ():
            place, target = find_group(file, f"{ENTRY}/{PARTS}/{alias}"), measurement.get(alias, getlink=True)
            if not isinstance(target, h5py.ExternalLink):
                continue
            links = [place.get(str(rank), getlink=True) for rank in range(len(place))]
            shape = tuple(int(size) for size in np.atleast_1d(np.asarray(place.attrs["shape"])))
            files = tuple((str(link.filename), str(link.path)) for link in links if isinstance(link, h5py.ExternalLink))
            found[str(target.path).rpartition("/")[2]] = _Source(files, shape, np.asarray(place.attrs["fill"]))
    return found
