"""A capture without a configuration: what a detector's name and one data endpoint tell."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..config import (
    DATA_SCHEMES,
    ConductorConfig,
    Config,
    DetectorConfig,
    ReceiverConfig,
    SavingConfig,
    SecurityConfig,
    check_data_access,
    check_endpoint,
    detector_settings,
)
from ..errors import ConfigError
from ..plugins import DETECTORS

UNUSED = "unused"  # as a setting that tells where a detector is: a capture does not ask it anything
PLACES = ("control", "folder")  # of our simulated detectors, which some plugins ask for in code alone


def endpoint_config(plugin: str, data: str, settings: Sequence[str] = (), unauthenticated: bool = False) -> Config:
    """Return a configuration of one receiver's data endpoint alone; nothing else of it can be used.

    :param plugin: name of the detector plugin.
    :param data: the endpoint, ``receivers[0].data`` of a configuration.
    :param settings: of the plugin, each a line of TOML. Where the detector takes commands need not be told.
    :param unauthenticated: whether the endpoint may be one that other hosts can reach.
    :raises ConfigError: there is no such plugin, the endpoint is none, or a setting is wrong or missing.
    """
    kind = DETECTORS.get(plugin).settings
    security = SecurityConfig(unauthenticated_data=unauthenticated)
    check_endpoint("--data", data, DATA_SCHEMES)
    check_data_access("--data", data, security)
    try:
        given = msgspec.toml.decode("\n".join(settings), type=dict[str, object])
        fields = msgspec.structs.fields(kind)
        places = {each.encode_name: UNUSED for each in fields if each.required or each.encode_name in PLACES}
        detector = msgspec.convert({"plugin": plugin, "settings": places | given}, DetectorConfig)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--set: got {', '.join(settings)}: {error}; expected lines of TOML") from error
    receiver = ReceiverConfig(commands="", data=data)
    config = Config(detector, ConductorConfig("", ""), (receiver,), SavingConfig(("/",)), security=security)
    detector_settings(config, kind)
    return config
