"""Which files a receiver has open, in a small file of its own: so that the next one knows what a killed one left."""

from __future__ import annotations

import logging
import socket
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..config import Config
from ..saving.findings import State
from ..saving.repair import repair

log = logging.getLogger(__name__)


def diary_path(config: Config, rank: int) -> Path:
    """Return where a receiver notes its open files: hidden in the first folder that it may save in.

    Several detectors, and several hosts, may save in one folder: so the name has a checksum of what tells them apart.
    """
    who = "\n".join((socket.gethostname(), config.detector.name, config.receivers[rank].commands))
    return Path(config.saving.roots[0]) / f".lima2-receiver-{rank}-{zlib.crc32(who.encode()):08x}.json"


class OpenFiles:
    """The diary. What can't be noted is logged, and fails nothing: it can be repaired by hand.

    :param path: of its file, which is there only while it says something.
    :param roots: folders that files lie in; what the diary has elsewhere is left alone.
    """

    def __init__(self, path: Path, roots: Sequence[str]) -> None:
        self._path = path
        self._roots = [Path(root).resolve() for root in roots]
        self._lock = threading.Lock()
        self._left = self._read()
        self._open = dict(self._left)

    def add(self, acquisition: str, files: Sequence[Path]) -> None:
        """Note that files are open. Blocks."""
        with self._lock:
            self._open[acquisition] = [str(file) for file in files]
            self._write()

    def remove(self, acquisition: str) -> None:
        """Note that the files of an acquisition are closed, or gone. Blocks; idempotent."""
        with self._lock:
            if self._open.pop(acquisition, None) is not None:
                self._write()

    def repair_left(self) -> None:
        """Repair what a killed predecessor left, and log what was done. Blocks."""
        for acquisition, names in self._left.items():
            try:
                busy = self._repair(acquisition, [Path(name) for name in names])
            except Exception:  # a bug here must not keep the diary from being tried again, nor end the thread
                log.exception("acquisition %s: its files could not be repaired", acquisition)
                continue
            if not busy:
                self.remove(acquisition)

    def _repair(self, acquisition: str, files: Sequence[Path]) -> bool:
        """Repair the files of an acquisition; True: some are being written."""
        mine = [file for file in files if any(file.resolve().is_relative_to(root) for root in self._roots)]
        reports = repair(file for file in mine if file.exists())
        for report in reports:
            level = logging.WARNING if report.bad else logging.INFO
            held = f", {report.complete} frames whole" if report.complete >= 0 else ""
            why = f" ({report.why})" if report.why else ""
            log.log(level, "left by a killed receiver: %s: %s%s%s", report.path, report.state, held, why)
        log.info("acquisition %s: %d files of a killed receiver were looked at", acquisition, len(reports))
        return any(report.state is State.BUSY for report in reports)

    def _read(self) -> dict[str, list[str]]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, list[str]])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s can't be read, so that no files of a killed receiver are known: %s", self._path, error)
            return {}

    def _write(self) -> None:
        made = self._path.with_suffix(".new")
        try:
            if self._open:
                made.write_bytes(msgspec.json.encode(self._open))
                made.replace(self._path)
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s can't be written, so that a kill would leave files unknown: %s", self._path, error)
