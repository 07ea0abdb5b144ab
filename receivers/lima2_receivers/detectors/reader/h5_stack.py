"""Frames in HDF5 files: LImA2's and NXmx masters, or whatever dataset of images there is."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec

from ...errors import ConfigError, DetectorError

LIMA2 = "/entry_0000/measurement/data"
NXMX = "/entry/data/data"
LINKED = "/entry/data"  # the group of a DECTRIS master's data_000001, data_000002, ...
CHUNK_CACHE = 64 * 1024 * 1024  # bytes of a dataset, so that a chunk of several frames is unpacked once
# What h5py raises on damaged files; the last one where they tell of a frame that is too large.
_H5_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, MemoryError)
_NUMBERED = re.compile(r"data_(\d+)")


class H5Stack:
    """Frames of one dataset, or of several that follow each other.

    :param path: of the file.
    :param dataset: path of a dataset, or of a group of ``data_N``, inside the file; empty: it is looked for, see
        ``find_datasets``.
    :raises ConfigError: there is no such file or dataset, or it holds no frames.
    """

    def __init__(self, path: Path, dataset: str = "") -> None:
        self._path = path
        try:
            self._file = h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE)
        except OSError as error:
            raise ConfigError(f"recording {path}: it can't be opened as HDF5: {error}") from error
        try:
            self._parts = find_datasets(self._file, dataset)
            self.spec = _common_spec(self._file, self._parts)
        except _H5_ERRORS as error:  # links that lead nowhere, and damaged files
            self._file.close()
            raise ConfigError(f"recording {path}: it can't be read as HDF5: {error}") from error
        except BaseException:
            self._file.close()
            raise
        self._ends = np.cumsum([_n_frames(part) for part in self._parts]).tolist()

    @property
    def model(self) -> str:
        """What it is, for people."""
        return f"Recording {self._path.name}"

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, index: int) -> NDArray[np.generic]:
        """Read a frame; see ``Stack``."""
        at = int(np.searchsorted(self._ends, index, "right"))
        part = self._parts[at]
        row = index - (self._ends[at - 1] if at else 0)
        try:
            frame = np.empty(self.spec.shape, self.spec.dtype)
            part.read_direct(frame, np.s_[row] if part.ndim > 2 else np.s_[:])
        except _H5_ERRORS as error:
            raise DetectorError(f"recording {self._path}: frame {index} of {part.name}: {error}") from error
        return frame

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


def find_datasets(file: h5py.File, dataset: str = "") -> list[h5py.Dataset]:
    """Return the datasets that hold the frames of a file, in their order.

    Unless it is told: LImA2's, NXmx' ``/entry/data/data``, a DECTRIS master's ``/entry/data/data_N`` in turn, or the
    only one of the file that has three or four dimensions.

    :raises ConfigError: there is none, or no telling which; the message lists the candidates.
    """
    if dataset:
        return _named(file, dataset)
    for known in (LIMA2, NXMX):
        if known in file and isinstance(found := file[known], h5py.Dataset):
            return [found]
    if isinstance(group := file.get(LINKED), h5py.Group) and (parts := _numbered(group)):
        return parts
    candidates = _candidates(file)
    if len(candidates) != 1:
        there = ", ".join(f"{each.name} {each.shape}" for each in candidates) or "none"
        raise ConfigError(
            f"recording {file.filename}: got {len(candidates)} datasets of 3 or 4 dimensions ({there}), expected 1; "
            "name the one in detector.settings.dataset"
        )
    return candidates


def _named(file: h5py.File, dataset: str) -> list[h5py.Dataset]:
    place = f"detector.settings.dataset: {file.filename}"
    try:
        found = file[dataset]
    except KeyError as error:
        there = ", ".join(f"{each.name} {each.shape}" for each in _candidates(file)) or "none"
        raise ConfigError(f"{place}: there is no {dataset}; datasets of 3 or 4 dimensions are: {there}") from error
    if isinstance(found, h5py.Dataset):
        return [found]
    if isinstance(found, h5py.Group) and (parts := _numbered(found)):
        return parts
    raise ConfigError(f"{place}: {dataset} is no dataset, and no group of data_1, data_2, ...")


def _candidates(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []

    def look(_: str, node: object) -> None:
        if isinstance(node, h5py.Dataset) and len(node.shape or ()) in (3, 4):
            found.append(node)

    file.visititems(look)
    return found


def _numbered(group: h5py.Group) -> list[h5py.Dataset]:
    """Return the group's ``data_N`` in the order of N.

    :raises ConfigError: one of them leads nowhere.
    """
    names = {int(match[1]): name for name in group if (match := _NUMBERED.fullmatch(str(name)))}
    parts = []
    for _, name in sorted(names.items()):
        try:
            part = group[name]
        except (KeyError, OSError) as error:
            link = group.get(name, getlink=True)
            where = f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else "nowhere"
            raise ConfigError(
                f"recording {group.file.filename}: {group.name}/{name} leads to {where}, which is not there"
            ) from error
        if isinstance(part, h5py.Dataset):
            parts.append(part)
    return parts


def _n_frames(part: h5py.Dataset) -> int:
    return part.shape[0] if part.ndim > 2 else 1


def _common_spec(file: h5py.File, parts: list[h5py.Dataset]) -> FrameSpec:
    """Return what the frames of datasets look like.

    :raises ConfigError: they are no frames, there are none, or they differ.
    """
    for part in parts:
        place = f"recording {file.filename}: {part.name}"
        if part.ndim not in (2, 3, 4) or not all(part.shape[-2:]):
            raise ConfigError(f"{place}: got shape {part.shape}, expected (frames, rows, cols) or one dimension more")
        if part.dtype.kind not in "iuf":
            raise ConfigError(f"{place}: got type {part.dtype}, expected integers or floats")
        _check_sources(Path(file.filename).parent, part, place)
    looks = {(part.shape[-2:] if part.ndim < 4 else part.shape[1:], _little(part.dtype)) for part in parts}
    if len(looks) > 1:
        raise ConfigError(f"recording {file.filename}: got frames of {sorted(looks)}, expected all alike")
    if not sum(map(_n_frames, parts)):
        raise ConfigError(f"recording {file.filename}: {parts[0].name} holds no frame")
    ((shape, dtype),) = looks
    return _recorded_spec(file, shape, dtype) or FrameSpec(tuple(shape), dtype)


def _check_sources(folder: Path, part: h5py.Dataset, place: str) -> None:
    """See whether the files of a virtual dataset are there: HDF5 reads those that are missing as if they were empty."""
    for source in part.virtual_sources() if part.is_virtual else ():
        name = source.file_name
        if name != "." and "%" not in name and not (folder / name).exists():
            raise ConfigError(f"{place}: its file {name} is not there")


def _little(dtype: np.dtype) -> str:
    return dtype.newbyteorder("<").str


def _recorded_spec(file: h5py.File, shape: tuple[int, ...], dtype: str) -> FrameSpec | None:
    """Return the FrameSpec that our own master files hold, with its layout, where it is of the frames; else None."""
    found: list[FrameSpec] = []

    def look(name: str, node: object) -> None:
        if name.endswith("detector_information/frame_spec") and isinstance(node, h5py.Dataset):
            try:
                found.append(msgspec.json.decode(str(node.asstr()[()]), type=FrameSpec))
            except (msgspec.MsgspecError, *_H5_ERRORS):  # another program's, of the same name
                return

    file.visititems(look)
    return next((spec for spec in found if (spec.shape, spec.dtype) == (tuple(shape), dtype)), None)
