"""``lima2-receiver CONFIG --rank N``: one receiver daemon."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ..config import OpenCLConfig, load_config
from ..daemons import BAD_START, run_daemon, set_up_logging
from ..errors import ReceiverError

_M_ARENA_MAX = -8  # of glibc's malloc.h


def receive(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    rank: Annotated[int, typer.Option(help="Which of the configuration's receivers this is; the first is 0.", min=0)],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Take one stream of a detector's frames, process and save them.

    The daemon waits for its conductor's commands. SIGTERM closes all files readable.
    """
    set_up_logging(f"receiver {rank}", verbose)
    try:
        settings = load_config(config)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    if rank >= len(settings.receivers):
        typer.echo(f"error: --rank: got {rank}, {config} has receivers 0 to {len(settings.receivers) - 1}", err=True)
        raise typer.Exit(BAD_START)
    _share_one_arena()
    _prepare_opencl(settings.receivers[rank].opencl)
    from .daemon import ReceiverDaemon  # after the environment that OpenCL reads at its import

    raise typer.Exit(run_daemon(lambda: ReceiverDaemon(settings, rank)))


def _share_one_arena() -> None:
    """Let all threads allocate from one arena: of its own, each would keep what its largest frames took (glibc)."""
    with suppress(AttributeError, OSError):  # not glibc
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _prepare_opencl(opencl: OpenCLConfig) -> None:
    """Set what PoCL reads from the environment, once, when it is loaded."""
    if opencl.threads:
        os.environ["POCL_MAX_PTHREAD_COUNT"] = str(opencl.threads)
    if opencl.cache_dir:
        Path(opencl.cache_dir).mkdir(parents=True, exist_ok=True)
        os.environ["POCL_CACHE_DIR"] = opencl.cache_dir
        os.environ["PYOPENCL_NO_CACHE"] = "1"  # its own cache beside PoCL's would only double it


def main() -> None:
    """Run the command line."""
    typer.run(receive)


if __name__ == "__main__":
    main()
