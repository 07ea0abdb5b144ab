"""Smooth scenes that a formula tells: a hill that wanders, and a spiral that turns."""

from __future__ import annotations

from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

PEAK = 100.0  # counts above the background: what a byte with a sign still holds
_WANDER = 0.25  # of rows and columns, that the hill goes away from the middle
_WIDTH = 0.1  # standard deviation of the hill, of the shorter side
_WINDINGS = 6.0  # of the spiral's arm, between the middle and the nearer edge


def gauss_center(shape: tuple[int, int], turn: float) -> tuple[float, float]:
    """Return where the hill is (row, col): it goes round the middle on an ellipse.

    :param shape: of the image (rows, cols).
    :param turn: how far it has gone, in turns.
    """
    rows, cols = shape
    return (rows - 1) / 2 + _WANDER * rows * sin(2 * pi * turn), (cols - 1) / 2 + _WANDER * cols * cos(2 * pi * turn)


def gauss_counts(shape: tuple[int, int]) -> float:
    """Return the counts of the whole hill, without background."""
    return PEAK * 2 * pi * _width(shape) ** 2


def gauss(shape: tuple[int, int], turn: float) -> NDArray[np.float64]:
    """Return the counts (rows, cols) of a round Gaussian hill; see ``gauss_center``."""
    row, col = gauss_center(shape, turn)
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return PEAK * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * _width(shape) ** 2))


def spiral(shape: tuple[int, int], turn: float) -> NDArray[np.float64]:
    """Return the counts (rows, cols) of an arm that winds around the middle, and has turned so far.

    Along a circle they go up and down once, along a radius once a winding, as a cosine does, between 0 and ``PEAK``.

    :param turn: how far it has turned, in turns.
    """
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    down, across = rows - (shape[0] - 1) / 2, cols - (shape[1] - 1) / 2
    winding = _WINDINGS * np.hypot(down, across) / (min(shape) / 2)
    angle = np.arctan2(down, across) / (2 * pi)
    return PEAK / 2 * (1 + np.cos(2 * pi * (angle - turn - winding)))


def _width(shape: tuple[int, int]) -> float:
    return _WIDTH * min(shape)
