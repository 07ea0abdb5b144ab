"""``lima2 repair``: files of a killed writer made readable, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from .operations import Json

if TYPE_CHECKING:
    from lima2_receivers.saving.findings import FileReport

NOT_ALL = 1  # exit status where a file could not be repaired


def repair(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="A master file, for all files of its acquisition; or any.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    json: Json = False,
) -> None:
    """Make the files of a killed receiver or conductor readable for every program, and say what they hold.

    A writer that is killed leaves its HDF5 files marked as being written: programs that don't know SWMR refuse them.
    This takes the mark away, writes the summary into the ledger of a killed conductor, and makes the file of all frames
    of dynamic dispatch. It removes no data, and files that are whole it leaves as they are: so it can be run on
    anything, and again.

    A file that is still being written is refused, on this host and, where the file system has locks for all hosts, on
    any. A receiver that starts again repairs by itself what its predecessor left; this is for conductors, for other
    hosts, and to see what is there:

        lima2 repair /data/run_master.h5 --dry-run

    Exit status 0: all files are whole now, or would be; 1: one is not, and the last lines say which and why.
    """
    from lima2_receivers.saving.repair import repair as mend  # slow to import

    reports = mend(files, dry_run)
    if json:
        typer.echo(msgspec.json.encode(reports).decode())
    else:
        for report in reports:
            typer.echo("\n".join(_lines(report)))
    bad = [report for report in reports if report.bad]
    for report in bad:
        typer.echo(f"error: {report.why}", err=True)
    raise typer.Exit(NOT_ALL if bad else 0)


def _lines(report: FileReport) -> Iterator[str]:
    why = f": {report.why}" if report.why and not report.bad else ""
    yield f"{report.path}: {report.kind}, {report.state}{why}"
    if report.rows:
        yield f"  rows: {_listed([f'{name} {rows}' for name, rows in report.rows.items()])}"
    if report.acknowledged >= 0:
        there = "all there" if not report.missing else f"{report.missing} of them missing"
        more = f"; {report.beyond} more, which it had not counted" if report.beyond else ""
        yield f"  {report.complete} frames whole, {report.acknowledged} of them counted in the ledger, {there}{more}"
    elif report.complete >= 0 and report.counts is None:
        yield f"  {report.complete} frames whole"
    if report.counts is not None:
        counts = report.counts
        more = f"; part files hold {report.beyond} more" if report.beyond else ""
        yield (
            f"  {counts.settled} frames: {counts.saved} saved, {counts.vetoed} vetoed, {counts.lost} lost, "
            f"{counts.failed} failed{more}"
        )


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
