"""Which addresses and ports a real Jungfrau's modules send to. Pure arithmetic."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address

from ...errors import ConfigError
from ...transport.datagrams import split_endpoint
from .params import JungfrauSettings
from .sls_messages import Attach, Destination, ModuleNetwork

MAX_RECEIVERS = 32  # destinations that a module's list holds
_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}", re.ASCII)


def attachment(settings: JungfrauSettings) -> Attach:
    """Return what to connect to."""
    return Attach(tuple(settings.hostnames[at] for at in psi_order(settings)), settings.modules)


def networks(
    settings: JungfrauSettings, receivers: tuple[str, ...], by_module: bool = False
) -> tuple[ModuleNetwork, ...]:
    """Return what each module's packets carry, in PSI's order.

    :param receivers: data endpoints, in the order of ranks.
    :param by_module: True: each receiver gets some modules of every frame; False: whole frames in turn.
    :raises ConfigError: an address is none, or there are too many or too few.
    """
    if by_module:
        return _networks_by_module(settings, receivers)
    if len(receivers) > MAX_RECEIVERS:
        raise ConfigError(f"receivers: got {len(receivers)}, expected at most {MAX_RECEIVERS} for a Jungfrau")
    _check_addresses(settings, receivers)
    places = [_split(each, f"receivers[{rank}].data", settings.n_ports) for rank, each in enumerate(receivers)]
    return tuple(_network(settings, places, at) for at in psi_order(settings))


def _networks_by_module(settings: JungfrauSettings, receivers: tuple[str, ...]) -> tuple[ModuleNetwork, ...]:
    _check_addresses(settings, receivers)
    found: dict[int, ModuleNetwork] = {}
    for rank, modules in enumerate(settings.modules_of(len(receivers))):
        n_ports = settings.ports_of_part(rank, len(receivers))
        host, port = _split(receivers[rank], f"receivers[{rank}].data", n_ports)
        for module in modules:
            first = (module - modules.start) * settings.interfaces
            ports = tuple(port + first + each for each in range(settings.interfaces))
            destination = Destination(host, settings.receiver_macs[rank], ports)
            found[module] = ModuleNetwork(_source_ips(settings, module), (destination,))
    return tuple(found[module] for module in psi_order(settings))


def _check_addresses(settings: JungfrauSettings, receivers: tuple[str, ...]) -> None:
    macs = settings.receiver_macs
    if len(macs) != len(receivers):
        raise ConfigError(
            f"detector.settings.receiver_macs: got {len(macs)}, expected {len(receivers)}, one a receiver"
        )
    for mac in macs:
        if not _MAC.fullmatch(mac):
            raise ConfigError(
                f"detector.settings.receiver_macs: got {mac!r}, expected six bytes such as 0c:42:a1:00:00:01"
            )
    for address in settings.source_ips:
        _check_address(address, "detector.settings.source_ips")


def psi_order(settings: JungfrauSettings) -> list[int]:
    """Return the modules, which we count row by row, as PSI counts them: down the first column, then the next."""
    down, across = settings.modules
    return [row * across + column for column in range(across) for row in range(down)]


def _network(settings: JungfrauSettings, places: list[tuple[str, int]], module: int) -> ModuleNetwork:
    first = module * settings.interfaces
    interfaces = range(first, first + settings.interfaces)
    destinations = tuple(
        Destination(host, mac, tuple(port + each for each in interfaces))
        for (host, port), mac in zip(places, settings.receiver_macs, strict=True)
    )
    return ModuleNetwork(_source_ips(settings, module), destinations)


def _source_ips(settings: JungfrauSettings, module: int) -> tuple[str, ...]:
    """Return the addresses that a module sends from; none: as it has them."""
    first = module * settings.interfaces
    return settings.source_ips[first : first + settings.interfaces]


def _split(endpoint: str, place: str, n_ports: int) -> tuple[str, int]:
    host, port = split_endpoint(endpoint, place)
    _check_address(host, place)
    if port + n_ports > 2**16:
        raise ConfigError(f"{place}: {endpoint}: there is no port {port + n_ports - 1}")
    return host, port


def _check_address(address: str, place: str) -> None:
    try:
        IPv4Address(address)
    except AddressValueError as error:
        raise ConfigError(
            f"{place}: got {address!r}, expected an IPv4 address: a Jungfrau resolves no names"
        ) from error
