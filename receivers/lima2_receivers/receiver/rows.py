"""Which frames are a share's, and which row of its files each gets."""

from __future__ import annotations

import threading
from array import array
from typing import Protocol

import numpy as np

from lima2_processing.frame import FrameIdx, LocalIdx, ReceiverIdx

from ..topology import RoundRobin
from .book import MAX_LEAP


class Rows(Protocol):
    """The rows of a share. Any thread may ask."""

    @property
    def ended(self) -> bool:
        """Whether the rows that are due are all that there will be, once nothing more is announced."""
        ...

    def claim(self, frame: FrameIdx) -> LocalIdx | None:
        """Return the row of a frame that came; None: it is another receiver's, or not wanted any more."""
        ...

    def row_of(self, frame: FrameIdx) -> LocalIdx:
        """Return the row of a frame that was claimed."""
        ...

    def find(self, frame: FrameIdx) -> LocalIdx | None:
        """Return the row of a frame; None: it has none here."""
        ...

    def frame_at(self, row: LocalIdx) -> FrameIdx:
        """Return the frame in a row."""
        ...

    def due(self, n_frames: int, final: bool) -> int:
        """Return how many rows are due where ``n_frames`` frames are announced.

        :param final: there will be no more.
        """
        ...

    def settle(self, n_frames: int) -> int:
        """Want no more frames below ``n_frames``, and return how many rows there are."""
        ...

    def table(self, first: int, last: int) -> bytes:
        """Return the frames in the rows ``first`` to ``last`` - 1, little-endian uint64; empty: the topology says."""
        ...


class FixedRows:
    """Rows that the topology gives: a frame's number says which receiver and row it belongs to.

    :param rank: of this receiver.
    """

    ended = True

    def __init__(self, topology: RoundRobin, rank: ReceiverIdx) -> None:
        self._topology = topology
        self._rank = rank

    def claim(self, frame: FrameIdx) -> LocalIdx | None:
        """Return the row of a frame; None: it is another receiver's."""
        owner, row = self._topology.locate(frame)
        return row if owner == self._rank else None

    def row_of(self, frame: FrameIdx) -> LocalIdx:
        """Return the row of a frame."""
        return self._topology.locate(frame)[1]

    def find(self, frame: FrameIdx) -> LocalIdx | None:
        """Return the row of a frame; None: it is another receiver's."""
        return self.claim(frame)

    def frame_at(self, row: LocalIdx) -> FrameIdx:
        """Return the frame in a row."""
        return self._topology.frame_at(self._rank, row)

    def due(self, n_frames: int, final: bool) -> int:
        """Return how many of so many frames are this receiver's."""
        del final
        return self._topology.rows(self._rank, n_frames)

    def settle(self, n_frames: int) -> int:
        """Return how many of so many frames are this receiver's."""
        return self._topology.rows(self._rank, n_frames)

    def table(self, first: int, last: int) -> bytes:
        """Return nothing: the topology says."""
        del first, last
        return b""


class ArrivalRows:
    """Rows in the order of arrival: any frame may come here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = array("q")  # by frame; -1: it has not come
        self._frames = array("Q")  # by row
        self._closed = 0  # frames below it are not wanted any more
        self._final: int | None = None  # frames in all

    @property
    def ended(self) -> bool:
        """Whether no frame can come any more."""
        with self._lock:
            return self._final is not None and self._closed >= self._final

    def claim(self, frame: FrameIdx) -> LocalIdx | None:
        """Return the row of a frame, the next one if it is new; None: it is not wanted, or its number is absurd."""
        with self._lock:
            if frame < len(self._rows) and self._rows[frame] >= 0:
                return LocalIdx(self._rows[frame])
            never_given = self._final is not None and frame >= self._final
            if frame < self._closed or never_given or frame - len(self._rows) > MAX_LEAP:
                return None
            if frame >= len(self._rows):
                self._rows.extend([-1] * (frame + 1 - len(self._rows)))
            row = LocalIdx(len(self._frames))
            self._rows[frame] = row
            self._frames.append(frame)
            return row

    def row_of(self, frame: FrameIdx) -> LocalIdx:
        """Return the row of a frame that was claimed."""
        return LocalIdx(self._rows[frame])

    def find(self, frame: FrameIdx) -> LocalIdx | None:
        """Return the row of a frame; None: it was never claimed."""
        with self._lock:
            row = self._rows[frame] if 0 <= frame < len(self._rows) else -1
            return LocalIdx(row) if row >= 0 else None

    def frame_at(self, row: LocalIdx) -> FrameIdx:
        """Return the frame in a row."""
        return FrameIdx(self._frames[row])

    def due(self, n_frames: int, final: bool) -> int:
        """Return 0: nobody knows how many of them come here."""
        if final:
            with self._lock:
                self._final = n_frames
        return 0

    def settle(self, n_frames: int) -> int:
        """Want no more frames below ``n_frames``, and return how many rows there are."""
        with self._lock:
            self._closed = max(self._closed, n_frames)
            return len(self._frames)

    def table(self, first: int, last: int) -> bytes:
        """Return the frames in the rows ``first`` to ``last`` - 1, little-endian uint64."""
        with self._lock:
            return np.array(self._frames[first:last], "<u8").tobytes()
