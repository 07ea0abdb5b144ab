"""Taking a path for a new file, so that an old file of that name is lost only once the new one stays."""

from __future__ import annotations

import os
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path

from ..plan import FileExistsPolicy
from .hold import Hold

ASIDE = ".replaced"  # added to the name of an old file, until the new one is there to stay
AGAIN = ".again"  # added to the name of a file that is written anew, until it has all that the old one has


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

    @property
    def replaces(self) -> bool:
        """Whether an old file waits."""
        return self._aside is not None

    @classmethod
    def resume(cls, path: Path) -> Claim:
        """Return the claim that another process made on a path before it died.

        :raises OSError: the file can't be opened.
        """
        found = cls.__new__(cls)
        found.path = path
        aside = path.with_name(path.name + ASIDE)
        found._aside = aside if os.path.lexists(aside) else None  # noqa: SLF001 - its own
        found._state = _State.OURS  # noqa: SLF001
        found._hold = Hold.again(path)  # noqa: SLF001
        return found

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


class Heir(Claim):
    """A new, empty file that is to take the place of one that another process of ours wrote before it died.

    It has another name until ``take_over``, so that what is known of the old one can be read meanwhile. Who has the old
    one open goes on reading it.

    :param path: of the old file.
    :raises OSError: the file can't be made.
    """

    def __init__(self, path: Path) -> None:
        self._place = Claim.resume(path)
        fresh = path.with_name(path.name + AGAIN)
        fresh.unlink(missing_ok=True)  # of one more that died
        super().__init__(fresh, FileExistsPolicy.ABORT)
        self._taken = False

    def take_over(self) -> None:
        """Take the old file's place. Idempotent.

        :raises OSError: it can't be taken.
        """
        if not self._taken:
            self.path.replace(self._place.path)
            self._taken = True
            self._place.written()

    def written(self) -> None:
        """Note that the file is closed: nobody writes it any more. Idempotent."""
        super().written()
        self._place.written()

    def keep(self) -> None:
        """Let the file go that the old one replaced. Idempotent."""
        self._place.keep()

    def drop(self) -> None:
        """Remove the new file, unless it has taken over; the old one stays. Idempotent."""
        self.written()
        if not self._taken:
            self.path.unlink(missing_ok=True)
