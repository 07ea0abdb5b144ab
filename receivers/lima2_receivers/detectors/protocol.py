"""What a simulated detector's control half and its sender process say to each other."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from lima2_processing.frame import FrameSpec

from ..control import Capabilities, DetectorStatus
from ..errors import ProtocolError
from ..messages import Done, Failed, Hello, Message, Welcome
from ..plan import TriggerMode
from .pulses import Pulses


class GetCapabilities(Message, frozen=True):
    """Ask what the detector can do."""


class Described(Message, frozen=True):
    """What the detector can do."""

    capabilities: Capabilities


class Arm(Message, frozen=True):
    """Begin a series; an earlier one is over.

    :param series: number to stamp on frames.
    :param nb_frames: frames of the series; 0: until stopped.
    :param loss: share of the frames that get lost on the way, 0 to 1.
    :param lose: indices of frames that get lost on the way.
    :param read_rows: rows of each module that are read out, around its middle; 0: all.
    :param gain: stage that all pixels are forced to, 1 or 2; 0: each has the one that it needs.
    :param mode: what starts exposures.
    :param per_trigger: frames that one pulse of the signal exposes, in external mode.
    :param pulses: the signal of external and gate mode, beside the pulses that ``Pulse`` gives.
    :param parameters: MessagePack of the plan's ``detector`` part, for detectors that the above does not describe.
    """

    series: int
    nb_frames: int
    loss: float = 0.0
    lose: tuple[int, ...] = ()
    read_rows: int = 0
    gain: int = 0
    mode: TriggerMode = TriggerMode.INTERNAL
    per_trigger: int = 1
    pulses: Pulses = Pulses()
    parameters: msgspec.Raw = msgspec.Raw(b"\x80")


class Armed(Message, frozen=True):
    """The series can begin.

    :param series: the number that is stamped on its frames: the one that it was told, unless it counts by itself.
    """

    frame_spec: FrameSpec
    series: int


class Expose(Message, frozen=True):
    """Expose more frames, or take the signal from now on; see ``Control.trigger``.

    :param first: rank of the receiver that the first of them goes to.
    """

    n_frames: int
    expo_time: float
    latency_time: float
    first: int = 0


class Pulse(Message, frozen=True):
    """Give the signal one pulse. While frames are exposed, it waits until they are.

    :param width: seconds that it lasts, which is what a gate exposes; 0: the exposure.
    """

    width: Annotated[float, Meta(ge=0, le=3600)] = 0.0


class GetStatus(Message, frozen=True):
    """Ask what the detector is doing."""


class Halt(Message, frozen=True):
    """Stop exposing; the reply comes when no frame will be sent any more."""


class Status(Message, frozen=True):
    """What the detector is doing."""

    status: DetectorStatus


SenderRequest = Hello | GetCapabilities | Arm | Expose | Pulse | GetStatus | Halt
SenderReply = Welcome | Done | Failed | Described | Armed | Status

_request = msgspec.msgpack.Decoder(SenderRequest)
_reply = msgspec.msgpack.Decoder(SenderReply)


def decode_sender_request(data: bytes) -> SenderRequest:
    """Decode what the control half sent.

    :raises ProtocolError: it is not a request.
    """
    try:
        return _request.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"request to the detector of {len(data)} bytes: {error}") from error


def decode_sender_reply(data: bytes) -> SenderReply:
    """Decode what the sender replied.

    :raises ProtocolError: it is not a reply.
    """
    try:
        return _reply.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"reply of the detector of {len(data)} bytes: {error}") from error
