"""What the frames of a demo must be: corrected and assembled by NumPy alone, spots as they were simulated.

Nothing here uses the pipeline's code: it is what the pipeline is checked against.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import FrameSpec

MATCH_PIXELS = 2.0  # that a found peak may lie from a simulated spot
STRONG_PHOTONS = 300.0  # spots from here on must be found
DENSE_TOLERANCE = 1e-6  # relative, or absolute below one photon
PSI_TOLERANCE = 1e-5  # relative
PSI_SHARE = 0.999  # of the pixels that must agree with PSI's conversion


def crc(raw: NDArray[np.uint16]) -> int:
    """Return the CRC32 of a raw frame's bytes."""
    return zlib.crc32(np.ascontiguousarray(raw).data)


def correct(raw: NDArray[np.uint16], pedestal: NDArray[np.float32], gain: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the photons of a raw frame (modules, rows, cols): (ADC - pedestal) / gain by gain stage."""
    code = raw >> 14
    stage = np.choose(code, (0, 1, 0, 2))
    adc = (raw & 0x3FFF).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        photons = (adc - np.choose(stage, pedestal)) / np.choose(stage, gain)
    bad = ((pedestal <= 0) | (pedestal >= 16383) | (gain == 0)).any(axis=0)
    photons[raw == 0xC000] = np.inf
    photons[(code == 2) | (raw == 0x4000) | (raw == 0xFFFF) | bad] = np.nan
    return photons.astype(np.float32)


def assemble(photons: NDArray[np.float32], spec: FrameSpec) -> NDArray[np.float32]:
    """Return the image of modules, the charge of double-size pixels shared."""
    layout = spec.layout
    if layout is None:
        return photons
    image = np.full(layout.image_shape, np.nan, np.float32)
    for module, (row, col) in zip(photons, layout.origins, strict=True):
        wide = _spread(_spread(module, layout.chip_shape[0], layout.chip_gap).T, layout.chip_shape[1], layout.chip_gap)
        image[row : row + wide.shape[1], col : col + wide.shape[0]] = wide.T
    return image


def _spread(lines: NDArray[np.float32], chip: int, gap: int) -> NDArray[np.float32]:
    """Insert gap pixels between chips along the first axis: each edge line is shared with its half of the gap."""
    if gap == 0:
        return lines
    half, parts, last = gap // 2, [], len(lines) // chip - 1
    for number in range(last + 1):
        block = lines[number * chip : (number + 1) * chip]
        if number > 0:
            block = np.concatenate([np.repeat(block[:1] / (half + 1), half + 1, axis=0), block[1:]])
        if number < last:
            block = np.concatenate([block[:-1], np.repeat(block[-1:] / (half + 1), half + 1, axis=0)])
        parts.append(block)
    return np.concatenate(parts)


def same_image(got: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    """Tell whether two images agree: to 1e-6 where finite, exactly where not."""
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True):
        return False
    scale = np.maximum(1, np.abs(expected[finite]))
    return bool((np.abs(got[finite] - expected[finite]) <= DENSE_TOLERANCE * scale).all())


def match(peaks: NDArray[np.float32], spots: NDArray[np.float64]) -> tuple[int, int, int]:
    """Compare found peaks with simulated spots.

    :param peaks: (n, columns): row, col, and more.
    :param spots: (m, 3): row, col, photons.
    :returns: peaks that are spots, strong spots that were found, strong spots.
    """
    strong = spots[spots[:, 2] >= STRONG_PHOTONS]
    if not len(peaks) or not len(spots):
        return 0, 0, len(strong)
    right = _near(peaks[:, :2], spots[:, :2]).sum()
    return int(right), int(_near(strong[:, :2], peaks[:, :2]).sum()), len(strong)


def _near(places: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.bool_]:
    if not len(places):
        return np.zeros(0, np.bool_)
    distance = np.hypot(*(places[:, None, :] - others[None, :, :]).transpose(2, 0, 1))
    return distance.min(axis=1) <= MATCH_PIXELS


def converted_frames(recording: Path) -> dict[int, Path]:
    """Return PSI's own converted frames of a recording by number; empty where there are none."""
    found = ((re.search(r"_conv(\d+)\.bin$", path.name), path) for path in sorted(recording.iterdir()))
    return {int(number[1]): path for number, path in found if number}


def agrees_with_psi(got: NDArray[np.float32], converted: NDArray[np.float32], raw: NDArray[np.uint16]) -> float:
    """Return the share of G0 pixels with more than half a photon that agree with PSI's conversion to 1e-5."""
    chosen = (raw >> 14 == 0) & (converted > 0.5)
    with np.errstate(invalid="ignore"):
        good = np.abs(got - converted) <= PSI_TOLERANCE * np.abs(converted)
    return float(good[chosen].mean())
