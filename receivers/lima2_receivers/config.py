"""The configuration file: where everything is. What to do is the plan's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from .errors import ConfigError
from .rollover import SavingMode
from .security.reach import Reach, reach
from .topology import Dispatch

SCHEMES, DATA_SCHEMES = ("ipc", "tcp"), ("ipc", "tcp", "udp", "rashpa")
RING_NAME = re.compile(r"/[A-Za-z0-9_\-][A-Za-z0-9_.\-]{0,99}", re.ASCII)
IPC_LIMIT = 107  # bytes of a Unix socket's path, from sockaddr_un


class RingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The memory that bounds a receiver: frames wait here, and nowhere else.

    :param slots: how many frames fit.
    :param slot_bytes: bytes of the largest frame that fits.
    """

    slots: Annotated[int, Meta(ge=2)] = 16
    slot_bytes: Annotated[int, Meta(ge=1)] = 8 * 1024 * 1024


class OpenCLConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where kernels run.

    :param device: part of a device's name; empty: a GPU where there is one, else a CPU.
    :param threads: threads of a CPU device; 0: one a core.
    :param cache_dir: folder of compiled kernels; empty: the OpenCL implementation's own.
    :param memory: bytes of the device that all acquisitions together may take on this receiver; 0: all it has. On a
        CPU, the ring is part of it.
    """

    device: str = ""
    threads: Annotated[int, Meta(ge=0)] = 0
    cache_dir: str = ""
    memory: Annotated[int, Meta(ge=0)] = 0


class ReceiverConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One receiver daemon.

    :param commands: endpoint that its commands come in by, ``ipc://PATH`` or ``tcp://HOST:PORT``.
    :param data: endpoint that the detector sends frames to; empty: they come from the ingest.
    :param ring: its memory.
    :param opencl: its device.
    :param batch: frames that the device works on together at most, while as many are on their way to it; 1: lowest
        latency.
    :param encoders: threads that compress.
    """

    commands: str
    data: str = ""
    ring: RingConfig = RingConfig()
    opencl: OpenCLConfig = OpenCLConfig()
    batch: Annotated[int, Meta(ge=1, le=64)] = 4
    encoders: Annotated[int, Meta(ge=1, le=64)] = 1


class IngestConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The ingest daemon, for a detector whose one stream is shared out among receivers.

    :param commands: endpoint that its commands come in by.
    :param data: endpoint that the detector sends frames to.
    :param handover: endpoint that receivers take messages from.
    :param ring: messages that it keeps until their frames are safe with a receiver, and bytes of each.
    :param shared_memory: True: receivers on its host read pixels from its memory; False: all goes through the socket.
    """

    commands: str
    data: str
    handover: str
    ring: RingConfig = RingConfig(slots=64)
    shared_memory: bool = True


class ConductorConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The conductor daemon.

    :param commands: endpoint that clients send commands to.
    :param state: endpoint that it publishes state and counters on.
    :param journal: absolute folder, of this conductor alone, where it writes down what it needs to go on with
        acquisitions when it is killed and started again; empty: beside the socket of ``commands``, or, where that is
        ``tcp``, in ``.lima2`` below the first of ``saving.roots``.
    """

    commands: str
    state: str
    journal: str = ""


class SavingConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where files may go.

    :param roots: absolute folders; a plan's ``base_path`` must lie in one of them, symbolic links resolved.
    :param flush_period: seconds after which frames that were written are flushed and counted, at the latest.
    :param mode: how files become readable; ``swmr`` needs a file system that holds its guarantees.
    :param swmr_on: types of file systems that ``swmr`` may be used on although it is not known to hold there.
    """

    roots: Annotated[tuple[str, ...], Meta(min_length=1)]
    flush_period: Annotated[float, Meta(gt=0, le=10)] = 0.1
    mode: SavingMode = SavingMode.SWMR
    swmr_on: tuple[str, ...] = ()


class CalibrationConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where calibration files may be read from.

    :param roots: absolute folders that the files of a plan must lie in, symbolic links resolved, beside those of
        ``saving.roots``.
    """

    roots: tuple[str, ...] = ()


class SecurityConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may connect, beside those whom the folder of an ``ipc`` endpoint lets in.

    :param keys: absolute folder of keys, which ``lima2 keys init`` makes: every ``tcp`` endpoint of conductor and
        receivers then needs a key; empty: there are none.
    :param insecure: True lets every user of a host use ``tcp`` endpoints on loopback where there are no keys.
    :param unauthenticated_data: True lets receivers take frames at addresses that other hosts can reach: no detector's
        stream has keys.
    """

    keys: str = ""
    insecure: bool = False
    unauthenticated_data: bool = False


class DeadlineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """How long who waits for whom, in seconds.

    :param command: a command between daemons; also how long a daemon may be silent before it counts as dead.
    :param prepare: preparing an acquisition: reading calibration, building kernels, making files.
    :param drain: no frame has come and none was settled for this long after the detector ended: the rest is lost.
    :param stalled: nothing has moved for this long while an acquisition drains: it is given up. A receiver that no
        conductor asks about an acquisition for this long, and that gets none of its frames, closes its files by itself.
    """

    command: Annotated[float, Meta(gt=0)] = 5.0
    prepare: Annotated[float, Meta(gt=0)] = 60.0
    drain: Annotated[float, Meta(gt=0)] = 2.0
    stalled: Annotated[float, Meta(gt=0)] = 15.0

    @property
    def whole_prepare(self) -> float:
        """How long the conductor may take to answer a prepare: check, arm, make, and undo where one part can't."""
        return 3 * self.prepare + 4 * self.command

    @property
    def stop(self) -> float:
        """How long the conductor may take to stop an acquisition and close its files."""
        return 4 * self.command + 2 * self.stalled


class DetectorConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Which detector this is.

    :param plugin: name of an installed detector plugin.
    :param name: of the detector, used in files.
    :param instrument: name of the beamline or instrument, used in files.
    :param settings: the plugin's own table: where the detector is.
    """

    plugin: str
    name: str = "detector"
    instrument: str = "instrument"
    settings: dict[str, str | int | float | bool | list[str | int | float]] = {}


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """One detector's daemons. Every daemon reads the same file.

    :param detector: the detector.
    :param conductor: the one conductor.
    :param receivers: one table a receiver, in the order of their ranks.
    :param saving: where files may go.
    :param calibration: where calibration files may be read from.
    :param deadlines: how long who waits for whom.
    :param security: who may connect.
    :param dispatch: how frames spread over receivers; None: as the detector does it by default.
    :param ingest: takes the detector's frames for all receivers; None: it sends them to the receivers themselves.
    """

    detector: DetectorConfig
    conductor: ConductorConfig
    receivers: Annotated[tuple[ReceiverConfig, ...], Meta(min_length=1)]
    saving: SavingConfig
    calibration: CalibrationConfig = CalibrationConfig()
    deadlines: DeadlineConfig = DeadlineConfig()
    security: SecurityConfig = SecurityConfig()
    dispatch: Dispatch | None = None
    ingest: IngestConfig | None = None

    @property
    def data_endpoints(self) -> dict[str, str]:
        """Every endpoint that the detector sends to, by its place in the file."""
        if self.ingest is not None:
            return {"ingest.data": self.ingest.data}
        return {f"receivers[{rank}].data": receiver.data for rank, receiver in enumerate(self.receivers)}

    def stream(self, rank: int) -> tuple[str, str, int]:
        """Return the place and the endpoint of the stream that a receiver gets, and the bytes of its largest frame.

        :param rank: of the receiver; with an ingest, 0 stands for it.
        :raises ConfigError: there is no such receiver.
        """
        streams = list(self.data_endpoints.items())
        if not 0 <= rank < len(streams):
            raise ConfigError(f"rank: got {rank}, the configuration has receivers 0 to {len(streams) - 1}")
        ring = self.ingest.ring if self.ingest is not None else self.receivers[rank].ring
        return *streams[rank], ring.slot_bytes

    @property
    def calibration_roots(self) -> tuple[str, ...]:
        """Every folder that calibration files may be read from."""
        return (*self.saving.roots, *self.calibration.roots)

    def endpoints(self) -> dict[str, str]:
        """Return every endpoint that a daemon binds, by its place in the file."""
        places = {"conductor.commands": self.conductor.commands, "conductor.state": self.conductor.state}
        if self.ingest is not None:
            places["ingest.commands"], places["ingest.handover"] = self.ingest.commands, self.ingest.handover
        for rank, receiver in enumerate(self.receivers):
            places[f"receivers[{rank}].commands"] = receiver.commands
        return places | self.data_endpoints


def load_config(path: Path) -> Config:
    """Read and check a configuration file.

    :raises ConfigError: it cannot be read, has an unknown or misspelt field, or an endpoint that is not allowed; the
        message names the file and the place in it.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise ConfigError(f"configuration {path}: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    try:
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"configuration {path}: {error}") from error
    return config


