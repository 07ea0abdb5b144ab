"""The transfers of one share: copied out of the transfer ring, put in order, and handed on as frames."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from lima2_processing.frame import Frame, FrameIdx, ReceiverIdx

from ..errors import ProtocolError
from ..source import Stranger, TransferSource
from ..topology import Topology
from ..transfers import Completion, TransferTarget
from .book import MAX_LEAP
from .ring import FrameRing, Slot

if TYPE_CHECKING:
    from .share import Share

log = logging.getLogger(__name__)

REACH = 8  # frames that may come before one that is late
PATIENCE = 0.5  # seconds that they wait for it
OVERWRITTEN = "overwritten before it was read"


class Taken(Enum):
    """What became of a transfer that was offered to an acquisition."""

    STRANGE = "strange"  # it may be another acquisition's
    DONE = "done"  # the slot that it was offered with is free for the next
    KEPT = "kept"  # the slot is taken


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame that waits until those before it are there.

    :param came: when, monotonic seconds.
    :param slot: that has its pixels; None: they were overwritten.
    """

    index: FrameIdx
    timestamp: float
    came: float
    slot: Slot | None


class Transfers:
    """Takes the transfers of a share.

    Completion records may come late: frames wait for an earlier one, until ``REACH`` of them do, ``PATIENCE`` seconds
    have passed, or the ring has no more room.

    :param share: that gets the frames.
    :param source: knows which frame a transfer is.
    :param ring: that pixels are copied to.
    :param topology: which frames are which receiver's.
    :param rank: of this receiver.
    :param nb_frames: of the acquisition; 0: any number.
    """

    def __init__(
        self,
        share: Share,
        source: TransferSource,
        ring: FrameRing,
        topology: Topology,
        rank: ReceiverIdx,
        nb_frames: int,
    ) -> None:
        self.overwritten = 0  # frames
        self.again = 0  # completions of frames that were there already, or were no longer waited for
        self.others = 0  # completions of the detector's other streams
        self._share = share
        self._source = source
        self._ring = ring
        self._topology = topology
        self._rank = rank
        self._most = nb_frames
        self._lock = threading.Lock()  # of all that follows
        self._held: dict[int, Arrived] = {}  # by row
        self._next = 0  # row; those below it are not waited for any more
        self._closed = False

    # --- called by the intake thread ---

    @property
    def live(self) -> bool:
        """Whether frames may still come."""
        return not self._closed

    def take(self, completion: Completion, target: TransferTarget, slot: Slot) -> Taken:
        """Take a transfer.

        :param target: the ring that it is in.
        :param slot: of the frame ring, free, where its pixels may go.
        :raises ProtocolError: it is this acquisition's, and not what the detector's protocol allows.
        """
        index = self._source.locate(completion)
        if isinstance(index, Stranger):
            return Taken.STRANGE
        with self._lock:
            if index is None:
                self.others += 1
                return Taken.DONE
            row = self._row(index)
            if self._closed or row < self._next or row in self._held:
                self.again += 1
                return Taken.DONE
            whole = target.read(completion, slot.memory[: completion.nbytes])
            self.overwritten += not whole
            self._held[row] = Arrived(index, completion.time, time.monotonic(), slot if whole else None)
            try:
                self._hand_on(-math.inf)
            except Exception as error:  # the slot is taken all the same
                self.fail_by(error)
        return Taken.KEPT if whole else Taken.DONE

    def expire(self, now_or_never: bool = False) -> None:
        """Hand on the frames that have waited long enough for others.

        :param now_or_never: all that wait: their memory is needed.
        """
        with self._lock:
            self._hand_on(math.inf if now_or_never else time.monotonic() - PATIENCE)

    def fail_by(self, error: Exception) -> str:
        """Fail the share by an error that nobody expected, and return the reason."""
        return self._share.fail_by(error)

    # --- called when the share ends ---

    def close(self) -> None:
        """Let go of the frames that wait. Idempotent."""
        with self._lock:
            if not self._closed and (self.overwritten or self.others or self.again):
                log.info(
                    "%s: %d frames were overwritten before they were read; %d completions came again or too late; "
                    "%d completions were of other streams",
                    self._share.acquisition.name,
                    self.overwritten,
                    self.again,
                    self.others,
                )
            self._closed = True
            for arrived in self._held.values():
                if arrived.slot is not None:
                    self._ring.give(arrived.slot)
            self._held.clear()

    def keep(self) -> None:
        """Do nothing: there are no files."""

    def discard(self) -> None:
        """Do nothing: there are no files."""

    def _row(self, index: FrameIdx) -> int:
        """Return the row of a frame.

        :raises ProtocolError: it should not have come here, or not yet by far.
        """
        if self._most and index >= self._most:
            raise ProtocolError(f"got frame {index}, expected {self._most} frames")
        owner, row = self._topology.locate(index)
        if owner != self._rank:
            raise ProtocolError(f"got frame {index}, which receiver {owner} should have got")
        if row - self._next > MAX_LEAP:
            raise ProtocolError(f"got frame {index} when row {self._next} was next, expected none so far ahead")
        return row

    def _hand_on(self, since: float) -> None:
        """Give frames to the share, in order, as far as they do not wait for others.

        :param since: monotonic seconds; what has come before it does not wait any longer.
        """
        for arrived in self._due(since):
            if arrived.slot is None:
                self._share.claim(arrived.index, arrived.timestamp, OVERWRITTEN)
                continue
            accepted = False
            try:
                accepted = self._share.accept(self._frame(arrived, arrived.slot), arrived.slot)
            finally:
                if not accepted:
                    self._ring.give(arrived.slot)

    def _due(self, since: float) -> Iterator[Arrived]:
        while self._held:
            row = min(self._held)
            if row != self._next and len(self._held) <= REACH and self._held[row].came > since:
                return
            self._next = row + 1
            yield self._held.pop(row)

    def _frame(self, arrived: Arrived, slot: Slot) -> Frame:
        spec = self._source.spec
        data = slot.memory[: spec.nbytes].view(spec.dtype).reshape(spec.shape)
        return Frame(arrived.index, data, spec.all_modules, arrived.timestamp)
