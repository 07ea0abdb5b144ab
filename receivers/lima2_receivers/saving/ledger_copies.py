"""The ledger's file where files are read only once they are closed: each flush writes a new one, which replaces it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..plan import FileExistsPolicy
from .claim import Claim
from .h5 import claim, create, give_up, saving_errors
from .ledger_file import COLUMNS, LedgerColumns, LedgerSummary, Table, values_of
from .publish import publish, unpublished

REST = 9.0  # times as long as writing took, that follows without: it takes a tenth of the time at most


class LedgerCopies:
    """One row a frame, as ``LedgerFile``, of a file that never changes: it is replaced.

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
        self._columns = {name: np.empty(0, dtype) for name, (dtype, _) in COLUMNS.items()}
        self._again = 0.0  # when it may be written again, monotonic seconds
        self._inherits = inherits or 0
        self._newest: Claim | None = None  # held until the next one is there: repair is to keep off
        if inherits is not None:
            with saving_errors(path, "going on with"):
                self._claim = Claim.resume(path)
            return
        self._claim = claim(path, policy)
        try:
            self._write(None)
        except BaseException:
            self._claim.drop()
            raise

    @property
    def resting(self) -> bool:
        """Whether it is not to be flushed just now, since that takes longer the longer it gets."""
        return time.monotonic() < self._again

    def append(self, statuses: NDArray[np.uint8], timestamps: NDArray[np.float64], modules: NDArray[np.uint64]) -> None:
        """Take the next frames; see ``LedgerFile.append``."""
        values = values_of(self._table, len(self._columns["row"]), statuses, timestamps, modules)
        for name, column in self._columns.items():
            self._columns[name] = np.append(column, values[name].astype(column.dtype))

    def keep(self) -> None:
        """Let the file go that this one replaces."""
        with saving_errors(self._path, "replacing the old"):
            self._claim.keep()

    def flush(self) -> None:
        """Make everything that was appended readable by other processes, also after a kill."""
        if len(self._columns["row"]) < self._inherits:  # readers must not see less than before
            return
        began = time.monotonic()
        self._write(None)
        self._again = time.monotonic() + REST * (time.monotonic() - began)

    def close(self, summary: LedgerSummary) -> None:
        """Write the file for the last time, with the summary."""
        try:
            self._write(summary)
        finally:
            self._release()

    def discard(self) -> None:
        """Remove the file, and put back the one that it was to replace."""
        self._release()
        self._claim.drop()

    def _release(self) -> None:
        self._claim.written()
        if self._newest is not None:
            self._newest.written()

    def _write(self, summary: LedgerSummary | None) -> None:
        claimed = claim(unpublished(self._path), FileExistsPolicy.OVERWRITE)
        made = create(claimed)
        try:
            with saving_errors(self._path, "writing"):
                made.attrs["file_name"] = self._path.name
                columns = LedgerColumns(made)
                columns.append(0, dict(self._columns))
                if summary is not None:
                    columns.summarize(summary)
                handle = os.dup(made.id.get_vfd_handle())
                try:
                    made.close()
                    os.fsync(handle)
                finally:
                    os.close(handle)
                publish([self._path])
                claimed.keep()
                if self._newest is not None:
                    self._newest.written()
                self._newest = claimed
        except BaseException:
            claimed.drop()
            raise
        finally:
            give_up(made)
