"""``lima2-simulator CONFIG``: plays the detector that a configuration names, in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import uuid
from pathlib import Path
from typing import Annotated, assert_never

import typer

from ..config import Config, detector_settings, load_config
from ..control import Capabilities, Range
from ..daemons import BAD_START, run_daemon, set_up_logging
from ..errors import ConfigError, PlanError, ReceiverError
from ..messages import Done, Hello, Message, Welcome
from ..plan import TriggerMode
from ..transport.requests import Responder
from .protocol import (
    Arm,
    Armed,
    Described,
    Expose,
    GetCapabilities,
    GetStatus,
    Halt,
    SenderRequest,
    Status,
    decode_sender_request,
)
from .reader.params import ReaderSettings
from .reader.supply import read_supply
from .simulator.params import SimulatorSettings
from .simulator.supply import simulate_supply
from .supply import Supply
from .transmitter import Transmitter

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 1e-6, 3600.0  # seconds of an exposure


class SenderDaemon:
    """A simulated detector.

    :param control: endpoint of its commands.
    :param supply: what it sends.
    :param receivers: data endpoints by rank.
    :param folder: where its journals go.
    """

    def __init__(self, control: str, supply: Supply, receivers: tuple[str, ...], folder: Path) -> None:
        self._supply = supply
        self._instance = uuid.uuid4().hex
        self._transmitter = Transmitter(supply, receivers, folder)
        self._responder = Responder(control, "detector.settings.control", decode_sender_request, self._handle)

    async def run(self) -> None:
        """Serve until cancelled."""
        self._transmitter.start()
        log.info("%s is ready", self._supply.model)
        try:
            await self._responder.serve()
        finally:
            await self._responder.close()
            self._transmitter.close()

    async def _handle(self, request: SenderRequest) -> Message:
        match request:
            case Hello():
                return Welcome(role="detector", instance=self._instance)
            case GetCapabilities():
                return Described(self._capabilities())
            case Arm():
                self._check(request)
                self._transmitter.arm(request)
                return Armed(self._supply.spec)
            case Expose(n_frames, expo_time, latency_time):
                self._transmitter.expose(n_frames, expo_time + latency_time)
                return Done()
            case GetStatus():
                return Status(self._transmitter.status())
            case Halt():
                await asyncio.to_thread(self._transmitter.halt)
                return Status(self._transmitter.status())
            case _:
                assert_never(request)

    def _capabilities(self) -> Capabilities:
        return Capabilities(
            model=self._supply.model,
            trigger_modes=(TriggerMode.INTERNAL, TriggerMode.SOFTWARE),
            expo_time=Range(SHORTEST, LONGEST),
            latency_time=Range(0.0, LONGEST),
            frame_spec=self._supply.spec,
        )

    def _check(self, arm: Arm) -> None:
        limit = self._supply.limit
        if limit and arm.nb_frames > limit:
            raise PlanError(f"acquisition.nb_frames: got {arm.nb_frames}, the recording has {limit} frames")


def make_sender(config: Config) -> SenderDaemon:
    """Make the sender that a configuration names.

    :raises ConfigError: its detector is no simulated one, or its settings are wrong.
    """
    receivers = tuple(receiver.data for receiver in config.receivers)
    match config.detector.plugin:
        case "simulator":
            simulator = detector_settings(config, SimulatorSettings)
            return SenderDaemon(simulator.control, simulate_supply(simulator), receivers, Path(simulator.folder))
        case "reader":
            reader = detector_settings(config, ReaderSettings)
            return SenderDaemon(reader.control, read_supply(reader), receivers, Path(reader.folder))
        case other:
            raise ConfigError(f"detector.plugin: got {other!r}, lima2-simulator plays simulator or reader")


def send(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Play the detector of a configuration: the simulator, or the reader of recorded frames.

    Frames are made ahead or read before commands are answered. SIGTERM ends it.
    """
    set_up_logging("detector", verbose)
    try:
        settings = load_config(config)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    raise typer.Exit(run_daemon(lambda: make_sender(settings)))


def main() -> None:
    """Run the command line."""
    typer.run(send)


if __name__ == "__main__":
    main()
