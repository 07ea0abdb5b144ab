"""The simulator's data stream."""

from __future__ import annotations

from ..stream import StreamSource
from .params import SimulatorParams


class SimulatorSource(StreamSource[SimulatorParams]):
    """Parses the simulator's stream; see ``detectors.stream`` for the bytes."""
