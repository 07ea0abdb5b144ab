"""The journals' files: one an acquisition, in a folder that belongs to one conductor."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

from ..config import Config
from ..errors import SavingError
from .journal import Closed, Entry, Opening, Record, begin, decode_journal, encode_entry

log = logging.getLogger(__name__)

SUFFIX = ".journal"
ASIDE = ".unusable"  # added to the name of a journal that can't be used
REMEMBERED = 8  # journals of closed acquisitions that are kept


def journal_folder(config: Config) -> Path:
    """Return where a conductor's journals are: it is no other conductor's."""
    if config.conductor.journal:
        return Path(config.conductor.journal)
    scheme, _, rest = config.conductor.commands.partition("://")
    if scheme == "ipc":
        return Path(rest + SUFFIX)  # beside its socket
    port = rest.rpartition(":")[2]
    return Path(config.saving.roots[0]) / ".lima2" / f"{socket.gethostname()}_{port}{SUFFIX}"


class JournalFile:
    """One acquisition's journal. Its methods block; any thread may call them.

    The beginning is synced to disk. What is added later is handed to the system, which keeps it when this process is
    killed; where the host dies, so do the receivers on it.

    :param path: an older file there is replaced.
    :param entries: that it begins with.
    :raises SavingError: it can't be written.
    """

    def __init__(self, path: Path, entries: Iterable[Entry]) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._latest: Entry | None = None
        self._over = False
        fresh = path.with_name(path.name + ".new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with fresh.open("wb") as file:
                file.write(begin())
                for entry in entries:
                    file.write(encode_entry(entry))
                    self._latest = entry
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError as error:
            raise SavingError(f"journal {path}: {error.strerror}") from error

    def add(self, entry: Entry) -> None:
        """Write an entry, unless it is the latest.

        :raises SavingError: it can't be written.
        """
        with self._lock:
            if entry == self._latest or self._over:
                return
            try:
                with self.path.open("ab") as file:
                    file.write(encode_entry(entry))
            except OSError as error:
                raise SavingError(f"journal {self.path}: {error.strerror}") from error
            self._latest = entry
            self._over = isinstance(entry, Closed)

    def remove(self) -> None:
        """Remove the file. Idempotent."""
        with self._lock:
            self._over = True
            with contextlib.suppress(OSError):  # it is read, and moved away, at the next start
                self.path.unlink(missing_ok=True)


class JournalFolder:
    """All journals of a conductor.

    :param folder: made when the first journal is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, opening: Opening) -> JournalFile:
        """Make an acquisition's journal; the oldest ones of closed acquisitions are removed. Blocks.

        :raises SavingError: it can't be made.
        """
        self._prune()
        return JournalFile(self.folder / f"{opening.series}{SUFFIX}", [opening])

    def load(self) -> list[tuple[Path, Record]]:
        """Return all journals, the oldest first; those that can't be read are moved aside. Blocks."""
        if not self._is_ours():
            log.error("%s can be written by others: its journals are not read", self.folder)
            return []
        found: list[tuple[Path, Record]] = []
        for path in self._paths():
            try:
                found.append((path, decode_journal(path.read_bytes())))
            except (OSError, SavingError) as error:
                self.put_aside(path, str(error))
        return found

    def put_aside(self, path: Path, why: str) -> None:
        """Keep a journal that can't be used under another name."""
        log.error("%s: %s; it is kept as %s%s", path, why, path.name, ASIDE)
        with contextlib.suppress(OSError):
            path.replace(path.with_name(path.name + ASIDE))

    def _is_ours(self) -> bool:
        """Tell whether nobody else can put journals there, which say what files are to be removed."""
        try:
            found = self.folder.stat()
        except OSError:
            return True  # there is none
        return found.st_uid == os.geteuid() and not found.st_mode & 0o022

    def _paths(self) -> list[Path]:
        found = [path for path in self.folder.glob(f"*{SUFFIX}") if path.name.removesuffix(SUFFIX).isdecimal()]
        return sorted(found, key=lambda path: int(path.name.removesuffix(SUFFIX)))

    def _prune(self) -> None:
        closed = [path for path, record in self.load() if record.closed is not None]
        for path in closed[:-REMEMBERED]:
            path.unlink(missing_ok=True)
