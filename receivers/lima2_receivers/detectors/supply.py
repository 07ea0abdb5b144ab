"""What a sender process sends: frames made ahead, so that a rate is the system's and not the generator's."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec

from .journal import Scene, Spot


@dataclass(frozen=True, slots=True)
class Supply:
    """Frames that are ready to be sent, in turn.

    :param model: of the detector, for people.
    :param spec: what they look like.
    :param frames: their pixels, each as the spec says.
    :param scenes: what is in each.
    :param limit: frames that a series may have; 0: any number, since frames are repeated.
    """

    model: str
    spec: FrameSpec
    frames: tuple[NDArray[np.generic], ...]
    scenes: tuple[Scene, ...]
    limit: int = 0


def scene(frame: NDArray[np.generic], spots: tuple[Spot, ...] = ()) -> Scene:
    """Return the journal's entry of a frame."""
    return Scene(zlib.crc32(np.ascontiguousarray(frame).data), spots)
