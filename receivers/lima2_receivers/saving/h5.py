"""HDF5 habits that all our files share: errors that name the file, and datasets that grow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ..errors import SavingError
from ..plan import Compression, FileExistsPolicy
from .codecs import creation_list

CREATOR = "LIMA2 (lima2-ophyd)"  # FabIO knows these files by the first word, in capitals


@contextmanager
def saving_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn HDF5's and the system's errors into a SavingError that names file and action."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise SavingError(f"{doing} {path}: {error}") from error


def create(path: Path, policy: FileExistsPolicy) -> h5py.File:
    """Make a file in the format that readers may open while it is written."""
    with saving_errors(path, "making"):
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = "w" if policy is FileExistsPolicy.OVERWRITE else "x"
        # HDF5's locks would refuse readers on file systems that have none; SWMR does not need them.
        opened = h5py.File(path, mode, libver="latest", locking=False)
        opened.attrs["NX_class"] = "NXroot"
        opened.attrs["creator"] = CREATOR
        opened.attrs["file_name"] = path.name
        return opened


def group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """Return a group with a NeXus class, made where it is not there."""
    made = parent.require_group(name)
    made.attrs["NX_class"] = nx_class
    return made


def growing(
    parent: h5py.Group,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    fill: float,
    chunk_rows: int,
    compression: Compression = Compression.NONE,
) -> h5py.Dataset:
    """Make a dataset of no rows that grows along its first axis.

    :param shape: of one row.
    :param chunk_rows: rows of one chunk.
    """
    properties = creation_list(compression, (chunk_rows, *shape))
    properties.set_fill_value(np.asarray(fill, np.dtype(dtype)))
    space = h5py.h5s.create_simple((0, *shape), (h5py.h5s.UNLIMITED, *shape))
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    made = h5py.h5d.create(parent.id, name.encode(), kind, space, dcpl=properties)
    return h5py.Dataset(made)
