"""The Reader's data stream."""

from __future__ import annotations

from ..stream import StreamSource
from .params import ReaderParams


class ReaderSource(StreamSource[ReaderParams]):
    """Parses the Reader's stream; see ``detectors.stream`` for the bytes."""
