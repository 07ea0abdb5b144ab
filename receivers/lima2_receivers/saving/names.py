"""Names and places of files, and the checks on them that come before any file is made."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import SavingError
from ..plan import FileExistsPolicy


def part_names(prefix: str, rank: int, streams: Iterable[str]) -> dict[str, str]:
    """Return the file name of each stream of a receiver."""
    return {stream: f"{prefix}_{stream}_{rank}.h5" for stream in streams}


def master_name(prefix: str) -> str:
    """Return the name of the file that shows all receivers' data as one."""
    return f"{prefix}_master.h5"


def ledger_name(prefix: str) -> str:
    """Return the name of the file that says what became of each frame."""
    return f"{prefix}_ledger.h5"


def confine(base_path: str, roots: Iterable[str]) -> Path:
    """Return a plan's folder, resolved, if it lies below an allowed root.

    :param base_path: as the plan gives it.
    :param roots: absolute folders.
    :raises SavingError: it is not absolute, or leads out of the roots, also by a symbolic link.
    """
    path = Path(base_path)
    allowed = [str(root) for root in roots]
    if "\0" in base_path or not path.is_absolute():
        raise SavingError(f"saving.base_path: got {base_path!r}, expected an absolute folder")
    resolved = path.resolve()
    if not any(resolved.is_relative_to(Path(root).resolve()) for root in allowed):
        raise SavingError(f"saving.base_path: {base_path} is {resolved}, expected a folder below {', '.join(allowed)}")
    return resolved


def check_files(folder: Path, names: Iterable[str], policy: FileExistsPolicy) -> None:
    """See whether files could be made in a folder, without making any. A missing folder is fine if it can be made.

    :raises SavingError: the folder can't be written, or a file is there and the policy is to abort.
    """
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise SavingError(f"saving.base_path: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SavingError(f"saving.base_path: {place} can't be written by user {os.geteuid()}")
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        raise SavingError(f"saving.base_path: {place} is on a file system that is mounted read-only")
    if policy is FileExistsPolicy.ABORT:
        for name in names:
            if (folder / name).exists():
                raise SavingError(
                    f"saving.filename_prefix: {folder / name} is there already; choose another prefix, or "
                    "file_exists_policy overwrite"
                )
