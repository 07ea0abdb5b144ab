"""How a detector plugin turns the bytes of its data stream into frames, without doing any I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from lima2_processing.frame import Frame, FrameIdx, FrameSpec

from .packing import PackedImage

P = TypeVar("P", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class SeriesEnd:
    """The detector says that it has sent everything of this series to this receiver.

    :param n_frames: how many frames the whole series has, over all receivers; None: it does not say.
    """

    n_frames: int | None


@dataclass(frozen=True, slots=True)
class PackedFrame:
    """One complete frame whose pixels are packed. They are unpacked later, and only where somebody needs them.

    :param index: see ``Frame``.
    :param channels: the pixels, one image a channel.
    :param timestamp: see ``Frame``.
    """

    index: FrameIdx
    channels: tuple[PackedImage, ...]
    timestamp: float


@dataclass(frozen=True, slots=True)
class Stranger:
    """A well-formed message that belongs to another series: a straggler, or another acquisition's frame."""

    series: int


class Source(ABC, Generic[P]):
    """The parser of one acquisition's data stream on one receiver.

    :param params: the detector's parameters.
    :param spec: what the frames look like.
    :param series: the number that the detector stamps on this acquisition's frames.
    """

    def __init__(self, params: P, spec: FrameSpec, series: int) -> None:
        self.params = params
        self.spec = spec
        self.series = series

    @abstractmethod
    def receive(self, message: Sequence[memoryview]) -> list[Frame | PackedFrame | SeriesEnd | Stranger]:
        """Parse one message of the transport.

        :param message: its parts. The second part lies in the frame ring: a returned Frame's data is a view of it, not
            a copy. All parts but the second stay as they are.
        :raises ProtocolError: the bytes are not what the detector's protocol allows; nothing of them was used.
        """
