"""An Eiger2's data stream, in either format."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from lima2_processing.frame import Frame, FrameIdx, FrameSpec

from ...errors import ProtocolError
from ...source import PackedFrame, SeriesEnd, Source, Stranger
from .events import StreamEnd, StreamEvent, StreamImage, StreamStart
from .params import Eiger2Params
from .stream1 import parse_stream1
from .stream2 import parse_stream2

_JSON = ord("{")  # what every header of Stream v1 begins with, and no CBOR map


class Eiger2Source(Source[Eiger2Params]):
    """Parses Stream2 and Stream v1, told apart by their first byte. Pixels stay packed."""

    def receive(self, message: Sequence[memoryview]) -> list[Frame | PackedFrame | SeriesEnd | Stranger]:
        """Parse one message.

        :raises ProtocolError: it is neither format, or its image is not as the detector said when it was armed.
        """
        event = _parse(message)
        if event.series != self.series:
            return [Stranger(event.series)]
        match event:
            case StreamStart():
                return []
            case StreamEnd():
                return [SeriesEnd(None)]
            case StreamImage():
                return [to_frame(event, self.spec)]


def to_frame(image: StreamImage, spec: FrameSpec) -> PackedFrame:
    """Return an image as a frame.

    :param spec: what frames look like.
    :raises ProtocolError: it does not look so.
    """
    n_channels = 1 if len(spec.shape) == 2 else spec.shape[0]
    got = (len(image.channels), *image.shape, image.dtype)
    if got != (expected := (n_channels, *spec.shape[-2:], spec.dtype)):
        raise ProtocolError(f"image {image.index}: got channels, rows, cols, type {got}, expected {expected}")
    timestamp = time.time() if math.isnan(image.timestamp) else image.timestamp
    return PackedFrame(FrameIdx(image.index), image.channels, timestamp)


def _parse(message: Sequence[memoryview]) -> StreamEvent:
    if message and message[0].nbytes and message[0][0] == _JSON:
        return parse_stream1(message)
    if len(message) != 1:
        raise ProtocolError(f"got {len(message)} parts that begin with no JSON, expected one CBOR message")
    return parse_stream2(message[0])
