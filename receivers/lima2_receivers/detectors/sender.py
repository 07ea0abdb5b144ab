"""``lima2-simulator CONFIG``: plays the detector that a configuration names, in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, assert_never

import typer

from ..config import Config, check_endpoint, detector_settings, load_config
from ..control import Capabilities, Range
from ..daemons import BAD_START, run_daemon, set_up_logging
from ..errors import ConfigError, DetectorError, PlanError, ReceiverError
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

CONTROL_PLACE = "detector.settings.control"  # in the configuration

SHORTEST, LONGEST = 1e-6, 3600.0  # seconds of an exposure


class SenderDaemon:
    """A simulated detector.

    :param settings: where it is.
    :param make: makes what it sends, or raises ConfigError; given an event that is set when it isn't wanted any more.
    :param receivers: data endpoints by rank.
    :raises ConfigError: the endpoint of its commands can't be bound, or its folder is not absolute.
    """

    def __init__(
        self,
        settings: SimulatorSettings | ReaderSettings,
        make: Callable[[threading.Event], Supply],
        receivers: tuple[str, ...],
    ) -> None:
        if not Path(settings.folder).is_absolute():
            raise ConfigError(f"detector.settings.folder: got {settings.folder!r}, expected an absolute folder")
        self._settings = settings
        self._make = make
        self._receivers = receivers
        self._unwanted = threading.Event()
        self._transmitter: Transmitter | None = None
        self._instance = uuid.uuid4().hex
        self._responder = Responder(settings.control, CONTROL_PLACE, decode_sender_request, self._handle)

    async def run(self) -> None:
        """Make the frames, then serve until cancelled. Commands that come before the frames are there are refused."""
        serving = asyncio.create_task(self._responder.serve())
        try:
            supply = await asyncio.to_thread(self._make, self._unwanted)
            folder = Path(self._settings.folder)
            self._transmitter = Transmitter(supply, self._receivers, folder, self._settings.send_timeout)
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

    async def _handle(self, request: SenderRequest) -> Message:
        if isinstance(request, Hello):
            return Welcome(role="detector", instance=self._instance)
        transmitter = self._transmitter
        if transmitter is None:
            raise DetectorError("its frames are still being made")
        match request:
            case GetCapabilities():
                return Described(_capabilities(transmitter.supply))
            case Arm():
                _check(request, transmitter.supply)
                transmitter.arm(request)
                return Armed(transmitter.supply.spec)
            case Expose(n_frames, expo_time, latency_time):
                transmitter.expose(n_frames, expo_time + latency_time)
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
        trigger_modes=(TriggerMode.INTERNAL, TriggerMode.SOFTWARE),
        expo_time=Range(SHORTEST, LONGEST),
        latency_time=Range(0.0, LONGEST),
        frame_spec=supply.spec,
    )


def _check(arm: Arm, supply: Supply) -> None:
    limit = supply.limit
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
            check_endpoint(CONTROL_PLACE, simulator.control, config.insecure)
            return SenderDaemon(simulator, partial(simulate_supply, simulator), receivers)
        case "reader":
            reader = detector_settings(config, ReaderSettings)
            check_endpoint(CONTROL_PLACE, reader.control, config.insecure)
            return SenderDaemon(reader, lambda _: read_supply(reader), receivers)
        case other:
            raise ConfigError(f"detector.plugin: got {other!r}, lima2-simulator plays simulator or reader")


def send(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Play the detector of a configuration: the simulator, or the reader of recorded frames.

    Frames are made ahead or read first; until then, commands are refused. SIGTERM ends it.
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
