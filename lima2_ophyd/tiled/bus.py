"""The way of documents out of the RunEngine's process: it never waits for them, and none is lost without a word.

Every document has a number, and the writer acknowledges the ones it has dealt with. What is not acknowledged is sent
again when the connection or the writer comes back, whole runs where a new writer has seen only a part of one.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from msgspec import Struct

from .documents import decode_document, encode_document

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds without an acknowledgement after which the sender asks how far the writer is."""
WINDOW = 512
"""Documents that are on their way at most."""


class Hello(Struct, frozen=True, tag=True):
    """A sender asks how far the writer is with its documents.

    :param session: new for each sender.
    :param first: number of the first document that it would send to a writer that knows nothing of it.
    """

    session: str
    first: int


class Ready(Struct, frozen=True, tag=True):
    """How far a writer is with a sender's documents.

    :param instance: new at each start of the writer.
    :param last: number of the last document that it has dealt with.
    :param resume: True in the answer to a Hello: what comes after ``last`` is to be sent (again).
    :param failures: runs that it could not write to Tiled; their documents are in its backup folder.
    """

    instance: str
    last: int
    resume: bool = False
    failures: int = 0


class Numbered(Struct, frozen=True, tag=True):
    """A document on its way.

    :param number: counts up from 1 in a session.
    :param payload: see ``documents``.
    """

    session: str
    number: int
    payload: bytes


ToWriter = Hello | Numbered
to_writer = msgspec.msgpack.Decoder(ToWriter)
from_writer = msgspec.msgpack.Decoder(Ready)
_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


