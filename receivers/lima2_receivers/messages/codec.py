"""Messages to bytes and back: MessagePack in tagged unions."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from ..errors import ProtocolError, ReceiverError
from .base import Done, Failed, Hello, Message, Welcome
from .commands import (
    AcquisitionClosed,
    Describe,
    Description,
    Finish,
    GetState,
    GetValues,
    Prepare,
    Prepared,
    Start,
    Stop,
    SystemState,
    Trigger,
    Values,
)
from .frames import FrameChunk, FrameLocation, GetFrame, GetLedger, LedgerReport, LocateFrame
from .ingest import IngestProgress, PollIngest
from .shares import (
    Announce,
    Discard,
    Forget,
    GetRow,
    Poll,
    PrepareReceiver,
    ReceiverPrepared,
    ReceiverProgress,
    Settle,
    SettledRows,
)

ConductorRequest = (
    Hello | Describe | Prepare | Start | Trigger | Finish | Stop | GetState | GetValues | LocateFrame | GetLedger
)
ReceiverRequest = Hello | PrepareReceiver | Announce | Settle | Discard | Forget | Poll | GetRow | GetFrame
IngestRequest = Hello | PollIngest
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
    | SettledRows
    | AcquisitionClosed
    | FrameLocation
    | FrameChunk
    | LedgerReport
    | IngestProgress
)

_encoder = msgspec.msgpack.Encoder()
_conductor = msgspec.msgpack.Decoder(ConductorRequest)
_receiver = msgspec.msgpack.Decoder(ReceiverRequest)
_ingest = msgspec.msgpack.Decoder(IngestRequest)
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


def decode_ingest_request(data: bytes) -> IngestRequest:
    """Decode what a conductor sent to an ingest.

    :raises ProtocolError: it is not a request that an ingest knows.
    """
    return _decode(_ingest, data, "request to an ingest")


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
