"""What a conductor asks of its receivers about their shares, and what they reply."""

from __future__ import annotations

from msgspec import Struct

from lima2_processing.frame import AcquisitionId, Output, PipelineFacts

from ..acquisition import State
from ..ledger import Counts, Run
from ..plan import ReceiverPlan
from .base import Message

ALL_MODULES = 2**64 - 1
"""The bitmap of a row that misses no module, in ``Progress.modules``."""


class PrepareReceiver(Message, frozen=True):
    """Make pipeline and files of a share; with ``check_only`` only see whether that would work."""

    acquisition: AcquisitionId
    share: ReceiverPlan
    check_only: bool = False


class ConstantInfo(Struct, frozen=True):
    """A constant that a part file holds.

    :param stream: which file holds it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stream: str
    unit: str = ""
    label: str = ""


class ReceiverPrepared(Message, frozen=True):
    """A receiver's share is ready.

    :param outputs: everything that is made of a frame, the raw frame included; saved or not.
    :param constants: name, dtype, shape, stream, unit and label of what is saved once.
    :param files: stream to file name, of the streams that are saved.
    :param facts: of the pipeline; without a pipeline, nothing is in them.
    """

    outputs: tuple[Output, ...]
    constants: tuple[ConstantInfo, ...]
    files: dict[str, str]
    facts: PipelineFacts


class Announce(Message, frozen=True):
    """How many frames there are, over all receivers.

    :param n_frames: announced so far.
    :param final: no more will come: settle all, close the files.
    """

    acquisition: AcquisitionId
    n_frames: int
    final: bool = False


class Settle(Message, frozen=True):
    """Take no more frames below a number: those that no receiver has by now are lost. Of dynamic dispatch.

    :param n_frames: the number.
    """

    acquisition: AcquisitionId
    n_frames: int


class SettledRows(Message, frozen=True):
    """Reply to Settle: how many rows the receiver has, all of which it will still report."""

    rows: int


class Discard(Message, frozen=True):
    """Forget an acquisition and remove the files that its prepare made. Unknown ones are fine."""

    acquisition: AcquisitionId


class Forget(Message, frozen=True):
    """Forget a closed acquisition; its files stay. Unknown ones are fine."""

    acquisition: AcquisitionId


class Poll(Message, frozen=True):
    """Ask for progress; also the heartbeat.

    :param cursors: acquisition to the first row whose fate the conductor doesn't know.
    """

    cursors: dict[AcquisitionId, int]


class Progress(Struct, frozen=True):
    """How far one acquisition is on one receiver.

    :param first: the row that ``runs`` and ``timestamps`` begin at.
    :param runs: fates of the leading settled and flushed rows.
    :param timestamps: little-endian float64 seconds since the epoch, one a row of ``runs``; NaN where none came.
    :param received: frames that arrived whole.
    :param processed: frames that left the pipeline.
    :param hits: frames that are hits.
    :param counts: fates so far, those ahead of the leading rows included.
    :param highest: highest frame index seen; -1: none.
    :param reason: what went wrong; empty where nothing did.
    :param frames: little-endian uint64, the frame in each row of ``runs``; empty where the topology says.
    :param modules: little-endian uint64, the bitmap of the modules that came of each row of ``runs``; empty:
        ``ALL_MODULES`` of each.
    :param held: rows that are written and settle when their file is closed.
    :param more: rows beyond those of ``runs`` are settled: ask again.
    """

    acquisition: AcquisitionId
    state: State
    first: int
    runs: tuple[Run, ...]
    timestamps: bytes
    received: int
    processed: int
    hits: int
    counts: Counts
    highest: int
    reason: str = ""
    frames: bytes = b""
    modules: bytes = b""
    held: int = 0
    more: bool = False


class ReceiverProgress(Message, frozen=True):
    """How far a receiver is with every acquisition that was asked for and that it knows.

    :param instance: of the daemon; a new one has forgotten everything.
    :param strangers: messages so far that belonged to no acquisition or broke the protocol.
    :param free_slots: of its ring.
    """

    instance: str
    acquisitions: tuple[Progress, ...]
    strangers: int
    free_slots: int


class GetRow(Message, frozen=True):
    """Ask a receiver for the scalars of a settled row."""

    acquisition: AcquisitionId
    row: int
