"""The ingest's thread: messages off the detector's stream, kept until a receiver has made them safe."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import zmq

from ..config import RingConfig
from ..errors import AccessError, ProtocolError
from ..handover import INLINE, Admit, Attached, Hand, Join, Leave, Over, Report, ToReceiver, decode_to_ingest, encode
from ..security.guard import Guard
from ..security.keys import receiver_name
from ..security.refusals import Refusals
from ..transport.shared_slots import SlotWriter
from .dealing import Deal, Dealing

log = logging.getLogger(__name__)

POLL_MILLISECONDS = 50  # how soon the thread notices that it is to end
BURST = 16  # messages that are taken before receivers are listened to again

Part = zmq.Frame | bytes


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of a message.

    :param sizes: of its parts that lie in its slot, in bytes; -1: it is the next of ``parts``.
    :param parts: those that are not in the slot.
    """

    sizes: tuple[int, ...]
    parts: tuple[Part, ...]


@dataclass(slots=True)
class _Peer:
    """A receiver that has joined.

    :param identity: of its socket.
    :param attached: whether it reads shared memory.
    """

    identity: bytes
    rank: int
    attached: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """How an ingest stands.

    :param held: messages that are kept, and not acknowledged.
    :param free: how many more there is room for.
    :param ranks: receivers that have joined.
    :param unwanted: messages so far that no receiver knew anything of.
    :param dealt_again: messages so far that went to another receiver, since the first was lost.
    """

    held: int
    free: int
    ranks: frozenset[int]
    unwanted: int = 0
    dealt_again: int = 0


