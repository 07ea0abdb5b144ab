"""What the terminal shows while frames come: a progress bar and a table."""

from __future__ import annotations

import time
from typing import Self

from bluesky.protocols import Reading
from bluesky.run_engine import call_in_bluesky_event_loop
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lima2_ophyd.detector import Lima2Detector

SHOWN = ("announced", "received", "processed", "saved", "vetoed", "lost", "failed", "hits", "hit_rate", "written")
REFRESH_HZ = 8


class LiveView:
    """Follows a detector's counters. A context manager; the view is redrawn by a thread of its own.

    :param detector: connected.
    :param console: where to draw.
    :param frames: that will come.
    """

    def __init__(self, detector: Lima2Detector, console: Console, frames: int) -> None:
        self._detector = detector
        self._console = console
        self._values: dict[str, float] = dict.fromkeys(SHOWN, 0)
        self._started = 0.0
        self._last = 0.0
        self._progress = Progress(
            TextColumn("[bold]taking frames"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task("frames", total=frames)
        self._live = Live(self, console=console, refresh_per_second=REFRESH_HZ, transient=False)

    @property
    def seconds(self) -> float:
        """From the trigger to the last frame that was settled."""
        return max(self._last - self._started, 0.0)

    def __enter__(self) -> Self:
        call_in_bluesky_event_loop(self._subscribe())
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        call_in_bluesky_event_loop(self._unsubscribe())
        self._live.stop()
        self._console.print()

    def __rich__(self) -> Group:
        values = self._values
        self._progress.update(self._task, completed=int(values["written"]))
        table = Table("frames", "saved", "vetoed", "lost", "failed", "hits", "hit rate", "frames/s")
        elapsed = max((self._last or time.monotonic()) - (self._started or time.monotonic()), 0)
        rate = f"{values['written'] / elapsed:.1f}" if elapsed > 0 and values["written"] else "-"
        counts = (f"{int(values[name])}" for name in ("received", "saved", "vetoed", "lost", "failed", "hits"))
        table.add_row(*counts, f"{values['hit_rate']:.0%}", rate)
        return Group(self._progress, table)

    async def _subscribe(self) -> None:
        for name in SHOWN:
            getattr(self._detector, name).subscribe_reading(self._take)

    async def _unsubscribe(self) -> None:
        for name in SHOWN:
            getattr(self._detector, name).clear_sub(self._take)

    def _take(self, readings: dict[str, Reading[float]]) -> None:
        for name, reading in readings.items():
            short = name.removeprefix(f"{self._detector.name}-")
            if short in self._values and reading["value"] != self._values[short]:
                self._values[short] = reading["value"]
                if short == "announced" and not self._started:
                    self._started = time.monotonic()
                if short == "written":
                    self._last = time.monotonic()
