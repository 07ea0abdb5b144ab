"""What each role may ask of the daemons: one table, which every request is in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .. import messages as m
from ..errors import AccessError


class Role(StrEnum):
    """What a peer may do. Each may also do what those before it may."""

    OBSERVE = "observe"  # look
    CONTROL = "control"  # prepare, start, trigger and stop acquisitions
    CONDUCT = "conduct"  # command receivers: the conductor alone


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, as the socket knows it and not as it says.

    :param name: of its key.
    :param role: what it may do.
    :param address: where it is; empty: on this host.
    """

    name: str
    role: Role
    address: str = ""

    def __str__(self) -> str:
        """Return name and address."""
        return f"{self.name} at {self.address}" if self.address else self.name


LOCAL = Peer("a process of this host", Role.CONDUCT)
"""Whoever comes in by a socket without keys: the folder that the socket is in says who can."""

NEEDED: dict[type[m.Message], Role] = {
    m.Hello: Role.OBSERVE,
    # of a conductor
    m.Describe: Role.OBSERVE,
    m.GetState: Role.OBSERVE,
    m.GetValues: Role.OBSERVE,
    m.GetLedger: Role.OBSERVE,
    m.LocateFrame: Role.OBSERVE,
    m.Prepare: Role.CONTROL,
    m.Start: Role.CONTROL,
    m.Trigger: Role.CONTROL,
    m.Finish: Role.CONTROL,
    m.Stop: Role.CONTROL,
    # of a receiver
    m.GetRow: Role.OBSERVE,
    m.GetFrame: Role.OBSERVE,
    m.Poll: Role.CONDUCT,  # it is the heartbeat: who sends it keeps acquisitions alive
    m.PrepareReceiver: Role.CONDUCT,
    m.Announce: Role.CONDUCT,
    m.Settle: Role.CONDUCT,
    m.Discard: Role.CONDUCT,
    m.Forget: Role.CONDUCT,
    # of an ingest
    m.PollIngest: Role.CONDUCT,
}

_ORDER = tuple(Role)


def check_role(peer: Peer, request: type[m.Message]) -> None:
    """Check that a peer may make a request. One that is not in the table needs the highest role.

    :param request: its type.
    :raises AccessError: it may not.
    """
    needed = NEEDED.get(request, Role.CONDUCT)
    if _ORDER.index(peer.role) < _ORDER.index(needed):
        raise AccessError(f"{request.__name__} needs the role {needed}, the key of {peer} has {peer.role}")
