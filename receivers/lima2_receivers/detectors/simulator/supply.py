"""The simulator's frames: photons turned into what a Jungfrau reads out, with its three gains."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec

from ...errors import ConfigError, DetectorError
from ..supply import Supply, scene
from .images import simulate_images
from .params import SimulatorSettings, Size, frame_spec
from .scene import add_spots, background_rate, place_spots, raw_pixel_of

log = logging.getLogger(__name__)

# Typical of a Jungfrau module at 12.4 keV, in ADU and ADU a photon.
PEDESTALS = (2800.0, 14200.0, 14600.0)
GAINS = (508.4, -17.96, -1.428)
PEDESTAL_SPREAD, GAIN_SPREAD = 80.0, 0.02
NOISE = (22.0, 2.0, 1.5)  # ADU
SWITCH_G1, SWITCH_G2 = 23.0, 700.0  # photons above which a pixel switches its gain
ADC_MAX = 0x3FFF
GAIN_CODES = (0, 1, 3)
SATURATED = 0xC000
BAD_PIXELS = 2e-5  # share of the pixels whose pedestal is 0

_MODELS = {
    Size.FOUR_M: "Jungfrau 4M",
    Size.ONE_M: "Jungfrau 1M",
    Size.MODULE: "Jungfrau module",
    Size.TINY: "tiny Jungfrau",
    Size.TILES: "tiny Jungfrau of 4 modules",
}
_SPOTS = {Size.FOUR_M: 120, Size.ONE_M: 60, Size.MODULE: 40, Size.TINY: 5, Size.TILES: 20}


def simulate_supply(settings: SimulatorSettings, unwanted: threading.Event | None = None) -> Supply:
    """Make the frames that the settings ask for; see ``simulate_frames`` and ``images.simulate_images``."""
    if not settings.is_jungfrau:
        return simulate_images(settings, unwanted)
    look = Look(
        n_distinct=settings.n_distinct,
        hit_fraction=settings.hit_fraction,
        spots=settings.spots or _SPOTS[settings.size],
        background=settings.background,
        seed=settings.seed,
    )
    model = f"Simulated {_MODELS[settings.size]}"
    return simulate_frames(model, frame_spec(settings), look, Path(settings.folder), unwanted)


class Look(msgspec.Struct, frozen=True):
    """What is on simulated frames; the fields are those of ``SimulatorSettings``, but that 0 spots are none."""

    n_distinct: int = 16
    hit_fraction: float = 0.5
    spots: int = 40
    background: float = 2.0
    seed: int = 0


LOOK = Look()


def simulate_frames(
    model: str, spec: FrameSpec, look: Look, folder: Path, unwanted: threading.Event | None = None, forced: int = 0
) -> Supply:
    """Make all distinct frames, and the calibration files that belong to them.

    :param model: of the detector, for people.
    :param spec: of a detector of modules.
    :param look: what is on the frames.
    :param folder: where ``pedestal.npy`` and ``gain.npy`` go.
    :param forced: gain stage that all pixels are forced to; 0: each has the one that it needs.
    :param unwanted: set when the frames are not wanted any more.
    :raises DetectorError: it was set before they were all made.
    :raises ConfigError: the folder can't be written.
    """
    layout = spec.layout
    if layout is None:
        raise ConfigError(f"{model} has no module layout")
    random = np.random.default_rng(look.seed)
    pedestal, gain = make_calibration(spec, random)
    if not forced:
        _save(folder, pedestal, gain)
    collector = raw_pixel_of(spec, layout)
    rate = background_rate(spec, layout, collector, look.background)
    module = tuple(
        pixels + (pixels // chip - 1) * layout.chip_gap
        for pixels, chip in zip(spec.shape[1:], layout.chip_shape, strict=True)
    )
    n_hits = round(look.hit_fraction * look.n_distinct)
    hits = set(random.permutation(look.n_distinct)[:n_hits].tolist())
    frames, scenes = [], []
    for number in range(look.n_distinct):
        if unwanted is not None and unwanted.is_set():
            raise DetectorError(f"got {number} of {look.n_distinct} frames before they were not wanted any more")
        photons = random.poisson(rate).ravel()
        spots = place_spots(layout, (module[0], module[1]), look.spots, random) if number in hits else []
        add_spots(photons, collector, spots, random)
        frame = read_out(photons.reshape(spec.shape), pedestal, gain, random, forced)
        frames.append(frame)
        scenes.append(scene(frame, tuple(spots)))
        log.info("made frame %d of %d", number + 1, look.n_distinct)
    return Supply(model, spec, tuple(frames), tuple(scenes))


def make_calibration(spec: FrameSpec, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return pedestals in ADU and gains in ADU a photon, each (3, modules, rows, cols)."""
    shape = (3, *spec.shape)
    centre = np.array(PEDESTALS, np.float32).reshape(3, 1, 1, 1)
    pedestal = centre + PEDESTAL_SPREAD * random.standard_normal(shape, np.float32)
    slope = np.array(GAINS, np.float32).reshape(3, 1, 1, 1)
    gain = slope * (1 + GAIN_SPREAD * random.standard_normal(shape, np.float32))
    pedestal[:, random.random(spec.shape, np.float32) < BAD_PIXELS] = 0
    return pedestal.astype(np.float32), gain.astype(np.float32)


def read_out(
    photons: NDArray[np.int64],
    pedestal: NDArray[np.float32],
    gain: NDArray[np.float32],
    random: np.random.Generator,
    forced: int = 0,
) -> NDArray[np.uint16]:
    """Return the raw frame that a Jungfrau gives for so many photons (modules, rows, cols).

    :param forced: gain stage that all pixels are forced to; 0: each has the one that it needs.
    """
    signal = photons.astype(np.float32)
    noise = random.standard_normal(photons.shape, np.float32)
    if forced:
        values = pedestal[forced] + signal * gain[forced] + NOISE[forced] * noise
        return np.clip(np.rint(values), 0, ADC_MAX).astype(np.uint16) | np.uint16(GAIN_CODES[forced] << 14)
    adc = pedestal[0] + signal * gain[0] + NOISE[0] * noise
    raw = np.clip(np.rint(adc), 0, ADC_MAX).astype(np.uint16)
    for stage, switch in ((1, SWITCH_G1), (2, SWITCH_G2)):
        above = signal > switch
        values = pedestal[stage][above] + signal[above] * gain[stage][above] + NOISE[stage] * noise[above]
        coded = np.clip(np.rint(values), 0, ADC_MAX).astype(np.uint16) | np.uint16(GAIN_CODES[stage] << 14)
        raw[above] = coded  # a G2 pixel at 0 ADU is SATURATED by itself: code 3, value 0
    return raw


def _save(folder: Path, pedestal: NDArray[np.float32], gain: NDArray[np.float32]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "pedestal.npy", pedestal)
        np.save(folder / "gain.npy", gain)
    except OSError as error:
        raise ConfigError(f"detector.settings.folder: {folder}: {error.strerror}") from error
