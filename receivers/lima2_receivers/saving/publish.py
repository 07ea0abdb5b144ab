"""Files that appear under their names only when they are closed and on disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from .names import WRITING


def unpublished(path: Path) -> Path:
    """Return where a file is written that will be ``path``."""
    return path.with_name(path.name + WRITING)


def publish(paths: Iterable[Path]) -> None:
    """Give files that were written, synced and closed their names, and put these on disk, too.

    Who has a file of that name open goes on reading the old one.

    :param paths: of one folder.
    :raises OSError: a file can't be renamed, or the folder not be synced.
    """
    folders = set()
    for path in paths:
        unpublished(path).replace(path)
        folders.add(path.parent)
    for folder in folders:
        _sync(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such thing
            raise
    finally:
        os.close(handle)
