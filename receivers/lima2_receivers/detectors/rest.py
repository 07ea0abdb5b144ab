"""REST interfaces of detectors: every call has a deadline, and no answer fills the memory."""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeVar

import httpx
import msgspec

from ..errors import ConfigError, DetectorError

T = TypeVar("T")
MAX_BODY = 64 * 1024 * 1024  # bytes of an answer: a pixel mask is the longest
_MAX_TEXT = 200  # of an answer that is shown in an error


class Reply(NamedTuple):
    """An answer, all of it."""

    status_code: int
    reason: str
    content: bytes

    @property
    def text(self) -> str:
        """What it says, cut short for an error."""
        return self.content[:_MAX_TEXT].decode(errors="replace")


class Rest:
    """One REST interface. Errors are DetectorErrors that name what was asked.

    :param url: where it is.
    :param timeout: of a call, in seconds.
    :raises ConfigError: the URL is none.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self._timeout = timeout
        try:
            self._client = httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False)
        except httpx.InvalidURL as error:
            raise ConfigError(f"detector.settings.url: got {url!r}: {error}") from error

    async def ask(
        self, method: str, path: str, body: bytes | None = None, what: str = "", seconds: float | None = None
    ) -> Reply:
        """Ask, and return the answer, whatever its status.

        :param body: JSON; None: there is none.
        :param what: is asked, for errors; empty: the path.
        :param seconds: deadline; None: that of all calls.
        """
        seconds = self._timeout if seconds is None else seconds
        where = f"{method} {what or path}"
        headers = {"Content-Type": "application/json"} if body is not None else None
        try:
            async with (
                asyncio.timeout(seconds),  # httpx bounds each read, not all of them
                self._client.stream(method, path, content=body, headers=headers, timeout=seconds) as answer,
            ):
                content = bytearray()
                async for piece in answer.aiter_bytes():
                    content += piece
                    if len(content) > MAX_BODY:
                        raise DetectorError(f"{self.url}: {where}: got more than {MAX_BODY} bytes, expected an answer")
                return Reply(answer.status_code, answer.reason_phrase, bytes(content))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise DetectorError(f"{self.url}: no answer to {where} within {seconds:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DetectorError(f"{self.url}: {where}: {error or type(error).__name__}") from error

    def require_good(self, answer: Reply, what: str) -> None:
        """Refuse an answer that is no success; a redirection is none either: nothing was done where it leads.

        :param what: was asked.
        """
        if not httpx.codes.is_success(answer.status_code):
            said = f"{answer.status_code} {answer.reason}: {answer.text}"
            raise DetectorError(f"{self.url}: {what} was refused: {said}")

    def decode(self, answer: Reply, kind: type[T], what: str) -> T:
        """Return what an answer says."""
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DetectorError(f"{self.url}: {what}: got {answer.text}: {error}") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
