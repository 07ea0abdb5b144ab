"""The ledger of a conductor that was killed: its table, and the summary that it could not write."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from lima2_processing.frame import AcquisitionId

from ..acquisition import Outcome
from .findings import BY_LEDGER, CONDUCTOR_KILLED, NOT_RECORDED, LedgerTable, leading
from .h5 import saving_errors
from .hold import take
from .ledger_file import GROUP, LedgerSummary, summary_json
from .mend import is_busy, view
from .read import find_dataset, open_file

_COLUMNS = ("frame_status", "receiver", "row")


def read_table(path: Path) -> LedgerTable:
    """Return what a ledger file says, whether its conductor lives, has closed it or was killed.

    :raises SavingError: it can't be read.
    """
    with open_file(path) if is_busy(path) else view(path) as file:
        return leading({name: np.asarray(find_dataset(file, f"{GROUP}/{name}")[()]) for name in _COLUMNS})


def has_summary(file: h5py.File) -> bool:
    """Tell whether the conductor closed a ledger; room for a summary alone is none."""
    texts = find_dataset(file, f"{GROUP}/summary")
    return len(texts) > 0 and len(texts[0]) > 0


def summarize(table: LedgerTable, acquisition: str, beyond: int) -> LedgerSummary:
    """Return the sum of an acquisition whose conductor was killed.

    :param beyond: frames that part files hold and the ledger does not.
    """
    counts = table.counts
    others = counts.settled - counts.saved
    more = f"; {beyond} more frames are in part files, which it had not counted" if beyond else ""
    return LedgerSummary(
        acquisition=AcquisitionId(acquisition),
        announced=counts.settled,
        announced_by=BY_LEDGER,
        counts=counts,
        reasons={NOT_RECORDED: others} if others else {},
        outcome=Outcome.FAILED,
        reason=CONDUCTOR_KILLED + more,
    )


def close_ledger(path: Path, acquisition: str, beyond: int) -> None:
    """Write the summary into a ledger file that is readable, and has none.

    :param acquisition: its id; empty: it is not known.
    :param beyond: frames that part files hold and the ledger does not.
    :raises SavingError: it can't be written, or somebody else writes it.
    """
    text = summary_json(summarize(read_table(path), acquisition, beyond))
    with saving_errors(path, "repairing"), path.open("r+b") as held:
        take(held.fileno(), path)
        with h5py.File(path, "r+", libver="latest", locking=False) as file:
            file.swmr_mode = True  # so that it stays readable if this process is killed too
            summary = find_dataset(file, f"{GROUP}/summary")
            summary.resize(1, axis=0)
            summary[0] = text
            file.flush()
