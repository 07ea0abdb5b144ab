"""The process that writes documents to Tiled, so that the RunEngine does not wait for it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from lima2_receivers.security.reach import Reach, reach

from .bus import Hello, Numbered, Ready, encode, to_writer
from .documents import decode_document

log = logging.getLogger(__name__)

POLL = 200
"""Milliseconds after which a signal to end is noticed, at the latest."""
Consumer = Callable[[str, dict[str, Any]], object]


class DocumentReceiver:
    """The writer's end of the bus: deals with each document once, in order, then acknowledges it.

    :param endpoint: to bind.
    :param consumer: deals with a document.
    :param failures: tells how many runs could not be written so far.
    :raises zmq.ZMQError: the endpoint can't be bound.
    """

    def __init__(self, endpoint: str, consumer: Consumer, failures: Callable[[], int] = lambda: 0) -> None:
        self._consumer = consumer
        self._failures = failures
        self._instance = uuid.uuid4().hex
        self._last: dict[str, int] = {}
        self._ending = threading.Event()
        # A context of its own, because its end waits until the endpoint is free for the next writer.
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 500
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError:
            self._close()
            raise

    def stop(self) -> None:
        """Make ``serve`` return when it has dealt with the document that it is at."""
        self._ending.set()

    def serve(self) -> None:
        """Take documents until stopped."""
        try:
            while not self._ending.is_set():
                if self._socket.poll(POLL):
                    self._take(*self._socket.recv_multipart())
        finally:
            self._close()

    def _close(self) -> None:
        self._socket.close()
        self._context.term()

    def _take(self, sender: bytes, *parts: bytes) -> None:
        try:
            message = to_writer.decode(b"".join(parts))
        except msgspec.MsgspecError as error:
            log.warning("dropped an unreadable message: %s", error)
            return
        match message:
            case Hello(session, first):
                last = self._last.setdefault(session, first - 1)
                self._answer(sender, last, resume=True)
            case Numbered(session, number, payload):
                last = self._last.get(session)
                if last is None or number > last + 1:
                    return  # something before it is missing: the sender will ask how far we are
                if number == last + 1:
                    self._deal(payload)
                    self._last[session] = number
                self._answer(sender, self._last[session])

    def _deal(self, payload: bytes) -> None:
        try:
            name, document = decode_document(payload)
        except (msgspec.MsgspecError, ValueError) as error:
            log.error("dropped an unreadable document: %s", error)  # noqa: TRY400 - it is the sender's fault
            return
        self._consumer(name, document)

    def _answer(self, sender: bytes, last: int, resume: bool = False) -> None:
        self._socket.send_multipart([sender, encode(Ready(self._instance, last, resume, self._failures()))])


def writer_argv(endpoint: str, uri: str, key_file: Path, backup_directory: Path) -> list[str]:
    """Return the command line of a writer process; see ``main``."""
    module = [sys.executable, "-m", "lima2_ophyd.tiled.writer"]
    return [*module, endpoint, uri, "--key-file", str(key_file), "--backup-directory", str(backup_directory)]


def run_writer(endpoint: str, uri: str, api_key: str, backup_directory: Path) -> None:
    """Write documents to Tiled until SIGTERM or SIGINT.

    :param endpoint: to bind, ``ipc://PATH`` or ``tcp://127.0.0.1:PORT``.
    :param uri: of the Tiled server.
    :param api_key: for it.
    :param backup_directory: folder for the documents of runs that could not be written, one file a run.
    :raises SystemExit: the endpoint can't be bound, or other hosts can reach it: it has no keys.
    """
    from bluesky_tiled_plugins import TiledWriter

    if reach(endpoint) is Reach.NETWORK:
        raise SystemExit(f"error: documents can't come in at {endpoint}: other hosts reach it, and it has no keys")
    backup_directory.mkdir(parents=True, exist_ok=True)
    writer = TiledWriter.from_uri(uri, api_key=api_key, batch_size=1, backup_directory=str(backup_directory))

    def failures() -> int:
        return sum(1 for _ in backup_directory.glob("*.jsonl"))

    before = failures()
    try:
        receiver = DocumentReceiver(endpoint, writer, lambda: failures() - before)
    except zmq.ZMQError as error:
        raise SystemExit(f"error: documents can't come in at {endpoint}: {error}") from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: receiver.stop())
    log.info("documents from %s go to %s", endpoint, uri)
    receiver.serve()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a writer process from the command line."""
    parser = argparse.ArgumentParser(prog="lima2-tiled-writer", description=run_writer.__doc__)
    parser.add_argument("endpoint", help="to bind, ipc://PATH or tcp://127.0.0.1:PORT")
    parser.add_argument("uri", help="of the Tiled server")
    parser.add_argument("--key-file", type=Path, required=True, help="file that holds the server's API key")
    parser.add_argument("--backup-directory", type=Path, required=True, help="for documents that could not be written")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s tiled-writer %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_writer(given.endpoint, given.uri, given.key_file.read_text().strip(), given.backup_directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
