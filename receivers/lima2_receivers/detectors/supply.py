"""What a sender process sends: frames made ahead, or read ahead of their time, so that a rate is the system's."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec

from .journal import Scene, Spot


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Supply:
    """Frames that are sent in turn.

    :param model: of the detector, for people.
    :param spec: what they look like.
    :param frames: their pixels, each as the spec says; those of a large recording are read when they are asked for.
    :param scenes: what is in each; empty: it is not known before they are sent.
    :param limit: frames that a series may have; 0: any number, since frames are repeated.
    :param close: lets go of what the frames are read from. Idempotent.
    """

    model: str
    spec: FrameSpec
    frames: Sequence[NDArray[np.generic]]
    scenes: tuple[Scene, ...]
    limit: int = 0
    close: Callable[[], None] = _nothing


def scene(frame: NDArray[np.generic], spots: tuple[Spot, ...] = ()) -> Scene:
    """Return the journal's entry of a frame."""
    return Scene(zlib.crc32(np.ascontiguousarray(frame).data), spots)
