"""``lima2-ingest CONFIG``: the ingest daemon of one detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import load_config
from ..daemons import BAD_START, run_daemon, set_up_logging
from ..errors import ReceiverError
from .daemon import IngestDaemon


def ingest(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Take the one stream of a detector and hand its frames to the receivers, which process and save them.

    It may start before or after the others. SIGTERM ends it; what it has not handed over then is lost.
    """
    set_up_logging("ingest", verbose)
    try:
        settings = load_config(config)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    raise typer.Exit(run_daemon(lambda: IngestDaemon(settings)))


def main() -> None:
    """Run the command line."""
    typer.run(ingest)


if __name__ == "__main__":
    main()
