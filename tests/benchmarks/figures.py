"""Measuring contenders side by side, and telling people and machines what came out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table


class Figure(msgspec.Struct, frozen=True):
    """One measured figure.

    :param name: what was measured.
    :param value: median, in ``unit``.
    :param baseline: what it is compared with.
    :param ratio: value over baseline, or baseline over value where faster is larger.
    :param target: as text, such as ``<= 7``; empty: none.
    :param ok: whether the target is met; None: there is none.
    :param device: where it ran.
    """

    name: str
    value: float
    unit: str
    baseline: str
    ratio: float
    target: str
    ok: bool | None
    device: str


class Contender(msgspec.Struct, frozen=True):
    """Something to be timed.

    :param run: does the work once.
    :param frames: that one call works on; the time is divided by it.
    :param calls: of one round: slow ones need fewer.
    """

    run: Callable[[], object]
    frames: int = 1
    calls: int = 4


def measure(contenders: Mapping[str, Contender], rounds: int, quiet: bool) -> dict[str, float]:
    """Time contenders in turns, so that what else the machine does hits all alike.

    :returns: median milliseconds a frame, by name; the first round only warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in track(range(rounds + 1), "measuring", disable=quiet, console=Console(stderr=True)):
        for name, contender in contenders.items():
            for _ in range(contender.calls):
                began = time.perf_counter()
                contender.run()
                if turn:
                    times[name].append((time.perf_counter() - began) * 1e3 / contender.frames)
    return {name: float(np.median(found)) for name, found in times.items()}


def at_least(name: str, value: float, baseline: tuple[str, float], target: float, device: str) -> Figure:
    """Return a figure that is to be so many times faster than its baseline."""
    ratio = baseline[1] / value
    return Figure(name, value, "ms", baseline[0], ratio, f">= {target:g}", ratio >= target, device)


def at_most(name: str, value: float, baseline: tuple[str, float], target: float, device: str) -> Figure:
    """Return a figure that may take so many times its baseline."""
    ratio = value / baseline[1]
    return Figure(name, value, "ms", baseline[0], ratio, f"<= {target:g}", ratio <= target, device)


def arguments(description: str) -> argparse.Namespace:
    """Return the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON, for machines")
    parser.add_argument("--png", type=Path, help="also draw a bar chart into this file")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that each contender takes part in")
    return parser.parse_args()


def report(figures: list[Figure], options: argparse.Namespace) -> None:
    """Print figures as a table, or as JSON, and draw them."""
    if options.png:
        _draw(figures, options.png)
    if options.json:
        sys.stdout.write(msgspec.json.encode(figures).decode() + "\n")
        return
    table = Table(title=f"on {figures[0].device}")
    for head in ("figure", "value", "compared with", "ratio", "target", ""):
        table.add_column(head, justify="right" if head in ("value", "ratio") else "left")
    for one in figures:
        verdict = {True: "met", False: "missed", None: ""}[one.ok]
        table.add_row(one.name, f"{one.value:.2f} {one.unit}", one.baseline, f"{one.ratio:.2f}", one.target, verdict)
    Console(width=140).print(table)


def _draw(figures: list[Figure], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [one for one in figures if one.target]
    picture, axes = plt.subplots(figsize=(10, 0.6 * len(shown) + 1.5), layout="constrained")
    for at, one in enumerate(shown):
        limit = float(one.target.split()[1])
        part = one.ratio / limit if one.target.startswith(">") else limit / one.ratio
        axes.barh(at, part, color="#4c9f70" if one.ok else "#c0504d")
        axes.text(part, at, f" {one.ratio:.1f}, target {one.target}", va="center", fontsize=9)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [f"{one.name}\nagainst {one.baseline}" for one in shown], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * axes.get_xlim()[1])
    axes.set_xlabel("how far beyond the target: 1 just meets it")
    axes.set_title(f"on {figures[0].device}", fontsize=10)
    picture.savefig(path, dpi=120)
