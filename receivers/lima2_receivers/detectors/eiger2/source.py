"""An Eiger2's data stream, in either format."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import msgspec

from lima2_processing.frame import FrameIdx, FrameSpec

from ...errors import ProtocolError
from ...source import Item, PackedFrame, Remark, SeriesEnd, Source, Stranger, Surveyed
from .events import StreamEnd, StreamEvent, StreamImage, StreamStart
from .params import Eiger2Params
from .stream1 import parse_stream1
from .stream2 import parse_stream2

_JSON = ord("{")  # what every header of Stream v1 begins with, and no CBOR map


class Eiger2Source(Source[Eiger2Params]):
    """Parses Stream2 and Stream v1, told apart by their first byte. Pixels stay packed.

    Start, end, and what users say of an image are kept as remarks; ``header.read_header`` reads them.
    """

    remarks = True
    _unique = ""  # id of the series; empty: not known yet

    @classmethod
    def begins(cls, message: Sequence[memoryview]) -> bool:
        """Tell whether a message begins a series. An Eiger2 sends it when it is armed."""
        try:
            return isinstance(_parse(message), StreamStart)
        except ProtocolError:
            return False

    @classmethod
    def survey(cls, settings: msgspec.Struct, message: Sequence[memoryview]) -> Surveyed | None:
        """Return what an image tells.

        :raises ProtocolError: the message is neither format.
        """
        del settings
        return survey_event(_parse(message))

    def receive(self, message: Sequence[memoryview]) -> list[Item]:
        """Parse one message.

        :raises ProtocolError: it is neither format, or its image is not as the detector said when it was armed.
        """
        event = _parse(message)
        if event.series != self.series or not self._is_own(event):
            return [Stranger(event.series)]
        match event:
            case StreamStart(content=content):
                return [Remark(content)]
            case StreamEnd(content=content):
                return [Remark(content), SeriesEnd(None)]
            case StreamImage():
                frame = to_frame(event, self.spec)
                return [frame, Remark(event.extra)] if event.extra else [frame]

    def _is_own(self, event: StreamEvent) -> bool:
        """Tell whether it is of this series and not of one that had the same number before the detector was restarted.

        The start tells the id; where it got lost, the first image does.
        """
        if event.unique and (isinstance(event, StreamStart) or not self._unique):
            self._unique = event.unique
        return not event.unique or event.unique == self._unique


def survey_event(event: StreamEvent) -> Surveyed | None:
    """Return what an image tells of its series; None: it is no image."""
    if not isinstance(event, StreamImage):
        return None
    shape = event.shape if len(event.channels) == 1 else (len(event.channels), *event.shape)
    return Surveyed(event.series, FrameSpec(shape, event.dtype))


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
