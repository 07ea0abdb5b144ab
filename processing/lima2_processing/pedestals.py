"""Pedestals of a detector of three gain stages, out of dark frames: what pixels read in the dark, and their noise.

A pixel's value has its gain stage in the upper two bits, see ``PixelKind.GAIN_ADC``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

GAIN_CODES = (0, 1, 3)  # in the upper two bits, by stage
ADC_MAX = 0x3FFF
MISSING = 0xFFFF  # a pixel that did not come


class Bad(IntFlag):
    """Why a pixel is not to be used; the numbers in a mask are sums of these."""

    WRONG_GAIN = 1  # it is not in the stage that it was forced to in too many frames
    DEAD = 2  # it always reads the same
    NOISY = 4
    OFF = 8  # its pedestal is far from the others', or at the end of the scale


class BadPixels(Struct, frozen=True):
    """What makes a pixel a bad one, in any stage.

    :param wrong_gain: share of the frames in which it may be in another stage.
    :param noise: noise that it may have, in medians of its stage and module.
    :param offset: that its pedestal may be off the median of its stage and module, in ADU.
    """

    wrong_gain: Annotated[float, Meta(ge=0, le=1)] = 0.01
    noise: Annotated[float, Meta(gt=0)] = 5.0
    offset: Annotated[float, Meta(gt=0)] = 1500.0


class PedestalSummary(Struct, frozen=True):
    """What a pedestal file holds, in short.

    :param frames: that went into the stages G0, G1 and G2.
    :param bad_pixels: how many there are.
    :param reasons: how many for each reason; some have several.
    """

    file: str
    frames: tuple[int, ...]
    bad_pixels: int
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class StagePedestal:
    """One gain stage.

    :param pedestal: mean in ADU (modules, rows, cols), float32; NaN where a pixel never was in the stage.
    :param noise: standard deviation of one frame in ADU, likewise; NaN where it was less than twice.
    :param wrong: share of the frames in which a pixel was in another stage, likewise.
    :param n_frames: that it is made of.
    """

    pedestal: NDArray[np.float32]
    noise: NDArray[np.float32]
    wrong: NDArray[np.float32]
    n_frames: int


class PedestalSums:
    """Sums over the dark frames of one gain stage, exact in 64-bit integers.

    :param stage: 0, 1 or 2.
    :param shape: of a frame (modules, rows, cols).
    """

    def __init__(self, stage: int, shape: tuple[int, ...]) -> None:
        self._code = GAIN_CODES[stage]
        self._n_frames = 0
        self._n = np.zeros(shape, np.int64)
        self._sum = np.zeros(shape, np.int64)
        self._squares = np.zeros(shape, np.int64)

    def add(self, frame: NDArray[np.uint16]) -> None:
        """Add a raw frame. Pixels in another gain stage are left out.

        :raises ValueError: its shape is another one.
        """
        if frame.shape != self._n.shape:
            raise ValueError(f"frame: got shape {frame.shape}, expected {self._n.shape}")
        right = (frame >> 14 == self._code) & (frame != MISSING)
        adc = np.where(right, frame & ADC_MAX, 0).astype(np.int64)
        self._n_frames += 1
        self._n += right
        self._sum += adc
        self._squares += adc * adc

    def result(self) -> StagePedestal:
        """Return mean and standard deviation of each pixel.

        :raises ValueError: there were no frames.
        """
        if not self._n_frames:
            raise ValueError("got no dark frames, expected some")
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._n
            # n * sum of squares - square of the sum is exact; the difference of two means is not.
            spread = (self._n * self._squares - self._sum**2) / (self._n * (self._n - 1))
        wrong = 1 - self._n / self._n_frames
        return StagePedestal(
            mean.astype(np.float32), np.sqrt(spread).astype(np.float32), wrong.astype(np.float32), self._n_frames
        )


def bad_pixels(stages: Sequence[StagePedestal], limits: BadPixels) -> NDArray[np.uint32]:
    """Return why pixels are bad (modules, rows, cols): sums of ``Bad``; 0: they are good."""
    mask = np.zeros(stages[0].pedestal.shape, np.uint32)
    for stage in stages:
        middle = np.nanmedian(stage.pedestal, axis=(1, 2), keepdims=True)
        noise = np.nanmedian(stage.noise, axis=(1, 2), keepdims=True)
        off = np.abs(stage.pedestal - middle) > limits.offset
        reasons = {
            Bad.WRONG_GAIN: stage.wrong > limits.wrong_gain,
            Bad.DEAD: stage.noise == 0,
            Bad.NOISY: stage.noise > limits.noise * noise,
            Bad.OFF: off | (stage.pedestal <= 0) | (stage.pedestal >= ADC_MAX),
        }
        for reason, pixels in reasons.items():
            mask[pixels] |= np.uint32(reason)
    return mask
