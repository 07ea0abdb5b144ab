"""Which file of a receiver holds a row, where files are closed one after the other. Pure arithmetic."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

ROWS_PER_FILE = 100  # where the plan does not say
_FIRST = "_0000.h5"


class SavingMode(StrEnum):
    """How files become readable."""

    SWMR = "swmr"  # a file a stream and receiver, readable while it is written
    CLOSE_PER_FILE = "close_per_file"  # many files one after the other, readable once they are closed


def rows_per_file(mode: SavingMode, asked: int) -> int:
    """Return how many rows each file of a receiver holds; 0: one file holds all.

    :param asked: by the plan; 0: it leaves that open.
    """
    return (asked or ROWS_PER_FILE) if mode is SavingMode.CLOSE_PER_FILE else 0


def first_name(name: str) -> str:
    """Return the name of the first of the files that stand for one: ``run_raw_0.h5`` gives ``run_raw_0_0000.h5``."""
    return name.removesuffix(".h5") + _FIRST


def nth_name(first: str, number: int) -> str:
    """Return the name, or path, of another file of the same kind.

    :param first: of file 0.
    """
    return f"{first.removesuffix(_FIRST)}_{number:04d}.h5" if number else first


def split_rows(rows: NDArray[np.int64], per_file: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of the file, and the row in it, of each row of a receiver.

    :param per_file: 0: one file holds all.
    """
    return (rows // per_file, rows % per_file) if per_file else (np.zeros_like(rows), rows)
