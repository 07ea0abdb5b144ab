"""The frames that the benchmarks process: an Eiger2-like 4M with rings and spots, and raw words of a Jungfrau 4M."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec
from lima2_processing.layouts import jungfrau

SHAPE = (2164, 2068)
CENTER = (1089.8, 1040.2)  # row, col
MASKED = 65535
GAPS = (np.s_[512:550], np.s_[1062:1100], np.s_[1612:1650], np.s_[:, 1028:1040])


def eiger_mask() -> NDArray[np.int8]:
    """Return gaps between modules and a few dead pixels, 1 where masked."""
    mask = np.zeros(SHAPE, np.int8)
    for gap in GAPS:
        mask[gap] = 1
    mask.flat[np.random.default_rng(1).integers(0, mask.size, 2000)] = 1
    return mask


def eiger(seed: int = 0, level: float = 1.0, n_spots: int = 200) -> NDArray[np.uint16]:
    """Return a frame of counts; masked pixels hold the largest value.

    :param level: 1: rings of up to about 6 counts.
    """
    rng = np.random.default_rng(seed)
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(y - CENTER[0], x - CENTER[1])
    rings = 4 * np.exp(-((radius / 600) ** 2)) + 6 * np.exp(-(((radius - 700) / 150) ** 2)) + 0.3
    image = rng.poisson(level * rings).astype(np.int64)
    patch_y, patch_x = np.mgrid[-5:6, -5:6]
    for _ in range(n_spots):
        row, col = rng.integers(10, SHAPE[0] - 10), rng.integers(10, SHAPE[1] - 10)
        width, strength = rng.uniform(0.6, 1.1), rng.lognormal(6.5, 1.0)
        offset = rng.uniform(-0.5, 0.5, 2)
        spot = np.exp(-((patch_y - offset[0]) ** 2 + (patch_x - offset[1]) ** 2) / (2 * width**2))
        image[row - 5 : row + 6, col - 5 : col + 6] += rng.poisson(strength * spot / spot.sum())
    counts = np.minimum(image, MASKED - 1).astype(np.uint16)
    counts[eiger_mask() != 0] = MASKED
    return counts


def jungfrau_4m() -> tuple[FrameSpec, NDArray[np.uint16], dict[str, NDArray[np.float32]]]:
    """Return what a Jungfrau 4M sends: its spec, a raw frame with pixels of all gains, pedestals and gains by name."""
    spec = jungfrau(8)
    n_pixels = int(np.prod(spec.shape))
    rng = np.random.default_rng(0)
    pedestal = np.stack([rng.normal(mean, 50, n_pixels) for mean in (2500, 14000, 14500)]).astype(np.float32)
    gain = np.stack([np.full(n_pixels, adu, np.float32) for adu in (41.0, -1.4, -0.11)])
    raw = np.clip(rng.normal(2600, 60, n_pixels), 0, 16383).astype(np.uint16)
    raw[rng.integers(0, n_pixels, n_pixels // 2000)] = 1 << 14 | 13000
    raw[rng.integers(0, n_pixels, n_pixels // 20000)] = 3 << 14 | 14000
    return spec, raw.reshape(spec.shape), {"pedestal.0": pedestal, "gain.0": gain}
