"""The ledger's file: what became of each frame, readable while the acquisition runs."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import AcquisitionId

from ..acquisition import Outcome
from ..ledger import Counts, FrameStatus
from ..plan import FileExistsPolicy
from ..topology import Places
from .claim import Heir
from .h5 import claim, create, give_up, group, growing, remove, saving_errors

CHUNK_ROWS = 1024
COLUMNS: dict[str, tuple[str, float]] = {  # dtype and fill of each column
    "frame_number": ("<u8", np.iinfo("<u8").max),
    "frame_status": ("|u1", FrameStatus.UNKNOWN),
    "receiver": ("<u2", np.iinfo("<u2").max),
    "row": ("<u8", np.iinfo("<u8").max),
    "timestamp": ("<f8", np.nan),
    "modules": ("<u8", 0),
}
GROUP = "/entry_0000/ledger"
SUMMARY_BYTES = 65536


class LedgerSummary(msgspec.Struct, frozen=True):
    """The sum of a closed acquisition; in its file as JSON, the one element of dataset ``summary``."""

    acquisition: AcquisitionId
    announced: int
    announced_by: str
    counts: Counts
    reasons: dict[str, int]
    outcome: Outcome
    reason: str


class Table(Protocol):
    """What knows where frames are."""

    def places(self, first: int, last: int) -> Places:
        """Return where the frames ``first`` to ``last`` - 1 are."""
        ...


class LedgerColumns:
    """The datasets of a ledger file, empty.

    :param file: just made.
    """

    def __init__(self, file: h5py.File) -> None:
        file.attrs["default"] = "entry_0000"
        group(file, "entry_0000", "NXentry")
        place = group(file, GROUP, "NXcollection")
        self.by_frame = {
            name: growing(place, name, (), dtype, fill, CHUNK_ROWS) for name, (dtype, fill) in COLUMNS.items()
        }
        self.by_frame["timestamp"].attrs["units"] = "s"
        # Now already: SWMR can't add a dataset later, and a file that was opened once more without SWMR to add it is
        # one that nobody can open if that is killed.
        text = h5py.string_dtype("utf-8", SUMMARY_BYTES)
        self._summary = place.create_dataset("summary", (0,), text, maxshape=(1,), chunks=(1,), compression="gzip")

    def append(self, first: int, values: dict[str, NDArray[np.generic]]) -> None:
        """Write frames.

        :param first: number of the first of them.
        :param values: of each column (n,).
        """
        for name, column in self.by_frame.items():
            column.resize(first + len(values[name]), axis=0)
            column[first:] = values[name]

    def summarize(self, summary: LedgerSummary) -> None:
        """Add the summary."""
        self._summary.resize(1, axis=0)
        self._summary[0] = summary_json(summary)


def values_of(
    table: Table,
    first: int,
    statuses: NDArray[np.uint8],
    timestamps: NDArray[np.float64],
    modules: NDArray[np.uint64],
) -> dict[str, NDArray[np.generic]]:
    """Return what the columns hold of some frames, by name (n,).

    :param table: says which receivers and rows hold frames.
    :param first: number of the first frame.
    :param statuses: what became of them (n,).
    :param timestamps: seconds since the epoch (n,).
    :param modules: bitmaps of those that are saved (n,).
    """
    places = table.places(first, first + len(statuses))
    return {
        "frame_number": np.arange(first, first + len(statuses)),
        "frame_status": statuses,
        "receiver": places.receivers,
        "row": places.rows,
        "timestamp": timestamps,
        "modules": modules,
    }


class LedgerFile:
    """One row a frame, in the order of frames; ``COLUMNS`` says which columns.

    :param path: of the new file.
    :param table: says which receivers and rows hold frames.
    :param policy: what to do where the file exists.
    :param inherits: rows of the file of a conductor that died, which this one replaces once it has as many; None: there
        is no such file.
    :raises SavingError: the file can't be made.
    """

    def __init__(
        self,
        path: Path,
        table: Table,
        policy: FileExistsPolicy = FileExistsPolicy.ABORT,
        inherits: int | None = None,
    ) -> None:
        self._path = path
        self._table = table
        self._rows = 0
        self._inherits = inherits or 0
        self._heir = _heir(path) if inherits is not None else None
        self._claim = self._heir or claim(path, policy)
        self._file = create(self._claim)
        try:
            with saving_errors(path, "making"):
                self._columns = LedgerColumns(self._file)
                self._file.swmr_mode = True
        except BaseException:
            remove(self._claim, self._file)
            raise

    @property
    def resting(self) -> bool:
        """Whether it is not to be flushed just now: never."""
        return False

    def append(self, statuses: NDArray[np.uint8], timestamps: NDArray[np.float64], modules: NDArray[np.uint64]) -> None:
        """Write the next frames.

        :param statuses: what became of them (n,).
        :param timestamps: seconds since the epoch (n,).
        :param modules: bitmaps of those that are saved (n,), bit 0 for the first module; of a detector without modules,
            bit 0 for all.
        """
        values = values_of(self._table, self._rows, statuses, timestamps, modules)
        with saving_errors(self._path, "writing"):
            self._columns.append(self._rows, values)
        self._rows += len(statuses)

    def keep(self) -> None:
        """Let the file go that this one replaces."""
        with saving_errors(self._path, "replacing the old"):
            self._claim.keep()

    def flush(self) -> None:
        """Make everything that was appended readable by other processes, also after a kill."""
        with saving_errors(self._path, "flushing"):
            self._file.flush()
            if self._heir is not None and self._rows >= self._inherits:
                self._heir.take_over()

    def close(self, summary: LedgerSummary) -> None:
        """Add the summary and close the file."""
        try:
            with saving_errors(self._path, "closing"):
                self._columns.summarize(summary)
                self._file.flush()
                self._file.close()
                if self._heir is not None:
                    self._heir.take_over()
        finally:
            give_up(self._file)
            self._claim.written()

    def discard(self) -> None:
        """Close and remove the file, and put back the one that it was to replace."""
        remove(self._claim, self._file)


def _heir(path: Path) -> Heir:
    with saving_errors(path, "writing anew"):
        return Heir(path)


def summary_json(summary: LedgerSummary) -> bytes:
    """Return a summary's JSON, short enough for its dataset: rare reasons are put together if need be."""
    found = msgspec.json.encode(summary)
    keep = 256
    while len(found) > SUMMARY_BYTES:
        keep //= 2
        reasons: dict[str, int] = {}
        for at, (reason, count) in enumerate(sorted(summary.reasons.items(), key=lambda item: -item[1])):
            short = reason[:200] if at < keep else "other reasons"
            reasons[short] = reasons.get(short, 0) + count
        found = msgspec.json.encode(msgspec.structs.replace(summary, reasons=reasons, reason=summary.reason[:2000]))
    return found
