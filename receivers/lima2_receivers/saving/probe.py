"""Whether a folder's file system does what the saving mode needs: by its type, and tried with a small file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ..errors import SavingError
from ..plan import FileExistsPolicy
from ..rollover import SavingMode
from .file_systems import Mount, Promise, mount_of, read_mounts, swmr_promise
from .h5 import claim, create, dataset, give_up, growing, saving_errors
from .publish import publish, unpublished

MOUNTS = Path("/proc/self/mountinfo")
ROWS = 3

_passed: set[tuple[int, SavingMode]] = set()  # file systems that were tried by this process, by device


def mount_at(folder: Path, mounts: Path = MOUNTS) -> Mount:
    """Return where the file system of a folder is, which may be missing.

    :param mounts: file that says what is mounted.
    :raises SavingError: that can't be read.
    """
    with saving_errors(mounts, "reading"):
        return mount_of(_existing(folder), read_mounts(mounts.read_text()))


def probe(folder: Path, mode: SavingMode, swmr_on: Sequence[str] = (), mounts: Path = MOUNTS) -> Mount:
    """See whether files can be saved in a folder in a mode. A file system is tried once in a process.

    :param folder: absolute; where it is missing, the one that it would be made in is looked at.
    :param swmr_on: types of file systems that are trusted with SWMR.
    :param mounts: file that says what is mounted.
    :raises SavingError: they can't; the message says what to do.
    """
    mount = mount_at(folder, mounts)
    if mode is SavingMode.SWMR and swmr_promise(mount.kind) is Promise.DOUBTFUL and mount.kind not in swmr_on:
        raise SavingError(
            f"saving.base_path: {folder} is on {mount.kind} ({mount.point}), which is not known to hold what HDF5's "
            'SWMR mode needs; set saving.mode = "close_per_file" in the configuration, or '
            f'saving.swmr_on = ["{mount.kind}"] if you know that it does'
        )
    place = _existing(folder)
    with saving_errors(place, "looking at"):
        device = place.stat().st_dev
    if (device, mode) not in _passed:
        try:
            _try(place / f".lima2-probe-{uuid.uuid4().hex}.h5", mode)
        except SavingError as error:
            raise SavingError(f"saving.mode {mode} does not work in {place} ({mount.kind}): {error}") from error
        _passed.add((device, mode))
    return mount


def _existing(folder: Path) -> Path:
    place = folder.resolve()
    while not os.path.isdir(place) and place != place.parent:
        place = place.parent
    return place


def _try(path: Path, mode: SavingMode) -> None:
    """Write a file as the mode does, and read it back by another way than the one that wrote it."""
    swmr = mode is SavingMode.SWMR
    written = path if swmr else unpublished(path)
    claimed = claim(written, FileExistsPolicy.ABORT)
    made = create(claimed)
    try:
        with saving_errors(written, "writing"):
            rows = growing(made, "rows", (), "<i8", -1, 1)
            if swmr:
                made.swmr_mode = True
            rows.resize(ROWS, axis=0)
            rows[:] = np.arange(ROWS)
            made.flush()
            handle = made.id.get_vfd_handle()
            os.fsync(handle)
            if swmr:
                _compare(path, os.pread(handle, os.fstat(handle).st_size, 0))
            else:
                made.close()
                publish([path])
                with h5py.File(path, "r", locking=False) as file:
                    _compare_rows(path, dataset(file, "rows")[()].tolist())
    finally:
        give_up(made)
        claimed.drop()
        path.unlink(missing_ok=True)


def _compare(path: Path, written: bytes) -> None:
    """See whether a new handle sees what was written: HDF5 may wait for ever where it does not."""
    seen = path.read_bytes()
    if seen != written:
        raise SavingError(f"reading back {path}: got {len(seen)} bytes that are not the {len(written)} written")


def _compare_rows(path: Path, rows: list[int]) -> None:
    if rows != list(range(ROWS)):
        raise SavingError(f"reading back {path}: got {rows}, expected {list(range(ROWS))}")
