"""Who can reach an endpoint, by its address alone."""

from __future__ import annotations

import re
from enum import Enum, auto

LOOPBACK = re.compile(r"localhost|\[::1\]|127(\.\d{1,3}){3}", re.ASCII)


class Reach(Enum):
    """Who can reach an endpoint."""

    FILES = auto()  # whom the permissions of a folder let in
    HOST = auto()  # every user of this host
    NETWORK = auto()  # other hosts


def reach(endpoint: str) -> Reach:
    """Return who can reach a well-formed endpoint, ``ipc://PATH``, ``tcp://HOST:PORT`` and the like."""
    scheme, _, rest = endpoint.partition("://")
    if scheme in ("ipc", "rashpa"):
        return Reach.FILES
    return Reach.HOST if LOOPBACK.fullmatch(rest.rpartition(":")[0]) else Reach.NETWORK
