"""The conductor's connections to its receivers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Sequence
from typing import TypeVar

from lima2_processing.frame import AcquisitionId, FrameSpec

from ..errors import ReceiverError, StateError, error_from_code
from ..messages import Discard, Done, Message, Poll, PrepareReceiver, ReceiverPrepared, ReceiverProgress
from ..published import ReceiverState
from ..saving.mosaic import as_whole
from ..security.keys import Credentials
from ..transport.requests import Requester

R = TypeVar("R", bound=Message)


class ReceiverLink:
    """One receiver, as the conductor reaches it.

    :param rank: of the receiver.
    :param endpoint: its commands.
    :param timeout: deadline of a command, and the silence after which it counts as dead, in seconds.
    :param credentials: keys of a ``tcp`` endpoint; None: there are none.
    """

    def __init__(self, rank: int, endpoint: str, timeout: float, credentials: Credentials | None = None) -> None:
        self.rank = rank
        self._credentials = credentials
        self.alive = False
        self.instance = ""
        self._requester = Requester(endpoint, f"receiver {rank}", timeout)
        self._heard = time.monotonic()
        self._strangers = 0
        self._free_slots = 0

    def open(self) -> None:
        """Make the socket."""
        self._requester.open(self._credentials)

    async def close(self) -> None:
        """Close the socket."""
        await self._requester.close()

    async def poll(self, cursors: dict[AcquisitionId, int]) -> ReceiverProgress:
        """Ask for progress.

        :raises UnreachableError: it did not answer within its deadline.
        """
        if not self.alive:
            self.instance = (await self._requester.hello("conductor")).instance
        progress = await self._requester.request(Poll(cursors), ReceiverProgress)
        self.instance = progress.instance  # a receiver may be back before it was missed
        self.alive = True
        self._heard = time.monotonic()
        self._strangers, self._free_slots = progress.strangers, progress.free_slots
        return progress

    async def ask(self, message: Message, expected: type[R], timeout: float | None = None) -> R:
        """Send a command; an error names the receiver.

        :param timeout: seconds; None: the link's own.
        """
        try:
            return await self._requester.request(message, expected, timeout)
        except ReceiverError as error:
            name = f"receiver {self.rank}"
            if name in str(error):
                raise
            raise error_from_code(error.code, f"{name}: {error}") from error

    async def ask_patiently(self, message: Message, expected: type[R], timeout: float) -> R:
        """Send a command that may take long, and ask now and then whether anybody is still there.

        :param timeout: seconds.
        :raises UnreachableError: the receiver was silent for the link's own deadline, or not done within ``timeout``.
        """
        await self._requester.hello("conductor")
        work = asyncio.create_task(self.ask(message, expected, timeout))
        try:
            while not (await asyncio.wait({work}, timeout=self._requester.timeout))[0]:
                await self._requester.hello("conductor")
            return work.result()
        finally:
            work.cancel()

    def state(self) -> ReceiverState:
        """Return what is published."""
        return ReceiverState(
            rank=self.rank,
            endpoint=self._requester.endpoint,
            alive=self.alive,
            silent=round(time.monotonic() - self._heard, 1),
            strangers=self._strangers,
            free_slots=self._free_slots,
        )


async def check_all(links: Iterable[ReceiverLink], messages: Iterable[PrepareReceiver], timeout: float) -> None:
    """Let every receiver see whether it could prepare.

    :raises ReceiverError: the first that can't says why.
    """
    await _all(link.ask_patiently(message, Done, timeout) for link, message in zip(links, messages, strict=True))


async def prepare_all(
    links: Iterable[ReceiverLink],
    messages: Iterable[PrepareReceiver],
    timeout: float,
    parts: Sequence[FrameSpec] = (),
) -> list[ReceiverPrepared]:
    """Prepare every receiver. Where one fails, the caller has to discard all.

    :param parts: what each receiver gets of a frame, where each has some modules of all; none: frames are whole.
    :raises ReceiverError: the first failure, once all have answered.
    :raises StateError: receivers disagree about what a frame gives.
    """
    replies = await _all(
        link.ask_patiently(message, ReceiverPrepared, timeout) for link, message in zip(links, messages, strict=True)
    )
    declared = [reply.outputs for reply in replies]
    if parts:
        declared = [
            tuple(as_whole(output, part) for output in outputs) for outputs, part in zip(declared, parts, strict=True)
        ]
    for rank, outputs in enumerate(declared):
        if outputs != declared[0]:
            raise StateError(f"receiver {rank} makes other outputs than receiver 0: are their versions the same?")
    return replies


async def discard_all(links: Iterable[ReceiverLink], acquisition: AcquisitionId, timeout: float) -> None:
    """Let every receiver that can be reached forget an acquisition, remove its files and put back those replaced."""
    await asyncio.gather(
        *(link.ask_patiently(Discard(acquisition), Done, timeout) for link in links), return_exceptions=True
    )


async def _all(requests: Iterable[Coroutine[None, None, R]]) -> list[R]:
    """Wait for all, and only then raise the first error: nothing is still under way afterwards."""
    replies = await asyncio.gather(*requests, return_exceptions=True)
    results: list[R] = []
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
        results.append(reply)
    return results
