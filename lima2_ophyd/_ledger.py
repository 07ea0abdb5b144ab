"""What became of all frames of an acquisition, as one reading."""

from __future__ import annotations

import json
import time

import numpy as np
from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import Device

from lima2_receivers.errors import StateError
from lima2_receivers.messages import LedgerReport

from ._session import Session

_NUMBERS = ("announced", "saved", "vetoed", "lost", "failed", "hits", "hit_rate")
_TEXTS = ("announced_by", "reasons")
_RUNS = ("runs_first", "runs_count", "runs_status")


class LedgerReader(Device):
    """Reads the ledger of the present acquisition, or of the last one, with the names of its detector.

    Every reading is of one moment: it is asked for, and not put together from counters.

    :param session: of the detector.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._found: LedgerReport | None = None  # what was read last: bluesky reads first, and then describes it
        super().__init__()

    async def describe(self) -> dict[str, DataKey]:
        """Describe the last reading, or one of now: there are as many runs as the fates of frames changed."""
        n_runs = len((self._found or await self._ask()).runs.first)
        source = f"lima2+{self._session.connection.endpoint}/ledger"
        keys = {
            name: DataKey(source=source, shape=[], dtype="number", dtype_numpy="<f8" if name == "hit_rate" else "<i8")
            for name in _NUMBERS
        }
        keys |= {name: DataKey(source=source, shape=[], dtype="string") for name in _TEXTS}
        keys |= {name: DataKey(source=source, shape=[n_runs], dtype="array", dtype_numpy="<i8") for name in _RUNS}
        return {f"{self._prefix}-{name}": key for name, key in keys.items()}

    async def read(self) -> dict[str, Reading]:
        """Return the sums, the reasons as JSON, and the fates of the frames as runs.

        :raises StateError: there was no acquisition yet.
        """
        found = await self._ask()
        self._found = found
        counts, runs = found.counts, found.runs
        values: dict[str, object] = {
            "announced": found.announced,
            "announced_by": found.announced_by,
            "saved": counts.saved,
            "vetoed": counts.vetoed,
            "lost": counts.lost,
            "failed": counts.failed,
            "hits": found.hits,
            "hit_rate": found.hits / max(1, found.processed),
            "reasons": json.dumps(found.reasons),
            "runs_first": np.array(runs.first, np.int64),
            "runs_count": np.array(runs.count, np.int64),
            "runs_status": np.array(runs.status, np.int64),
        }
        now = time.time()
        return {
            f"{self._prefix}-{name}": Reading(value=value, timestamp=now, alarm_severity=0)
            for name, value in values.items()
        }

    @property
    def _prefix(self) -> str:
        return self.parent.name if self.parent is not None else self.name

    async def _ask(self) -> LedgerReport:
        found = await self._session.ledger()
        settled = found.counts.settled
        if settled > found.announced:
            raise StateError(
                f"the ledger of acquisition {found.acquisition} does not add up: {settled} frames are settled, "
                f"{found.announced} announced"
            )
        return found
