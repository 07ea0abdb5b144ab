"""The frames of a simulated Smartpix, and how they look as an acquisition has them sent."""

from __future__ import annotations

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import ModuleLayout, fill_value

from ...errors import DetectorError
from ..journal import Scene, Spot
from ..simulator.scene import add_spots, background_rate, place_spots, raw_pixel_of
from ..simulator.supply import LOOK, Look
from ..supply import Supply, scene
from .descriptors import Descriptor
from .params import CHIP, DTYPES, SmartpixSettings, frame_spec

log = logging.getLogger(__name__)

WHOLE = Descriptor("whole")
FULL_DEPTH = 24


class SmartpixSupply:
    """Makes frames: photons, counted.

    :param settings: of the detector.
    :param look: what is on them.
    """

    def __init__(self, settings: SmartpixSettings, look: Look = LOOK) -> None:
        self._settings = settings
        self._look = look

    def make(self, unwanted: threading.Event) -> Supply:
        """Make all distinct frames, of all chips, with the deepest counters.

        :raises DetectorError: they were not wanted before they were all made.
        """
        spec, layout, look = frame_spec(self._settings, WHOLE, FULL_DEPTH), self._settings.layout, self._look
        n_chips = len(layout.origins)
        model = f"Simulated Smartpix of {n_chips} chip{'s' if n_chips > 1 else ''}"
        random = np.random.default_rng(look.seed)
        collector = raw_pixel_of(spec, layout)
        rate = background_rate(spec, layout, collector, look.background)
        hits = set(random.permutation(look.n_distinct)[: round(look.hit_fraction * look.n_distinct)].tolist())
        frames, scenes = [], []
        for number in range(look.n_distinct):
            if unwanted.is_set():
                raise DetectorError(f"got {number} of {look.n_distinct} frames before they were not wanted any more")
            photons = random.poisson(rate).ravel()
            spots = place_spots(layout, (CHIP, CHIP), look.spots, random) if number in hits else []
            add_spots(photons, collector, spots, random)
            frames.append(counted(photons.reshape(spec.shape), FULL_DEPTH))
            scenes.append(scene(frames[-1], tuple(spots)))
            log.info("made frame %d of %d", number + 1, look.n_distinct)
        return Supply(model, spec, tuple(frames), tuple(scenes))

    def send_as(self, whole: Supply, stream: Descriptor, depth: int) -> Supply:
        """Return the frames of a stream, in turn from its first.

        Frame *n* of module *m* shows distinct frame *n + m*, so that modules differ.
        """
        layout, n_distinct = self._settings.layout, len(whole.frames)
        frames: dict[int, NDArray[np.generic]] = {}
        scenes: dict[int, Scene] = {}
        order = [(stream.frame(position) + stream.module) % n_distinct for position in range(n_distinct)]
        for at in sorted(set(order)):
            frames[at] = cut(counted(whole.frames[at], depth), layout, stream)
            scenes[at] = scene(frames[at], _spots_in(whole.scenes[at].spots, stream))
        spec = frame_spec(self._settings, stream, depth)
        return Supply(whole.model, spec, tuple(frames[at] for at in order), tuple(scenes[at] for at in order))


def counted(photons: NDArray[np.generic], depth: int) -> NDArray[np.generic]:
    """Return what counters of so many bits have counted; a full one stays full."""
    return np.minimum(photons, (1 << depth) - 1).astype(DTYPES[depth])


def cut(frame: NDArray[np.generic], layout: ModuleLayout, stream: Descriptor) -> NDArray[np.generic]:
    """Return what a stream has of a frame (chips, rows, cols).

    :param layout: where the chips are in the image; what is between them has the largest value of the type.
    """
    if stream.roi is None:
        return frame
    image = np.full(layout.image_shape, fill_value(frame.dtype.str), frame.dtype)
    rows, cols = layout.chip_shape
    for chip, (row, col) in zip(frame, layout.origins, strict=True):
        image[row : row + rows, col : col + cols] = chip
    row, col, height, width = stream.roi
    return np.ascontiguousarray(image[row : row + height, col : col + width])


def _spots_in(spots: tuple[Spot, ...], stream: Descriptor) -> tuple[Spot, ...]:
    """Return the spots whose centres a stream has, at their places in it."""
    if stream.roi is None:
        return spots
    row, col, height, width = stream.roi
    moved = (Spot(spot.row - row, spot.col - col, spot.photons) for spot in spots)
    return tuple(s for s in moved if -0.5 <= s.row < height - 0.5 and -0.5 <= s.col < width - 0.5)
