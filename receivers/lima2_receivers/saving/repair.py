"""Repairing the files that killed writers left: one by one, or all files of an acquisition by its master file.

Parts come first, since the ledger tells what they hold behind its end; then the ledger, which gets the summary that its
conductor could not write; and last, in dynamic dispatch, the file of all frames, which is made out of the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import msgspec
import numpy as np

from ..errors import SavingError
from ..ledger import has_data
from ..topology import EVERY_RECEIVER
from .claim import ASIDE
from .findings import CONDUCTOR_KILLED, FileReport, Kind, LedgerTable, State, compare, family, prefix_in, rank_in
from .mend import Mended, mend, view
from .names import ledger_name, master_name
from .repair_frames import check_sources, remake_frames
from .repair_ledger import close_ledger, has_summary, read_table
from .repair_loose import LOOSE, repair_loose

_LATER = "its part files are still being written: repair it when they are closed"


def repair(files: Iterable[Path], dry_run: bool = False) -> list[FileReport]:
    """Make files readable, as far as they are not, and say what they hold. Idempotent; never removes data.

    A file that is being written is left alone, and so is one that can't be read even when repaired.

    :param files: part, ledger, master and other files of ours; a master file stands for all files of its acquisition.
    :param dry_run: change nothing.
    """
    paths = list(dict.fromkeys(path for file in files for path in _with_family(file)))
    mended = {path: mend(path, dry_run or _is_frames(path)) for path in paths if _is_hdf5(path)}
    reports: dict[Path, FileReport] = {}
    for path in paths:
        if not _is_file(path):
            reports[path] = FileReport(str(path), _kind_by_name(path), State.FAILED, f"{path}: it is not there")
        elif path.suffix in LOOSE:
            reports[path] = repair_loose(path, dry_run)
        else:
            reports[path] = _report(path, mended[path])
    for path in paths:
        if reports[path].kind is Kind.LEDGER and reports[path].state is not State.BUSY:
            reports[path] = _repair_ledger(path, reports, dry_run)
    for path in paths:
        if reports[path].kind is Kind.FRAMES and reports[path].state is not State.BUSY:
            reports[path] = _repair_frames(path, reports[path], dry_run)
    return [reports[path] for path in paths]


def _is_frames(path: Path) -> bool:
    """Tell whether it is a file of all frames: one that was not finished is made once more, not mended."""
    return prefix_in(path.name, Kind.FRAMES) is not None


def _is_hdf5(path: Path) -> bool:
    return path.suffix not in LOOSE and _is_file(path)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _kind_by_name(path: Path) -> Kind:
    kinds = (kind for kind in (Kind.MASTER, Kind.LEDGER, Kind.FRAMES) if prefix_in(path.name, kind) is not None)
    return next(kinds, Kind.PART if rank_in(path.name) >= 0 else Kind.OTHER)


def _with_family(file: Path) -> list[Path]:
    """Return a file, and with a master file all that belong to it."""
    prefix = prefix_in(file.name, Kind.MASTER)
    if prefix is None or not _is_file(file):
        return [file]
    names = family(prefix, [path.name for path in file.parent.iterdir()], _links(file))
    return [file, *(file.parent / name for name in names if name != file.name)]


def _links(master: Path) -> list[str]:
    """Return the names of the files that a master file shows; none where it can't be read."""
    found: set[str] = set()

    def look(place: h5py.Group) -> None:
        for name in place:
            link = place.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                found.add(str(link.filename))
            elif isinstance(link, h5py.HardLink):
                item = place[name]
                if isinstance(item, h5py.Group):
                    look(item)
                elif isinstance(item, h5py.Dataset) and item.is_virtual:
                    found.update(source.file_name for source in item.virtual_sources())

    try:
        with view(master) as file:
            look(file)
    except SavingError:
        return []
    return sorted(name for name in found if Path(name).name == name)


def _report(path: Path, mended: Mended) -> FileReport:
    """Return what is to be said of an HDF5 file, a part file compared with its ledger."""
    contents = mended.contents
    if contents is None:
        aside = path.with_name(path.name + ASIDE)
        old = f"; {aside} is the file that it was to replace" if _is_file(aside) else ""
        report = FileReport(str(path), _kind_by_name(path), mended.state, mended.why + old)
        return _blame(path, report) if mended.state is State.EMPTY and report.kind is Kind.PART else report
    report = FileReport(
        path=str(path),
        kind=contents.kind,
        state=mended.state,
        why=mended.why,
        rows={name: column.rows for name, column in contents.columns.items()},
        complete=contents.complete,
    )
    prefix = prefix_in(path.name, Kind.PART, contents.stream) if contents.kind is Kind.PART else None
    table = None if prefix is None else _table_of(path.with_name(ledger_name(prefix)))
    compared = None if table is None else compare(contents, rank_in(path.name), table)
    if compared is None:
        return report
    why = report.why
    if compared.missing:
        why = f"{path}: got no row {compared.first_missing}, which the ledger counts as saved" + (why and f"; {why}")
    return msgspec.structs.replace(
        report, why=why, acknowledged=compared.acknowledged, missing=compared.missing, beyond=compared.beyond
    )


