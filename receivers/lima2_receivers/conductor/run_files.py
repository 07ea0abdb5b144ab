"""The files that the conductor makes of one acquisition: ledger, master, and in dynamic dispatch that of all frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..plan import FileExistsPolicy
from ..rollover import SavingMode
from ..saving.claim import Claim
from ..saving.frames_file import FramesFile
from ..saving.h5 import claim, saving_errors
from ..saving.ledger_copies import LedgerCopies
from ..saving.ledger_file import LedgerFile, LedgerSummary, Table
from ..saving.master import MasterInfo
from ..topology import Places


class RunFiles:
    """Files that are made at prepare, kept at the start, and closed at the end. Its methods block.

    :param policy: what happens where a file is there already.
    :param mode: how files become readable.
    """

    def __init__(self, policy: FileExistsPolicy, mode: SavingMode = SavingMode.SWMR) -> None:
        self._policy = policy
        self._mode = mode
        self._ledger: LedgerFile | LedgerCopies | None = None
        self._master: Claim | None = None
        self._frames: FramesFile | None = None

    @property
    def writable(self) -> bool:
        """Whether the ledger file is there and not closed."""
        return self._ledger is not None

    @property
    def resting(self) -> bool:
        """Whether the ledger file is not to be written just now."""
        return self._ledger is not None and self._ledger.resting

    def open(self, master: Path, ledger: Path, table: Table) -> Claim:
        """Make the ledger file, and take the path of the master file.

        :param table: says where frames are.
        :raises SavingError: one can't be made.
        """
        kind = LedgerCopies if self._mode is SavingMode.CLOSE_PER_FILE else LedgerFile
        self._ledger = kind(ledger, table, self._policy)
        self._master = claim(master, self._policy)
        return self._master

    def reopen(self, files: Sequence[Path], table: Table, inherits: int, info: MasterInfo) -> None:
        """Go on with the files of a conductor that died: the ledger file is written anew.

        :param files: master, ledger and, in dynamic dispatch, that of all frames.
        :param inherits: rows of the old ledger file.
        :raises SavingError: it can't be made.
        """
        master, ledger, *frames = files
        kind = LedgerCopies if self._mode is SavingMode.CLOSE_PER_FILE else LedgerFile
        self._ledger = kind(ledger, table, inherits=inherits)
        with saving_errors(master, "going on with"):
            self._master = Claim.resume(master)
            self._master.written()
            for path in frames:
                self._frames = FramesFile(Claim.resume(path), info.by_frame(), info.files, info.per_file)

    def open_frames(self, path: Path, info: MasterInfo) -> None:
        """Take the path of the file that shows all frames as one when they are settled.

        :raises SavingError: it can't be made.
        """
        self._frames = FramesFile(claim(path, self._policy), info.by_frame(), info.files, info.per_file)

    def keep(self) -> None:
        """Let files go that these replace.

        :raises SavingError: one can't be removed.
        """
        if self._ledger is not None:
            self._ledger.keep()
        if self._master is not None:
            with saving_errors(self._master.path, "replacing the old"):
                self._master.keep()
        if self._frames is not None:
            self._frames.keep()

    def append(self, statuses: NDArray[np.uint8], timestamps: NDArray[np.float64], modules: NDArray[np.uint64]) -> None:
        """Append the next frames to the ledger file, and flush it; see ``LedgerFile.append``.

        :raises SavingError: it can't be written.
        """
        if self._ledger is not None:
            self._ledger.append(statuses, timestamps, modules)
            self._ledger.flush()

    def write_frames(self, places: Places, rows: Sequence[int]) -> None:
        """Write the file of all frames, where there is one; see ``FramesFile.write``."""
        if self._frames is not None:
            self._frames.write(places, rows)
            self._frames = None

    def close(self, summary: LedgerSummary) -> None:
        """Close the ledger file.

        :raises SavingError: it can't be written.
        """
        opened, self._ledger = self._ledger, None
        if opened is not None:
            opened.close(summary)

    def discard(self) -> None:
        """Remove all files, and put back those that they were to replace."""
        opened, self._ledger = self._ledger, None
        if opened is not None:
            opened.discard()
        if self._master is not None:
            self._master.drop()
        if self._frames is not None:
            self._frames.discard()
