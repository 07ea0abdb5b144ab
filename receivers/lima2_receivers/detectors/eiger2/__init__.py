"""Dectris Eiger2: SIMPLON to control it, Stream2 (CBOR) or Stream v1 for its frames."""

from __future__ import annotations

from ...control import DetectorPlugin, Transport
from ...topology import Dispatch
from .params import Eiger2Params, Eiger2Settings

PLUGIN = DetectorPlugin(
    name="eiger2",
    params=Eiger2Params,
    settings=Eiger2Settings,
    source="lima2_receivers.detectors.eiger2.source:Eiger2Source",
    control="lima2_receivers.detectors.eiger2.control:Eiger2Control",
    transport=Transport.ZMQ_CONNECT,
    dispatches=(Dispatch.DYNAMIC,),
)
