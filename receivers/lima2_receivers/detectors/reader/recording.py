"""Folders of recorded raw Jungfrau frames of one module, with their calibration.

Raw frames are ``*_rawN.bin``, pedestals ``*_pedeG{0,1,2}.bin`` in ADU, gains ``*_gainG{0,1,2}.bin`` in ADU a photon (or
a keV): 512 x 1024 little-endian uint16 and float32 values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec
from lima2_processing.layouts import JUNGFRAU_MODULE, jungfrau

from ...errors import ConfigError, DetectorError

_RAW_NUMBER = re.compile(r"_raw(\d+)\.bin$")
_PIXELS = JUNGFRAU_MODULE[0] * JUNGFRAU_MODULE[1]


@dataclass(frozen=True, slots=True)
class Recording:
    """The files of a folder.

    :param raw: raw frames in the order of their numbers.
    :param pedestals: of the gain stages 0, 1, 2.
    :param gains: of the gain stages 0, 1, 2.
    """

    raw: tuple[Path, ...]
    pedestals: tuple[Path, ...]
    gains: tuple[Path, ...]

    @property
    def spec(self) -> FrameSpec:
        """What the frames look like: one module, without gap pixels."""
        return jungfrau(1, gap_pixels=False)


class FolderStack:
    """The raw frames of a folder.

    :param folder: see ``find_recording``.
    :param gap_pixels: True: the double-size pixels at chip edges take two pixels of the image.
    :raises ConfigError: the recording is not complete.
    """

    def __init__(self, folder: Path, gap_pixels: bool = False) -> None:
        self._raw = find_recording(folder).raw
        self.model = "Recorded Jungfrau module"
        self.spec = jungfrau(1, gap_pixels)

    def __len__(self) -> int:
        return len(self._raw)

    def read(self, index: int) -> NDArray[np.generic]:
        """Read a frame; see ``Stack``."""
        path = self._raw[index]
        try:
            return np.fromfile(path, self.spec.dtype).reshape(self.spec.shape)
        except (OSError, ValueError) as error:
            raise DetectorError(f"recording {path}: {error}") from error

    def close(self) -> None:
        """No file stays open."""


def find_recording(folder: Path) -> Recording:
    """Find a recording's files and check their sizes.

    :raises ConfigError: the folder, a kind of file, or bytes of a file are missing.
    """
    if not folder.is_dir():
        raise ConfigError(f"recording {folder}: there is no such folder")
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := _RAW_NUMBER.search(path.name))]
    if not numbered:
        raise ConfigError(f"recording {folder}: got no raw frames, expected files named *_rawN.bin")
    raw = tuple(path for _, path in sorted(numbered))
    recording = Recording(raw, _maps(folder, "pede"), _maps(folder, "gain"))
    for path in raw:
        _check_size(path, 2 * _PIXELS)
    for path in (*recording.pedestals, *recording.gains):
        _check_size(path, 4 * _PIXELS)
    return recording


def _maps(folder: Path, kind: str) -> tuple[Path, ...]:
    found = []
    for stage in range(3):
        matches = sorted(folder.glob(f"*_{kind}G{stage}.bin"))
        if len(matches) != 1:
            raise ConfigError(f"recording {folder}: got {len(matches)} files *_{kind}G{stage}.bin, expected 1")
        found.append(matches[0])
    return tuple(found)


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        raise ConfigError(f"recording {path}: got {size} bytes, expected {expected}: 512 x 1024 values")
