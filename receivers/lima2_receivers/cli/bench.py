"""``lima2 bench``: the benchmarks of a checkout, from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from lima2_receivers.daemons import BAD_START

HERE = Path(__file__).resolve().parents[3] / "tests" / "benchmarks"  # of the checkout that this is installed from


def bench(
    name: Annotated[str, typer.Argument(help="Which benchmark, such as smx.")],
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON, for machines.")] = False,
    png: Annotated[Path | None, typer.Option(help="Also draw a bar chart into this file.")] = None,
    rounds: Annotated[int, typer.Option(help="Rounds that each contender takes part in.", min=1)] = 7,
) -> None:
    """Measure how fast things are on this machine, side by side with what they are compared with.

    Benchmarks are part of a checkout, not of an installed package. They print figures and never judge by their exit
    status: machines differ, and are shared.
    """
    places = [HERE, Path.cwd() / "tests" / "benchmarks"]
    scripts = {path.stem.removeprefix("bench_"): path for place in places for path in sorted(place.glob("bench_*.py"))}
    if name not in scripts:
        there = ", ".join(scripts) or f"none; looked in {places[0]} and {places[1]}, run it in a checkout"
        typer.echo(f"error: got benchmark {name!r}, there is {there}", err=True)
        raise typer.Exit(BAD_START)
    options = ["--rounds", str(rounds), *(["--json"] if json else []), *(["--png", str(png)] if png else [])]
    raise typer.Exit(subprocess.run([sys.executable, scripts[name], *options], check=False).returncode)
