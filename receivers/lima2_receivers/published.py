"""What the conductor publishes about detector, receivers and acquisitions."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from lima2_processing.frame import AcquisitionId

from .acquisition import Outcome, State
from .ledger import Counts


class DetectorState(StrEnum):
    """What the detector is doing. One per conductor; acquisitions have their own states."""

    IDLE = "idle"
    ARMED = "armed"
    ACQUIRING = "acquiring"
    FAULT = "fault"
    OFFLINE = "offline"


class ReceiverState(Struct, frozen=True):
    """One receiver, as the conductor sees it.

    :param silent: seconds since it last answered.
    """

    rank: int
    endpoint: str
    alive: bool
    silent: float
    strangers: int = 0
    free_slots: int = 0


class IngestState(Struct, frozen=True):
    """The ingest, as the conductor sees it.

    :param silent: seconds since it last answered.
    :param held: messages that it keeps, since no receiver has made them safe yet.
    :param free_slots: of its ring.
    :param joined: ranks of the receivers that take messages from it.
    :param strangers: messages that no receiver knew anything of.
    :param dealt_again: messages that went to another receiver, since the first was lost.
    """

    endpoint: str
    alive: bool
    silent: float
    held: int = 0
    free_slots: int = 0
    joined: tuple[int, ...] = ()
    strangers: int = 0
    dealt_again: int = 0


class ReceiverCounters(Struct, frozen=True):
    """One receiver's share of an acquisition."""

    received: int = 0
    processed: int = 0
    hits: int = 0
    counts: Counts = Counts()


class AcquisitionState(Struct, frozen=True):
    """One acquisition, as a whole.

    :param state: where it is in its life.
    :param outcome: how it ended.
    :param reason: why it failed.
    :param announced: frames that the triggers so far ask for.
    :param announced_by: ``triggers``, ``control`` (the detector's own count: at a stop, where it exposes until stopped,
        and where a signal triggers it) or ``highest`` (index seen + 1: where the detector can't say).
    :param written: leading frames that are settled and flushed: what documents may point at.
    :param receivers: counters by rank.
    :param reasons: frames lost, vetoed or failed, by reason.
    :param unplaced: fates of frames that no receiver has, in dynamic dispatch.
    :param waiting: it was started, and no trigger has come yet.
    :param whole: fates of all frames where each receiver has a part of every frame, so that ``receivers`` count parts;
        None: a frame is on one receiver.
    """

    acquisition: AcquisitionId
    state: State
    outcome: Outcome
    reason: str
    announced: int
    announced_by: str
    written: int
    receivers: tuple[ReceiverCounters, ...]
    master_file: str = ""
    reasons: dict[str, int] = {}
    waiting: bool = False
    unplaced: Counts = Counts()
    whole: Counts | None = None

    @property
    def counts(self) -> Counts:
        """Fates of all frames."""
        if self.whole is not None:
            return self.whole
        return sum((receiver.counts for receiver in self.receivers), self.unplaced)

    @property
    def received(self) -> int:
        """Frames that arrived whole; of parts, those of the receiver that has the fewest."""
        return self._over_all([receiver.received for receiver in self.receivers])

    @property
    def processed(self) -> int:
        """Frames that left the pipeline; of parts likewise."""
        return self._over_all([receiver.processed for receiver in self.receivers])

    @property
    def hits(self) -> int:
        """Frames that are hits; parts don't tell."""
        return self._over_all([receiver.hits for receiver in self.receivers])

    def _over_all(self, numbers: list[int]) -> int:
        return sum(numbers) if self.whole is None else min(numbers, default=0)
