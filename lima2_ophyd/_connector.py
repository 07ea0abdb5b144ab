"""Signals and commands over ZeroMQ, for ophyd-async."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import (
    Callback,
    Command,
    CommandBackend,
    Device,
    DeviceConnector,
    DeviceMock,
    NotConnectedError,
    Primitive,
    SignalBackend,
    SignalMetadata,
    SignalR,
    make_datakey,
)

from lima2_receivers.errors import ReceiverError

from ._connection import Connection

T = TypeVar("T", bound=Primitive)
P = ParamSpec("P")
R = TypeVar("R")


class StateSignalBackend(SignalBackend[T]):
    """A read-only value out of what the conductor publishes.

    It reports changes only, so that ophyd-async's own timeouts see when nothing moves.

    :param datatype: of the value.
    :param connection: to the conductor.
    :param key: the value's name, for its source.
    :param read: takes the value out of the connection.
    :param units: of the value.
    """

    datatype: type[T]

    def __init__(
        self, datatype: type[T], connection: Connection, key: str, read: Callable[[Connection], T], units: str = ""
    ) -> None:
        super().__init__(datatype)
        self._connection = connection
        self._key = key
        self._read = read
        self._metadata: SignalMetadata = {"units": units} if units else {}
        self._reading = self._now()
        self._callback: Callback[Reading[T]] | None = None
        self._end: Callable[[], None] | None = None

    def source(self, name: str, read: bool) -> str:
        """Return where the value comes from."""
        return f"lima2+{self._connection.endpoint}/{self._key}"

    async def connect(self, timeout: float) -> None:
        """Connect to the conductor, if the device has not done so yet."""
        await connect(self._connection, timeout)
        if self._end is not None:
            self._end()
        self._end = self._connection.listen(self._update)

    async def put(self, value: T | None) -> None:
        """Refuse: the conductor says what it is.

        :raises PermissionError: always.
        """
        raise PermissionError(f"{self.source('', True)} can't be set to {value!r}: it is read-only")

    async def get_datakey(self, source: str) -> DataKey:
        """Return what the value is."""
        return make_datakey(self.datatype, self._reading["value"], source, self._metadata)

    async def get_reading(self) -> Reading[T]:
        """Return the value of the latest snapshot."""
        return self._reading

    async def get_value(self) -> T:
        """Return the value of the latest snapshot."""
        return self._reading["value"]

    async def get_setpoint(self) -> T:
        """Return the value: it has no setpoint."""
        return self._reading["value"]

    def set_callback(self, callback: Callback[Reading[T]] | None) -> None:
        """Call back with the value and each change of it."""
        if callback is not None and self._callback is not None:
            raise RuntimeError(f"{self.source('', True)} has a callback already")
        self._callback = callback
        if callback is not None:
            callback(self._reading)

    def _now(self) -> Reading[T]:
        return Reading(value=self._read(self._connection), timestamp=time.time(), alarm_severity=0)

    def _update(self) -> None:
        reading = self._now()
        if reading["value"] == self._reading["value"]:
            return
        self._reading = reading
        if self._callback is not None:
            self._callback(reading)


class ConductorCommandBackend(CommandBackend[P, R]):
    """A command of the conductor; in mock mode it is a mock with the function's signature.

    :param connection: to the conductor.
    :param function: carries it out; all annotated with types that signals may have.
    """

    def __init__(self, connection: Connection, function: Callable[P, Awaitable[R]]) -> None:
        super().__init__(inspect.signature(function, eval_str=True))
        self._connection = connection
        self._function = function

    def source(self, name: str) -> str:
        """Return where the command goes."""
        return f"lima2+{self._connection.endpoint}/{self._function.__name__}"

    async def connect(self, timeout: float) -> None:
        """Connect to the conductor, if the device has not done so yet."""
        await connect(self._connection, timeout)

    async def execute(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Send the command and return its result."""
        return await self._function(*args, **kwargs)


class ConductorConnector(DeviceConnector):
    """Connects a device to its conductor, then its children.

    :param connection: to the conductor.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def connect_mock(self, device: Device, mock: DeviceMock) -> None:
        """Let go of the conductor and connect the children as mocks."""
        await self._connection.disconnect()
        await super().connect_mock(device, mock)

    async def connect_real(self, device: Device, timeout: float, force_reconnect: bool) -> None:
        """Connect to the conductor, in the running event loop."""
        await connect(self._connection, timeout, force_reconnect)
        await super().connect_real(device, timeout, force_reconnect)


async def connect(connection: Connection, timeout: float, force_reconnect: bool = False) -> None:
    """Connect to the conductor.

    :param timeout: seconds.
    :raises NotConnectedError: it can't be reached; the message says why.
    """
    try:
        await connection.connect(timeout, force_reconnect)
    except ReceiverError as error:
        raise NotConnectedError(str(error)) from error


def state_signal(
    datatype: type[T], connection: Connection, key: str, read: Callable[[Connection], T], units: str = ""
) -> SignalR[T]:
    """Make a signal of a value that the conductor publishes; see StateSignalBackend."""
    return SignalR(StateSignalBackend(datatype, connection, key, read, units))


def conductor_command(connection: Connection, function: Callable[P, Awaitable[R]]) -> Command[P, R]:
    """Make a command of the conductor, without a deadline here: the client has its own, whose error says more."""
    return Command(ConductorCommandBackend(connection, function), timeout=None)
