"""Recorded frames that can be read one by one, and the part of them that is played."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec

from ...errors import ConfigError


class Stack(Protocol):
    """Recorded frames. Used by one thread at a time."""

    @property
    def model(self) -> str:
        """What it is, for people."""
        ...

    @property
    def spec(self) -> FrameSpec:
        """What the frames look like."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.generic]:
        """Read a frame into memory of its own.

        :param index: of the recording, from 0.
        :raises DetectorError: it can't be read.
        """
        ...

    def close(self) -> None:
        """Close the files. Idempotent."""
        ...


def choose_frames(recorded: int, start: int, count: int, stride: int) -> range:
    """Return which frames of a recording are played.

    :param recorded: how many there are.
    :param start: the first.
    :param count: how many; 0: all that there are.
    :param stride: from one to the next.
    :raises ConfigError: the recording does not have them.
    """
    if start >= recorded:
        raise ConfigError(f"detector.settings.start: got {start}, the recording has {recorded} frames, from 0 on")
    found = range(start, recorded, stride)
    if count > len(found):
        which = f"from frame {start} on" + (f", each {stride}th" if stride > 1 else "")
        raise ConfigError(f"detector.settings.count: got {count}, the recording has {len(found)} frames {which}")
    return found[: count or None]
