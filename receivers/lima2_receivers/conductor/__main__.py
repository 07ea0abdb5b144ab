"""``lima2-conductor CONFIG``: the conductor daemon of one detector."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import load_config
from ..daemons import BAD_START, run_daemon, set_up_logging
from ..errors import ReceiverError
from .daemon import ConductorDaemon


def conduct(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Drive one detector and its receivers, for clients such as bluesky.

    It may start before or after the receivers. SIGTERM stops the detector and closes the files readable.
    """
    set_up_logging("conductor", verbose)
    try:
        settings = load_config(config)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    raise typer.Exit(run_daemon(lambda: ConductorDaemon(settings)))


def main() -> None:
    """Run the command line."""
    typer.run(conduct)


if __name__ == "__main__":
    main()
