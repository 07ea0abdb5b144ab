"""The simulator's data stream."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...source import Surveyed
from ..stream import StreamSource
from .params import SimulatorParams, SimulatorSettings, frame_spec


class SimulatorSource(StreamSource[SimulatorParams]):
    """Parses the simulator's stream; see ``detectors.stream`` for the bytes."""

    @classmethod
    def survey(cls, settings: msgspec.Struct, message: Sequence[memoryview]) -> Surveyed | None:
        """Return what a frame's header tells, and how the modules of the configured detector lie."""
        found = super().survey(settings, message)
        if found is None or not isinstance(settings, SimulatorSettings):
            return found
        spec = frame_spec(settings)
        return (
            Surveyed(found.series, spec) if (spec.shape, spec.dtype) == (found.spec.shape, found.spec.dtype) else found
        )
