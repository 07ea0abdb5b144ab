"""Reading the calibration files that a plan names, and checking that every host has the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
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


def with_hashes(params: P) -> P:
    """Return the parameters with the hash of every calibration file filled in, so that all hosts check the same bytes.

    :raises PlanError: a file can't be read, or differs from the hash that was given.
    """
    changed: dict[str, object] = {}
    for name in params.__struct_fields__:
        match getattr(params, name):
            case CalibrationFile() as file:
                changed[name] = _hashed(name, file)
            case tuple() as items if any(isinstance(item, CalibrationFile) for item in items):
                changed[name] = tuple(
                    _hashed(f"{name}.{at}", item) if isinstance(item, CalibrationFile) else item
                    for at, item in enumerate(items)
                )
    return msgspec.structs.replace(params, **changed)


def load_calibration(params: msgspec.Struct) -> dict[str, Calibration]:
    """Read every calibration file of a pipeline's parameters.

    :returns: by dotted field name, an array, or the text of a ``.poni`` file.
    :raises PlanError: a file can't be read or isn't the one that the plan means; the message names field and file.
    """
    return {name: _load(name, file) for name, file in calibration_files(params)}


def _where(name: str) -> str:
    return f"pipeline.params.{name}"


def _read_bytes(name: str, file: CalibrationFile) -> bytes:
    path = Path(file.path)
    if not path.is_absolute():
        raise PlanError(f"{_where(name)}: got path {file.path!r}, expected an absolute one")
    try:
        return path.read_bytes()
    except OSError as error:
        raise PlanError(f"{_where(name)}: {file.path}: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise PlanError(f"{_where(name)}: {file.path!r}: {error}") from error


def _hashed(name: str, file: CalibrationFile) -> CalibrationFile:
    digest = hashlib.sha256(_read_bytes(name, file)).hexdigest()
    if file.sha256 and file.sha256 != digest:
        raise PlanError(f"{_where(name)}: {file.path} has sha256 {digest}, expected {file.sha256}")
    return msgspec.structs.replace(file, sha256=digest)


def _load(name: str, file: CalibrationFile) -> Calibration:
    checked = _hashed(name, file)
    try:
        return _parse(checked)
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
    return np.asarray(found[()])
