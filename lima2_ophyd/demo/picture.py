"""The picture of a run: sum image with the peaks that were found, radial background, hit rate over time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HIT_WINDOW = 10  # frames of the running hit rate
MAX_CIRCLES = 4000


class Picture:
    """Gathers what the picture shows, frame by frame.

    :param title: of the picture.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.total: NDArray[np.float64] | None = None
        self.peaks: list[NDArray[np.float32]] = []
        self.hits: list[bool] = []

    def add(self, dense: NDArray[np.float32], peaks: NDArray[np.float32], hit: bool) -> None:
        """Add a frame (rows, cols) with its peaks (n, columns), row and col first."""
        if self.total is None:
            self.total = np.zeros(dense.shape)
        self.total += np.where(np.isposinf(dense), 0, dense)
        self.peaks.append(peaks)
        self.hits.append(hit)


def draw(picture: Picture, radius: NDArray[np.float32], background: NDArray[np.float32], path: Path) -> None:
    """Write the picture.

    :param radius: of each bin in mm (bins,).
    :param background: photons a pixel (frames, bins).
    :param path: of the PNG.
    """
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(13, 7.6), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.35, 1))
    _draw_sum(figure.add_subplot(grid[:, 0]), picture)
    _draw_background(figure.add_subplot(grid[0, 1]), radius, background)
    _draw_hits(figure.add_subplot(grid[1, 1]), picture.hits)
    figure.suptitle(picture.title, fontsize=14)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_sum(axes, picture: Picture) -> None:  # noqa: ANN001 - matplotlib is imported when it is needed
    from matplotlib.colors import LogNorm

    total = picture.total if picture.total is not None else np.zeros((1, 1))
    positive = total[np.isfinite(total) & (total > 0)]
    low, high = np.percentile(positive, (2, 99.8)) if positive.size else (0.1, 1)
    axes.set_facecolor("0.85")
    image = axes.imshow(np.clip(total, low, None), norm=LogNorm(low, max(high, 2 * low)), cmap="magma")
    peaks = np.concatenate(picture.peaks) if picture.peaks else np.empty((0, 2))
    shown = peaks[:: max(1, len(peaks) // MAX_CIRCLES)]
    axes.scatter(shown[:, 1], shown[:, 0], s=26, facecolors="none", edgecolors="#35d0ff", linewidths=0.5)
    axes.set_title(f"sum of {len(picture.hits)} frames, {len(peaks)} peaks found")
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.figure.colorbar(image, ax=axes, label="photons", shrink=0.8)


def _draw_background(axes, radius: NDArray[np.float32], background: NDArray[np.float32]) -> None:  # noqa: ANN001
    if len(background):
        low, middle, high = np.nanpercentile(background, (10, 50, 90), axis=0)
        axes.fill_between(radius, low, high, color="#35a0d0", alpha=0.35, label="10 to 90 % of the frames")
        axes.plot(radius, middle, color="#10486b", label="median")
        axes.legend(frameon=False)
    axes.set_title("radial background")
    axes.set_xlabel("radius (mm)")
    axes.set_ylabel("photons a pixel")
    axes.set_ylim(bottom=0)


def _draw_hits(axes, hits: list[bool]) -> None:  # noqa: ANN001
    flags = np.array(hits, float)
    if len(flags):
        window = min(HIT_WINDOW, len(flags))
        rate = np.convolve(flags, np.ones(window) / window, mode="valid")
        axes.bar(np.arange(len(flags)), flags * 100, width=1.0, color="#f3b562", alpha=0.5, label="hit")
        axes.plot(np.arange(window - 1, len(flags)), rate * 100, color="#b03a2e", label=f"mean of {window} frames")
        axes.legend(frameon=False, loc="upper right")
        axes.set_xlim(-0.5, len(flags) - 0.5)
    axes.set_title(f"hit rate {flags.mean():.0%}" if len(flags) else "hit rate")
    axes.set_xlabel("frame")
    axes.set_ylabel("%")
    axes.set_ylim(0, 110)
