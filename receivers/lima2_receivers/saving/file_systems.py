"""Which kinds of file system let files be read while they are written, as HDF5's SWMR mode needs it. Pure.

SWMR wants POSIX semantics of ``write()``: what a write has returned from is seen by every later read, and in the order
that it was written. The HDF Group's SWMR user guide says that NFS and SMB do not give that, and that it was tested on
clusters with GPFS and Lustre; nobody has tried our files there, so that a site has to vouch for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

# One kernel writes and reads here. Tested here: ext4, tmpfs.
LOCAL = frozenset({"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})
# Several hosts do, each with a cache of its own, or a program in between does as it likes.
SHARED = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "orangefs", "panfs"),
        *("pvfs2", "smb3", "smbfs", "vboxsf", "wekafs"),
    }
)


class Promise(Enum):
    """Whether a file system holds what SWMR needs."""

    HOLDS = auto()
    UNKNOWN = auto()
    DOUBTFUL = auto()


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a file system is.

    :param point: the folder that it is mounted on.
    :param kind: its type, such as ``ext4``.
    """

    point: Path
    kind: str


def read_mounts(text: str) -> tuple[Mount, ...]:
    """Return what is mounted, in the order of mounting.

    :param text: of ``/proc/self/mountinfo``; lines that can't be understood are left out.
    """
    found: list[Mount] = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if dash and len(fields) >= 6 and kinds[0]:
            found.append(Mount(Path(_unescape(fields[4])), kinds[0]))
    return tuple(found)


def mount_of(path: Path, mounts: tuple[Mount, ...]) -> Mount:
    """Return the mount that a path is in: the deepest one, and of those on one folder the last.

    :param path: absolute, without symbolic links.
    """
    best = Mount(Path("/"), "unknown")
    for mount in mounts:
        if path.is_relative_to(mount.point) and len(mount.point.parts) >= len(best.point.parts):
            best = mount
    return best


def swmr_promise(kind: str) -> Promise:
    """Tell whether a type of file system holds what SWMR needs."""
    if kind in LOCAL:
        return Promise.HOLDS
    return Promise.DOUBTFUL if kind in SHARED or kind.startswith("fuse") else Promise.UNKNOWN


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
