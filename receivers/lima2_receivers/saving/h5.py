"""HDF5 habits that all our files share: errors that name the file, and datasets that grow."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np

from ..errors import SavingError
from ..plan import Compression, FileExistsPolicy
from .claim import Claim
from .codecs import creation_list

CACHE_BYTES = 1024 * 1024  # of each dataset: whoever appends needs its last chunk; HDF5 2 would take 8 MiB
CREATOR = "LIMA2 (lima2-ophyd)"  # FabIO knows these files by the first word, in capitals


@contextmanager
def saving_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn HDF5's and the system's errors into a SavingError that names file and action."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise SavingError(f"{doing} {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the system's reason, which HDF5 hides in a long text; else the whole text."""
    text = str(error)
    if found := re.search(r"error message = '([^']*)'", text):
        return found[1]
    return error.strerror or text if isinstance(error, OSError) else text


def claim(path: Path, policy: FileExistsPolicy) -> Claim:
    """Take a path for a new file.

    :raises SavingError: a file can't be made there, or there is one that is not to be overwritten.
    """
    with saving_errors(path, "making"):
        return Claim(path, policy)


def create(claimed: Claim) -> h5py.File:
    """Make a file in the format that readers may open while it is written.

    :raises SavingError: it can't be made; the claim is dropped.
    """
    path = claimed.path
    try:
        with saving_errors(path, "making"):
            # HDF5's locks would refuse readers on file systems that have none; SWMR does not need them.
            opened = h5py.File(path, "w", libver="latest", locking=False, rdcc_nbytes=CACHE_BYTES)
    except BaseException:
        claimed.drop()
        raise
    try:
        with saving_errors(path, "making"):
            opened.attrs["NX_class"] = "NXroot"
            opened.attrs["creator"] = CREATOR
            opened.attrs["file_name"] = path.name
            opened.attrs["file_time"] = datetime.now().astimezone().isoformat()
    except BaseException:
        remove(claimed, opened)
        raise
    return opened


def remove(claimed: Claim, opened: h5py.File) -> None:
    """Remove a file that we made, put back the one that it replaced, and close it."""
    claimed.drop()
    give_up(opened)


def give_up(opened: h5py.File) -> None:
    """Close a file that can't be written any more and leave it as its last flush did, as a kill would.

    HDF5 2.0.0 crashes the process some time after a close that could not write out what was still cached, on a full
    disk for instance. So what it still wants to write goes to memory, and is forgotten.
    """
    if not opened:
        return
    spare = os.memfd_create("lima2-given-up")
    try:
        os.dup2(spare, opened.id.get_vfd_handle(), inheritable=False)
    finally:
        os.close(spare)
    with suppress(OSError, RuntimeError, ValueError):
        opened.close()


def group(parent: h5py.Group, name: str, nx_class: str) -> h5py.Group:
    """Return a group with a NeXus class, made where it is not there."""
    made = parent.require_group(name)
    made.attrs["NX_class"] = nx_class
    return made


def dataset(parent: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that a group has.

    :raises KeyError: it has none of that name.
    """
    found = parent[name]
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"{name} is not a dataset")
    return found


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
