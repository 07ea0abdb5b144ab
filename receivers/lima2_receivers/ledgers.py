"""The ledger that fits how frames spread over receivers."""

from __future__ import annotations

from typing import assert_never

from .ledger import FrameLedger, SystemLedger
from .ledger_parts import PartsLedger
from .ledger_table import TableLedger
from .topology import Dispatch, RoundRobin


def new_ledger(dispatch: Dispatch, n_receivers: int) -> FrameLedger:
    """Return the ledger of an acquisition, of no frames yet."""
    match dispatch:
        case Dispatch.ROUND_ROBIN:
            return SystemLedger(RoundRobin(n_receivers))
        case Dispatch.DYNAMIC:
            return TableLedger(n_receivers)
        case Dispatch.PARTIAL_FRAME:
            return PartsLedger(n_receivers)
        case _:
            assert_never(dispatch)
