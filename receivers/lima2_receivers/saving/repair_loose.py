"""What files that are no HDF5 hold after a kill: remarks, and packets as PSI saves them.

Both grow item by item, and a last one that is cut off is left out by who reads them. Only the number of frames is to be
repaired that the file beside the packets gives, since it is written when they are closed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from ..errors import SavingError
from .findings import FileReport, Kind, State
from .h5 import saving_errors
from .hold import check, take
from .remarks import read_remarks

LOOSE = (".cbor", ".raw", ".json")
PACKET_HEADER = 112  # bytes before the pixels of a frame: the header of a packet, and the mask of all
_TOTALS = ("Total Frames", "Frames in File")


class _Description(msgspec.Struct, frozen=True):
    """What the file beside the packets has to say, of all that it says."""

    image_bytes: int = msgspec.field(name="Image Size in bytes")
    frames: int = msgspec.field(name="Total Frames")


def repair_loose(path: Path, dry_run: bool = False) -> FileReport:
    """Say what a file of remarks or packets holds, and put the number of frames right.

    :param dry_run: change nothing.
    """
    kind = Kind.REMARKS if path.suffix == ".cbor" else Kind.PACKETS
    try:
        with saving_errors(path, "opening"):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            check(fd, path)
        except SavingError as error:
            return FileReport(str(path), kind, State.BUSY, str(error))
        finally:
            os.close(fd)
        if path.suffix == ".cbor":
            n_items = sum(1 for _ in read_remarks(path))
            return FileReport(str(path), kind, State.WHOLE, rows={"items": n_items})
        return _look_at_packets(path) if path.suffix == ".raw" else _repair_description(path, dry_run)
    except SavingError as error:
        return FileReport(str(path), kind, State.FAILED, str(error))


def _look_at_packets(path: Path) -> FileReport:
    n_frames, rest = divmod(path.stat().st_size, PACKET_HEADER + _describe(_description_of(path)).image_bytes)
    why = f"the last {rest} bytes are of a frame that was not written whole" if rest else ""
    return FileReport(str(path), Kind.PACKETS, State.WHOLE, why, {"frames": n_frames}, n_frames)


def _repair_description(path: Path, dry_run: bool) -> FileReport:
    told = _describe(path)
    stem = path.name.rpartition("_master_")[0]
    modules = [each for each in path.parent.iterdir() if re.fullmatch(rf"{re.escape(stem)}_d\d+_f0_0\.raw", each.name)]
    sizes = [each.stat().st_size // (PACKET_HEADER + told.image_bytes) for each in modules]
    n_frames = min(sizes, default=0)
    report = FileReport(str(path), Kind.PACKETS, State.WHOLE, rows={"frames": n_frames}, complete=n_frames)
    if n_frames == told.frames:
        return report
    why = f"its number of frames moved from {told.frames} to {n_frames}"
    if dry_run:
        return msgspec.structs.replace(report, state=State.REPAIRABLE, why=why)
    with saving_errors(path, "repairing"), path.open("r+b") as file:
        take(file.fileno(), path)
        found = msgspec.json.decode(file.read(), type=dict[str, object])
        found |= dict.fromkeys(_TOTALS, n_frames) | {"Max Frames Per File": max(n_frames, 1)}
        made = path.with_name(path.name + ".new")
        try:
            made.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=4) + b"\n")
            made.replace(path)
        finally:
            made.unlink(missing_ok=True)
    return msgspec.structs.replace(report, state=State.REPAIRED, why=why)


def _description_of(packets: Path) -> Path:
    """Return the file that describes a file of packets."""
    found = re.fullmatch(r"(.+)_d\d+_f\d+_\d+\.raw", packets.name)
    if found is None:
        raise SavingError(f"{packets}: it is none of our files: expected a name like PREFIX_0_d0_f0_0.raw")
    return packets.with_name(f"{found[1]}_master_0.json")


def _describe(path: Path) -> _Description:
    with saving_errors(path, "reading"):
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Description)
        except msgspec.MsgspecError as error:
            raise SavingError(f"{path}: it describes no packets of ours: {error}") from error
