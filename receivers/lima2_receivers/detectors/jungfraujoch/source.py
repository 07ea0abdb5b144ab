"""A Jungfraujoch's image stream: Stream2 with signed pixels, and messages of its own."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ...errors import ProtocolError
from ...source import Item, Remark, SeriesEnd, Source, Stranger, Surveyed
from ..eiger2.events import StreamEnd, StreamEvent, StreamImage, StreamStart
from ..eiger2.source import survey_event, to_frame
from ..eiger2.stream2 import decode_map, to_event
from .params import JungfraujochParams

PASSED_OVER = frozenset({"calibration", "metadata"})  # types that Stream2 does not have, and nobody here needs


class JungfraujochSource(Source[JungfraujochParams]):
    """Parses the image stream. Pixels stay packed; what is said beside them is kept, as for an Eiger2."""

    remarks = True

    @classmethod
    def begins(cls, message: Sequence[memoryview]) -> bool:
        """Tell whether a message begins a series."""
        try:
            return len(message) == 1 and decode_map(message[0]).get("type") == "start"
        except ProtocolError:
            return False

    @classmethod
    def survey(cls, settings: msgspec.Struct, message: Sequence[memoryview]) -> Surveyed | None:
        """Return what an image tells.

        :raises ProtocolError: the message is not what the format allows.
        """
        del settings
        event = _parse(message)
        return None if event is None else survey_event(event)

    def receive(self, message: Sequence[memoryview]) -> list[Item]:
        """Parse one message.

        :raises ProtocolError: it is not what the format allows, or its image is not as the broker was told.
        """
        event = _parse(message)
        if event is None:
            return []
        if event.series != self.series:
            return [Stranger(event.series)]
        match event:
            case StreamStart(content=content):
                return [Remark(content)]
            case StreamEnd(content=content):
                return [Remark(content), SeriesEnd(None)]
            case StreamImage():
                frame = to_frame(event, self.spec)
                return [frame, Remark(event.extra)] if event.extra else [frame]


def _parse(message: Sequence[memoryview]) -> StreamEvent | None:
    """Parse a message; None: it is of a type that nobody here needs."""
    if len(message) != 1:
        raise ProtocolError(f"got {len(message)} parts, expected one CBOR message")
    content = decode_map(message[0])
    kind = content.get("type")
    if isinstance(kind, str) and kind in PASSED_OVER:
        return None
    return to_event(content, message[0])
