"""What ``lima2 demo`` is asked to do."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from lima2_receivers.detectors.simulator.params import Size


class DemoOptions(Struct, frozen=True):
    """The options of the demo, checked.

    :param output: folder of everything that it makes.
    :param frames: frames to take; 0: as many as fit, 40 simulated ones or all recorded ones.
    :param receivers: receiver daemons.
    :param size: of the simulated detector.
    :param loss: share of the simulated frames that get lost on their way.
    :param replay: folder of recorded frames; None: simulate.
    :param center: of the beam (row, col); None: the simulator's, or the middle of the recorded image.
    :param poni: geometry; None: ``center``.
    """

    output: Path
    frames: int = 0
    receivers: int = 2
    size: Size = Size.FOUR_M
    loss: float = 0.0
    replay: Path | None = None
    center: tuple[float, float] | None = None
    poni: Path | None = None
