"""How a detector plugin turns the bytes of its data stream into frames, without doing any I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from lima2_processing.frame import Frame, FrameIdx, FrameSpec

from .packing import PackedImage
from .plan import FileExistsPolicy
from .transfers import Completion

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
class Surveyed:
    """What messages alone tell of their acquisition, where nobody knows its plan.

    :param series: the number that the detector stamped on the frames.
    :param spec: what they look like.
    """

    series: int
    spec: FrameSpec


@dataclass(frozen=True, slots=True)
class Stranger:
    """A well-formed message that belongs to another series: a straggler, or another acquisition's frame."""

    series: int


@dataclass(frozen=True, slots=True)
class Remark:
    """What a detector says beside its pixels, kept as it is.

    :param data: a CBOR item.
    """

    data: bytes


Item = Frame | PackedFrame | SeriesEnd | Stranger | Remark
"""What a message of a data stream holds."""


class Source(ABC, Generic[P]):
    """The parser of one acquisition's data stream on one receiver.

    A source with ``remarks`` may return some; they are kept in a file of their own.

    :param params: the detector's parameters.
    :param spec: what the frames look like.
    :param series: the number that the detector stamps on this acquisition's frames.
    """

    remarks: ClassVar[bool] = False

    @classmethod
    def begins(cls, message: Sequence[memoryview]) -> bool:
        """Tell whether a message begins a series: one that comes before its acquisition is known is kept for it."""
        del message
        return False

    def __init__(self, params: P, spec: FrameSpec, series: int) -> None:
        self.params = params
        self.spec = spec
        self.series = series

    @classmethod
    def survey(cls, settings: msgspec.Struct, message: Sequence[memoryview]) -> Surveyed | None:
        """Return what a message tells of its series, so that a capture of it can be played; None: nothing.

        :param settings: the detector's table of the configuration.
        :param message: its parts.
        :raises ProtocolError: the bytes are not what the detector's protocol allows.
        """
        del settings, message
        return None

    @abstractmethod
    def receive(self, message: Sequence[memoryview]) -> list[Item]:
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
    :param refusals: how many packets are refused, by what is wrong with them.
    """

    frames: NDArray[np.int64]
    places: NDArray[np.intp]
    refusals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """Where packets belong that all are of one frame and follow each other: what most often comes.

    :param frame: index of the frame in the acquisition; ``STRANGE``: it is another acquisition's.
    :param first: place of the first packet's pixels; see ``Located``.
    """

    frame: int
    first: int


@dataclass(frozen=True, slots=True)
class FramePackets:
    """The packets of a frame, as they came.

    :param data: pixels, as the FrameSpec says.
    :param came: which packets did (packets,), in the order of the pixels.
    :param headers: of the first packet that came of each module (modules, bytes); zeros where none did.
    """

    index: FrameIdx
    data: NDArray[np.generic]
    came: NDArray[np.bool_]
    headers: NDArray[np.uint8]


class PacketFiles(Protocol):
    """Files of packets as they came, in a format of the detector's maker. Made empty; used by one thread at a time."""

    def write(self, packets: FramePackets) -> None:
        """Append a frame.

        :raises SavingError: it can't be written.
        """
        ...

    def close(self) -> None:
        """Finish the files. Idempotent.

        :raises SavingError: they can't be written.
        """
        ...

    def keep(self) -> None:
        """Let them stay, and those that they replaced go. Idempotent."""
        ...

    def discard(self) -> None:
        """Remove them, and put back those that they were to replace. Idempotent."""
        ...


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

    @classmethod
    def survey(cls, settings: S, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Surveyed | None:
        """Return what packets tell of their acquisition, so that a capture of it can be played; None: nothing.

        Any bytes may come; none raise an error.

        :param packets: the first of it, some frames' worth; see ``locate``.
        """
        del settings, packets, sizes
        return None

    @property
    def keeps_partial(self) -> bool:
        """Whether frames that miss packets are processed and saved all the same."""
        return False

    def file_names(self, prefix: str, rank: int) -> tuple[str, ...]:
        """Return the names of the files that packets are saved in on a receiver; none: they aren't."""
        del prefix, rank
        return ()

    def make_files(self, folder: Path, prefix: str, rank: int, policy: FileExistsPolicy) -> PacketFiles | None:
        """Make these files, empty; None: there are none.

        :raises SavingError: they can't be made; none is left behind.
        """
        del folder, prefix, rank, policy
        return None

    @abstractmethod
    def locate(self, packets: NDArray[np.uint8], sizes: NDArray[np.uint32]) -> Located | Run:
        """Return where packets belong, from their headers alone. Any bytes may come; none raise an error.

        :param packets: (n, header and payload bytes), as they came.
        :param sizes: bytes (n,) of each datagram as it was sent, which may be more or less than that.
        """


class TransferSource(ABC, Generic[P]):
    """Tells which frames a detector's transfers into the receiver's memory are, for detectors that write there.

    :param params: the detector's parameters.
    :param spec: what the frames look like.
    :param series: the number that the detector stamps on this acquisition's frames.
    """

    def __init__(self, params: P, spec: FrameSpec, series: int) -> None:
        self.params = params
        self.spec = spec
        self.series = series

    @abstractmethod
    def locate(self, completion: Completion) -> FrameIdx | Stranger | None:
        """Return which frame a transfer is, from its completion record alone; None: it is of another of its streams.

        A frame that is returned has ``spec.nbytes`` bytes.

        :raises ProtocolError: the detector's protocol does not allow it.
        """
