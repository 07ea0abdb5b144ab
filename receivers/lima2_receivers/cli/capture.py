"""``lima2 capture``: what comes to a receiver's data endpoint, into a file."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ..config import load_config
from ..daemons import BAD_START, ended_by_signal, set_up_logging
from ..errors import ReceiverError

log = logging.getLogger(__name__)

FAILED = 1  # exit status where the file could not be written to its end


def capture(
    config: Annotated[
        str,
        typer.Argument(
            help="The detector's configuration file (TOML); with --data, the name of its plugin.", metavar="CONFIG|NAME"
        ),
    ],
    file: Annotated[Path, typer.Argument(help="The file to make; it must not be there yet.", metavar="FILE")],
    rank: Annotated[int, typer.Option(help="Of the receiver in whose place it records.", min=0)] = 0,
    data: Annotated[str, typer.Option(help="Endpoint that the detector sends to.", metavar="ENDPOINT")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One of detector.settings, as in 'modules = [1, 2]'; with --data.", metavar="LINE"),
    ] = None,
    unauthenticated: Annotated[
        bool, typer.Option("--unauthenticated-data", help="Allow an endpoint that other hosts can reach; with --data.")
    ] = False,
    messages: Annotated[int, typer.Option(help="That are enough; 0: any number.", min=0)] = 0,
    seconds: Annotated[float, typer.Option(help="That are enough; 0: any time.", min=0)] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for machines.")] = False,
) -> None:
    """Record what a detector sends to a receiver, byte for byte, in the receiver's place: it must not run meanwhile.

    It ends when it has enough, or by SIGTERM or Ctrl-C, with the file closed. The detector plugin `reader` plays the
    file, and `lima2 simulate capture` sends it once more.
    """
    from ..capture.endpoint import endpoint_config
    from ..capture.format import CaptureHead, CaptureWriter  # slow to import
    from ..capture.record import Tally, record
    from ..capture.taps import open_tap

    if not data and (settings or unauthenticated):
        raise typer.BadParameter(
            "got no --data, which these options belong to", param_hint="--set, --unauthenticated-data"
        )
    set_up_logging("capture", verbose=False)
    ended = ended_by_signal()

    def tell(tally: Tally) -> None:
        if sys.stderr.isatty():
            typer.echo(f"\r{tally} ", err=True, nl=False)

    status = BAD_START
    try:
        found = endpoint_config(config, data, settings or (), unauthenticated) if data else load_config(Path(config))
        tap = open_tap(found, rank)
        try:
            detector, endpoint = found.detector, found.stream(rank)[1]
            head = CaptureHead(detector.plugin, detector.settings, detector.name, rank, endpoint, time.time())
            writer = CaptureWriter(file, head)
            status = FAILED
            try:
                log.info("recording what comes to %s", endpoint)
                tally = record(tap, writer, ended, messages, seconds, tell)
            finally:
                writer.close()
        finally:
            tap.close()
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(status) from error
    if sys.stderr.isatty():
        typer.echo("\r", err=True, nl=False)
    typer.echo(msgspec.json.encode(tally).decode() if json else f"{file}: {tally}")
