"""The Reader's frames, read before the first is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..supply import Supply, scene
from .params import ReaderSettings
from .recording import find_recording


def read_supply(settings: ReaderSettings) -> Supply:
    """Read all frames of a recording.

    :raises ConfigError: the recording is not complete.
    """
    recording = find_recording(Path(settings.recording))
    spec = recording.spec
    frames = tuple(np.fromfile(path, spec.dtype).reshape(spec.shape) for path in recording.raw)
    return Supply("Recorded Jungfrau module", spec, frames, tuple(scene(frame) for frame in frames), len(frames))
