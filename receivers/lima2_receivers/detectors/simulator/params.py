"""What the simulator can be told: where and what it is (settings), and what one acquisition asks of it (parameters)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta, Struct

from lima2_processing.frame import FrameSpec
from lima2_processing.layouts import grid, jungfrau


class Size(StrEnum):
    """How big the simulated detector is."""

    FOUR_M = "4m"  # 8 modules
    ONE_M = "1m"  # 2 modules
    MODULE = "module"  # 1 module
    TINY = "tiny"  # 1 module of 64 x 128 pixels, for tests
    TILES = "tiles"  # 2 x 2 of those


class Scenery(StrEnum):
    """What falls on the simulated detector."""

    DIFFRACTION = "diffraction"  # a background and Bragg spots
    GAUSS = "gauss"  # a hill that wanders from frame to frame
    SPIRAL = "spiral"  # an arm that turns from frame to frame


PixelType = Literal["", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"]
SMALLEST, LARGEST = 16, 16384  # sides of an image


class SimulatorParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of the simulator.

    :param loss: share of the frames that get lost on their way, chosen by chance.
    :param lose: indices of frames that get lost on their way.
    :param pulse_period: seconds from pulse to pulse of a signal that it makes for itself, in external and gate mode,
        from the start on; 0: none, pulses come by ``lima2 simulate pulse`` alone.
    :param pulses: of that signal; 0: as long as the acquisition lasts.
    :param pulse_width: seconds that each pulse lasts, which is what a gate exposes; 0: the exposure.
    :param hosts_refuse: ranks of receivers whose part of the control refuses to prepare; needs ``hosts``.
    :param hosts_hang: ranks of receivers whose part of the control does not answer; needs ``hosts``.
    """

    loss: Annotated[float, Meta(ge=0, le=1)] = 0.0
    lose: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    pulse_period: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    pulses: Annotated[int, Meta(ge=0)] = 0
    pulse_width: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    hosts_refuse: tuple[Annotated[int, Meta(ge=0)], ...] = ()
    hosts_hang: tuple[Annotated[int, Meta(ge=0)], ...] = ()


class SimulatorSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The simulator's table in the configuration.

    With the defaults of ``scene``, ``dtype``, ``channels`` and ``shape`` it is a Jungfrau: raw frames of modules, with
    gain stages, and calibration files beside them. If any of them is another, frames are images of counts.

    :param control: endpoint of its commands.
    :param folder: absolute folder for its journals and calibration files.
    :param send_timeout: seconds that a frame waits for its receiver before it is dropped; after that, frames for this
        receiver don't wait until it takes one again.
    :param size: how big the detector is.
    :param gap_pixels: True: the double-size pixels at chip edges take two pixels of the image.
    :param n_distinct: frames that are made ahead and sent in turn.
    :param hit_fraction: share of them that have Bragg spots.
    :param spots: Bragg spots of a frame that has some; 0: as fits the size.
    :param background: photons a pixel near the beam.
    :param seed: of all that is random.
    :param hosts: True: its control has a part on each receiver host, which writes down what it is told.
    :param scene: what falls on the detector.
    :param dtype: of the counts; empty: uint16. Counts stop at the largest that it holds.
    :param channels: of a frame, which then is (channels, rows, cols), each with 1 / (its number + 1) of the first
        one's counts, the first's number being 0; 1: frames are (rows, cols).
    :param order: how frames are dealt to receivers where `dispatch` is dynamic: `random`, any to any; `predictive`, one
        of n consecutive frames to each of n receivers, shuffled.
    :param shape: of an image (rows, cols); 0, 0: of the image that a Jungfrau of this ``size`` gives.
    """

    control: str
    folder: str
    send_timeout: Annotated[float, Meta(gt=0, le=3600)] = 5.0
    size: Size = Size.FOUR_M
    gap_pixels: bool = True
    n_distinct: Annotated[int, Meta(ge=1, le=1000)] = 16
    hit_fraction: Annotated[float, Meta(ge=0, le=1)] = 0.5
    spots: Annotated[int, Meta(ge=0)] = 0
    background: Annotated[float, Meta(ge=0)] = 2.0
    seed: int = 0
    hosts: bool = False
    scene: Scenery = Scenery.DIFFRACTION
    dtype: PixelType = ""
    channels: Annotated[int, Meta(ge=1, le=64)] = 1
    order: Literal["random", "predictive"] = "random"
    shape: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.shape != (0, 0) and not all(SMALLEST <= side <= LARGEST for side in self.shape):
            raise ValueError(f"shape: got {list(self.shape)}, expected two of {SMALLEST} to {LARGEST}, or [0, 0]")

    @property
    def is_jungfrau(self) -> bool:
        """Whether frames are raw ones of a Jungfrau's modules."""
        return (self.scene, self.dtype, self.channels, self.shape) == (Scenery.DIFFRACTION, "", 1, (0, 0))


def frame_spec(settings: SimulatorSettings) -> FrameSpec:
    """Return what the frames of the simulated detector look like."""
    modules = _modules(settings)
    if settings.is_jungfrau or modules.layout is None:
        return modules
    shape = settings.shape if any(settings.shape) else modules.layout.image_shape
    dtype = np.dtype(settings.dtype or "uint16").str
    return FrameSpec(shape if settings.channels == 1 else (settings.channels, *shape), dtype)


def _modules(settings: SimulatorSettings) -> FrameSpec:
    """Return the raw frame of a Jungfrau of this size."""
    match settings.size:
        case Size.FOUR_M:
            return jungfrau(8, settings.gap_pixels)
        case Size.ONE_M:
            return jungfrau(2, settings.gap_pixels)
        case Size.MODULE:
            return jungfrau(1, settings.gap_pixels)
        case Size.TINY:
            return grid((1, 1), (64, 128), (32, 64), settings.gap_pixels, (0, 0))
        case Size.TILES:
            return grid((2, 2), (64, 128), (32, 64), settings.gap_pixels, (6, 4))
