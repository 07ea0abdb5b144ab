"""What the conductor and the process that runs PSI's client say to each other."""

from __future__ import annotations

import struct
from typing import Final

import msgspec
from msgspec import Struct

from ...messages import Done, Failed, Message

LENGTH: Final = struct.Struct("<I")  # in front of each message


class Attach(Message, frozen=True):
    """Connect to all modules.

    :param hostnames: one a module, in PSI's order: down the first column, then the next.
    :param modules: how many there are (down, across).
    """

    hostnames: tuple[str, ...]
    modules: tuple[int, int]


class Destination(Struct, frozen=True):
    """Where a module's packets go to.

    :param host: IPv4 address of the receiver.
    :param mac: of the network interface with that address, or of the router on the way.
    :param ports: one an interface of the module.
    """

    host: str
    mac: str
    ports: tuple[int, ...]


class ModuleNetwork(Struct, frozen=True):
    """What a module's packets carry.

    :param source_ips: IPv4 addresses of its interfaces; none: they stay as they are.
    :param destinations: of whole frames in turn: one a receiver, in the order of ranks; one where it has its own.
    """

    source_ips: tuple[str, ...]
    destinations: tuple[Destination, ...]


class Configure(Message, frozen=True):
    """Set what an acquisition needs, and choose the number of its first frame.

    :param interfaces: UDP interfaces that a module sends with.
    :param networks: one a module, in PSI's order.
    :param rows: that are read out of a module.
    :param gain: member of PSI's ``gainMode``.
    :param expo_time: in seconds.
    :param period: from the start of a frame to that of the next, in seconds.
    """

    interfaces: int
    networks: tuple[ModuleNetwork, ...]
    rows: int
    gain: str
    expo_time: float
    period: float


class Configured(Message, frozen=True):
    """The detector is ready.

    :param series: number of the next frame.
    """

    series: int


class Expose(Message, frozen=True):
    """Start the exposure of some frames.

    :param first: rank of the receiver that the first one goes to.
    """

    first: int
    n_frames: int
    expo_time: float
    period: float


class Look(Message, frozen=True):
    """Say what the modules are doing.

    :param count: whether to read the number of the next frame, too, where all are at rest.
    """

    count: bool


class Seen(Message, frozen=True):
    """What the modules are doing.

    :param states: members of PSI's ``runStatus``, one a module.
    :param next_frames: number of each module's next frame; none: not asked for, or not at rest.
    """

    states: tuple[str, ...]
    next_frames: tuple[int, ...]


class Halt(Message, frozen=True):
    """Stop what is exposed, if anything is."""


class Calling(Message, frozen=True):
    """A function of PSI's client is about to be called. More messages follow.

    :param name: of the function.
    """

    name: str


Request = Attach | Configure | Expose | Look | Halt
Reply = Calling | Done | Configured | Seen | Failed

_encoder = msgspec.msgpack.Encoder()
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode


def frame(message: Message) -> bytes:
    """Return the bytes of a message, behind their length."""
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data
