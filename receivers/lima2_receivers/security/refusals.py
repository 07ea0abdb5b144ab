"""What was refused, told once a peer and kind, then by counts: a peer that goes on and on does not fill the log."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

KINDS = 1000  # that are told apart; what comes after them is counted together


class Refusals:
    """Counts refusals, and logs the first, the 10th, the 100th, ... of each kind."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}

    def note(self, who: str, why: str) -> None:
        """Count a refusal.

        :param who: was refused.
        :param why: what kind of refusal it is.
        """
        key = (who, why)
        if key not in self._counts and len(self._counts) >= KINDS:
            key = ("further peers", "were refused")
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count == 1:
            log.warning("refused %s: %s (more of this kind are counted)", *key)
        elif str(count).strip("0") == "1":
            log.warning("refused %s: %s (%d times by now)", *key, count)

    def counts(self) -> dict[tuple[str, str], int]:
        """Return how often whom, and why."""
        return dict(self._counts)
