"""What the stages compute, in plain NumPy and float64: written for reading, pixel by pixel where that is clearest."""

from dataclasses import dataclass

import numpy as np

SATURATED, ERROR_LOW, ERROR_HIGH = 0xC000, 0x4000, 0xFFFF


def correct(raw, pedestal, gain):
    """Raw words (n,) to photons, with pedestals and gains (3, n)."""
    stage = raw >> 14
    plane = np.minimum(stage, 2)
    pixel = np.arange(raw.size)
    with np.errstate(divide="ignore", invalid="ignore"):
        photons = ((raw & 0x3FFF) - pedestal[plane, pixel]) / gain[plane, pixel]
    photons[raw == SATURATED] = np.inf
    photons[(stage == 2) | (raw == ERROR_LOW) | (raw == ERROR_HIGH)] = np.nan
    bad = (pedestal <= 0) | (pedestal >= 16383) | ~np.isfinite(pedestal) | ~np.isfinite(gain) | (gain == 0)
    photons[bad.any(axis=0)] = np.nan
    return photons


def assemble(modules, layout):
    """Modules (n, rows, cols) to the image: chips apart by the gap, edge pixels spread over two image pixels."""
    image = np.full(layout.image_shape, np.nan)
    gap = layout.chip_gap
    n_down, n_across = (modules.shape[axis + 1] // layout.chip_shape[axis] for axis in (0, 1))
    for module, (top, left) in zip(modules, layout.origins, strict=True):
        for down in range(n_down):
            for across in range(n_across):
                for row in range(layout.chip_shape[0]):
                    for col in range(layout.chip_shape[1]):
                        r = down * layout.chip_shape[0] + row
                        c = across * layout.chip_shape[1] + col
                        rows = _spread(row, layout.chip_shape[0], down, n_down, gap)
                        cols = _spread(col, layout.chip_shape[1], across, n_across, gap)
                        for y in rows:
                            for x in cols:
                                share = module[r, c] / (len(rows) * len(cols))
                                image[top + r + gap * down + y, left + c + gap * across + x] = share
    return image


def _spread(at, size, chip, n_chips, gap):
    """Offsets of the image pixels that a chip's pixel covers along one axis."""
    offsets = [0]
    if gap and at == 0 and chip > 0:
        offsets.insert(0, -1)
    if gap and at == size - 1 and chip < n_chips - 1:
        offsets.append(1)
    return offsets


@dataclass
class Clipped:
    """Mean and deviation of what is left, and how near any value came to a limit, relative to the values."""

    mean: float
    deviation: float
    margin: float


def sigma_clip(values, cutoff, cycles, poisson=False):
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return Clipped(np.nan, np.nan, 1.0)
    margin = 1.0

    def spread(kept):
        return kept.mean(), np.sqrt(np.maximum(kept, 1).mean()) if poisson else kept.std()

    mean, deviation = spread(values)
    for _ in range(cycles):
        cut = max(cutoff, np.sqrt(2 * np.log(max(3, len(values)) / np.sqrt(2 * np.pi))))
        distance = np.abs(values - mean)
        if deviation > 0:
            scale = np.abs(values) + abs(mean) + cut * deviation
            margin = min(margin, float((np.abs(distance - cut * deviation) / scale).min()))
        kept = values[distance <= cut * deviation]
        if len(kept) in (0, len(values)):
            break
        values = kept
        mean, deviation = spread(values)
    return Clipped(mean, deviation, margin)


def background_at(bins, mean, deviation, noise):
    """Background and uncertainty at each pixel, linearly interpolated between the centres of bins."""
    place = bins.position.astype(np.float64)
    known = np.isfinite(mean)
    at = np.arange(len(mean), dtype=np.float64)
    level = np.interp(place, at[known], mean[known])
    sigma = np.interp(place, at[known], deviation[known])
    level[np.isnan(place)] = np.nan
    return level, np.hypot(sigma, noise)


def peaks(image, level, uncertainty, cutoff, patch, connected):
    """Peaks (n, 5) of row, col, intensity, sigma, snr, in the order of their pixels."""
    half = patch // 2
    signal = image - level
    signal[~np.isfinite(signal)] = -1
    found = []
    rows, cols = image.shape
    for row in range(half, rows - half):
        for col in range(half, cols - half):
            if not signal[row, col] > cutoff * uncertainty[row, col]:
                continue
            window = np.s_[row - half : row + half + 1, col - half : col + half + 1]
            part = np.maximum(signal[window], 0)
            first = np.unravel_index(part.argmax(), part.shape)
            if first != (half, half) or (signal[window] > cutoff * uncertainty[window]).sum() < connected:
                continue
            total = part.sum()
            y, x = np.indices(part.shape) - half
            sigma = np.sqrt((uncertainty[window][part > 0] ** 2).sum())
            found.append((row + (part * y).sum() / total, col + (part * x).sum() / total, total, sigma, total / sigma))
    return np.array(found).reshape(-1, 5)
