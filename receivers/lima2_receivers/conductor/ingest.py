"""The conductor's connection to its ingest."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence

from ..errors import ReceiverError, StateError, UnreachableError
from ..messages import IngestProgress, PollIngest
from ..published import IngestState
from ..security.keys import Credentials
from ..transport.requests import Requester
from .links import ReceiverLink
from .run import Run

log = logging.getLogger(__name__)

POLL = 0.03  # seconds between polls


class IngestLink:
    """The ingest, as the conductor reaches it.

    :param endpoint: its commands.
    :param timeout: deadline of a command, and the silence after which it counts as dead, in seconds.
    :param credentials: keys of a ``tcp`` endpoint; None: there are none.
    """

    def __init__(self, endpoint: str, timeout: float, credentials: Credentials | None = None) -> None:
        self.alive = False
        self._credentials = credentials
        self._requester = Requester(endpoint, "the ingest", timeout)
        self._heard = time.monotonic()
        self._last = IngestProgress("", 0, 0, ())

    def open(self) -> None:
        """Make the socket."""
        self._requester.open(self._credentials)

    async def close(self) -> None:
        """Close the socket."""
        await self._requester.close()

    async def watch(
        self, links: Sequence[ReceiverLink], live: Callable[[], list[Run]], fail: Callable[[Run, str], None]
    ) -> None:
        """Poll the ingest for ever.

        :param links: to the receivers.
        :param live: returns the acquisitions that are not closed.
        :param fail: called with those that the ingest takes with it, and why.
        """
        while True:
            runs, before = live(), self._last.instance
            try:
                await self._poll(link.rank for link in links if link.alive and not _given_up(link.rank, runs))
            except ReceiverError as error:
                if self.alive:
                    log.warning("%s", error)
                self.alive = False
                why = str(error)
            else:
                why = "the ingest was restarted: what it had is lost" if before not in ("", self._last.instance) else ""
            for run in runs:
                if why:
                    fail(run, why)
                elif self._last.held:
                    run.wait()
            await asyncio.sleep(POLL)

    async def ready(self, n_receivers: int) -> None:
        """Wait until all receivers take messages.

        :raises UnreachableError: the ingest does not answer.
        :raises StateError: a receiver does not take messages, after the link's own deadline.
        """
        deadline = time.monotonic() + self._requester.timeout
        while not self.alive or len(self._last.joined) < n_receivers:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL)
        if not self.alive:
            raise UnreachableError(f"the ingest at {self._requester.endpoint} does not answer")
        if missing := sorted(set(range(n_receivers)).difference(self._last.joined)):
            raise StateError(f"receiver {missing[0]} takes no messages from the ingest: can it reach ingest.handover?")

    def state(self) -> IngestState:
        """Return what is published."""
        return IngestState(
            endpoint=self._requester.endpoint,
            alive=self.alive,
            silent=round(time.monotonic() - self._heard, 1),
            held=self._last.held,
            free_slots=self._last.free_slots,
            joined=self._last.joined,
            strangers=self._last.strangers,
            dealt_again=self._last.dealt_again,
        )

    async def _poll(self, ranks: Iterable[int]) -> None:
        if not self.alive:
            await self._requester.hello("conductor")
        self._last = await self._requester.request(PollIngest(tuple(ranks)), IngestProgress)
        self.alive = True
        self._heard = time.monotonic()


def _given_up(rank: int, runs: Iterable[Run]) -> bool:
    """Tell whether an acquisition expects nothing more of a receiver: what that saved now would not be found."""
    return any(run.is_buried(rank) for run in runs)
