"""Taking a path for a new file, so that an old file of that name is lost only once the new one stays."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from ..plan import FileExistsPolicy
from .hold import Hold

ASIDE = ".replaced"  # added to the name of an old file, until the new one is there to stay


class _State(Enum):
    OURS = auto()  # the new file is there; the old one, if any, waits aside
    KEPT = auto()  # the old one is gone
    DROPPED = auto()  # all is as it was


class Claim:
    """A path that holds a new, empty file of ours, marked as being written until ``written`` or ``drop``.

    Where there was a file already that may be replaced, it waits under another name until ``keep``. Who has it open
    goes on reading it, and a symbolic link is moved, not followed.

    :param path: missing folders are made.
    :param policy: what to do where there is a file.
    :raises OSError: the file can't be made, or is there and is not to be overwritten; all is as it was.
    """

    def __init__(self, path: Path, policy: FileExistsPolicy) -> None:
        self.path = path
        self._aside: Path | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        if policy is FileExistsPolicy.OVERWRITE and os.path.lexists(path):
            self._aside = path.with_name(path.name + ASIDE)
            path.replace(self._aside)
        self._state = _State.OURS
        try:
            self._hold = Hold(path)
        except BaseException:
            self._restore()
            raise

    def keep(self) -> None:
        """Let the old file go: the new one is there to stay. Idempotent.

        :raises OSError: the old file can't be removed.
        """
        if self._state is _State.OURS:
            self._state = _State.KEPT
            if self._aside is not None:
                self._aside.unlink(missing_ok=True)

    def written(self) -> None:
        """Note that the file is closed: nobody writes it any more. Idempotent."""
        self._hold.release()

    def drop(self) -> None:
        """Remove the new file and put the old one back, if it still is there. Idempotent."""
        self._hold.release()
        if self._state is not _State.DROPPED:
            self.path.unlink(missing_ok=True)
            self._restore()

    def _restore(self) -> None:
        self._state = _State.DROPPED
        if self._aside is not None:
            with suppress(FileNotFoundError):
                self._aside.replace(self.path)
