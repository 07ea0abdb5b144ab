"""Errors that survive the wire: one base class, each kind with a number."""

from __future__ import annotations

from typing import ClassVar


class ReceiverError(Exception):
    """Base of every error that the daemons raise on purpose.

    :param message: what, where, got and expected.
    """

    code: ClassVar[int] = 1


class ProtocolError(ReceiverError):
    """The other side sent something that its protocol does not allow: the detector's or a peer's fault."""

    code = 2


class StateError(ReceiverError):
    """A command does not fit the state that the acquisition or daemon is in: the caller's fault."""

    code = 3


class ConfigError(ReceiverError):
    """A configuration file cannot be used as it is."""

    code = 4


class PlanError(ReceiverError):
    """An acquisition plan asks for something that is misspelt, out of range or not there."""

    code = 5


class SavingError(ReceiverError):
    """Files cannot be made or written."""

    code = 6


class DetectorError(ReceiverError):
    """The detector refused, failed, or did not answer."""

    code = 7


class UnreachableError(ReceiverError):
    """A daemon did not answer within its deadline; the message names it."""

    code = 8


class PipelineError(ReceiverError):
    """The processing failed; the message is the pipeline's."""

    code = 9


class VersionError(ReceiverError):
    """The peer speaks another major version of the protocol."""

    code = 10


class AccessError(ReceiverError):
    """The peer's key does not allow what it asks for, or is no longer authorized."""

    code = 11


_KINDS: tuple[type[ReceiverError], ...] = (
    ReceiverError,
    ProtocolError,
    StateError,
    ConfigError,
    PlanError,
    SavingError,
    DetectorError,
    UnreachableError,
    PipelineError,
    VersionError,
    AccessError,
)
_BY_CODE: dict[int, type[ReceiverError]] = {kind.code: kind for kind in _KINDS}


def error_from_code(code: int, message: str) -> ReceiverError:
    """Return the error that a peer reported; a number that this version doesn't know gives the base class."""
    return _BY_CODE.get(code, ReceiverError)(message)