def check_config(config: Config) -> None:
    """Check what the types alone can't say.

    :raises ConfigError: an endpoint is used twice, malformed, or reachable by more than may reach it; or a folder is
        not absolute.
    """
    for rank, receiver in enumerate(config.receivers):
        if config.ingest is not None and receiver.data:
            raise ConfigError(f"receivers[{rank}].data: got {receiver.data!r}, expected none: frames go to ingest.data")
        if config.ingest is None and not receiver.data:
            raise ConfigError(f"receivers[{rank}].data: got none, expected an endpoint, or an [ingest] for all")
    seen: dict[str, str] = {}
    for place, endpoint in config.endpoints().items():
        if place.endswith(".data"):
            check_endpoint(place, endpoint, DATA_SCHEMES)
            check_data_access(place, endpoint, config.security)
        else:
            check_endpoint(place, endpoint)
            check_access(place, endpoint, config.security.insecure, bool(config.security.keys))
        streams = place.endswith(".data") and seen.get(endpoint, "").endswith(".data")
        if endpoint in seen and not streams:  # whether several receivers may share a stream, the detector's plugin says
            raise ConfigError(f"{place}: {endpoint} is used by {seen[endpoint]} already")
        seen[endpoint] = place
    folders = [("saving.roots", root) for root in config.saving.roots]
    folders += [("calibration.roots", root) for root in config.calibration.roots]
    if config.conductor.journal:
        folders.append(("conductor.journal", config.conductor.journal))
    if config.security.keys:
        folders.append(("security.keys", config.security.keys))
    for place, folder in folders:
        if not Path(folder).is_absolute():
            raise ConfigError(f"{place}: got {folder!r}, expected an absolute folder")


S = TypeVar("S", bound=Struct)


def detector_settings(config: Config, kind: type[S]) -> S:
    """Return the detector plugin's own table of a configuration, decoded strictly.

    :param kind: the plugin's struct of settings.
    :raises ConfigError: it has an unknown field or a wrong value.
    """
    try:
        return msgspec.convert(config.detector.settings, kind)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"detector.settings of plugin {config.detector.plugin}: {error}") from error


def check_endpoint(place: str, endpoint: str, schemes: tuple[str, ...] = SCHEMES) -> None:
    """Check that an endpoint is well-formed.

    :param place: of the endpoint in the configuration, for the error.
    :param schemes: that it may have.
    :raises ConfigError: it isn't.
    """
    scheme, _, rest = endpoint.partition("://")
    if scheme not in schemes:
        raise ConfigError(f"{place}: got {endpoint!r}, expected {' or '.join(_FORMS[each] for each in schemes)}")
    if scheme == "ipc":
        if not rest.startswith("/") or len(rest.encode()) > IPC_LIMIT:
            raise ConfigError(
                f"{place}: got {endpoint!r}, expected ipc:// and an absolute path of at most {IPC_LIMIT} bytes"
            )
        return
    if scheme == "rashpa":
        if not RING_NAME.fullmatch(rest):
            raise ConfigError(
                f"{place}: got {endpoint!r}, expected rashpa:///NAME of at most 100 letters, digits, '_', '-' and '.'"
            )
        return
    host, _, port = rest.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise ConfigError(f"{place}: got {endpoint!r}, expected {_FORMS[scheme]}")


def check_access(place: str, endpoint: str, insecure: bool, keys: bool = False) -> None:
    """Check that an endpoint of our own daemons can be reached by those alone who may.

    :param place: of the endpoint in the configuration, for the error.
    :param insecure: see ``SecurityConfig``.
    :param keys: whether peers show keys at it.
    :raises ConfigError: others can.
    """
    match reach(endpoint):
        case Reach.NETWORK if not keys:
            raise ConfigError(
                f"{place}: {endpoint} can be reached from other hosts, expected `security.keys`, ipc:// or a loopback "
                "address"
            )
        case Reach.HOST if not keys and not insecure:
            raise ConfigError(
                f"{place}: {endpoint} can be reached by every user of this host, expected ipc://, `security.keys`, or "
                "`security.insecure = true` on a host whose users you trust"
            )
        case _:
            pass


def check_data_access(place: str, endpoint: str, security: SecurityConfig) -> None:
    """Check that an endpoint of a detector's stream can be reached from this host alone, unless that is allowed.

    :param place: of the endpoint in the configuration, for the error.
    :raises ConfigError: others can.
    """
    if reach(endpoint) is Reach.NETWORK and not security.unauthenticated_data:
        raise ConfigError(
            f"{place}: {endpoint} can be reached from other hosts, and no detector's stream has keys; set "
            "`security.unauthenticated_data = true` on a network that you trust"
        )


_FORMS = {"ipc": "ipc://PATH", "tcp": "tcp://HOST:PORT", "udp": "udp://HOST:PORT", "rashpa": "rashpa:///NAME"}
