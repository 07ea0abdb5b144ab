"""``lima2 pedestal`` and ``lima2 gains``: calibration files of a Jungfrau."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from lima2_receivers.daemons import BAD_START
from lima2_receivers.errors import ReceiverError

Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]


def pedestal(
    g0: Annotated[Path, typer.Argument(help="Master file of dark frames in dynamic gain.", exists=True)],
    g1: Annotated[Path, typer.Argument(help="Master file of dark frames forced to G1.", exists=True)],
    g2: Annotated[Path, typer.Argument(help="Master file of dark frames forced to G2.", exists=True)],
    output: Annotated[Path, typer.Argument(help="The file to make (HDF5).")],
    wrong_gain: Annotated[
        float, typer.Option(help="Share of the frames that a good pixel may be in another gain.", min=0, max=1)
    ] = 0.01,
    noise: Annotated[float, typer.Option(help="Noise of a good pixel at most, in medians of its module.", min=0)] = 5.0,
    offset: Annotated[float, typer.Option(help="ADU that a good pedestal is off its module's.", min=0)] = 1500.0,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, for machines.")] = False,
    force: Force = False,
) -> None:
    """Make pedestals, noise and a mask of bad pixels out of dark frames in the three gains.

    The plan `pedestal_scan` of lima2_ophyd.plans takes such frames and does this by itself.
    """
    from rich.console import Console
    from rich.progress import Progress

    from lima2_processing.pedestals import BadPixels  # slow to import, like the next
    from lima2_receivers.saving.pedestal import make_pedestal

    try:
        with Progress(console=Console(stderr=True), disable=json) as bar:
            task = bar.add_task("adding up frames")
            limits = BadPixels(wrong_gain, noise, offset)
            found = make_pedestal(
                (g0, g1, g2), output, limits, force, lambda done, of: bar.update(task, completed=done, total=of)
            )
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    if json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    typer.echo(f"{output}: of {', '.join(map(str, found.frames))} frames in G0, G1 and G2")
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in found.reasons.items())
    typer.echo(f"{found.bad_pixels} pixels are bad: {reasons}")


def gains(
    maps: Annotated[list[Path], typer.Argument(help="gainMaps_M*.bin of each module, in their order.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to make (.npy).")],
    force: Force = False,
) -> None:
    """Put PSI's gain maps of a Jungfrau's modules together in one file."""
    from lima2_receivers.saving.pedestal import merge_gains  # slow to import

    try:
        n_modules = merge_gains(maps, output, force)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    typer.echo(f"{output}: gains of {n_modules} module{'s' if n_modules > 1 else ''} in ADU/keV")
