"""Frames in the packet files of PSI's slsReceiver; see ``jungfrau.raw_files`` for their layout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from ...errors import ConfigError, DetectorError
from ..jungfrau.packets import ROWS_A_PACKET
from ..jungfrau.params import MAX_MODULES, ROWS, modules_spec
from ..jungfrau.raw_files import RECORD_HEADER

MASTER = re.compile(r"(?P<prefix>.+)_master_(?P<index>\d+)\.json")
COLUMNS = 1024
_Size = Annotated[int, Meta(ge=1, le=4096)]


class _Grid(Struct):
    x: _Size
    y: _Size


class _Master(Struct):
    """What the master file says, as far as it is needed."""

    detector: str = msgspec.field(name="Detector Type")
    geometry: _Grid = msgspec.field(name="Geometry")
    pixels: _Grid = msgspec.field(name="Pixels")
    interfaces: int = msgspec.field(name="Number of UDP Interfaces", default=1)


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of a module, or of one half of it."""

    file: FileIO
    n_frames: int


class RawStack:
    """Frames of a Jungfrau that were saved as packets.

    Pixels whose packets did not come read 0xFFFF, as they were saved.

    :param master: the ``*_master_*.json``; the ``*_dN_fM_*.raw`` lie beside it.
    :param gap_pixels: as in ``JungfrauSettings``.
    :raises ConfigError: it is no such file, or what it names is not there or of the wrong size.
    """

    def __init__(self, master: Path, gap_pixels: bool) -> None:
        self._master = master
        said = _read_master(master)
        self._halves = 2 if said.interfaces == 2 else 1
        self._across, down = said.geometry.x, said.geometry.y
        self._down, rest = divmod(down, self._halves)
        rows = said.pixels.y * self._halves
        odd = rest or said.pixels.x != COLUMNS or rows > ROWS or rows % (2 * ROWS_A_PACKET)
        if odd or not 1 <= self._down * self._across <= MAX_MODULES:
            got = f"geometry {down} x {self._across} of {said.pixels.y} x {said.pixels.x} pixels"
            raise ConfigError(f"recording {master}: got {got}, expected 1 to {MAX_MODULES} modules of a Jungfrau")
        modules = (self._down, self._across)
        self.spec = modules_spec(modules, gap_pixels, rows)
        self._record = np.dtype([("header", RECORD_HEADER), ("pixels", "<u2", (said.pixels.y, COLUMNS))])
        self._files: list[FileIO] = []
        try:
            self._parts = [self._open(number) for number in range(down * self._across)]
        except BaseException:
            self.close()
            raise
        counts = [sum(part.n_frames for part in parts) for parts in self._parts]
        if len(set(counts)) > 1 or not counts[0]:
            self.close()
            raise ConfigError(f"recording {master}: got {counts} frames of its modules, expected as many of each")
        self._n_frames = counts[0]

    @property
    def model(self) -> str:
        """What it is, for people."""
        return f"Recorded packets {self._master.name}"

    def __len__(self) -> int:
        return self._n_frames

    def read(self, index: int) -> NDArray[np.generic]:
        """Read a frame; see ``Stack``.

        :raises DetectorError: its modules' records are of different frames, too.
        """
        frame = np.empty(self.spec.shape, self.spec.dtype)
        halves = frame.reshape(self.spec.n_modules, self._halves, -1, COLUMNS)
        numbers: dict[int, int] = {}
        record = np.empty((), self._record)
        rows = self._down * self._halves
        for port, parts in enumerate(self._parts):
            self._read_record(parts, index, record)
            row, column = port % rows, port // rows  # PSI numbers them column by column
            halves[row // self._halves * self._across + column, row % self._halves] = record["pixels"]
            header = record["header"]["header"]
            if header["packet"]:  # that came; where none did, there is no frame's number
                numbers[port] = int(header["frame"])
        if len(set(numbers.values())) > 1:
            raise DetectorError(f"recording {self._master}: record {index}: got frame numbers {numbers} by module")
        return frame

    def close(self) -> None:
        """Close the files. Idempotent."""
        for file in self._files:
            file.close()

    def _open(self, number: int) -> list[_Part]:
        """Open the files of a module that follow each other."""
        match = MASTER.fullmatch(self._master.name)
        prefix, index = (match["prefix"], match["index"]) if match else ("", "")
        parts: list[_Part] = []
        while True:
            path = self._master.with_name(f"{prefix}_d{number}_f{len(parts)}_{index}.raw")
            try:
                file = FileIO(path, "rb")
            except FileNotFoundError as error:
                if parts:
                    return parts
                raise ConfigError(f"recording {self._master}: its file {path.name} is not there") from error
            except OSError as error:
                raise ConfigError(f"recording {path}: {error.strerror}") from error
            self._files.append(file)
            size = path.stat().st_size
            n_frames, rest = divmod(size, self._record.itemsize)
            if rest:
                expected = f"a multiple of {self._record.itemsize}: header and pixels"
                raise ConfigError(f"recording {path}: got {size} bytes, expected {expected}")
            parts.append(_Part(file, n_frames))

    def _read_record(self, parts: list[_Part], index: int, record: NDArray[np.void]) -> None:
        for part in parts:
            if index < part.n_frames:
                break
            index -= part.n_frames
        else:
            raise DetectorError(f"recording {self._master}: there is no record {index}")
        try:
            part.file.seek(index * self._record.itemsize)
            got = part.file.readinto(record.reshape(1).view(np.uint8).data)
        except OSError as error:
            raise DetectorError(f"recording {part.file.name}: {error.strerror}") from error
        if got != self._record.itemsize:
            raise DetectorError(f"recording {part.file.name}: got {got} bytes of record {index}: was it cut off?")


def _read_master(path: Path) -> _Master:
    try:
        said = msgspec.json.decode(path.read_bytes(), type=_Master)
    except OSError as error:
        raise ConfigError(f"recording {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"recording {path}: {error}; expected slsReceiver's master file") from error
    if said.detector != "Jungfrau":
        raise ConfigError(f"recording {path}: got packets of detector type {said.detector!r}, expected 'Jungfrau'")
    return said
