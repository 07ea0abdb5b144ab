"""``lima2 merge-sparse`` and ``lima2 cxi``: files for other programs, made of an acquisition's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lima2_receivers.daemons import BAD_START
from lima2_receivers.errors import ReceiverError

Master = Annotated[Path, typer.Argument(help="The acquisition's master file.", exists=True, dir_okay=False)]
Output = Annotated[Path, typer.Argument(help="The file to make.")]
Hits = Annotated[bool, typer.Option("--hits", help="Leave out the frames that are no hits.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def merge_sparse(master: Master, output: Output, hits: Hits = False, force: Force = False) -> None:
    """Write all sparse frames into one file, for FabIO and densify_Bragg."""
    from lima2_receivers.saving.merge import merge_sparse as write  # slow to import

    _run(lambda: write(master, output, hits_only=hits, overwrite=force), output)


def cxi(master: Master, output: Output, hits: Hits = False, force: Force = False) -> None:
    """Write the peaks as CXI, with the images linked, for CrystFEL and Cheetah."""
    from lima2_receivers.saving.cxi import write_cxi  # slow to import

    _run(lambda: write_cxi(master, output, hits_only=hits, overwrite=force), output)


def _run(write: Callable[[], int], output: Path) -> None:
    try:
        n_frames = write()
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    typer.echo(f"{output}: {n_frames} frames")
