"""``lima2-simulator CONFIG``: plays the detector that a configuration names, in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from pathlib import Path
from typing import Annotated, assert_never

import typer

from ..config import load_config
from ..control import Capabilities, Range
from ..daemons import BAD_START, run_daemon, set_up_logging
from ..errors import ConfigError, DetectorError, ReceiverError, StateError
from ..messages import Done, Hello, Message, Welcome
from ..plan import TriggerMode
from ..transport.requests import Responder
from .players import CONTROL_PLACE, Player, make_player
from .protocol import (
    Arm,
    Armed,
    Described,
    Expose,
    GetCapabilities,
    GetStatus,
    Halt,
    Pulse,
    SenderRequest,
    Status,
    decode_sender_request,
)
from .supply import Supply
from .transmitter import Transmitter

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 1e-6, 3600.0  # seconds of an exposure


class SenderDaemon:
    """A simulated detector.

    :param player: which one.
    :raises ConfigError: the endpoint of its commands can't be bound, or its folder is not absolute.
    """

    def __init__(self, player: Player) -> None:
        if not Path(player.folder).is_absolute():
            raise ConfigError(f"detector.settings.folder: got {player.folder!r}, expected an absolute folder")
        self._player = player
        self._unwanted = threading.Event()
        self._transmitter: Transmitter | None = None
        self._instance = uuid.uuid4().hex
        self._responder = Responder(player.control, CONTROL_PLACE, decode_sender_request, self._handle)

    async def run(self) -> None:
        """Make the frames, then serve until cancelled. Commands that come before the frames are there are refused."""
        serving = asyncio.create_task(self._responder.serve())
        try:
            supply = await asyncio.to_thread(self._player.make_supply, self._unwanted)
            self._transmitter = Transmitter(
                supply, self._player.make_outlet(supply), Path(self._player.folder), self._player.order
            )
            self._transmitter.start()
            log.info("%s is ready", supply.model)
            await serving
        finally:
            self._unwanted.set()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            await self._responder.close()
            if self._transmitter is not None:
                self._transmitter.close()
                self._transmitter.whole.close()

    async def _handle(self, request: SenderRequest) -> Message:
        if isinstance(request, Hello):
            return Welcome(role="detector", instance=self._instance)
        transmitter = self._transmitter
        if transmitter is None:
            raise DetectorError("its frames are still being made")
        match request:
            case GetCapabilities():
                return Described(_capabilities(transmitter.whole))
            case Arm():
                supply = await asyncio.to_thread(self._player.read_out, transmitter.whole, request)
                series = transmitter.arm(request, supply)
                return Armed(supply.spec, series)
            case Expose(n_frames, expo_time, latency_time, first):
                transmitter.expose(n_frames, expo_time + latency_time, first)
                return Done()
            case Pulse(width):
                if not transmitter.pulse(width):
                    raise StateError("no acquisition takes the signal: none runs in external or gate mode, or all came")
                return Done()
            case GetStatus():
                return Status(transmitter.status())
            case Halt():
                await asyncio.to_thread(transmitter.halt)
                return Status(transmitter.status())
            case _:
                assert_never(request)


def _capabilities(supply: Supply) -> Capabilities:
    return Capabilities(
        model=supply.model,
        trigger_modes=tuple(TriggerMode),
        expo_time=Range(SHORTEST, LONGEST),
        latency_time=Range(0.0, LONGEST),
        frame_spec=supply.spec,
    )


def send(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Play the detector of a configuration: the simulator, a Jungfrau, a Smartpix, or the reader of recorded frames.

    Frames are made ahead or read first; until then, commands are refused. SIGTERM ends it.
    """
    set_up_logging("detector", verbose)
    try:
        settings = load_config(config)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    raise typer.Exit(run_daemon(lambda: SenderDaemon(make_player(settings))))


def main() -> None:
    """Run the command line."""
    typer.run(send)


if __name__ == "__main__":
    main()
