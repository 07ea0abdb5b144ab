"""How a detector plugin turns the bytes of its data stream into frames, without doing any I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import Frame, FrameIdx, FrameSpec

from .packing import PackedImage

P = TypeVar("P", bound=msgspec.Struct)
S = TypeVar("S", bound=msgspec.Struct)

STRANGE, REFUSED = -1, -2  # in Located.frames


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


@dataclass(frozen=True, slots=True)
class Located:
    """Where packets belong.

    :param frames: index (n,) of each packet's frame in the acquisition, int64; ``STRANGE``: it is another
        acquisition's, ``REFUSED``: it is not what the protocol allows.
    :param places: (n,) where in its frame a packet's pixels go, in packets from the frame's beginning; of no meaning
        where there is no frame.
    :param refusal: what is wrong with the first packet that is refused; empty where none is.
    """

    frames: NDArray[np.int64]
    places: NDArray[np.intp]
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """Where packets belong that all are of one frame and follow each other: what most often comes.

    :param frame: index of the frame in the acquisition; ``STRANGE``: it is another acquisition's.
    :param first: place of the first packet's pixels; see ``Located``.
    """

    frame: int
    first: int


class PacketSource(ABC, Generic[S, P]):
    """The parser of one acquisition's packets on one receiver, for detectors whose frames come in many datagrams.

    Every datagram has a header and the same number of pixels, which follow each other in the frame.

    :param settings: the detector's table of the configuration.
    :param params: the detector's parameters.
    :param spec: what the frames look like.
    :param series: the number that the detector stamps on this acquisition's frames.
    """

    header_bytes: ClassVar[int]
    payload_bytes: ClassVar[int]

    def __init__(self, settings: S, params: P, spec: FrameSpec, series: int) -> None:
        self.settings = settings
        self.params = params
        self.spec = spec
        self.series = series

    @property
    def keeps_partial(self) -> bool:
        """Whether frames that miss packets are processed and saved all the same."""
        return False

    @abstractmethod
    def locate(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Located | Run:
        """Return where packets belong, from their headers alone. Any bytes may come; none raise an error.

        :param packets: (n, header and payload bytes), as they came.
        :param sizes: bytes (n,) of each datagram as it was sent, which may be more or less than that.
        """
