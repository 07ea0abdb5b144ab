"""What the process of a simulated detector is made of: its frames, and the way that they leave it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..config import Config, check_access, check_endpoint, detector_settings
from ..errors import ConfigError, PlanError
from ..plan import decode_params
from ..plugins import dispatch_of
from ..topology import Dispatch
from .faults import NO_FAULTS, Faults
from .jungfrau.outlet import CALM, JungfrauOutlet, Network
from .jungfrau.params import JungfrauSettings
from .jungfrau.supply import JungfrauSupply
from .order import Order
from .outlet import Outlet, PartsOutlet, StreamOutlet
from .protocol import Arm
from .reader.params import ReaderSettings
from .reader.supply import read_supply
from .simulator.params import SimulatorSettings
from .simulator.supply import LOOK, Look, simulate_supply
from .smartpix.outlet import SmartpixOutlet
from .smartpix.params import MAIN, SmartpixParams, SmartpixSettings, check_streams, descriptors
from .smartpix.supply import SmartpixSupply
from .supply import Supply

CONTROL_PLACE = "detector.settings.control"  # in the configuration


class Player(Protocol):
    """What a simulated detector is made of."""

    @property
    def control(self) -> str:
        """Endpoint of its commands."""
        ...

    @property
    def folder(self) -> str:
        """Absolute folder of its journals."""
        ...

    @property
    def order(self) -> Order:
        """Which receiver gets which frame."""
        ...

    def make_supply(self, unwanted: threading.Event) -> Supply:
        """Make its frames, until they aren't wanted any more.

        :raises ReceiverError: they can't be made, or aren't wanted.
        """
        ...

    def make_outlet(self, supply: Supply) -> Outlet:
        """Make the way to its receivers."""
        ...

    def read_out(self, supply: Supply, arm: Arm) -> Supply:
        """Return its frames as an acquisition has them read out. May take a while."""
        ...


class StreamPlayer:
    """Plays detectors whose frames come as messages of ``detectors.stream``.

    :param settings: where it is.
    :param make: makes its frames.
    :param receivers: their data endpoints, in the order of ranks.
    :param faults: what happens to messages on their way.
    :param order: which receiver gets which frame.
    :param by_module: True: each receiver gets some modules of every frame.
    """

    def __init__(
        self,
        settings: SimulatorSettings | ReaderSettings,
        make: Callable[[threading.Event], Supply],
        receivers: tuple[str, ...],
        faults: Faults = NO_FAULTS,
        order: Order = Order.IN_TURN,
        by_module: bool = False,
    ) -> None:
        self.order = order
        self._by_module = by_module
        self.control = settings.control
        self.folder = settings.folder
        self._patience = settings.send_timeout
        self._receivers = receivers
        self._make = make
        self._faults = faults

    def make_supply(self, unwanted: threading.Event) -> Supply:
        """Make its frames."""
        return self._make(unwanted)

    def make_outlet(self, supply: Supply) -> Outlet:
        """Make the way to its receivers."""
        if self._by_module:
            return PartsOutlet(supply.spec, self._receivers, self._patience, self._faults)
        return StreamOutlet(supply.spec, self._receivers, self._patience, self._faults)

    def read_out(self, supply: Supply, arm: Arm) -> Supply:
        """Return its frames, which are always alike.

        :raises PlanError: the series is to be longer than the recording.
        """
        if supply.limit and arm.nb_frames > supply.limit:
            raise PlanError(f"acquisition.nb_frames: got {arm.nb_frames}, the recording has {supply.limit} frames")
        return supply


class JungfrauPlayer:
    """Plays a Jungfrau, which sends to its receivers in turn.

    :param settings: where and what it is.
    :param receivers: their data endpoints, in the order of ranks.
    :param look: what is on its frames.
    :param network: what happens to packets on their way.
    :param by_module: True: each receiver gets some modules of every frame.
    """

    order = Order.IN_TURN

    def __init__(
        self,
        settings: JungfrauSettings,
        receivers: tuple[str, ...],
        look: Look = LOOK,
        network: Network = CALM,
        by_module: bool = False,
    ) -> None:
        self.control = settings.control
        self.folder = settings.folder
        self._settings = settings
        self._receivers = receivers
        self._supply = JungfrauSupply(settings, look)
        self._network = network
        self._by_module = by_module

    def make_supply(self, unwanted: threading.Event) -> Supply:
        """Make its frames."""
        return self._supply.make(unwanted)

    def make_outlet(self, supply: Supply) -> Outlet:
        """Make the way to its receivers."""
        del supply
        return JungfrauOutlet(self._settings, self._receivers, self._network, self._by_module)

    def read_out(self, supply: Supply, arm: Arm) -> Supply:
        """Return its frames as an acquisition has them read out."""
        del supply
        return self._supply.read_out(arm)


class SmartpixPlayer:
    """Plays a Smartpix, whose transfers are simulated.

    :param settings: where and what it is.
    :param receivers: their data endpoints, in the order of ranks.
    :param slot_bytes: of their transfer rings.
    :param look: what is on its frames.
    :param faults: what happens to completion records on their way.
    """

    order = Order.IN_TURN

    def __init__(
        self,
        settings: SmartpixSettings,
        receivers: tuple[str, ...],
        slot_bytes: tuple[int, ...],
        look: Look = LOOK,
        faults: Faults = NO_FAULTS,
    ) -> None:
        self.control = settings.control
        self.folder = settings.folder
        self._settings = settings
        self._receivers = receivers
        self._slot_bytes = slot_bytes
        self._supply = SmartpixSupply(settings, look)
        self._faults = faults

    def make_supply(self, unwanted: threading.Event) -> Supply:
        """Make its frames."""
        return self._supply.make(unwanted)

    def make_outlet(self, supply: Supply) -> Outlet:
        """Make the way to its receivers."""
        return SmartpixOutlet(self._supply, supply, self._receivers, self._faults)

    def read_out(self, supply: Supply, arm: Arm) -> Supply:
        """Return the frames of its main stream.

        :raises PlanError: it can't send the streams that are asked for.
        """
        params = decode_params(arm.parameters, SmartpixParams, "detector")
        check_streams(self._settings, params, self._slot_bytes)
        return self._supply.send_as(supply, descriptors(params)[MAIN], params.depth)


def make_player(config: Config, look: Look = LOOK, network: Network = CALM, faults: Faults = NO_FAULTS) -> Player:
    """Make the player of the detector that a configuration names.

    :param look: what is on a Jungfrau's or a Smartpix's frames.
    :param network: what happens to a Jungfrau's packets.
    :param faults: what happens to a Smartpix's completion records, or to messages of the simulator and the Reader.
    :raises ConfigError: its detector is no simulated one, or its settings are wrong.
    """
    receivers = tuple(config.data_endpoints.values())
    dispatch = dispatch_of(config)
    dynamic, by_module = dispatch is Dispatch.DYNAMIC, dispatch is Dispatch.PARTIAL_FRAME
    match config.detector.plugin:
        case "simulator":
            simulator = detector_settings(config, SimulatorSettings)
            order = Order(simulator.order) if dynamic else Order.IN_TURN
            make = partial(simulate_supply, simulator)
            player: Player = StreamPlayer(simulator, make, receivers, faults, order, by_module)
        case "reader":
            reader = detector_settings(config, ReaderSettings)
            order = Order.RANDOM if dynamic else Order.IN_TURN
            player = StreamPlayer(reader, lambda _: read_supply(reader), receivers, faults, order, by_module)
        case "jungfrau":
            jungfrau = detector_settings(config, JungfrauSettings)
            player = JungfrauPlayer(jungfrau, receivers, look, network, by_module)
        case "smartpix":
            smartpix = detector_settings(config, SmartpixSettings)
            slot_bytes = tuple(receiver.ring.slot_bytes for receiver in config.receivers)
            player = SmartpixPlayer(smartpix, receivers, slot_bytes, look, faults)
        case other:
            raise ConfigError(
                f"detector.plugin: got {other!r}, expected one that is played: simulator, reader, jungfrau, smartpix"
            )
    check_endpoint(CONTROL_PLACE, player.control)
    check_access(CONTROL_PLACE, player.control, config.security.insecure)  # without keys: a simulation stays on a host
    return player