class DocumentSender:
    """A callback for the RunEngine that hands documents to the writer process.

    :param endpoint: of the writer.
    :param backup_directory: folder for what the writer never acknowledged; None: there is none, it is only logged.
    :param warn_at: documents that may wait before a warning.
    """

    def __init__(self, endpoint: str, backup_directory: Path | None = None, *, warn_at: int = 1000) -> None:
        self.endpoint = endpoint
        self._backup = backup_directory
        self._warn_at = warn_at
        self._warned = False
        self._session = uuid.uuid4().hex
        self._condition = threading.Condition()
        self._kept: deque[tuple[int, bytes]] = deque()  # from the oldest open run on, acknowledged or not
        self._last = 0  # number of the newest document
        self._acknowledged = 0
        self._sent = 0
        self._open: dict[str, tuple[int, int]] = {}  # run -> numbers of its start and stop; 0: not yet
        self._instance = ""
        self._failures = 0
        self._ending = False
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="documents to the writer", daemon=True)
        self._thread.start()

    @property
    def backlog(self) -> int:
        """How many documents the writer has not dealt with yet."""
        with self._condition:
            return self._last - self._acknowledged

    @property
    def failures(self) -> int:
        """How many runs the writer could not write to Tiled; their documents are in its backup folder."""
        return self._failures

    def __call__(self, name: str, document: Mapping[str, Any]) -> None:
        """Take a document from the RunEngine, and return at once."""
        payload = encode_document(name, document)
        with self._condition:
            if self._ending:
                raise RuntimeError("the document sender is closed")
            self._last += 1
            self._kept.append((self._last, payload))
            if name == "start":
                self._open[str(document["uid"])] = (self._last, 0)
            elif name == "stop" and (run := str(document["run_start"])) in self._open:
                self._open[run] = (self._open[run][0], self._last)
            backlog = self._last - self._acknowledged
            if backlog >= self._warn_at and not self._warned:
                self._warned = True
                log.warning("%d documents wait for the writer at %s", backlog, self.endpoint)
        self._ring()

    def wait_ready(self, timeout: float) -> None:
        """Wait until the writer answers.

        :param timeout: seconds.
        :raises TimeoutError: it does not.
        """
        with self._condition:
            if not self._condition.wait_for(lambda: self._instance, timeout):
                raise TimeoutError(f"no document writer answered at {self.endpoint} within {timeout:g} s")

    def flush(self, timeout: float) -> None:
        """Wait until the writer has dealt with all documents so far.

        :param timeout: seconds.
        :raises TimeoutError: some are left; the message says how many.
        """
        with self._condition:
            target = self._last
            if not self._condition.wait_for(lambda: self._acknowledged >= target, timeout):
                raise TimeoutError(
                    f"{target - self._acknowledged} documents were not taken by the writer at {self.endpoint} "
                    f"within {timeout:g} s"
                )

    def close(self, timeout: float = 10.0) -> int:
        """Wait for the writer, then end; what it never acknowledged goes to the backup folder.

        :param timeout: seconds.
        :returns: how many documents the writer did not take.
        """
        if not self._thread.is_alive():
            return 0
        with contextlib.suppress(TimeoutError):
            self.flush(timeout)
        with self._condition:
            self._ending = True
        self._ring()
        self._thread.join()
        self._wake.close()
        self._woken.close()
        left = self._last - self._acknowledged
        if left:
            self._save()
        return left

    def _save(self) -> None:
        if self._backup is None:
            log.error("%d documents were not taken by the writer and are lost", self._last - self._acknowledged)
            return
        self._backup.mkdir(parents=True, exist_ok=True)
        path = self._backup / f"untaken-{self._session}.jsonl"
        with path.open("wb") as file:
            for _, payload in self._kept:
                file.write(msgspec.json.encode(decode_document(payload), enc_hook=_listed) + b"\n")
        log.error("%d documents were not taken by the writer: they are in %s", self._last - self._acknowledged, path)

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b".")  # a full pipe wakes the thread too

    # --- in the thread ---

    def _run(self) -> None:
        link = zmq.Context.instance().socket(zmq.DEALER)
        link.linger = 0
        link.immediate = 1
        link.set(zmq.RECONNECT_IVL, 50)
        link.set(zmq.RECONNECT_IVL_MAX, 500)
        link.connect(self.endpoint)
        poller = zmq.Poller()
        poller.register(link, zmq.POLLIN)
        poller.register(self._woken, zmq.POLLIN)
        asked = moved = time.monotonic() - RETRY
        try:
            while not self._ending:
                now = time.monotonic()
                stuck = not self._instance or (self.backlog > 0 and now - moved > RETRY)
                if stuck and now - asked >= RETRY / 2:
                    with self._condition:
                        first = self._kept[0][0] if self._kept else self._last + 1
                    self._try_send(link, Hello(self._session, first))
                    asked = now
                for ready, _ in poller.poll(200):
                    if ready is link:
                        if self._take(link):
                            moved = time.monotonic()
                    else:
                        with contextlib.suppress(BlockingIOError):
                            while self._woken.recv(4096):
                                pass
                self._send_more(link)
        finally:
            link.close(linger=0)

    def _take(self, link: zmq.Socket[bytes]) -> bool:
        moved = False
        while True:
            try:
                answer = from_writer.decode(link.recv(zmq.NOBLOCK))
            except zmq.Again:
                return moved
            except msgspec.MsgspecError as error:
                log.warning("unreadable answer of the document writer: %s", error)
                continue
            with self._condition:
                before = self._acknowledged
                if answer.resume:
                    self._resume(answer)
                elif answer.instance == self._instance:
                    self._acknowledged = max(self._acknowledged, answer.last)
                if answer.failures > self._failures:
                    log.error("%d runs are not in Tiled but in the writer's backup folder", answer.failures)
                self._failures = answer.failures
                moved |= self._acknowledged > before
                self._forget()
                self._condition.notify_all()

    def _resume(self, answer: Ready) -> None:
        if self._instance not in ("", answer.instance):
            log.warning("the document writer at %s was restarted: open runs are sent again", self.endpoint)
            self._acknowledged = min(self._acknowledged, answer.last)
        self._instance = answer.instance
        self._acknowledged = max(self._acknowledged, answer.last)
        self._sent = answer.last
        self._warned = False

    def _forget(self) -> None:
        """Let go of what was acknowledged, but for the runs that a new writer would need from their start."""
        acknowledged = self._acknowledged
        self._open = {run: (start, stop) for run, (start, stop) in self._open.items() if not 0 < stop <= acknowledged}
        floor = min((start for start, _ in self._open.values()), default=acknowledged + 1)
        while self._kept and self._kept[0][0] < floor and self._kept[0][0] <= acknowledged:
            self._kept.popleft()

    def _send_more(self, link: zmq.Socket[bytes]) -> None:
        if not self._instance:
            return
        with self._condition:
            skip = self._sent + 1 - self._kept[0][0] if self._kept else 0
            room = max(0, self._acknowledged + WINDOW - self._sent)
            batch = list(itertools.islice(self._kept, max(0, skip), max(0, skip) + room))
        for number, payload in batch:
            if not self._try_send(link, Numbered(self._session, number, payload)):
                return
            self._sent = number

    def _try_send(self, link: zmq.Socket[bytes], message: ToWriter) -> bool:
        try:
            link.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)
