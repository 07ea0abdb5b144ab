"""Which receiver and row hold a frame, and back. Pure arithmetic."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameIdx, LocalIdx, ReceiverIdx

NO_RECEIVER = int(np.iinfo(np.uint16).max)  # of a frame that no receiver has
EVERY_RECEIVER = NO_RECEIVER - 1  # of a frame of which every receiver has a part, in this row
NO_ROW = int(np.iinfo(np.uint64).max)


class Dispatch(StrEnum):
    """How frames spread over receivers."""

    ROUND_ROBIN = "round_robin"  # consecutive frames go to consecutive receivers
    DYNAMIC = "dynamic"  # any frame goes to any receiver
    PARTIAL_FRAME = "partial_frame"  # each receiver gets its modules of every frame


class Places(NamedTuple):
    """Where frames are.

    :param receivers: uint16 (n,); ``NO_RECEIVER``: no receiver has it; ``EVERY_RECEIVER``: each has a part of it.
    :param rows: uint64 (n,); ``NO_ROW`` likewise.
    """

    receivers: NDArray[np.uint16]
    rows: NDArray[np.uint64]

    def only(self, wanted: NDArray[np.bool_]) -> Places:
        """Return the same with those frames nowhere that are not wanted.

        :param wanted: (n,).
        """
        receivers = np.where(wanted, self.receivers, np.uint16(NO_RECEIVER))
        return Places(receivers, np.where(wanted, self.rows, np.uint64(NO_ROW)))


class Topology(Protocol):
    """How the frames of an acquisition spread over receivers."""

    @property
    def n_receivers(self) -> int:
        """How many receivers share the frames."""
        ...

    def locate(self, frame: FrameIdx) -> tuple[ReceiverIdx, LocalIdx]:
        """Return which receiver owns a frame, and its row in that receiver's files."""
        ...

    def frame_at(self, receiver: ReceiverIdx, row: LocalIdx) -> FrameIdx:
        """Return the frame in a row of a receiver's files: the inverse of ``locate``."""
        ...

    def rows(self, receiver: ReceiverIdx, n_frames: int) -> int:
        """Return how many of the frames 0 to ``n_frames`` - 1 a receiver owns."""
        ...

    def places(self, first: int, last: int) -> Places:
        """Return where the frames ``first`` to ``last`` - 1 are."""
        ...


class RoundRobin(msgspec.Struct, frozen=True):
    """Consecutive frames go to consecutive receivers; a lost frame shifts nothing. One receiver: it owns all.

    :param n_receivers: how many receivers share the frames, at least 1.
    """

    n_receivers: int

    def __post_init__(self) -> None:
        if self.n_receivers < 1:
            raise ValueError(f"n_receivers: got {self.n_receivers}, expected at least 1")

    def locate(self, frame: FrameIdx) -> tuple[ReceiverIdx, LocalIdx]:
        """Return which receiver owns a frame, and its row there."""
        row, receiver = divmod(frame, self.n_receivers)
        return ReceiverIdx(receiver), LocalIdx(row)

    def frame_at(self, receiver: ReceiverIdx, row: LocalIdx) -> FrameIdx:
        """Return the frame in a row of a receiver's files."""
        return FrameIdx(row * self.n_receivers + receiver)

    def rows(self, receiver: ReceiverIdx, n_frames: int) -> int:
        """Return how many of the first ``n_frames`` frames a receiver owns."""
        return max(0, -(-(n_frames - receiver) // self.n_receivers))

    def places(self, first: int, last: int) -> Places:
        """Return where the frames ``first`` to ``last`` - 1 are."""
        rows, receivers = np.divmod(np.arange(first, max(first, last), dtype=np.uint64), np.uint64(self.n_receivers))
        return Places(receivers.astype(np.uint16), rows)
