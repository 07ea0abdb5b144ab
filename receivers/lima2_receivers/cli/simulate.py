"""``lima2 simulate``: detectors that are not there, each in a process of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from ..config import Config, load_config
from ..daemons import BAD_START, ended_by_signal, run_daemon, set_up_logging
from ..errors import ConfigError, ReceiverError

if TYPE_CHECKING:
    from ..detectors.eiger2.simulated import Server, SimulatedEiger2
    from ..detectors.players import Player

log = logging.getLogger(__name__)

app = typer.Typer(
    help="Play a detector, with its own protocol, so that a whole site can be tried without one.", no_args_is_help=True
)


@app.callback()
def simulate() -> None:
    """Play a detector."""


@app.command()
def eiger2(
    stream: Annotated[
        str, typer.Option(help="Endpoint to serve frames at; the receiver's data endpoint.", metavar="ENDPOINT")
    ],
    port: Annotated[int, typer.Option(help="Where SIMPLON answers; 0: any that is free.", min=0, max=65535)] = 0,
    rows: Annotated[int, typer.Option(help="Rows of an image.", min=16)] = 514,
    columns: Annotated[int, typer.Option(help="Columns of an image.", min=16)] = 1030,
    bits: Annotated[int, typer.Option(help="Of a pixel: 8, 16 or 32.")] = 16,
    loss: Annotated[float, typer.Option(help="Share of the images that get lost.", min=0, max=1)] = 0.0,
    duplicates: Annotated[float, typer.Option(help="Share of the images that are sent twice.", min=0, max=1)] = 0.0,
    reordering: Annotated[float, typer.Option(help="Share of them that come after later ones.", min=0, max=1)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
) -> None:
    """Play a Dectris Eiger2: SIMPLON over HTTP on loopback, Stream2 or Stream v1 as it is configured.

    It prints its URL, for the configuration's detector.settings, and runs until SIGTERM or Ctrl-C.
    """
    from ..detectors.eiger2.simulated import Look, SimulatedEiger2

    if bits not in (8, 16, 32):
        raise typer.BadParameter(f"got {bits}, expected 8, 16 or 32", param_hint="--bits")
    set_up_logging("simulated eiger2", verbose=False)
    try:
        detector = SimulatedEiger2(stream, Look(rows, columns, bits, loss, duplicates, reordering, seed))
        server = _serve(detector, port)
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    serving = threading.Thread(target=server.serve, name="simplon")
    ended = ended_by_signal()
    serving.start()
    typer.echo(server.url)
    try:
        while not ended.wait(0.5):
            pass
    finally:
        server.close()
        serving.join()
        detector.close()


def _serve(detector: SimulatedEiger2, port: int) -> Server:
    """Open SIMPLON's port.

    :raises ConfigError: it can't be opened.
    """
    from ..detectors.eiger2.simulated import Server

    try:
        return Server(detector, port=port)
    except OSError as error:
        detector.close()
        raise ConfigError(f"--port: {port} can't be bound: {error.strerror}") from error


@app.command()
def jungfrau(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    loss: Annotated[float, typer.Option(help="Share of the packets that get lost.", min=0, max=1)] = 0.0,
    reordering: Annotated[float, typer.Option(help="Share of the packets that come late.", min=0, max=1)] = 0.0,
    duplication: Annotated[float, typer.Option(help="Share of the packets that come twice.", min=0, max=1)] = 0.0,
    frames: Annotated[int, typer.Option(help="Distinct frames, sent in turn.", min=1, max=1000)] = 16,
    hits: Annotated[float, typer.Option(help="Share of the frames that have Bragg spots.", min=0, max=1)] = 0.5,
    background: Annotated[float, typer.Option(help="Photons a pixel near the beam; 0 for dark frames.", min=0)] = 2.0,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Play the PSI Jungfrau that a configuration names: UDP packets to its receivers, on request of its conductor.

    Exposure time, rate and number of frames are what each acquisition asks for. It runs until SIGTERM or Ctrl-C, and
    keeps a journal of what it sent in the folder of detector.settings, beside the calibration maps of its frames.
    """
    from ..detectors.jungfrau.outlet import Network
    from ..detectors.players import make_player
    from ..detectors.simulator.supply import Look

    look = Look(n_distinct=frames, hit_fraction=hits, background=background, seed=seed)
    network = Network(loss, reordering, duplication, seed=seed)
    _play(config, "jungfrau", verbose, lambda settings: make_player(settings, look, network))


