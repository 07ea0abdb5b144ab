"""SIMPLON, the REST interface of DECTRIS' detectors (SIMPLON API reference 1.8)."""

from __future__ import annotations

from typing import TypeVar

import httpx
import msgspec

from ...errors import DetectorError
from ..rest import Reply, Rest

T = TypeVar("T")
Value = str | int | float | bool
_MAX_TEXT = 200  # of a value that is shown in an error


class _Answer(msgspec.Struct):
    """What GET returns, as far as it is used."""

    value: msgspec.Raw


class _Armed(msgspec.Struct):
    """What the command ``arm`` returns."""

    series: int = msgspec.field(name="sequence id")


class Simplon:
    """One detector's REST interface. Every call has a deadline, and raises DetectorError that names what was asked.

    :param url: of the control unit.
    :param api: version in the paths.
    :param timeout: of a call, in seconds.
    :raises ConfigError: the URL is none.
    """

    def __init__(self, url: str, api: str, timeout: float) -> None:
        self.url = url
        self._api = api
        self._rest = Rest(url, timeout)

    async def number(self, place: str, name: str) -> float:
        """Return a number.

        :param place: module and kind, such as ``detector/config``.
        """
        return await self._get(place, name, float)

    async def whole(self, place: str, name: str) -> int:
        """Return a whole number."""
        return await self._get(place, name, int)

    async def text(self, place: str, name: str) -> str:
        """Return a text."""
        return await self._get(place, name, str)

    async def flag(self, place: str, name: str) -> bool:
        """Return a truth value."""
        return await self._get(place, name, bool)

    async def texts(self, place: str, name: str) -> list[str]:
        """Return a list of texts."""
        return await self._get(place, name, list[str])

    async def has(self, place: str, name: str) -> bool:
        """Tell whether the detector has a value of that name."""
        answer = await self._ask("GET", place, name)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return False
        self._rest.require_good(answer, f"{place}/{name}")
        return True

    async def put(self, place: str, name: str, value: Value) -> None:
        """Set a value. What else it changes is for the caller to read back."""
        answer = await self._ask("PUT", place, name, value)
        self._rest.require_good(answer, f"{place}/{name} = {value!r}")

    async def command(self, name: str, timeout: float | None = None) -> None:
        """Give a command of the detector and wait until it is done.

        :param timeout: seconds; None: that of all calls.
        """
        answer = await self._ask("PUT", "detector/command", name, timeout=timeout)
        self._rest.require_good(answer, f"detector/command/{name}")

    async def arm(self) -> int:
        """Arm the detector, and return the number of the series."""
        answer = await self._ask("PUT", "detector/command", "arm")
        self._rest.require_good(answer, "detector/command/arm")
        return self._rest.decode(answer, _Armed, "arm").series

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def _get(self, place: str, name: str, kind: type[T]) -> T:
        answer = await self._ask("GET", place, name)
        self._rest.require_good(answer, f"{place}/{name}")
        raw = self._rest.decode(answer, _Answer, name).value
        try:
            return msgspec.json.decode(raw, type=kind, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            got = bytes(raw)[:_MAX_TEXT].decode(errors="replace")
            raise DetectorError(f"{self.url}: {place}/{name}: got {got}, expected {kind}") from error

    async def _ask(
        self, method: str, place: str, name: str, value: Value | None = None, timeout: float | None = None
    ) -> Reply:
        module, _, kind = place.partition("/")
        body = None if value is None else msgspec.json.encode({"value": value})
        path = f"/{module}/api/{self._api}/{kind}/{name}"
        return await self._rest.ask(method, path, body, f"{place}/{name}", timeout)
