"""The Reader's frames, read before the first is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...errors import ConfigError
from ..supply import Supply, scene
from .params import ReaderSettings
from .recording import find_recording


def read_supply(settings: ReaderSettings) -> Supply:
    """Read all frames of a recording.

    :raises ConfigError: the recording is not complete or can't be read.
    """
    folder = Path(settings.recording)
    try:
        recording = find_recording(folder)
        spec = recording.spec
        frames = tuple(np.fromfile(path, spec.dtype).reshape(spec.shape) for path in recording.raw)
    except OSError as error:
        raise ConfigError(f"recording {folder}: {error.filename or folder}: {error.strerror}") from error
    return Supply("Recorded Jungfrau module", spec, frames, tuple(scene(frame) for frame in frames), len(frames))
