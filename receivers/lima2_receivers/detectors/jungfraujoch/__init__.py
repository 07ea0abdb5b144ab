"""PSI Jungfraujoch: a Jungfrau behind FPGA cards, its broker to control it, images by ZeroMQ much like Stream2."""

from __future__ import annotations

from ...control import DetectorPlugin, Transport
from .params import JungfraujochParams, JungfraujochSettings

PLUGIN = DetectorPlugin(
    name="jungfraujoch",
    params=JungfraujochParams,
    settings=JungfraujochSettings,
    source="lima2_receivers.detectors.jungfraujoch.source:JungfraujochSource",
    control="lima2_receivers.detectors.jungfraujoch.control:JungfraujochControl",
    transport=Transport.ZMQ_CONNECT,
)
