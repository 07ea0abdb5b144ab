"""ESRF Smartpix over RASHPA: it writes into rings in the receivers' memory. Here, the transfer is simulated."""

from __future__ import annotations

from ...control import DetectorPlugin, Transport
from .params import SmartpixParams, SmartpixSettings

PLUGIN = DetectorPlugin(
    name="smartpix",
    params=SmartpixParams,
    settings=SmartpixSettings,
    source="lima2_receivers.detectors.smartpix.source:SmartpixSource",
    control="lima2_receivers.detectors.smartpix.control:SmartpixControl",
    transport=Transport.RING,
)
