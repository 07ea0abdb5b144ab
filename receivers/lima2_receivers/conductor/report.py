"""The ledger of an acquisition in a few numbers, however many frames there are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Outcome
from ..ledger import Counts
from ..messages import FateRuns, LedgerReport
from ..published import AcquisitionState
from ..saving.ledger_file import LedgerSummary

MAX_RUNS = 1000
MAX_REASONS = 50
OTHERS = "other reasons"


def report_of(state: AcquisitionState, counts: Counts, statuses: NDArray[np.uint8]) -> LedgerReport:
    """Return what became of all frames so far. Takes a while where there are many.

    :param state: of the acquisition.
    :param counts: of all frames.
    :param statuses: of the leading frames that are settled (n,).
    """
    return LedgerReport(
        acquisition=state.acquisition,
        announced=state.announced,
        announced_by=state.announced_by,
        counts=counts,
        reasons=main_reasons(state.reasons),
        runs=runs_of(statuses),
        processed=sum(part.processed for part in state.receivers),
        hits=sum(part.hits for part in state.receivers),
    )


def summary_of(state: AcquisitionState, counts: Counts, outcome: Outcome) -> LedgerSummary:
    """Return what the ledger file says at its end.

    :param outcome: that the acquisition will have.
    """
    return LedgerSummary(
        acquisition=state.acquisition,
        announced=state.announced,
        announced_by=state.announced_by,
        counts=counts,
        reasons=state.reasons,
        outcome=outcome,
        reason=state.reason,
    )


def runs_of(statuses: NDArray[np.uint8]) -> FateRuns:
    """Return what became of the leading frames, as runs of one status.

    :param statuses: of the frames (n,), the numbers of ``FrameStatus``.
    :returns: of more than ``MAX_RUNS``, the first.
    """
    if not len(statuses):
        return FateRuns((), (), ())
    firsts = np.concatenate(([0], np.flatnonzero(np.diff(statuses)) + 1))
    counts = np.diff(np.concatenate((firsts, [len(statuses)])))
    kept = slice(MAX_RUNS)
    return FateRuns(tuple(firsts[kept].tolist()), tuple(counts[kept].tolist()), tuple(statuses[firsts[kept]].tolist()))


def main_reasons(reasons: Mapping[str, int]) -> dict[str, int]:
    """Return the reasons that most frames have; rare ones are put together."""
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    found = dict(ordered[:MAX_REASONS])
    if others := sum(count for _, count in ordered[MAX_REASONS:]):
        found[OTHERS] = others
    return found
