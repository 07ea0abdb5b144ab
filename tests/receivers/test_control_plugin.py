"""Detector plugins whose parts are not there."""

import msgspec
import pytest

from lima2_receivers.control import DetectorPlugin
from lima2_receivers.errors import ConfigError


class Empty(msgspec.Struct, frozen=True):
    """Nothing."""


NOWHERE = ("no_such_module:Source", "lima2_receivers.source:NoSuchThing", "lima2_receivers", "")


@pytest.mark.parametrize("place", NOWHERE)
def test_a_part_that_cannot_be_imported_is_named(place):
    plugin = DetectorPlugin("mine", Empty, Empty, source=place, control=place, host_control=place or "x")
    for load in (plugin.load_source, plugin.load_control, plugin.load_host_control):
        with pytest.raises(ConfigError, match="can't be imported"):
            load()
