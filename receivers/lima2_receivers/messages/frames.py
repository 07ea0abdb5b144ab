"""What became of frames: all of them in short, or one, with its pixels while a receiver still has them in memory."""

from __future__ import annotations

from msgspec import Struct

from lima2_processing.frame import AcquisitionId, LocalIdx, ReceiverIdx

from ..ledger import Counts, FrameStatus
from ..plan import Compression
from .base import Message
from .commands import Dataset


class GetLedger(Message, frozen=True):
    """Ask a conductor what became of all frames of an acquisition so far."""

    acquisition: AcquisitionId


class FateRuns(Struct, frozen=True):
    """What became of the leading frames: runs of frames with one status, in order and without gaps.

    :param first: number of the first frame of each run.
    :param count: frames of each.
    :param status: of each, as numbers of ``FrameStatus``.
    """

    first: tuple[int, ...]
    count: tuple[int, ...]
    status: tuple[int, ...]


class LedgerReport(Message, frozen=True):
    """What became of all frames so far, in a few numbers; the whole is in the ledger file.

    :param announced: see ``AcquisitionState``.
    :param reasons: frames lost, vetoed or failed, by reason; rare ones together.
    :param runs: of the frames whose fate is known and flushed; where there are more than a thousand runs, the first
        thousand, so that their counts don't reach ``announced``.
    :param processed: frames that left the pipeline.
    :param hits: of them.
    """

    acquisition: AcquisitionId
    announced: int
    announced_by: str
    counts: Counts
    reasons: dict[str, int]
    runs: FateRuns
    processed: int
    hits: int


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
    :param place: of its row; None: no receiver has it, or every receiver a part of it.
    :param master_file: absolute path.
    :param dataset: of the master file, whose row of the frame's number is the frame.
    """

    acquisition: AcquisitionId
    frame: int
    status: FrameStatus
    reason: str
    place: Place | None
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
