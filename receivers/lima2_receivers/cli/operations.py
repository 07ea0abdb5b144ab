"""``lima2 state`` and ``lima2 stop``: looking at a running system, and ending an acquisition that nobody owns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
import typer

from lima2_processing.frame import AcquisitionId
from lima2_receivers.client import ConductorClient
from lima2_receivers.config import load_config
from lima2_receivers.daemons import BAD_START
from lima2_receivers.errors import ReceiverError, StateError
from lima2_receivers.messages import SystemState
from lima2_receivers.published import AcquisitionState

from .keys import operator_key

T = TypeVar("T")

ConfigPath = Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")]
Key = Annotated[
    Path | None,
    typer.Option(help="File of a private key, `conductor.key` beside it; by default the operator's.", metavar="FILE"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def state(config: ConfigPath, key: Key = None, json: Json = False) -> None:
    """Show what a detector, its receivers and its acquisitions are doing."""

    async def look(client: ConductorClient) -> SystemState | None:
        return client.state

    found = with_client(config, key, look)
    if json:
        typer.echo(msgspec.json.encode(found).decode())
    elif found is not None:
        typer.echo("\n".join(_lines(found)))


def stop(
    config: ConfigPath,
    acquisition: Annotated[str, typer.Argument(help="Id of the acquisition; by default the one that is live.")] = "",
    key: Key = None,
    json: Json = False,
) -> None:
    """Stop an acquisition, wait until its files are closed, and say how it ended."""

    async def end(client: ConductorClient) -> AcquisitionState:
        return await client.stop(AcquisitionId(acquisition) if acquisition else _live(client.state))

    final = with_client(config, key, end)
    if json:
        typer.echo(msgspec.json.encode(final).decode())
    else:
        typer.echo(f"acquisition {final.acquisition}: {final.outcome} {final.reason}".rstrip())
        typer.echo(_counts(final))


def with_client(config: Path, key: Path | None, use: Callable[[ConductorClient], Awaitable[T]]) -> T:
    """Return what a function gets out of a conductor; an error ends the command with one line."""

    async def run() -> T:
        settings = load_config(config)
        conductor = settings.conductor
        known = operator_key(settings, key)
        client = ConductorClient(conductor.commands, conductor.state, name="lima2", key=known)
        await client.connect()
        try:
            return await use(client)
        finally:
            await client.close()

    try:
        return asyncio.run(run())
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error


def _live(state: SystemState | None) -> AcquisitionId:
    """Return the only acquisition that lives.

    :raises StateError: there is none, or more than one.
    """
    live = [found.acquisition for found in state.acquisitions if found.state != "closed"] if state else []
    if len(live) != 1:
        raise StateError(f"got {len(live)} live acquisitions ({', '.join(live) or 'none'}), name the one to stop")
    return live[0]


def _lines(found: SystemState) -> Iterator[str]:
    """Yield what people want to know, one thing a line, so that ids and paths can be copied."""
    yield f"detector: {found.detector} {found.fault}".rstrip()
    for receiver in found.receivers:
        alive = "alive" if receiver.alive else f"silent for {receiver.silent:g} s"
        strangers = f", {receiver.strangers} messages refused" if receiver.strangers else ""
        room = f"{receiver.free_slots} ring slots free"
        yield f"receiver {receiver.rank}: {alive}, {room}{strangers}, {receiver.endpoint}"
    if (ingest := found.ingest) is not None:
        alive = "alive" if ingest.alive else f"silent for {ingest.silent:g} s"
        strangers = f", {ingest.strangers} messages refused" if ingest.strangers else ""
        room = f"{ingest.free_slots} ring slots free, {ingest.held} messages on their way"
        yield f"ingest: {alive}, {room}{strangers}, {ingest.endpoint}"
    for run in found.acquisitions:
        ended = "" if run.outcome == "none" else f", {run.outcome} {run.reason}".rstrip()
        waiting = ", waits for its first trigger" if run.waiting else ""
        yield f"acquisition {run.acquisition}: {run.state}{waiting}{ended}"
        yield f"  {_counts(run)}"
        yield f"  {run.master_file}"


def _counts(run: AcquisitionState) -> str:
    counts = run.counts
    return (
        f"{run.announced} frames announced: {counts.saved} saved, {counts.vetoed} vetoed, {counts.lost} lost, "
        f"{counts.failed} failed"
    )
