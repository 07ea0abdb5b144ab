"""SIMPLON, the REST interface of DECTRIS' detectors (SIMPLON API reference 1.8)."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeVar

import httpx
import msgspec

from ...errors import ConfigError, DetectorError

T = TypeVar("T")
Value = str | int | float | bool
MAX_BODY = 64 * 1024 * 1024  # bytes of an answer: a pixel mask is the longest
_MAX_TEXT = 200  # of an answer that is shown in an error


class _Answer(msgspec.Struct):
    """What GET returns, as far as it is used."""

    value: msgspec.Raw


class _Armed(msgspec.Struct):
    """What the command ``arm`` returns."""

    series: int = msgspec.field(name="sequence id")


class _Reply(NamedTuple):
    """An answer, all of it."""

    status_code: int
    reason: str
    content: bytes


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
        self._timeout = timeout
        try:
            self._client = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False)
        except httpx.InvalidURL as error:
            raise ConfigError(f"detector.settings.url: got {url!r}: {error}") from error

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
        self._require_good(answer, place, name)
        return True

    async def put(self, place: str, name: str, value: Value) -> None:
        """Set a value. What else it changes is for the caller to read back."""
        answer = await self._ask("PUT", place, name, value)
        self._require_good(answer, place, f"{name} = {value!r}")

    async def command(self, name: str, timeout: float | None = None) -> None:
        """Give a command of the detector and wait until it is done.

        :param timeout: seconds; None: that of all calls.
        """
        answer = await self._ask("PUT", "detector/command", name, timeout=timeout)
        self._require_good(answer, "detector/command", name)

    async def arm(self) -> int:
        """Arm the detector, and return the number of the series."""
        answer = await self._ask("PUT", "detector/command", "arm")
        self._require_good(answer, "detector/command", "arm")
        return self._decode(answer, _Armed, "arm").series

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _get(self, place: str, name: str, kind: type[T]) -> T:
        answer = await self._ask("GET", place, name)
        self._require_good(answer, place, name)
        raw = self._decode(answer, _Answer, name).value
        try:
            return msgspec.json.decode(raw, type=kind, strict=False)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DetectorError(f"{self.url}: {place}/{name}: got {_short(bytes(raw))}, expected {kind}") from error

    async def _ask(
        self, method: str, place: str, name: str, value: Value | None = None, timeout: float | None = None
    ) -> _Reply:
        module, _, kind = place.partition("/")
        content = None if value is None else {"value": value}
        seconds = self._timeout if timeout is None else timeout
        path = f"/{module}/api/{self._api}/{kind}/{name}"
        where = f"{method} {place}/{name}"
        try:
            async with (
                asyncio.timeout(seconds),  # httpx bounds each read, not all of them
                self._client.stream(method, path, json=content, timeout=seconds) as answer,
            ):
                body = bytearray()
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > MAX_BODY:
                        raise DetectorError(f"{self.url}: {where}: got more than {MAX_BODY} bytes, expected an answer")
                return _Reply(answer.status_code, answer.reason_phrase, bytes(body))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise DetectorError(f"{self.url}: no answer to {where} within {seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DetectorError(f"{self.url}: {where}: {error or type(error).__name__}") from error

    def _require_good(self, answer: _Reply, place: str, what: str) -> None:
        if not httpx.codes.is_success(answer.status_code):  # nothing was done where it leads elsewhere, either
            said = f"{answer.status_code} {answer.reason}: {_short(answer.content)}"
            raise DetectorError(f"{self.url}: {place}/{what} was refused: {said}")

    def _decode(self, answer: _Reply, kind: type[T], name: str) -> T:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DetectorError(f"{self.url}: {name}: got {_short(answer.content)}: {error}") from error


def _short(content: bytes) -> str:
    return content[:_MAX_TEXT].decode(errors="replace")
