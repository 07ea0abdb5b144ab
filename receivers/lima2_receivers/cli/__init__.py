"""The ``lima2`` command line: what operators need on any host, and what other packages add to it."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points

import typer

from .bench import bench
from .calibrate import gains, pedestal
from .capture import capture
from .doctor import doctor
from .exports import cxi, merge_sparse
from .frame import frame
from .keys import app as keys
from .operations import state, stop
from .repair import repair
from .simulate import app as simulate

log = logging.getLogger(__name__)

COMMANDS = "lima2.commands"  # entry points of subcommands that other packages add

app = typer.Typer(
    help="Distributed acquisition and processing for fast 2D X-ray detectors.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(state)
app.command()(stop)
app.command(context_settings={"ignore_unknown_options": True})(frame)  # -1 is a number
app.command("merge-sparse")(merge_sparse)
app.command()(cxi)
app.command()(pedestal)
app.command()(gains)
app.command()(bench)
app.command()(capture)
app.command()(repair)
app.command()(doctor)
app.add_typer(simulate, name="simulate")
app.add_typer(keys, name="keys")


def _add_commands() -> None:
    """Add the subcommands of installed packages; one whose extra is not installed is left out."""
    for entry in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
        try:
            command = entry.load()
        except ImportError as error:
            log.debug("lima2 %s is left out: %s", entry.name, error)
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


def main() -> None:
    """Run the command line."""
    _add_commands()
    app()
