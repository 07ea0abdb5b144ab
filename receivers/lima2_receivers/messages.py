"""Every message between our own processes: MessagePack structs in tagged unions, with a protocol version.

A request travels as ``[request number, message]`` from a DEALER to a ROUTER socket; its reply carries the same number.
State is published as whole snapshots on a PUB socket, so that a subscriber who missed one has lost nothing. Unknown
fields are ignored within a major version of the protocol.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from lima2_processing.frame import AcquisitionId, FrameSpec, Output, OutputKind

from .acquisition import State
from .control import Capabilities
from .errors import ProtocolError, ReceiverError
from .ledger import Counts, Run
from .plan import AcquisitionPlan, ReceiverPlan
from .published import AcquisitionState, DetectorState, ReceiverState

MAJOR, MINOR = 1, 0


class Message(Struct, frozen=True, tag=True):
    """Base of everything on the wire; the tag is the class's name."""


# --- the first exchange, with every daemon ---


class Hello(Message, frozen=True):
    """Ask who is there; a daemon of another major version replies with an error that says so.

    :param major: version of the protocol, the same on both sides.
    :param minor: newer fields are ignored by older daemons.
    :param peer: who asks, for logs.
    """

    major: int = MAJOR
    minor: int = MINOR
    peer: str = ""


class Welcome(Message, frozen=True):
    """Who is there.

    :param role: ``conductor`` or ``receiver 0``.
    :param instance: new at each start of the daemon, so that a restart is noticed.
    """

    role: str
    instance: str
    major: int = MAJOR
    minor: int = MINOR


class Done(Message, frozen=True):
    """The command was carried out; there is nothing more to say."""


class Failed(Message, frozen=True):
    """The command was refused or failed: see ``errors.error_from_code``."""

    code: int
    message: str


# --- client to conductor ---


class Describe(Message, frozen=True):
    """Ask what this system is: detector, pipelines, limits."""


class PipelineDescription(Struct, frozen=True):
    """An installed pipeline.

    :param name: as plans give it.
    :param schema: JSON schema of its parameters, as JSON text.
    """

    name: str
    schema: str


class Description(Message, frozen=True):
    """What this system is.

    :param detector: name of the detector.
    :param instrument: name of the instrument.
    :param capabilities: what the detector can do.
    :param pipelines: what can be computed.
    :param n_receivers: how many receivers there are.
    :param roots: folders that files may go to.
    """

    detector: str
    instrument: str
    capabilities: Capabilities
    pipelines: tuple[PipelineDescription, ...]
    n_receivers: int
    roots: tuple[str, ...]


class Prepare(Message, frozen=True):
    """Check a plan whole, arm the detector, make pipelines and files."""

    acquisition: AcquisitionId
    plan: AcquisitionPlan


class Dataset(Struct, frozen=True):
    """One dataset of the master file that grows by one row a frame.

    :param name: the output's name.
    :param path: of the dataset in the master file.
    :param kind: what one frame's value is.
    :param dtype: NumPy type string.
    :param shape: of one frame's value.
    :param chunk_frames: frames that a reader best asks for together.
    """

    name: str
    path: str
    kind: OutputKind
    dtype: str
    shape: tuple[int, ...]
    chunk_frames: int = 1
    unit: str = ""
    label: str = ""
    hinted: bool = False


class Prepared(Message, frozen=True):
    """The acquisition can start.

    :param master_file: absolute path.
    :param ledger_file: absolute path.
    :param datasets: of the master file; sparse outputs are not among them.
    :param frame_spec: what the detector sends.
    :param device: name of the OpenCL device of each receiver.
    """

    acquisition: AcquisitionId
    master_file: str
    ledger_file: str
    datasets: tuple[Dataset, ...]
    frame_spec: FrameSpec
    device: tuple[str, ...]


class Start(Message, frozen=True):
    """Start a prepared acquisition; in internal mode the detector exposes its frames."""

    acquisition: AcquisitionId