class Handing:
    """Takes messages of a detector and hands them to receivers.

    While all slots are taken it stops receiving, so that back-pressure reaches the detector.

    :param stream: PULL socket of the detector's messages; it is closed with this.
    :param out: ROUTER socket that receivers connect to; likewise.
    :param ring: how many messages are kept, and their size.
    :param slots: shared memory of as many slots; None: all goes through the socket. Closed with this.
    :param silence: seconds after which a receiver that says nothing has left.
    :param guard: knows who says what by the socket; None: everybody may.
    """

    def __init__(
        self,
        stream: zmq.SyncSocket,
        out: zmq.SyncSocket,
        ring: RingConfig,
        slots: SlotWriter | None,
        silence: float,
        guard: Guard | None = None,
    ) -> None:
        self._stream = stream
        self._out = out
        self._slots = slots
        self._slot_bytes = ring.slot_bytes
        self._silence = silence
        self._guard = guard
        self._refusals = guard.refusals if guard is not None else Refusals()
        self._dealing = Dealing(ring.slots)
        self._kept: dict[int, _Kept] = {}  # by slot; what is in a free one is of no meaning
        self._peers: dict[int, _Peer] = {}  # by session
        self._admitted: frozenset[int] | None = None
        self.counts = self._count()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="handing", daemon=True)

    def start(self) -> None:
        """Start receiving and handing over."""
        self._thread.start()

    def admit(self, ranks: Iterable[int]) -> None:
        """Let only these receivers take messages; what the others have goes to these."""
        self._admitted = frozenset(ranks)

    def close(self) -> None:
        """Stop, and close the sockets."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._stream.close(linger=0)
        self._out.close(linger=0)
        if self._slots is not None:
            self._slots.close()

    def _run(self) -> None:
        listening, taking = zmq.Poller(), zmq.Poller()
        for poller in (listening, taking):
            poller.register(self._out, zmq.POLLIN)
        taking.register(self._stream, zmq.POLLIN)
        while not self._stop.is_set():
            events = dict((taking if self._dealing.free else listening).poll(POLL_MILLISECONDS))
            try:
                if self._out in events:
                    self._listen()
                if self._stream in events:
                    self._take()
                self._look()
                self._hand_out()
                self.counts = self._count()
            except Exception:  # a bug in what one receiver or message does must not end the hand-over of all
                log.exception("internal error")

    # --- messages ---

    def _take(self) -> None:
        """Take what has come, as long as there is room."""
        for _ in range(min(BURST, self._dealing.free)):
            try:
                parts = self._stream.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            number, slot = self._dealing.arrive()
            self._kept[slot] = self._keep(slot, number, parts)

    def _keep(self, slot: int, number: int, parts: list[zmq.Frame]) -> _Kept:
        """Put large parts into shared memory, as long as they fit, where a receiver reads it."""
        if self._slots is None or not any(peer.attached for peer in self._peers.values()):
            return _Kept((-1,) * len(parts), tuple(parts))
        room = self._slot_bytes
        sizes: list[int] = []
        for part in parts:
            size = len(part.buffer)
            sizes.append(size if INLINE < size <= room else -1)
            room -= max(0, sizes[-1])
        shared = [part.buffer for part, size in zip(parts, sizes, strict=True) if size >= 0]
        if shared:
            self._slots.write(slot, number, shared)
        return _Kept(tuple(sizes), tuple(part for part, size in zip(parts, sizes, strict=True) if size < 0))

    def _hand_out(self) -> None:
        while deals := self._dealing.deal():
            for deal in deals:
                if deal.session in self._peers:  # it may have gone since
                    self._hand(deal)

    def _hand(self, deal: Deal) -> None:
        peer, kept = self._peers[deal.session], self._kept[deal.slot]
        if not peer.attached and max(kept.sizes, default=-1) >= 0:
            kept = self._unshared(deal.slot, kept)
        self._send(deal.session, Hand(deal.session, deal.number, deal.slot, kept.sizes), kept.parts)

    def _unshared(self, slot: int, kept: _Kept) -> _Kept:
        """Return a message with all of its parts, for a receiver that does not read shared memory."""
        outside, at, parts = iter(kept.parts), 0, list[Part]()
        for size in kept.sizes:
            if size < 0 or self._slots is None:
                parts.append(next(outside))
            else:
                parts.append(self._slots.read(slot, at, size))
                at += size
        return _Kept((-1,) * len(parts), tuple(parts))

    # --- receivers ---

    def _listen(self) -> None:
        while True:
            try:
                frames = self._out.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                self._understand(frames[0].bytes, frames[-1])
            except (AccessError, ProtocolError) as error:
                self._refusals.note("a receiver", str(error))

    def _understand(self, identity: bytes, payload: zmq.Frame) -> None:
        match decode_to_ingest(payload.buffer):
            case Join(rank):
                self._check(rank, payload)
                self._join(rank, identity)
            case Report(session, granted, done, refused):
                if self._owns(session, identity):
                    self._dealing.report(session, granted, done, refused, time.monotonic())
            case Attached(session):
                if self._owns(session, identity):
                    self._peers[session].attached = True
            case Leave(session):
                if self._owns(session, identity):
                    log.info("receiver %d leaves", self._peers[session].rank)
                    self._part(session)

    def _check(self, rank: int, payload: zmq.Frame) -> None:
        """Check that a receiver is the one that it says it is.

        :raises AccessError: it isn't.
        """
        if self._guard is None:
            return
        peer = self._guard.peer(payload)
        if peer.name != receiver_name(rank):
            raise AccessError(f"it says it is receiver {rank}, and has the key of {peer}")

    def _join(self, rank: int, identity: bytes) -> None:
        session = self._dealing.join(rank, time.monotonic())
        if session is None:  # the conductor does not count on it; it asks again
            return
        for old in [old for old, peer in self._peers.items() if peer.rank == rank]:
            del self._peers[old]
        self._peers[session] = _Peer(identity, rank)
        log.info("receiver %d takes messages", rank)
        self._send(session, Admit(session, self._slots.place if self._slots is not None else None))

    def _owns(self, session: int, identity: bytes) -> bool:
        """Tell whether a session lives and is a peer's; else tell the peer."""
        peer = self._peers.get(session)
        if peer is not None and peer.identity == identity:
            return True
        self._tell(identity, Over(session))
        return False

    def _part(self, session: int) -> None:
        """Expect nothing more of a receiver."""
        self._peers.pop(session, None)
        self._dealing.leave(session)

    def _send(self, session: int, message: ToReceiver, parts: Iterable[Part] = ()) -> None:
        peer = self._peers[session]
        if not self._tell(peer.identity, message, parts):
            log.warning("receiver %d is gone: what it has not saved goes to others", peer.rank)
            self._part(session)

    def _tell(self, identity: bytes, message: ToReceiver, parts: Iterable[Part] = ()) -> bool:
        try:
            self._out.send_multipart([identity, encode(message), *parts], zmq.NOBLOCK, copy=False)
        except zmq.ZMQError:  # it has hung up
            return False
        return True

    def _look(self) -> None:
        """Do what time and the conductor decide."""
        if self._admitted is not None:
            self._dealing.admit(self._admitted)
        silent = self._dealing.expire(time.monotonic() - self._silence)
        ranks = self._dealing.ranks
        for session in [session for session, peer in self._peers.items() if peer.rank not in ranks]:
            rank = self._peers.pop(session).rank
            why = "is silent" if rank in silent else "is given up by the conductor"
            log.warning("receiver %d %s: what it has not saved goes to others", rank, why)

    def _count(self) -> Counts:
        dealing = self._dealing
        return Counts(dealing.held, dealing.free, dealing.ranks, dealing.unwanted, dealing.dealt_again)


def open_handover(context: zmq.SyncContext) -> zmq.SyncSocket:
    """Make the socket that receivers connect to; it is not bound yet.

    :param context: that its guard watches over.
    """
    out = context.socket(zmq.ROUTER)
    out.linger = 0
    out.sndhwm = out.rcvhwm = 0  # credits bound what is under way
    out.router_mandatory = True  # who has hung up is noticed
    out.set(zmq.HEARTBEAT_IVL, 1000)  # a host that lost its power says nothing
    out.set(zmq.HEARTBEAT_TIMEOUT, 5000)
    return out
