"""The frames of a simulated Jungfrau, and how they look as an acquisition has them read out."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from lima2_processing.frame import FrameSpec

from ..protocol import Arm
from ..simulator.supply import Look, simulate_frames
from ..supply import Supply, scene
from .params import ROWS, JungfrauSettings, frame_spec


def jungfrau_supply(settings: JungfrauSettings, look: Look, unwanted: threading.Event) -> Supply:
    """Make all distinct frames; see ``simulate_frames``."""
    n_modules = settings.n_modules
    model = f"Simulated Jungfrau of {n_modules} module{'s' if n_modules > 1 else ''}"
    return simulate_frames(model, frame_spec(settings), look, Path(settings.folder), unwanted)


def read_out_as(settings: JungfrauSettings, whole: Supply, arm: Arm) -> Supply:
    """Return frames with as many rows as an acquisition reads out of each module, around its middle."""
    rows = arm.read_rows or ROWS
    if rows == ROWS:
        return whole
    spec: FrameSpec = frame_spec(settings, rows)
    first = (ROWS - rows) // 2
    frames = tuple(np.ascontiguousarray(frame[:, first : first + rows]) for frame in whole.frames)
    scenes = tuple(scene(frame, known.spots) for frame, known in zip(frames, whole.scenes, strict=True))
    return Supply(whole.model, spec, frames, scenes, whole.limit)
