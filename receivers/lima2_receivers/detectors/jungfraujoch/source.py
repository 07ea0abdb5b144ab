"""A Jungfraujoch's image stream: Stream2 with signed pixels, and messages of its own."""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import ProtocolError
from ...source import Item, Remark, SeriesEnd, Source, Stranger
from ..eiger2.events import StreamEnd, StreamImage, StreamStart
from ..eiger2.source import to_frame
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

    def receive(self, message: Sequence[memoryview]) -> list[Item]:
        """Parse one message.

        :raises ProtocolError: it is not what the format allows, or its image is not as the broker was told.
        """
        if len(message) != 1:
            raise ProtocolError(f"got {len(message)} parts, expected one CBOR message")
        content = decode_map(message[0])
        kind = content.get("type")
        if isinstance(kind, str) and kind in PASSED_OVER:
            return []
        event = to_event(content, message[0])
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
