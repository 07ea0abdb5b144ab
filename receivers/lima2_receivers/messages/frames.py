"""Looking a frame up: where it is, and its pixels while a receiver still has them in memory."""

from __future__ import annotations

from msgspec import Struct

from lima2_processing.frame import AcquisitionId, LocalIdx, ReceiverIdx

from ..ledger import FrameStatus
from ..plan import Compression
from .base import Message
from .commands import Dataset


class LocateFrame(Message, frozen=True):
    """Ask a conductor where a frame is.

    :param frame: its number; -1: the latest that is saved, among the leading ones whose fate is known.
    :param output: name of the output that is wanted, such as ``raw``; empty: the main image.
    """

    acquisition: AcquisitionId
    frame: int = -1
    output: str = ""


class Place(Struct, frozen=True):
    """Where a frame is.

    :param receiver: that has it.
    :param row: in that receiver's files.
    :param endpoint: of that receiver's commands.
    """

    receiver: ReceiverIdx
    row: LocalIdx
    endpoint: str


class FrameLocation(Message, frozen=True):
    """Where a frame is, and what became of it.

    :param frame: its number.
    :param status: what became of it.
    :param reason: why it is lost, vetoed or failed, or what is missing of it.
    :param place: of its row.
    :param master_file: absolute path.
    :param dataset: of the master file, whose row of the frame's number is the frame.
    """

    acquisition: AcquisitionId
    frame: int
    status: FrameStatus
    reason: str
    place: Place
    master_file: str
    dataset: Dataset


class GetFrame(Message, frozen=True):
    """Ask a receiver for an image that it still has in memory.

    :param output: its name.
    """

    acquisition: AcquisitionId
    row: LocalIdx
    output: str


class FrameChunk(Message, frozen=True):
    """An image, as it went to the file.

    :param compression: of ``data``.
    :param data: the encoded pixels.
    """

    compression: Compression
    data: bytes
