"""The receiver daemon's shell: commands in, shares made and watched, progress out."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Iterable
from typing import assert_never

from lima2_processing.frame import AcquisitionId

from ..acquisition import State
from ..cancellation import in_thread
from ..config import Config, detector_settings
from ..control import PacketSettings, TransferSettings, Transport
from ..errors import ConfigError, StateError
from ..messages import (
    Announce,
    Discard,
    Done,
    Forget,
    FrameChunk,
    GetFrame,
    GetRow,
    Hello,
    Message,
    Poll,
    PrepareReceiver,
    ReceiverPrepared,
    ReceiverProgress,
    ReceiverRequest,
    Settle,
    SettledRows,
    Values,
    Welcome,
    decode_receiver_request,
)
from ..plugins import DETECTORS, check_streams, dispatch_of
from ..security.guard import credentials, open_guard
from ..security.keys import INGEST, receiver_name
from ..topology import Dispatch
from ..transport.requests import Responder
from ..transport.shared_ring import SharedTarget
from .datagrams import DatagramIntake
from .delivery import Delivery
from .handover_intake import HandoverIntake
from .host import Host
from .intake import Intake
from .open_files import OpenFiles, diary_path
from .packets import Packets
from .ring import FrameRing
from .share import Share
from .shares import ShareMaker
from .transfer_intake import TransferIntake
from .transfers import Transfers

log = logging.getLogger(__name__)

TICK_SECONDS = 0.05


class ReceiverDaemon:
    """One receiver: its ring, its intake, and the shares of the acquisitions that live.

    :param config: of the detector's daemons.
    :param rank: which receiver this is.
    :raises ConfigError: an endpoint can't be bound, or keys can't be used.
    """

    def __init__(self, config: Config, rank: int) -> None:
        check_streams(config)
        receiver = config.receivers[rank]
        self._config = config
        self._rank = rank
        self._instance = uuid.uuid4().hex
        self._shares: dict[AcquisitionId, Share] = {}
        self._locks: dict[AcquisitionId, asyncio.Lock] = {}
        self._closing: dict[AcquisitionId, asyncio.Task[None]] = {}
        self._ring = FrameRing(receiver.ring.slots, receiver.ring.slot_bytes)
        self._maker = ShareMaker(config, rank, self._ring)
        self._open = OpenFiles(diary_path(config, rank), config.saving.roots)
        place = f"receivers[{rank}]"
        self._guard = open_guard(config, receiver_name(rank))
        self._responder = Responder(
            receiver.commands, f"{place}.commands", decode_receiver_request, self._handle, self._guard
        )
        self._host = Host(config, rank)
        self._intake = self._make_intake(f"{place}.data")  # last: what it makes, only run() removes

    def _make_intake(self, place: str) -> Intake | HandoverIntake | DatagramIntake | TransferIntake:
        plugin = DETECTORS.get(self._config.detector.plugin)
        receiver = self._config.receivers[self._rank]

        def shares() -> Iterable[Share]:
            return reversed(list(self._shares.values()))

        match plugin.transport:
            case Transport.ZMQ_BIND | Transport.ZMQ_CONNECT:
                connects = plugin.transport is Transport.ZMQ_CONNECT
                delivery = Delivery(shares, plugin.load_source().begins)
                if (ingest := self._config.ingest) is not None:
                    keys = credentials(self._config, receiver_name(self._rank), INGEST)
                    place = "ingest.handover"
                    return HandoverIntake(ingest.handover, place, self._rank, self._ring, delivery, shares, keys)
                return Intake(receiver.data, place, self._ring, delivery, connects)
            case Transport.UDP:
                settings = detector_settings(self._config, plugin.settings)
                if not isinstance(settings, PacketSettings):
                    raise ConfigError(f"detector plugin {plugin.name!r}: its settings are no PacketSettings")
                kind = plugin.load_packet_source()
                packet_bytes = kind.header_bytes + kind.payload_bytes
                n_ports, buffer = settings.n_ports, settings.receive_buffer
                if dispatch_of(self._config) is Dispatch.PARTIAL_FRAME:
                    n_ports = settings.ports_of_part(self._rank, len(self._config.receivers))
                return DatagramIntake(
                    receiver.data,
                    n_ports,
                    packet_bytes,
                    buffer,
                    place,
                    lambda: [share.packets for share in shares() if isinstance(share.packets, Packets)],
                )
            case Transport.RING:
                settings = detector_settings(self._config, plugin.settings)
                if not isinstance(settings, TransferSettings):
                    raise ConfigError(f"detector plugin {plugin.name!r}: its settings are no TransferSettings")
                return TransferIntake(
                    SharedTarget(receiver.data, place, settings.transfer_slots, receiver.ring.slot_bytes),
                    self._ring,
                    lambda: [share.packets for share in shares() if isinstance(share.packets, Transfers)],
                )
            case _:
                assert_never(plugin.transport)

    async def run(self) -> None:
        """Serve until cancelled; then close all files readable."""
        self._intake.start()
        # A thread that nobody waits for: a file system may hang.
        threading.Thread(target=self._open.repair_left, name="repair", daemon=True).start()
        log.info("receiver %d is ready: commands at %s", self._rank, self._config.receivers[self._rank].commands)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._responder.serve())
                tasks.create_task(self._watch())
        finally:
            await self._shut_down()

    async def _shut_down(self) -> None:
        await self._responder.close()
        self._intake.close()
        for acquisition, share in self._shares.items():
            if share.acquisition.state is not State.CLOSED:
                log.warning("acquisition %s is closed before its end", acquisition)
                share.abandon(f"receiver {self._rank} was shut down")
        await asyncio.gather(*(self._close(acquisition) for acquisition in self._shares))
        await asyncio.to_thread(self._maker.close)
        await self._host.close()
        if self._guard is not None:
            await self._guard.close()

    async def _watch(self) -> None:
        """Do what time decides, and close the shares that are done, each in a task of its own: a disk may hang."""
        patience = self._config.deadlines.stalled
        while True:
            await asyncio.sleep(TICK_SECONDS)
            for acquisition, share in list(self._shares.items()):
                if acquisition in self._closing:
                    continue
                if share.tick():
                    self._start_closing(acquisition)
                elif share.orphaned(time.monotonic() - patience):
                    if share.acquisition.state is State.CLOSED:
                        self._forget(acquisition)
                        continue
                    share.abandon(f"no conductor has asked for it for {patience:g} s")
                    self._start_closing(acquisition)

    def _start_closing(self, acquisition: AcquisitionId) -> None:
        task = asyncio.create_task(self._close(acquisition))
        self._closing[acquisition] = task
        task.add_done_callback(lambda _: self._closing.pop(acquisition, None))

    async def _close(self, acquisition: AcquisitionId) -> None:
        async with self._lock(acquisition):
            if (share := self._shares.get(acquisition)) is not None:
                await asyncio.to_thread(share.close)
                await asyncio.to_thread(self._open.remove, acquisition)
            await self._host.stop(acquisition)

    def _forget(self, acquisition: AcquisitionId) -> None:
        self._shares.pop(acquisition, None)
        self._locks.pop(acquisition, None)

    async def _handle(self, request: ReceiverRequest) -> Message:
        match request:
            case Hello():
                return Welcome(role=f"receiver {self._rank}", instance=self._instance)
            case PrepareReceiver():
                return await self._prepare(request)
            case Announce(acquisition, n_frames, final):
                self._find(acquisition).announce(n_frames, final)
                return Done()
            case Discard(acquisition):
                async with self._lock(acquisition):
                    if (share := self._shares.pop(acquisition, None)) is not None:
                        await in_thread(lambda: self._unmake(acquisition, share))
                    await self._host.stop(acquisition)
                    self._forget(acquisition)
                return Done()
            case Forget(acquisition):
                share = self._shares.get(acquisition)
                if share is not None and share.acquisition.state is not State.CLOSED:
                    raise StateError(f"acquisition {acquisition} is {share.acquisition.state}, not closed")
                self._forget(acquisition)
                return Done()
            case Poll(cursors):
                return ReceiverProgress(
                    instance=self._instance,
                    acquisitions=tuple(
                        self._shares[name].progress(name, first)
                        for name, first in cursors.items()
                        if name in self._shares
                    ),
                    strangers=self._intake.strangers,
                    free_slots=self._ring.free,
                )
            case GetRow(acquisition, row):
                share = self._find(acquisition)
                return Values(share.frame_at(row), share.scalars(row))
            case Settle(acquisition, n_frames):
                return SettledRows(self._find(acquisition).settle(n_frames))
            case GetFrame(acquisition, row, output):
                return FrameChunk(*self._find(acquisition).image(row, output))
            case _:
                assert_never(request)

    async def _prepare(self, request: PrepareReceiver) -> Message:
        if request.check_only:
            await asyncio.to_thread(self._maker.check, request.share)
            return Done()
        async with self._lock(request.acquisition):
            if request.acquisition in self._shares:
                raise StateError(f"acquisition {request.acquisition} is prepared already")
            await self._host.prepare(request.acquisition, request.share)
            try:
                share, reply = await in_thread(
                    lambda: self._make(request), undo=lambda made: self._unmake(request.acquisition, made[0])
                )
            except BaseException:
                await self._host.stop(request.acquisition)
                raise
            self._shares[request.acquisition] = share
            return reply

    def _make(self, request: PrepareReceiver) -> tuple[Share, ReceiverPrepared]:
        """Make a share, and note its files before any frame goes there. Blocks."""
        made = self._maker.make(request.acquisition, request.share)
        self._open.add(request.acquisition, self._maker.files(request.share))
        return made

    def _unmake(self, acquisition: AcquisitionId, share: Share) -> None:
        """Undo ``_make``. Blocks."""
        share.discard()
        self._open.remove(acquisition)

    def _lock(self, acquisition: AcquisitionId) -> asyncio.Lock:
        """Return the lock that keeps the commands to one acquisition in order."""
        return self._locks.setdefault(acquisition, asyncio.Lock())

    def _find(self, acquisition: AcquisitionId) -> Share:
        share = self._shares.get(acquisition)
        if share is None:
            raise StateError(f"receiver {self._rank} knows no acquisition {acquisition}")
        return share
