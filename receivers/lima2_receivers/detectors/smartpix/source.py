"""Which frames a Smartpix's transfers are."""

from __future__ import annotations

from lima2_processing.frame import FrameIdx, FrameSpec

from ...errors import ProtocolError
from ...source import Stranger, TransferSource
from ...transfers import Completion
from .params import MAIN, SmartpixParams, descriptors


class SmartpixSource(TransferSource[SmartpixParams]):
    """Takes the main stream. A transfer has the detector's own number of the frame, of which only some are sent."""

    def __init__(self, params: SmartpixParams, spec: FrameSpec, series: int) -> None:
        super().__init__(params, spec, series)
        self._streams = descriptors(params)

    def locate(self, completion: Completion) -> FrameIdx | Stranger | None:
        """Return which frame a transfer is; see ``TransferSource.locate``."""
        if completion.series != self.series:
            return Stranger(completion.series)
        if completion.channel >= len(self._streams):
            raise ProtocolError(f"got channel {completion.channel}, expected one of {len(self._streams)}")
        if completion.channel != MAIN:
            return None
        position = self._streams[MAIN].position(completion.frame)
        if position is None:
            raise ProtocolError(f"got frame {completion.frame}, expected a multiple of {self.params.every}")
        if completion.nbytes != self.spec.nbytes:
            raise ProtocolError(f"got a frame of {completion.nbytes} bytes, expected {self.spec.nbytes}")
        return FrameIdx(position)
