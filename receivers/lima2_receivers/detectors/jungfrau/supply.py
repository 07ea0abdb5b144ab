"""The frames of a simulated Jungfrau, and how they look as an acquisition has them read out."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from ..protocol import Arm
from ..simulator.supply import Look, simulate_frames
from ..supply import Supply, scene
from .params import ROWS, JungfrauSettings, frame_spec


class JungfrauSupply:
    """All distinct frames, by the gain stage that pixels are forced to; made when they are first needed.

    :param settings: of the detector.
    :param look: what is on the frames.
    """

    def __init__(self, settings: JungfrauSettings, look: Look) -> None:
        self._settings = settings
        self._look = look
        self._by_gain: dict[int, Supply] = {}

    def make(self, unwanted: threading.Event | None = None, gain: int = 0) -> Supply:
        """Return whole frames; see ``simulate_frames``."""
        if gain not in self._by_gain:
            n_modules = self._settings.n_modules
            model = f"Simulated Jungfrau of {n_modules} module{'s' if n_modules > 1 else ''}"
            spec, folder = frame_spec(self._settings), Path(self._settings.folder)
            self._by_gain[gain] = simulate_frames(model, spec, self._look, folder, unwanted, gain)
        return self._by_gain[gain]

    def read_out(self, arm: Arm) -> Supply:
        """Return frames with as many rows as an acquisition reads out of each module, around its middle."""
        whole = self.make(gain=arm.gain)
        rows = arm.read_rows or ROWS
        if rows == ROWS:
            return whole
        first = (ROWS - rows) // 2
        frames = tuple(np.ascontiguousarray(frame[:, first : first + rows]) for frame in whole.frames)
        scenes = tuple(scene(frame, known.spots) for frame, known in zip(frames, whole.scenes, strict=True))
        return Supply(whole.model, frame_spec(self._settings, rows), frames, scenes, whole.limit)
