"""What falls on the simulated detector: a radial background and Bragg spots, in photons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec, ModuleLayout

from ..journal import Spot

MARGIN = 6  # pixels between a spot's centre and the edge of its module
CHIP_MARGIN = 4  # pixels between a spot's centre and the double-size pixels at a chip's edge
DISTANCE = 14.0  # pixels between two spots at least
MEDIAN_PHOTONS, SPREAD = 900.0, 0.6  # of the log-normal distribution of spots' intensities


def beam_center(layout: ModuleLayout) -> tuple[float, float]:
    """Return where the simulated beam hits the image (row, col): near its middle, on no symmetric place."""
    rows, cols = layout.image_shape
    return rows * 0.5 + 3.3, cols * 0.5 - 2.7


def raw_pixel_of(spec: FrameSpec, layout: ModuleLayout) -> NDArray[np.int64]:
    """Return which raw pixel collects the light of each image pixel (rows, cols), -1 in gaps between modules.

    A double-size pixel at a chip's edge collects its own and the gap pixel beside it.
    """
    _, rows, cols = spec.shape
    found = np.full(layout.image_shape, -1, np.int64)
    down = _raw_line(rows, layout.chip_shape[0], layout.chip_gap)
    across = _raw_line(cols, layout.chip_shape[1], layout.chip_gap)
    for module, (row, col) in enumerate(layout.origins):
        block = module * rows * cols + down[:, None] * cols + across[None, :]
        found[row : row + len(down), col : col + len(across)] = block
    return found


def _raw_line(pixels: int, chip: int, gap: int) -> NDArray[np.int64]:
    """Return the raw position of each image position along one axis of a module."""
    line = list(range(pixels))
    for edge in range(chip, pixels, chip):
        at = line.index(edge)
        line[at:at] = [edge - 1] * (gap - gap // 2) + [edge] * (gap // 2)
    return np.array(line)


def background_rate(
    spec: FrameSpec, layout: ModuleLayout, collector: NDArray[np.int64], level: float
) -> NDArray[np.float64]:
    """Return the photons that each raw pixel (modules, rows, cols) gets on average: a broad hill and a ring."""
    rows, cols = np.indices(layout.image_shape)
    row, col = beam_center(layout)
    radius = np.hypot(rows - row, cols - col)
    scale = radius.max()
    rate = level * (0.6 * np.exp(-((radius / (0.45 * scale)) ** 2)) + np.exp(-(((radius / scale - 0.5) / 0.1) ** 2)))
    rate += 0.1 * level
    inside = collector >= 0
    n_raw = int(np.prod(spec.shape))
    total = np.asarray(np.bincount(collector[inside], rate[inside], minlength=n_raw), np.float64)
    if layout.chip_gap == 0:
        total *= _pixel_areas(spec, layout).ravel()
    return total.reshape(spec.shape)


def _pixel_areas(spec: FrameSpec, layout: ModuleLayout) -> NDArray[np.float64]:
    """Return the area of each raw pixel in units of a normal one, where the image has no gap pixels for it."""
    _, rows, cols = spec.shape
    down, across = (
        np.where(_at_chip_edge(size, chip), 2.0, 1.0)
        for size, chip in zip((rows, cols), layout.chip_shape, strict=True)
    )
    return np.broadcast_to(down[:, None] * across[None, :], spec.shape)


def _at_chip_edge(size: int, chip: int) -> NDArray[np.bool_]:
    at = np.arange(size)
    return ((at % chip == 0) & (at > 0)) | ((at % chip == chip - 1) & (at < size - 1))


def place_spots(layout: ModuleLayout, module: tuple[int, int], count: int, random: np.random.Generator) -> list[Spot]:
    """Choose places and intensities of spots, each well inside a module and apart from the others.

    :param module: image pixels (rows, cols) of a module.
    :param count: how many to try; fewer where there is no room.
    """
    spots: list[Spot] = []
    taken = np.empty((0, 2))
    for _ in range(8 * count):
        if len(spots) == count:
            break
        origin = layout.origins[random.integers(len(layout.origins))]
        place = np.array([random.uniform(o + MARGIN, o + s - 1 - MARGIN) for o, s in zip(origin, module, strict=True)])
        if _near_chip_edge(layout, place - origin):
            continue
        if len(taken) and np.hypot(*(taken - place).T).min() < DISTANCE:
            continue
        taken = np.vstack([taken, place])
        spots.append(Spot(float(place[0]), float(place[1]), float(random.lognormal(np.log(MEDIAN_PHOTONS), SPREAD))))
    return spots


def _near_chip_edge(layout: ModuleLayout, place: NDArray[np.float64]) -> bool:
    """Tell whether a place (row, col) of a module's image is too near to where two chips meet."""
    for position, chip in zip(place, layout.chip_shape, strict=True):
        pitch = chip + layout.chip_gap
        after = (position + 0.5 + layout.chip_gap / 2) % pitch  # from the middle of the last gap
        if min(after, pitch - after) < layout.chip_gap / 2 + 1 + CHIP_MARGIN:
            return True
    return False


def add_spots(
    photons: NDArray[np.int64], collector: NDArray[np.int64], spots: list[Spot], random: np.random.Generator
) -> None:
    """Add the photons of spots to a flat raw frame (pixels,), in place; each spot is a round Gaussian."""
    for spot in spots:
        row, col = round(spot.row), round(spot.col)
        rows, cols = slice(row - MARGIN, row + MARGIN + 1), slice(col - MARGIN, col + MARGIN + 1)
        where = collector[rows, cols]
        at = np.indices(where.shape)
        width = random.uniform(0.7, 1.1)
        distance = (at[0] + row - MARGIN - spot.row) ** 2 + (at[1] + col - MARGIN - spot.col) ** 2
        shape = np.exp(-distance / (2 * width**2))
        counts = random.poisson(spot.photons * shape / shape.sum())
        np.add.at(photons, where[where >= 0], counts[where >= 0])
