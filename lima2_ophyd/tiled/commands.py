"""Subcommands of the ``lima2`` command line: a Tiled server, and the process that writes documents to it."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from .server import ServerError, set_up_server, start_server
from .writer import run_writer

Data = Annotated[list[Path], typer.Argument(help="Folders whose files are shown.", exists=True, file_okay=False)]
Folder = Annotated[Path, typer.Option(help="For catalog, tables, key and log.")]


def serve(
    data: Data,
    folder: Folder = Path("tiled"),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0: a free one.")] = 8000,
) -> None:
    """Run a Tiled server for runs and frames until it is interrupted."""
    place = set_up_server(folder, data, host=host, port=port)
    try:
        running = start_server(place)
    except ServerError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    with running:
        typer.echo(f"Tiled at {place.uri}, web page at {place.uri}/ui/, API key in {place.key_file}")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: running.process.terminate())
        running.process.wait()


def tiled_writer(
    uri: Annotated[str, typer.Argument(help="Address of the Tiled server.")],
    key_file: Annotated[Path, typer.Option(help="File with the server's API key.", exists=True, dir_okay=False)],
    endpoint: Annotated[str, typer.Option(help="Where documents come in.")] = "tcp://127.0.0.1:5578",
    backup_directory: Annotated[Path, typer.Option(help="For documents that could not be written.")] = Path("backup"),
) -> None:
    """Write the documents of a RunEngine to Tiled until it is interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s tiled-writer %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_writer(endpoint, uri, key_file.read_text().strip(), backup_directory)
