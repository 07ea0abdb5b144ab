"""What a Jungfrau can be told: where and what it is (settings), and what one acquisition asks of it (parameters)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from lima2_processing.errors import ParameterError
from lima2_processing.frame import FrameSpec, ModuleLayout
from lima2_processing.layouts import JUNGFRAU_CHIP, JUNGFRAU_MODULE, JUNGFRAU_MODULE_GAP, grid
from lima2_processing.parts import module_shares

from ...control import PacketSettings
from ...errors import ConfigError

MAX_MODULES = 8
ROWS = JUNGFRAU_MODULE[0]


class Gain(StrEnum):
    """Which gain stages pixels use, by the names of PSI's ``gainmode``."""

    DYNAMIC = "dynamic"  # each pixel the one that its charge needs; G0 where it is dark
    FORCE_G1 = "forceswitchg1"
    FORCE_G2 = "forceswitchg2"


class JungfrauParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of a Jungfrau.

    :param read_rows: rows of each module that are read out, around its middle; fewer allow higher rates.
    :param gain: which gain stages pixels use; forced ones are for pedestals.
    :param partial_frames: what happens to frames that miss packets: ``drop`` them, or ``process`` and save them, with
        pixels that read 0xFFFF where they are missing, which counts as broken in every pipeline.
    :param save_packets: True: packets are also saved as PSI's slsReceiver does, with their headers, and those of
        incomplete frames, too; see ``raw_files``.
    """

    read_rows: Annotated[int, Meta(ge=8, le=ROWS, multiple_of=8)] = ROWS
    gain: Gain = Gain.DYNAMIC
    partial_frames: Literal["drop", "process"] = "drop"
    save_packets: bool = False


class JungfrauSettings(PacketSettings, frozen=True, forbid_unknown_fields=True):
    """The Jungfrau's table in the configuration.

    The receivers' ``data`` is ``udp://HOST:PORT``, the port of the first module. Each module takes as many ports as it
    has interfaces, the one after the other.

    :param control: endpoint of the simulated detector's commands; needed without ``hostnames``.
    :param folder: absolute folder for the simulated detector's journals and calibration files; needed without
        ``hostnames``.
    :param modules: how many there are (down, across), 8 at most.
    :param interfaces: UDP interfaces that a module sends with: with 2, each carries one half of its rows.
    :param gap_pixels: True: the double-size pixels at chip edges take two pixels of the image.
    :param hostnames: of a real detector's modules, row by row; with ``:PORT`` where it is not PSI's usual one. None:
        the detector is simulated.
    :param source_ips: IPv4 addresses that modules send from, one an interface, in the order of ports; none: as the
        detector has them.
    :param receiver_macs: MAC addresses of the network interfaces that receivers take packets by, or of the router on
        the way, one a receiver; needed with ``hostnames``.
    """

    control: str = ""
    folder: str = ""
    modules: Annotated[tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=1)]], Meta()] = (1, 1)
    interfaces: Literal[1, 2] = 1
    gap_pixels: bool = True
    hostnames: tuple[str, ...] = ()
    source_ips: tuple[str, ...] = ()
    receiver_macs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.n_modules > MAX_MODULES:
            raise ValueError(f"modules: got {self.n_modules}, expected {MAX_MODULES} at most")
        if not self.hostnames and not (self.control and self.folder):
            raise ValueError("got no control or no folder, expected both for a simulated detector, or hostnames")
        if len(self.hostnames) not in (0, self.n_modules):
            raise ValueError(f"hostnames: got {len(self.hostnames)}, expected {self.n_modules}, one a module")
        if len(self.source_ips) not in (0, self.n_ports):
            raise ValueError(f"source_ips: got {len(self.source_ips)}, expected {self.n_ports}, one an interface")

    @property
    def n_modules(self) -> int:
        """How many modules there are."""
        return self.modules[0] * self.modules[1]

    @property
    def n_ports(self) -> int:
        """Ports of each receiver."""
        return self.n_modules * self.interfaces

    def ports_of_part(self, rank: int, n_receivers: int) -> int:
        """Return the ports of a receiver that has some modules of every frame.

        :raises ConfigError: there are fewer modules than receivers.
        """
        return len(self.modules_of(n_receivers)[rank]) * self.interfaces

    def modules_of(self, n_receivers: int) -> tuple[range, ...]:
        """Return which modules each receiver has, where each has some of every frame.

        :raises ConfigError: there are fewer modules than receivers.
        """
        try:
            return module_shares(self.n_modules, n_receivers)
        except ParameterError as error:
            raise ConfigError(str(error)) from error


def frame_spec(settings: JungfrauSettings, read_rows: int = ROWS) -> FrameSpec:
    """Return what frames look like; see ``modules_spec``."""
    return modules_spec(settings.modules, settings.gap_pixels, read_rows)


def modules_spec(modules: tuple[int, int], gap_pixels: bool, read_rows: int = ROWS) -> FrameSpec:
    """Return what frames look like, (modules, ``read_rows``, 1024) uint16.

    :param modules: how many there are (down, across).
    :param gap_pixels: True: the double-size pixels at chip edges take two pixels of the image.
    :param read_rows: rows of each module that are read out, half of them on either side of the chips' edge.
    """
    full = grid(modules, JUNGFRAU_MODULE, JUNGFRAU_CHIP, gap_pixels, JUNGFRAU_MODULE_GAP)
    if read_rows == ROWS or full.layout is None:
        return full
    layout = ModuleLayout(
        origins=tuple((row + (ROWS - read_rows) // 2, col) for row, col in full.layout.origins),
        image_shape=full.layout.image_shape,
        chip_shape=(read_rows // 2, JUNGFRAU_CHIP[1]),
        chip_gap=full.layout.chip_gap,
    )
    return msgspec.structs.replace(full, shape=(full.shape[0], read_rows, full.shape[2]), layout=layout)
