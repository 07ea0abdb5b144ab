"""What every message is made of, and those that all daemons know."""

from __future__ import annotations

from msgspec import Struct

MAJOR, MINOR = 1, 0


class Message(Struct, frozen=True, tag=True):
    """Base of everything on the wire; the tag is the class's name."""


class Hello(Message, frozen=True):
    """Ask who is there; a daemon of another major version replies with an error that says so.

    :param major: version of the protocol, the same on both sides.
    :param minor: newer fields are ignored by older daemons.
    :param peer: who asks, for logs.
    """

    major: int = MAJOR
    minor: int = MINOR
    peer: str = ""


class Deadlines(Struct, frozen=True):
    """How long a conductor may take for its longest commands, in seconds.

    :param prepare: until ``Prepare`` is answered.
    :param stop: until ``Stop`` is answered, with all files closed.
    """

    prepare: float
    stop: float


class Welcome(Message, frozen=True):
    """Who is there.

    :param role: ``conductor`` or ``receiver 0``.
    :param instance: new at each start of the daemon, so that a restart is noticed.
    :param deadlines: of a conductor's longest commands; None: of a receiver.
    """

    role: str
    instance: str
    major: int = MAJOR
    minor: int = MINOR
    deadlines: Deadlines | None = None


class Done(Message, frozen=True):
    """The command was carried out; there is nothing more to say."""


class Failed(Message, frozen=True):
    """The command was refused or failed: see ``errors.error_from_code``."""

    code: int
    message: str
