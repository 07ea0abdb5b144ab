"""Names and places of files, and the checks on them that come before any file is made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ..errors import SavingError
from ..plan import FileExistsPolicy
from ..rollover import first_name

WRITING = ".writing"  # added to the name of a file that readers are to see only once it is closed


def part_names(prefix: str, rank: int, streams: Iterable[str], rolling: bool = False) -> dict[str, str]:
    """Return the file name of each stream of a receiver.

    :param rolling: True: each has many files; the name is that of the first.
    """
    names = {stream: f"{prefix}_{stream}_{rank}.h5" for stream in streams}
    return {stream: first_name(name) for stream, name in names.items()} if rolling else names


def numbered_files(folder: Path, first: str) -> list[str]:
    """Return the names of all files in a folder that are of one kind, also those that were never finished.

    :param first: name of the first of them.
    """
    kind = re.compile(re.escape(first.removesuffix(first_name(".h5"))) + rf"_\d{{4,}}\.h5({re.escape(WRITING)})?")
    try:
        return sorted(name for name in os.listdir(folder) if kind.fullmatch(name))
    except FileNotFoundError:
        return []


def remark_name(prefix: str, rank: int) -> str:
    """Return the name of the file that holds what the detector said to a receiver beside its pixels."""
    return f"{prefix}_header_{rank}.cbor"


def master_name(prefix: str) -> str:
    """Return the name of the file that shows all receivers' data as one."""
    return f"{prefix}_master.h5"


def ledger_name(prefix: str) -> str:
    """Return the name of the file that says what became of each frame."""
    return f"{prefix}_ledger.h5"


def frames_name(prefix: str) -> str:
    """Return the name of the file that shows all receivers' frames as one, in dynamic dispatch."""
    return f"{prefix}_frames.h5"


def confine(base_path: str, roots: Iterable[str]) -> Path:
    """Return a plan's folder, resolved, if it lies below an allowed root.

    :param base_path: as the plan gives it.
    :param roots: absolute folders.
    :raises SavingError: it is not absolute, or leads out of the roots, also by a symbolic link; or the root that it
        lies in is missing.
    """
    path = Path(base_path)
    allowed = [Path(root) for root in roots]
    if "\0" in base_path or not path.is_absolute():
        raise SavingError(f"saving.base_path: got {base_path!r}, expected an absolute folder")
    if ".." in path.parts:
        raise SavingError(f"saving.base_path: got {base_path!r}, expected a folder without '..'")
    try:
        resolved = path.resolve()
        root = next((root for root in allowed if resolved.is_relative_to(root.resolve())), None)
    except (OSError, RuntimeError) as error:  # a loop of symbolic links, up to Python 3.12
        raise SavingError(f"saving.base_path: {base_path}: {error}") from error
    if any(map(os.path.islink, (resolved, *resolved.parents))):  # the same from Python 3.13 on
        raise SavingError(f"saving.base_path: {base_path}: the symbolic links in it form a loop")
    if root is None:
        expected = ", ".join(str(root) for root in allowed)
        raise SavingError(f"saving.base_path: {base_path} is {resolved}, expected a folder below {expected}")
    if not os.path.isdir(root):  # Path.is_dir raises where it may not look
        raise SavingError(f"saving.roots: {root} is not there, or not a folder: is its file system mounted?")
    return resolved


def check_files(folder: Path, names: Iterable[str], policy: FileExistsPolicy) -> None:
    """See whether files could be made in a folder, without making any. A missing folder is fine if it can be made.

    :raises SavingError: the folder can't be written, or a file is there and the policy is to abort.
    """
    names = tuple(names)
    for name in names:
        if Path(name).name != name or not name.isprintable():
            raise SavingError(f"saving.filename_prefix: got file name {name!r}, expected one without path or controls")
    try:
        _check_folder(folder)
        present = [name for name in names if os.path.lexists(folder / name)]
    except OSError as error:
        raise SavingError(f"saving.base_path: {error.filename}: {error.strerror}") from error
    if present and policy is FileExistsPolicy.ABORT:
        raise SavingError(
            f"saving.filename_prefix: {folder / present[0]} is there already; choose another prefix, or "
            "file_exists_policy overwrite"
        )


def _check_folder(folder: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise SavingError(f"saving.base_path: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SavingError(f"saving.base_path: {place} can't be written by user {os.geteuid()}")
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        raise SavingError(f"saving.base_path: {place} is on a file system that is mounted read-only")