def _blame(path: Path, report: FileReport) -> FileReport:
    """Return what is to be said of a part file that never began, whose frames the ledger may count all the same."""
    prefix, _, _ = path.name.rsplit("_", 2) if path.name.count("_") > 1 else ("", "", "")
    table = _table_of(path.with_name(ledger_name(prefix)))
    if table is None:
        return report
    n_frames = int(
        np.count_nonzero(has_data(table.statuses) & np.isin(table.receivers, (rank_in(path.name), EVERY_RECEIVER)))
    )
    if not n_frames:
        return report
    why = f"{path}: {report.why}, though the ledger counts {n_frames} frames of it"
    return msgspec.structs.replace(report, state=State.FAILED, why=why, acknowledged=n_frames, missing=n_frames)


def _table_of(ledger: Path) -> LedgerTable | None:
    """Return what a ledger file says, also while it is being written; None: it can't be read."""
    try:
        return read_table(ledger)
    except SavingError:
        return None


def _repair_ledger(path: Path, reports: dict[Path, FileReport], dry_run: bool) -> FileReport:
    """Give a ledger the summary that its conductor could not write."""
    report = reports[path]
    prefix = prefix_in(path.name, Kind.LEDGER)
    if report.state in (State.FAILED, State.EMPTY):
        return report
    try:
        with view(path) as file:
            complete = has_summary(file)
        report = msgspec.structs.replace(report, counts=read_table(path).counts)
        if complete:
            return report
        parts = _parts_of(path, prefix, reports) if prefix is not None else []
        if any(part.state is State.BUSY for part in parts):
            return msgspec.structs.replace(report, state=State.BUSY, why=f"{path}: {_LATER}")
        per_rank: dict[int, int] = {}
        for part in parts:
            rank = rank_in(part.path)
            per_rank[rank] = max(per_rank.get(rank, 0), part.beyond)
        beyond = sum(per_rank.values())
        why = _and(report.why, f"summary written: {CONDUCTOR_KILLED}")
        if not dry_run:
            close_ledger(path, _acquisition(path, prefix, parts), beyond)
    except SavingError as error:
        return msgspec.structs.replace(report, state=State.FAILED, why=str(error))
    state = State.REPAIRABLE if dry_run else State.REPAIRED
    return msgspec.structs.replace(report, state=state, why=why, beyond=beyond)


def _parts_of(ledger: Path, prefix: str, reports: dict[Path, FileReport]) -> list[FileReport]:
    """Return what is known of the part files of an acquisition; those that were not asked for are only looked at."""
    names = family(prefix, [path.name for path in ledger.parent.iterdir()])
    paths = [ledger.parent / name for name in names if rank_in(name) >= 0]
    return [reports[path] if path in reports else _report(path, mend(path, dry_run=True)) for path in paths]


def _acquisition(ledger: Path, prefix: str | None, parts: Sequence[FileReport]) -> str:
    """Return the id of a ledger's acquisition, out of the files beside it; empty: they can't be read."""
    beside = [] if prefix is None else [ledger.with_name(master_name(prefix))]
    for path in (*beside, *(Path(part.path) for part in parts)):
        found = mend(path, dry_run=True).contents if _is_file(path) else None
        if found is not None and found.acquisition:
            return found.acquisition
    return ""


def _repair_frames(path: Path, report: FileReport, dry_run: bool) -> FileReport:
    """Make the file of all frames, where it is not there or was not finished."""
    prefix = prefix_in(path.name, Kind.FRAMES)
    if report.state is State.WHOLE or prefix is None:
        return report
    ledger, master = (path.with_name(name(prefix)) for name in (ledger_name, master_name))
    try:
        check_sources(ledger, master, closed=not dry_run)
        if not dry_run:
            remake_frames(path, master, ledger)
    except SavingError as error:
        return msgspec.structs.replace(report, state=State.FAILED, why=str(error))
    state = State.REPAIRABLE if dry_run else State.REPAIRED
    return msgspec.structs.replace(report, state=state, why="made out of the ledger and the part files")


def _and(first: str, second: str) -> str:
    return f"{first}; {second}" if first else second
