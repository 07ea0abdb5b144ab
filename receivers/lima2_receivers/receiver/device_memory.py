"""Who takes how much of a receiver's OpenCL device, and whether one more acquisition fits."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from lima2_processing.frame import AcquisitionId

from ..errors import PlanError, ReceiverError, StateError

MEBI = 2**20


class Tenant(Protocol):
    """A pipeline, as far as its memory goes."""

    @property
    def device_bytes(self) -> int:
        """Bytes that it takes on the device that was chosen; 0 once it is closed or has gone elsewhere."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """What there is for pipelines.

    :param device: its name.
    :param total: bytes.
    :param setting: what says so, for messages.
    :param ring: bytes of it that the receiver's ring takes; 0: the ring is not in the device's memory.
    """

    device: str
    total: int
    setting: str
    ring: int = 0


class DeviceMemory:
    """The accounts of one receiver. Any thread may ask.

    :param place: of the receiver, for messages.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._lock = threading.Lock()
        self._tenants: dict[AcquisitionId, Tenant] = {}

    def admit(self, acquisition: AcquisitionId, tenant: Tenant, room: Room) -> None:
        """Take a pipeline that was made into the accounts; it leaves them by itself when it is closed.

        :raises StateError: it doesn't fit beside those that are there.
        :raises PlanError: it would not fit alone.
        """
        with self._lock:
            others = self._taken()
            if tenant.device_bytes > room.total - room.ring - sum(others.values()):
                raise _refusal(self._place, f"needs {_mebi(tenant.device_bytes)}", tenant.device_bytes, others, room)
            self._tenants[acquisition] = tenant

    def explain(self, error: Exception, room: Room) -> ReceiverError:
        """Return the error of a pipeline that the device itself had no room for.

        :param error: what the device said.
        """
        with self._lock:
            return _refusal(self._place, f"does not fit ({error})", 0, self._taken(), room)

    def _taken(self) -> dict[AcquisitionId, int]:
        sizes = {acquisition: tenant.device_bytes for acquisition, tenant in self._tenants.items()}
        self._tenants = {acquisition: self._tenants[acquisition] for acquisition, size in sizes.items() if size}
        return {acquisition: size for acquisition, size in sizes.items() if size}


def _refusal(
    place: str, what: str, needed: int, others: dict[AcquisitionId, int], room: Room
) -> StateError | PlanError:
    free = room.total - room.ring - sum(others.values())
    uses = [f"acquisition {acquisition} {_mebi(size)}" for acquisition, size in others.items()]
    if room.ring:
        uses.insert(0, f"the ring {_mebi(room.ring)}")
    taken = f", of which {', '.join(uses)}" if uses else ""
    alone = not others or needed > room.total - room.ring
    message = (
        f"{place}: the pipeline {what}, {_mebi(max(0, free))} of {room.device} are free: "
        f"{_mebi(room.total)} in all ({room.setting}){taken}"
    )
    return PlanError(message) if alone else StateError(f"{message}; try again when those are closed")


def _mebi(size: int) -> str:
    return f"{size / MEBI:.1f} MiB"
