"""PSI Jungfrau: its frames come as UDP packets."""

from __future__ import annotations

from ...control import DetectorPlugin, Transport
from ...topology import Dispatch
from .params import JungfrauParams, JungfrauSettings

PLUGIN = DetectorPlugin(
    name="jungfrau",
    params=JungfrauParams,
    settings=JungfrauSettings,
    source="lima2_receivers.detectors.jungfrau.source:JungfrauSource",
    control="lima2_receivers.detectors.jungfrau.control:make_control",
    transport=Transport.UDP,
    dispatches=(Dispatch.ROUND_ROBIN, Dispatch.PARTIAL_FRAME),
)
