"""Reading the calibration files that a plan names, and checking that every host has the same."""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import fabio
import h5py
import msgspec
import numpy as np

from lima2_processing.calibration import CalibrationFile
from lima2_processing.pipeline import Calibration

from ..errors import PlanError

P = TypeVar("P", bound=msgspec.Struct)

_SETTLED = 2.0  # seconds since a change after which a file's times tell of the next one


def calibration_files(params: msgspec.Struct) -> Iterator[tuple[str, CalibrationFile]]:
    """Yield the calibration files of a pipeline's parameters by dotted field name, tuples with their position."""
    for name in params.__struct_fields__:
        match getattr(params, name):
            case CalibrationFile() as file:
                yield name, file
            case tuple() as items:
                for position, item in enumerate(items):
                    if isinstance(item, CalibrationFile):
                        yield f"{name}.{position}", item


def with_hashes(params: P, roots: Sequence[str]) -> P:
    """Return the parameters with the hash of every calibration file filled in, so that all hosts check the same bytes.

    :param roots: absolute folders that the files must lie in.
    :raises PlanError: a file can't be read, or differs from the hash that was given.
    """
    changed: dict[str, object] = {}
    for name in params.__struct_fields__:
        match getattr(params, name):
            case CalibrationFile() as file:
                changed[name] = _hashed(name, file, roots)
            case tuple() as items if any(isinstance(item, CalibrationFile) for item in items):
                changed[name] = tuple(
                    _hashed(f"{name}.{at}", item, roots) if isinstance(item, CalibrationFile) else item
                    for at, item in enumerate(items)
                )
    return msgspec.structs.replace(params, **changed)


def load_calibration(params: msgspec.Struct, roots: Sequence[str]) -> dict[str, Calibration]:
    """Read every calibration file of a pipeline's parameters.

    :param roots: absolute folders that the files must lie in.
    :returns: by dotted field name, an array, or the text of a ``.poni`` file.
    :raises PlanError: a file can't be read or isn't the one that the plan means; the message names field and file.
    """
    return {name: _load(name, file, roots) for name, file in calibration_files(params)}


def _where(name: str) -> str:
    return f"pipeline.params.{name}"


def _confine(name: str, file: CalibrationFile, roots: Sequence[str]) -> Path:
    """Return a file's path without symbolic links, if it lies below an allowed root."""
    path = Path(file.path)
    if not path.is_absolute():
        raise PlanError(f"{_where(name)}: got path {file.path!r}, expected an absolute one")
    try:
        resolved = path.resolve()
        inside = any(resolved.is_relative_to(Path(root).resolve()) for root in roots)
    except (OSError, ValueError, RuntimeError) as error:  # a NUL; a loop of symbolic links, up to Python 3.12
        raise PlanError(f"{_where(name)}: {file.path!r}: {error}") from error
    if not inside:  # whether it is there or not
        raise PlanError(
            f"{_where(name)}: {file.path} is {resolved}, expected a file below {', '.join(roots)} "
            "(saving.roots and calibration.roots of the configuration)"
        )
    try:
        if not stat.S_ISREG(resolved.stat().st_mode):
            raise PlanError(f"{_where(name)}: {file.path} is not a file")
    except OSError as error:
        raise PlanError(f"{_where(name)}: {file.path}: {error.strerror}") from error
    return resolved


def _hashed(name: str, file: CalibrationFile, roots: Sequence[str]) -> CalibrationFile:
    path = _confine(name, file, roots)
    try:
        digest = _digest(path)
    except OSError as error:
        raise PlanError(f"{_where(name)}: {file.path}: {error.strerror}") from error
    if file.sha256 and file.sha256 != digest:
        raise PlanError(f"{_where(name)}: {file.path} has sha256 {digest}, expected {file.sha256}")
    return msgspec.structs.replace(file, sha256=digest)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, computed anew only where the file changed.

    A file that was changed just now may be changed once more without its time showing it.
    """
    found = path.stat()
    key = (path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if time.time() - max(found.st_mtime, found.st_ctime) < _SETTLED:
        return _digest_of.__wrapped__(*key)
    return _digest_of(*key)


@lru_cache(maxsize=64)
def _digest_of(path: Path, *state: int) -> str:
    del state  # of the file: another one is another entry
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(name: str, file: CalibrationFile, roots: Sequence[str]) -> Calibration:
    _hashed(name, file, roots)
    try:
        return _parse(file)
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise PlanError(f"{_where(name)}: {file.path}: {error}") from error


def _parse(file: CalibrationFile) -> Calibration:
    path = Path(file.path)
    match path.suffix.lower():
        case ".poni":
            return path.read_text()
        case ".npy":
            with path.open("rb") as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
        case ".h5" | ".hdf5" | ".nxs":
            if not file.dataset:
                raise ValueError("an HDF5 file needs `dataset`, the path of the dataset in it")
            with h5py.File(path, "r") as opened:
                return _dataset(opened, file.dataset)
        case ".bin":
            return np.fromfile(path, np.dtype(file.dtype))
        case _:
            return _image(path)


def _image(path: Path) -> Calibration:
    try:
        with fabio.open(str(path)) as opened:
            return np.asarray(opened.data)
    except Exception as error:  # on a broken file FabIO's formats raise whatever their parsing ends in
        raise ValueError(f"FabIO can't read it: {error}") from error


def _dataset(opened: h5py.File, path: str) -> Calibration:
    found = opened[path]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"{path} is not a dataset")
    # What lies in another file was neither hashed nor confined.
    if found.file.filename != opened.filename or found.is_virtual or found.external:
        raise ValueError(f"{path} leads into another file")
    return np.asarray(found[()])
