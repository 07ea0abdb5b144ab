"""``lima2 demo``: the main job on one host, from a simulated detector to a picture, with everything checked."""

from __future__ import annotations

import logging
import signal
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from lima2_receivers.detectors.simulator.params import Size
from lima2_receivers.errors import ReceiverError

from .options import DemoOptions

FAILED = 1
INTERRUPTED = 130  # as shells have it for Ctrl-C


def command(
    frames: Annotated[int, typer.Option(help="Frames to take; 0: 40 simulated ones, or all recorded ones.", min=0)] = 0,
    receivers: Annotated[int, typer.Option(help="Receiver daemons.", min=1, max=16)] = 2,
    size: Annotated[Size, typer.Option(help="Size of the simulated detector.")] = Size.FOUR_M,
    loss: Annotated[float, typer.Option(help="Share of the frames that get lost on their way.", min=0, max=1)] = 0.0,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Play recorded raw Jungfrau frames: a folder with *_rawN.bin, *_pedeG{0,1,2}.bin, *_gainG{0,1,2}.bin."
        ),
    ] = None,
    center: Annotated[
        str, typer.Option(help="Beam centre in pixels; may lie outside the image.", metavar="ROW,COL")
    ] = "",
    poni: Annotated[Path | None, typer.Option(help="Geometry as a PONI file, instead of --center.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for everything; by default a new one below ./lima2-demo.")
    ] = None,
    stay: Annotated[bool, typer.Option(help="Keep all services up until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on standard output.")] = False,
) -> None:
    """Run the main job on this computer, and check every frame.

    Starts a simulated detector, a conductor, receivers, a Tiled server and a TiledWriter, takes frames by a bluesky fly
    scan through the smx pipeline, reads them back through Tiled from another process, compares them with what was sent,
    and writes a picture. Exit status 0: every frame is accounted for and agrees.
    """
    console = Console(stderr=json)
    if replay is not None and not replay.is_dir():
        raise typer.BadParameter(f"there is no folder {replay}", param_hint="--replay")
    if poni is not None and not poni.is_file():
        raise typer.BadParameter(f"there is no file {poni}", param_hint="--poni")
    folder = output or Path("lima2-demo") / datetime.now().strftime("%Y-%m-%d_%H.%M.%S_%f")
    options = DemoOptions(
        output=folder.resolve(),
        frames=frames,
        receivers=receivers,
        size=size,
        loss=loss,
        replay=replay.resolve() if replay else None,
        center=_center(center),
        poni=poni,
    )
    raise typer.Exit(_run(options, console, stay, json))


def _center(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        row, col = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"got {text!r}, expected ROW,COL, such as -30,70", param_hint="--center") from None
    return row, col


def _run(options: DemoOptions, console: Console, stay: bool, json: bool) -> int:
    try:
        from .run import Demo  # bluesky and Tiled take a while to import: not for --help
        from .site import DemoError, Site
    except ModuleNotFoundError as error:
        console.print(f"error: {error}: the demo needs pip install 'lima2-ophyd[all]'", markup=False)
        return FAILED

    logging.getLogger("ophyd_async").setLevel(logging.ERROR)  # it warns that fly scans have no step-scan scalars
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to end like Ctrl-C, with all processes
    site = Site(options)
    try:
        with site:
            demo = Demo(site, console)
            demo.start()
            result = demo.run()
            _tell(demo, console)
            if json:
                typer.echo(msgspec.json.encode(result).decode())
            if stay:
                console.print("services stay up until Ctrl-C ...")
                signal.pause()
            return 0 if result.good else FAILED
    except (DemoError, ReceiverError, TimeoutError) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return FAILED
    except KeyboardInterrupt:
        console.print("interrupted: all processes were ended, files are readable")
        return 0 if stay else INTERRUPTED
    finally:
        site.close()


def _tell(demo, console: Console) -> None:  # noqa: ANN001 - imported when it is needed
    report = demo.report
    parts = [f"{report.frames} frames equal to what was sent"]
    if report.recall is not None and report.precision is not None:
        parts.append(f"recall {report.recall:.1%} and precision {report.precision:.1%} of {report.peaks_true} spots")
    if report.psi is not None:
        parts.append(f"{report.psi:.3%} of the pixels as in PSI's conversion")
    verdict = "[green]all agrees[/green]" if not report.problems else "[red]does not agree[/red]"
    console.print(f"\nread back through Tiled: {verdict}" + (": " + ", ".join(parts) if not report.problems else ""))
    for problem in report.problems:
        console.print(f"  [red]{problem}[/red]", highlight=False)
    console.print(f"  files    {demo.site.data}", highlight=False, soft_wrap=True)
    console.print(f"  Tiled    {demo.tiled.uri}/ui/?api_key={demo.tiled.api_key}", highlight=False, soft_wrap=True)
    console.print(f"  picture  {demo.picture}", highlight=False, soft_wrap=True)
