"""Packets of a Jungfrau in the files that PSI's slsReceiver writes, so that what reads those reads these.

A file a module, ``PREFIX_RANK_dMODULE_f0_0.raw``, and ``PREFIX_RANK_master_0.json`` which describes them. PSI numbers
modules column by column. A frame in a file is the header of the first packet that came, with the number of packets that
did in the place of its number; a mask of 512 bits that says which; and the pixels, of which those that did not come
read 0xFFFF. The layout is that of the slsDetectorPackage's documentation (``Binary File Format``, ``SLS Receiver
Header``). A module's two interfaces share a file, as if it had one.
"""

from __future__ import annotations

import json
from io import FileIO
from pathlib import Path

import numpy as np

from lima2_processing.frame import FrameSpec

from ...errors import SavingError
from ...plan import FileExistsPolicy
from ...saving.claim import Claim
from ...source import FramePackets
from .packets import HEADER, PACKETS

MASK_BYTES = 64
RECORD_HEADER = np.dtype([("header", HEADER), ("mask", "u1", MASK_BYTES)])
VERSION = 7.2  # of the master file's format


def raw_file_names(prefix: str, rank: int, n_modules: int) -> tuple[str, ...]:
    """Return the names of the files of a receiver: a module each, and last the one that describes them."""
    stem = f"{prefix}_{rank}"
    return (*(f"{stem}_d{module}_f0_0.raw" for module in range(n_modules)), f"{stem}_master_0.json")


class RawFiles:
    """Files of packets as they came.

    :param folder: where; made if it is missing.
    :param spec: of the frames.
    :param modules: how many there are (down, across).
    :param policy: what happens where a file is there already.
    :raises SavingError: a file can't be made; none is left behind.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        rank: int,
        spec: FrameSpec,
        modules: tuple[int, int],
        policy: FileExistsPolicy,
    ) -> None:
        self._spec = spec
        self._modules = modules
        self._n_frames = 0
        self._claims: list[Claim] = []
        self._files: list[FileIO] = []
        self._closed = False
        *names, master = raw_file_names(prefix, rank, spec.n_modules)
        try:
            for name in names:
                self._claims.append(Claim(folder / name, policy))
                self._files.append(FileIO(folder / name, "wb"))
            self._claims.append(Claim(folder / master, policy))
            self._describe()  # once more when they are closed: after a kill, only the number of frames is wrong
        except OSError as error:
            self.discard()
            raise SavingError(f"making packet file {error.filename}: {error.strerror}") from error

    def write(self, packets: FramePackets) -> None:
        """Append a frame to the file of each module.

        :raises SavingError: it can't be written.
        """
        came = packets.came.reshape(self._spec.n_modules, -1)
        down, across = self._modules
        for at, file in enumerate(self._files):
            module = at % down * across + at // down
            record = np.zeros((), RECORD_HEADER)
            record["header"] = packets.headers[module].view(HEADER)[0]
            record["header"]["packet"] = np.count_nonzero(came[module])
            first = (PACKETS - came.shape[1]) // 2  # number of the first packet that is read out
            mask = np.zeros(8 * MASK_BYTES, bool)
            mask[first : first + came.shape[1]] = came[module]
            record["mask"] = np.packbits(mask, bitorder="little")
            _append(file, record.tobytes())
            _append(file, np.ascontiguousarray(packets.data[module]).tobytes())
        self._n_frames += 1

    def close(self) -> None:
        """Write what describes the files, and close them. Idempotent.

        :raises SavingError: it can't be written.
        """
        if self._closed:
            return
        self._closed = True
        for file in self._files:
            file.close()
        try:
            self._describe()
        except OSError as error:
            raise SavingError(f"writing {self._claims[-1].path}: {error.strerror}") from error
        finally:
            for claim in self._claims:
                claim.written()

    def keep(self) -> None:
        """Let them stay, and those that they replaced go."""
        for claim in self._claims:
            claim.keep()

    def discard(self) -> None:
        """Remove them, and put back those that they were to replace."""
        self._closed = True
        for file in self._files:
            file.close()
        for claim in self._claims:
            claim.drop()

    def _describe(self) -> None:
        self._claims[-1].path.write_text(json.dumps(self._description(), indent=4) + "\n")

    def _description(self) -> dict[str, object]:
        _, rows, columns = self._spec.shape
        down, across = self._modules
        return {
            "Version": VERSION,
            "Detector Type": "Jungfrau",
            "Timing Mode": "auto",
            "Geometry": {"x": across, "y": down},
            "Image Size in bytes": rows * columns * 2,
            "Pixels": {"x": columns, "y": rows},
            "Max Frames Per File": max(self._n_frames, 1),
            "Frame Discard Policy": "nodiscard",
            "Frame Padding": 1,
            "Number of UDP Interfaces": 1,
            "Number of rows": rows,
            "Total Frames": self._n_frames,
            "Frames in File": self._n_frames,
            "Frame Header Format": {
                "Frame Number": "8 bytes",
                "Exposure Length": "4 bytes",
                "Packet Number": "4 bytes",
                "Detector Specific 1": "8 bytes",
                "Timestamp": "8 bytes",
                "Module Id": "2 bytes",
                "Row": "2 bytes",
                "Column": "2 bytes",
                "Detector Specific 2": "2 bytes",
                "Detector Specific 3": "4 bytes",
                "Detector Specific 4": "2 bytes",
                "Detector Type": "1 byte",
                "Header Version": "1 byte",
                "Packets Caught Mask": f"{MASK_BYTES} bytes",
            },
        }


def _append(file: FileIO, data: bytes) -> None:
    """Write all of the data.

    :raises SavingError: it can't be written.
    """
    try:
        written = file.write(data)
    except OSError as error:
        raise SavingError(f"writing packet file {file.name}: {error.strerror}") from error
    if written != len(data):
        raise SavingError(f"writing packet file {file.name}: got room for {written} of {len(data)} bytes: is it full?")
