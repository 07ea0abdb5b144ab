"""The conductor's commands, as ophyd-async commands: in mock mode nothing is sent."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import numpy as np
from ophyd_async.core import Array1D, Device

from lima2_processing.frame import AcquisitionId
from lima2_receivers.errors import ProtocolError
from lima2_receivers.messages import Message

from ._connection import Connection
from ._connector import conductor_command
from ._plan_signals import decode_plan

M = TypeVar("M", bound=msgspec.Struct)


class Commands(Device):
    """What the conductor can be told. Messages travel as MessagePack in arrays, a type that commands can have.

    :param connection: to the conductor.
    """

    def __init__(self, connection: Connection) -> None:
        client = connection.client

        async def prepare_acquisition(acquisition: str, plan: Array1D[np.uint8]) -> Array1D[np.uint8]:
            return pack(await client.prepare(AcquisitionId(acquisition), decode_plan(plan)))

        async def start_acquisition(acquisition: str) -> None:
            await client.start(AcquisitionId(acquisition))

        async def trigger_frames(acquisition: str, n_frames: int, expo_time: float, latency_time: float) -> None:
            await client.trigger(AcquisitionId(acquisition), n_frames, expo_time, latency_time)

        async def finish_acquisition(acquisition: str) -> None:
            await client.finish(AcquisitionId(acquisition))

        async def stop_acquisition(acquisition: str, timeout: float) -> Array1D[np.uint8]:
            return pack(await client.stop(AcquisitionId(acquisition), timeout or None))

        async def read_values(acquisition: str, frame: int) -> Array1D[np.uint8]:
            return pack(await client.values(AcquisitionId(acquisition), frame))

        async def read_ledger(acquisition: str) -> Array1D[np.uint8]:
            return pack(await client.ledger(AcquisitionId(acquisition)))

        self.prepare_acquisition = conductor_command(connection, prepare_acquisition)
        self.start_acquisition = conductor_command(connection, start_acquisition)
        self.trigger_frames = conductor_command(connection, trigger_frames)
        self.finish_acquisition = conductor_command(connection, finish_acquisition)
        self.stop_acquisition = conductor_command(connection, stop_acquisition)
        self.read_ledger = conductor_command(connection, read_ledger)
        self.read_values = conductor_command(connection, read_values)
        super().__init__()


def pack(message: Message | msgspec.Struct) -> np.ndarray:
    """Return a message as MessagePack in an array."""
    return np.frombuffer(msgspec.msgpack.encode(message), np.uint8)


def unpack(data: np.ndarray, kind: type[M]) -> M:
    """Return the message that ``pack`` packed.

    :raises ProtocolError: it is none of that kind.
    """
    try:
        return msgspec.msgpack.decode(data.tobytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{kind.__name__} of {data.size} bytes: {error}") from error
