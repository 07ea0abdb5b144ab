"""Every message between our own processes: MessagePack structs in tagged unions, with a protocol version.

A request travels as ``[request number, message]`` from a DEALER to a ROUTER socket; its reply carries the same number.
State is published as whole snapshots on a PUB socket, so that a subscriber who missed one has lost nothing. Unknown
fields are ignored within a major version of the protocol.
"""

from __future__ import annotations

from .base import MAJOR, MINOR, Deadlines, Done, Failed, Hello, Message, Welcome
from .codec import (
    ConductorRequest,
    ReceiverRequest,
    Reply,
    decode_conductor_request,
    decode_receiver_request,
    decode_reply,
    encode,
    failed,
)
from .commands import (
    AcquisitionClosed,
    Dataset,
    Describe,
    Description,
    Finish,
    GetState,
    GetValues,
    PipelineDescription,
    Prepare,
    Prepared,
    Start,
    Stop,
    SystemState,
    Trigger,
    Values,
)
from .frames import FrameChunk, FrameLocation, GetFrame, LocateFrame, Place
from .shares import (
    Announce,
    ConstantInfo,
    Discard,
    Forget,
    GetRow,
    Poll,
    PrepareReceiver,
    Progress,
    ReceiverPrepared,
    ReceiverProgress,
)

__all__ = [
    "MAJOR",
    "MINOR",
    "AcquisitionClosed",
    "Announce",
    "ConductorRequest",
    "ConstantInfo",
    "Dataset",
    "Deadlines",
    "Describe",
    "Description",
    "Discard",
    "Done",
    "Failed",
    "Finish",
    "Forget",
    "FrameChunk",
    "FrameLocation",
    "GetFrame",
    "GetRow",
    "GetState",
    "GetValues",
    "Hello",
    "LocateFrame",
    "Message",
    "PipelineDescription",
    "Place",
    "Poll",
    "Prepare",
    "PrepareReceiver",
    "Prepared",
    "Progress",
    "ReceiverPrepared",
    "ReceiverProgress",
    "ReceiverRequest",
    "Reply",
    "Start",
    "Stop",
    "SystemState",
    "Trigger",
    "Values",
    "Welcome",
    "decode_conductor_request",
    "decode_receiver_request",
    "decode_reply",
    "encode",
    "failed",
]
