"""What acquisitions take of a device, and what is refused."""

from dataclasses import dataclass

import pytest

from lima2_processing.errors import DeviceMemoryError
from lima2_processing.frame import AcquisitionId
from lima2_receivers.errors import PlanError, StateError
from lima2_receivers.receiver.device_memory import MEBI, DeviceMemory, Room

A, B, C = (AcquisitionId(name * 32) for name in "abc")
ROOM = Room("a device", 1000 * MEBI, "receivers[0].opencl.memory", ring=100 * MEBI)


@dataclass
class Tenant:
    device_bytes: int


def admit(memory, acquisition, mebi, room=ROOM):
    tenant = Tenant(mebi * MEBI)
    memory.admit(acquisition, tenant, room)
    return tenant


def test_what_fits_is_admitted_to_the_last_byte():
    memory = DeviceMemory("receiver 0")
    admit(memory, A, 400)
    admit(memory, B, 500)
    with pytest.raises(StateError):
        memory.admit(C, Tenant(1), ROOM)


def test_what_does_not_fit_is_refused_with_numbers():
    memory = DeviceMemory("receiver 0")
    admit(memory, A, 400)
    admit(memory, B, 300)
    with pytest.raises(StateError) as caught:
        admit(memory, C, 250)
    assert str(caught.value) == (
        "receiver 0: the pipeline needs 250.0 MiB, 200.0 MiB of a device are free: 1000.0 MiB in all "
        f"(receivers[0].opencl.memory), of which the ring 100.0 MiB, acquisition {A} 400.0 MiB, "
        f"acquisition {B} 300.0 MiB; try again when those are closed"
    )


def test_what_would_not_fit_alone_is_the_plans_fault():
    memory = DeviceMemory("receiver 0")
    admit(memory, A, 400)
    with pytest.raises(PlanError, match=r"needs 901\.0 MiB, 500\.0 MiB of a device are free"):
        admit(memory, C, 901)
    with pytest.raises(PlanError, match=r"needs 901\.0 MiB, 900\.0 MiB of a device .* of which the ring 100\.0 MiB$"):
        admit(DeviceMemory("receiver 0"), C, 901)


def test_what_is_closed_takes_nothing_and_what_was_refused_neither():
    memory = DeviceMemory("receiver 0")
    first = admit(memory, A, 800)
    for _ in range(2):
        with pytest.raises(StateError):
            admit(memory, B, 200)
    first.device_bytes = 0
    admit(memory, B, 900)


def test_a_device_that_refuses_is_explained():
    memory = DeviceMemory("receiver 3")
    admit(memory, A, 800)
    error = memory.explain(DeviceMemoryError("no room for 7 bytes"), ROOM)
    assert isinstance(error, StateError)
    assert str(error).startswith("receiver 3: the pipeline does not fit (no room for 7 bytes), 100.0 MiB of a device")
    assert f"acquisition {A} 800.0 MiB" in str(error)