@app.command()
def smartpix(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    loss: Annotated[float, typer.Option(help="Share of the completion records that get lost.", min=0, max=1)] = 0.0,
    reordering: Annotated[float, typer.Option(help="Share of them that come after later ones.", min=0, max=1)] = 0.0,
    duplication: Annotated[float, typer.Option(help="Share of them that come twice.", min=0, max=1)] = 0.0,
    frames: Annotated[int, typer.Option(help="Distinct frames, sent in turn.", min=1, max=1000)] = 16,
    hits: Annotated[float, typer.Option(help="Share of the frames that have Bragg spots.", min=0, max=1)] = 0.5,
    background: Annotated[float, typer.Option(help="Photons a pixel near the beam.", min=0)] = 2.0,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Play the ESRF Smartpix that a configuration names, with a simulated transfer: shared memory instead of RDMA.

    It writes frames into its receivers' rings on this host, on request of its conductor, and waits for none of them:
    who is late is overwritten. It runs until SIGTERM or Ctrl-C, and keeps a journal of what it sent in the folder of
    detector.settings.
    """
    from ..detectors.faults import Faults
    from ..detectors.players import make_player
    from ..detectors.simulator.supply import Look

    look = Look(n_distinct=frames, hit_fraction=hits, background=background, seed=seed)
    faults = Faults(loss, reordering, duplication, seed=seed)
    _play(config, "smartpix", verbose, lambda settings: make_player(settings, look, faults=faults))


@app.command()
def simulator(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    loss: Annotated[float, typer.Option(help="Share of the frames that get lost.", min=0, max=1)] = 0.0,
    reordering: Annotated[float, typer.Option(help="Share of them that come after later ones.", min=0, max=1)] = 0.0,
    duplication: Annotated[float, typer.Option(help="Share of them that come twice.", min=0, max=1)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of what gets lost, comes late or twice.")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Play the simulated detector that a configuration names: messages to its receivers, on request of its conductor.

    What is on its frames, detector.settings says. It runs until SIGTERM or Ctrl-C, and keeps a journal of what it sent
    in their folder, beside the calibration files of its frames.
    """
    _play_stream(config, "simulator", verbose, loss, reordering, duplication, seed)


@app.command()
def reader(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    loss: Annotated[float, typer.Option(help="Share of the frames that get lost.", min=0, max=1)] = 0.0,
    reordering: Annotated[float, typer.Option(help="Share of them that come after later ones.", min=0, max=1)] = 0.0,
    duplication: Annotated[float, typer.Option(help="Share of them that come twice.", min=0, max=1)] = 0.0,
    seed: Annotated[int, typer.Option(help="Of what gets lost, comes late or twice.")] = 0,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details.")] = False,
) -> None:
    """Play the recording that a configuration names: messages to its receivers, on request of its conductor.

    Exposure time, rate and number of frames are what each acquisition asks for. It runs until SIGTERM or Ctrl-C, and
    keeps a journal of what it sent in the folder of detector.settings.
    """
    _play_stream(config, "reader", verbose, loss, reordering, duplication, seed)


def _play_stream(
    path: Path, plugin: str, verbose: bool, loss: float, reordering: float, duplication: float, seed: int
) -> NoReturn:
    """Play a detector whose frames are messages of ``detectors.stream``."""
    from ..detectors.faults import Faults
    from ..detectors.players import make_player

    faults = Faults(loss, reordering, duplication, seed=seed)
    _play(path, plugin, verbose, lambda settings: make_player(settings, faults=faults))


def _play(path: Path, plugin: str, verbose: bool, make: Callable[[Config], Player]) -> NoReturn:
    """Run the process of a simulated detector until a signal ends it.

    :param plugin: that the configuration must name.
    """
    from ..detectors.sender import SenderDaemon

    set_up_logging(f"simulated {plugin}", verbose)
    try:
        settings = load_config(path)
        if settings.detector.plugin != plugin:
            raise ConfigError(f"{path}: detector.plugin: got {settings.detector.plugin!r}, expected {plugin!r}")
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    raise typer.Exit(run_daemon(lambda: SenderDaemon(make(settings))))


@app.command()
def pulse(
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    number: Annotated[int, typer.Option(help="Of pulses.", min=1)] = 1,
    period: Annotated[float, typer.Option(help="Seconds from pulse to pulse.", min=0)] = 0.1,
    width: Annotated[float, typer.Option(help="Seconds that each lasts, for gates; 0: the exposure.", min=0)] = 0.0,
) -> None:
    """Give pulses to a simulated detector whose acquisition waits for them, in external or gate mode.

    A pulse that comes while frames are exposed waits until they are.
    """
    from ..detectors.signals import give_pulses

    try:
        asyncio.run(give_pulses(load_config(config), number, period, width))
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error


@app.command()
def capture(
    file: Annotated[Path, typer.Argument(help="A file that `lima2 capture` made.", metavar="FILE")],
    config: Annotated[Path, typer.Argument(help="The detector's configuration file (TOML).", metavar="CONFIG")],
    rank: Annotated[int, typer.Option(help="Of the receiver that gets the messages.", min=0)] = 0,
    fast: Annotated[bool, typer.Option("--fast", help="As fast as it goes, not at the times that they came.")] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON, for machines.")] = False,
) -> None:
    """Send the messages of a capture once more to a receiver, byte for byte, with nobody to arm or trigger.

    A receiver takes those of acquisitions that live and refuses others. To play the frames of a capture in an
    acquisition, give the file to the detector plugin `reader`.
    """
    from ..capture.format import Capture
    from ..capture.play import open_spout, play

    set_up_logging("capture", verbose=False)
    ended = ended_by_signal()
    try:
        with Capture(file) as found:
            if found.flaw:
                log.warning("%s: %s; what is before it is sent", file, found.flaw)
            spout = open_spout(found, load_config(config), rank)
            try:
                tally = play(found, spout, ended, hurry=fast)
            finally:
                spout.close()
    except ReceiverError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(BAD_START) from error
    typer.echo(msgspec.json.encode(tally).decode() if json else f"{file}: {tally}")
