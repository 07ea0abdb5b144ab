"""What each receiver reported of one acquisition, beside the fates of its frames. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..published import ReceiverCounters
from ..topology import Places


@dataclass(slots=True)
class Part:
    """What one receiver reported.

    :param closed: its files are closed, and everything is reported.
    :param dead: nothing more is expected of it.
    :param highest: frame number that it saw; -1: none.
    :param timestamps: by row.
    """

    counters: ReceiverCounters = field(default_factory=ReceiverCounters)
    closed: bool = False
    dead: bool = False
    highest: int = -1
    timestamps: array[float] = field(default_factory=lambda: array("d"))

    def recall(self, rank: int, places: Places, timestamps: NDArray[np.float64]) -> None:
        """Take timestamps that an earlier ledger has, of rows that are not known here.

        :param rank: of the receiver.
        :param places: where the leading frames are.
        :param timestamps: of the same frames (n,).
        """
        mine = places.receivers == rank
        rows, timestamps = places.rows[mine], timestamps[mine]
        known = len(self.timestamps)
        fresh = rows.astype(np.int64) >= known
        if fresh.any():
            longer = np.full(int(rows.max()) + 1, np.nan)
            longer[:known] = self.timestamps
            longer[rows[fresh].astype(np.int64)] = timestamps[fresh]
            self.timestamps = array("d", longer.tolist())


def timestamps_of(parts: Sequence[Part], places: Places) -> NDArray[np.float64]:
    """Return the timestamps of frames (n,), NaN where none is known.

    :param places: where the frames are.
    """
    found = np.full(len(places.rows), np.nan)
    for rank, part in enumerate(parts):
        mine = np.flatnonzero(places.receivers == rank)
        rows = places.rows[mine].astype(np.int64)
        known = rows < len(part.timestamps)
        found[mine[known]] = [part.timestamps[row] for row in rows[known]]
    return found