class Trigger(Message, frozen=True):
    """Give one software trigger.

    :param n_frames: how many frames it exposes; 0: as the plan says (``nb_frames_per_trigger``).
    :param expo_time: seconds; 0: as the plan says.
    :param latency_time: seconds; negative: as the plan says.
    """

    acquisition: AcquisitionId
    n_frames: int = 0
    expo_time: float = 0.0
    latency_time: float = -1.0


class Stop(Message, frozen=True):
    """Stop an acquisition and reply when its files are closed. Idempotent; an acquisition that is not known is not."""

    acquisition: AcquisitionId


class GetState(Message, frozen=True):
    """Ask for the snapshot that is published."""


class GetValues(Message, frozen=True):
    """Ask for the scalars of one frame that is settled and flushed.

    :param frame: its number; -1: the latest of the leading settled frames.
    """

    acquisition: AcquisitionId
    frame: int = -1


class Values(Message, frozen=True):
    """The scalars of one frame; a lost or vetoed frame has none.

    :param frame: its number.
    :param values: by output name.
    """

    frame: int
    values: dict[str, float]


# --- conductor to receiver ---


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
    :param device: name of the OpenCL device; empty where none is used.
    """

    outputs: tuple[Output, ...]
    constants: tuple[ConstantInfo, ...]
    files: dict[str, str]
    device: str


class Announce(Message, frozen=True):
    """How many frames there are, over all receivers.

    :param n_frames: announced so far.
    :param final: no more will come: settle all, close the files.
    """

    acquisition: AcquisitionId
    n_frames: int
    final: bool = False


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


# --- published by the conductor ---


class SystemState(Message, frozen=True):
    """The whole state of a system: published on every change, and every 0.2 s.

    :param instance: of the conductor; new at each start.
    :param sequence: counts up by one a snapshot.
    :param detector: what the detector is doing.
    :param fault: what is wrong with it; empty where nothing is.
    :param acquisitions: those that live, and the last few that are closed.
    """

    instance: str
    sequence: int
    detector: DetectorState
    fault: str
    receivers: tuple[ReceiverState, ...]
    acquisitions: tuple[AcquisitionState, ...]


class AcquisitionClosed(Message, frozen=True):
    """Reply to Stop: how the acquisition ended."""

    final: AcquisitionState


ConductorRequest = Hello | Describe | Prepare | Start | Trigger | Stop | GetState | GetValues
ReceiverRequest = Hello | PrepareReceiver | Announce | Discard | Forget | Poll | GetRow
Reply = (
    Welcome
    | Done
    | Failed
    | Description
    | Prepared
    | Values
    | SystemState
    | ReceiverPrepared
    | ReceiverProgress
    | AcquisitionClosed
)

_encoder = msgspec.msgpack.Encoder()
_conductor = msgspec.msgpack.Decoder(ConductorRequest)
_receiver = msgspec.msgpack.Decoder(ReceiverRequest)
_reply = msgspec.msgpack.Decoder(Reply)


def encode(message: Message) -> bytes:
    """Return a message's bytes."""
    return _encoder.encode(message)


def decode_conductor_request(data: bytes) -> ConductorRequest:
    """Decode what a client sent to the conductor.

    :raises ProtocolError: it is not a request that a conductor knows.
    """
    return _decode(_conductor, data, "request to the conductor")


def decode_receiver_request(data: bytes) -> ReceiverRequest:
    """Decode what a conductor sent to a receiver.

    :raises ProtocolError: it is not a request that a receiver knows.
    """
    return _decode(_receiver, data, "request to a receiver")


def decode_reply(data: bytes) -> Reply:
    """Decode a daemon's reply or a published state.

    :raises ProtocolError: it is not a reply.
    """
    return _decode(_reply, data, "reply")


T = TypeVar("T")


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"{what} of {len(data)} bytes: {error}") from error


def failed(error: ReceiverError) -> Failed:
    """Return the reply that reports an error."""
    return Failed(error.code, str(error))
