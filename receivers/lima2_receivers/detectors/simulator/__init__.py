"""A simulated detector: a Jungfrau with its gains or any images, scenes of known content, and losses on request."""

from ...control import DetectorPlugin
from ...topology import Dispatch
from .params import SimulatorParams, SimulatorSettings

PLUGIN = DetectorPlugin(
    name="simulator",
    params=SimulatorParams,
    settings=SimulatorSettings,
    source="lima2_receivers.detectors.simulator.source:SimulatorSource",
    control="lima2_receivers.detectors.simulator.control:SimulatorControl",
    host_control="lima2_receivers.detectors.simulator.host:SimulatorHostControl",
    dispatches=(Dispatch.ROUND_ROBIN, Dispatch.DYNAMIC, Dispatch.PARTIAL_FRAME),
)
