"""The Reader: plays recorded frames, whatever detector they are of."""

from ...control import DetectorPlugin
from ...topology import Dispatch
from .params import ReaderParams, ReaderSettings

PLUGIN = DetectorPlugin(
    name="reader",
    params=ReaderParams,
    settings=ReaderSettings,
    source="lima2_receivers.detectors.reader.source:ReaderSource",
    control="lima2_receivers.detectors.reader.control:ReaderControl",
    dispatches=(Dispatch.ROUND_ROBIN, Dispatch.DYNAMIC, Dispatch.PARTIAL_FRAME),
)
