"""What the simulator can be told: where and what it is (settings), and what one acquisition asks of it (parameters)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from lima2_processing.frame import FrameSpec
from lima2_processing.layouts import grid, jungfrau


class Size(StrEnum):
    """How big the simulated detector is."""

    FOUR_M = "4m"  # 8 modules
    ONE_M = "1m"  # 2 modules
    MODULE = "module"  # 1 module
    TINY = "tiny"  # 1 module of 64 x 128 pixels, for tests


class SimulatorParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of the simulator.

    :param loss: share of the frames that get lost on their way, chosen by chance.
    :param lose: indices of frames that get lost on their way.
    """

    loss: Annotated[float, Meta(ge=0, le=1)] = 0.0
    lose: tuple[Annotated[int, Meta(ge=0)], ...] = ()


class SimulatorSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The simulator's table in the configuration.

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


def frame_spec(settings: SimulatorSettings) -> FrameSpec:
    """Return what the frames of the simulated detector look like."""
    match settings.size:
        case Size.FOUR_M:
            return jungfrau(8, settings.gap_pixels)
        case Size.ONE_M:
            return jungfrau(2, settings.gap_pixels)
        case Size.MODULE:
            return jungfrau(1, settings.gap_pixels)
        case Size.TINY:
            return grid((1, 1), (64, 128), (32, 64), settings.gap_pixels, (0, 0))
