"""The simulator's frames where it is no Jungfrau: images of counts, of any type, size and number of channels."""

from __future__ import annotations

import logging
import threading

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec, ModuleLayout

from ...errors import DetectorError
from ..journal import Spot
from ..supply import Supply, scene
from .params import Scenery, SimulatorSettings, frame_spec
from .patterns import gauss, gauss_center, gauss_counts, spiral
from .scene import MARGIN, add_spots, background_rate, place_spots, raw_pixel_of

log = logging.getLogger(__name__)

_PIXELS_A_SPOT, _MOST_SPOTS = 13_000, 120  # where the settings give no number


def simulate_images(settings: SimulatorSettings, unwanted: threading.Event | None = None) -> Supply:
    """Make all distinct frames. Channel c has 1 / (c + 1) of the first one's counts.

    :param unwanted: set when the frames are not wanted any more.
    :raises DetectorError: it was set before they were all made.
    """
    spec = frame_spec(settings)
    rows, cols = spec.shape[-2:]
    kind = _Diffraction if settings.scene is Scenery.DIFFRACTION else _Pattern
    maker = kind(settings, (rows, cols))
    frames, scenes = [], []
    for number in range(settings.n_distinct):
        if unwanted is not None and unwanted.is_set():
            raise DetectorError(f"got {number} of {settings.n_distinct} frames before they were not wanted any more")
        channels, spots = maker.image(number)
        frame = as_pixels(np.stack(channels).reshape(spec.shape), spec.dtype)
        frames.append(frame)
        scenes.append(scene(frame, spots))
        log.info("made frame %d of %d", number + 1, settings.n_distinct)
    model = f"Simulated {settings.scene} of {rows} x {cols} pixels"
    return Supply(model, spec, tuple(frames), tuple(scenes))


def as_pixels(counts: NDArray[np.float64], dtype: str) -> NDArray[np.generic]:
    """Return counts as a detector gives them: whole numbers that stop where their type ends; floats as they are."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return counts.astype(kind)
    limits = np.iinfo(kind)
    return np.clip(np.rint(counts), limits.min, limits.max).astype(kind)


class _Pattern:
    """Gauss or spiral, without noise: where the first frame begins is by chance, the others follow in even steps.

    :param shape: of an image (rows, cols).
    """

    def __init__(self, settings: SimulatorSettings, shape: tuple[int, int]) -> None:
        self._settings = settings
        self._shape = shape
        self._begin = float(np.random.default_rng(settings.seed).random())

    def image(self, number: int) -> tuple[list[NDArray[np.float64]], tuple[Spot, ...]]:
        """Return the channels of a frame, and what is known of it."""
        turn = self._begin + number / self._settings.n_distinct
        spots: tuple[Spot, ...] = ()
        if self._settings.scene is Scenery.GAUSS:
            counts = gauss(self._shape, turn)
            spots = (Spot(*gauss_center(self._shape, turn), gauss_counts(self._shape)),)
        else:
            counts = spiral(self._shape, turn)
        counts += self._settings.background
        return [counts / (channel + 1) for channel in range(self._settings.channels)], spots


class _Diffraction:
    """Background and Bragg spots as on the Jungfrau, on one module without gaps, in photons.

    :param shape: of an image (rows, cols).
    """

    def __init__(self, settings: SimulatorSettings, shape: tuple[int, int]) -> None:
        self._settings = settings
        self._shape = shape
        self._random = np.random.default_rng(settings.seed)
        self._layout = ModuleLayout(origins=((0, 0),), image_shape=shape, chip_shape=shape)
        spec = FrameSpec((1, *shape), "<i8", self._layout)
        self._collector = raw_pixel_of(spec, self._layout)
        self._rate = background_rate(spec, self._layout, self._collector, settings.background)[0]
        n_hits = round(settings.hit_fraction * settings.n_distinct)
        self._hits = set(self._random.permutation(settings.n_distinct)[:n_hits].tolist())
        room = min(shape) > 2 * MARGIN + 1
        fitting = min(_MOST_SPOTS, max(1, shape[0] * shape[1] // _PIXELS_A_SPOT))
        self._n_spots = (settings.spots or fitting) if room else 0

    def image(self, number: int) -> tuple[list[NDArray[np.float64]], tuple[Spot, ...]]:
        """Return the channels of a frame, and the spots in the first of them."""
        count = self._n_spots if number in self._hits else 0
        spots = place_spots(self._layout, self._shape, count, self._random)
        channels = []
        for channel in range(self._settings.channels):
            photons = self._random.poisson(self._rate / (channel + 1)).ravel()
            weaker = [Spot(spot.row, spot.col, spot.photons / (channel + 1)) for spot in spots]
            add_spots(photons, self._collector, weaker, self._random)
            channels.append(photons.reshape(self._shape).astype(np.float64))
        return channels, tuple(spots)
