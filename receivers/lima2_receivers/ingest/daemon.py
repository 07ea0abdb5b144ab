"""The ingest daemon's shell: commands in, messages handed over by a thread."""

from __future__ import annotations

import logging
import uuid
from typing import assert_never

import zmq
import zmq.asyncio

from ..config import Config, IngestConfig
from ..control import Transport
from ..errors import ConfigError
from ..messages import Hello, IngestProgress, IngestRequest, Message, PollIngest, Welcome, decode_ingest_request
from ..plugins import DETECTORS, check_streams, dispatch_of
from ..security.guard import Guard, open_guard, protect
from ..security.keys import INGEST
from ..transport.endpoints import bind, open_stream
from ..transport.requests import Responder
from ..transport.shared_slots import SlotWriter
from .handing import Handing, open_handover

log = logging.getLogger(__name__)


class IngestDaemon:
    """The ingest of a detector: it takes all messages of its stream and hands them to receivers.

    :param config: of the detector's daemons.
    :raises ConfigError: there is no ingest in it, an endpoint can't be bound, or keys can't be used.
    """

    def __init__(self, config: Config) -> None:
        if config.ingest is None:
            raise ConfigError("ingest: the configuration has none")
        check_streams(config)
        dispatch_of(config)
        self._config = config.ingest
        self._instance = uuid.uuid4().hex
        self._guard = open_guard(config, INGEST)
        self._responder = Responder(
            config.ingest.commands, "ingest.commands", decode_ingest_request, self._handle, self._guard
        )
        connects = DETECTORS.get(config.detector.plugin).transport is Transport.ZMQ_CONNECT
        self._handing = _make_handing(config.ingest, connects, config.deadlines.command, self._guard)

    async def run(self) -> None:
        """Serve until cancelled. What is not safe with a receiver then is lost."""
        self._handing.start()
        log.info("the ingest is ready: frames at %s", self._config.data)
        try:
            await self._responder.serve()
        finally:
            await self._responder.close()
            self._handing.close()
            if held := self._handing.counts.held:
                log.warning("%d messages were not safe with a receiver, and are lost", held)
            if self._guard is not None:
                await self._guard.close()

    async def _handle(self, request: IngestRequest) -> Message:
        match request:
            case Hello():
                return Welcome(role="ingest", instance=self._instance)
            case PollIngest(ranks):
                self._handing.admit(ranks)
                counts = self._handing.counts
                return IngestProgress(
                    instance=self._instance,
                    held=counts.held,
                    free_slots=counts.free,
                    joined=tuple(sorted(counts.ranks)),
                    strangers=counts.unwanted,
                    dealt_again=counts.dealt_again,
                )
            case _:
                assert_never(request)


def _make_handing(config: IngestConfig, connects: bool, silence: float, guard: Guard | None) -> Handing:
    """Make the sockets and the memory.

    :param connects: whether the detector serves its stream.
    :raises ConfigError: they can't be made.
    """
    ring = config.ring
    # A guard watches over the sockets of asyncio's context alone; this one is used by a thread.
    out = open_handover(zmq.Context.shadow(zmq.asyncio.Context.instance()))
    try:
        handover_guard = protect(out, config.handover, "ingest.handover", guard)
        bind(out, config.handover, "ingest.handover")
        slots = SlotWriter("ingest.ring", ring.slots, ring.slot_bytes) if config.shared_memory else None
        stream = open_stream(config.data, "ingest.data", ring.slot_bytes, connects)
    except BaseException:
        out.close(linger=0)
        raise
    return Handing(stream, out, ring, slots, silence, handover_guard)
