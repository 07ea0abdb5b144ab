"""A simulated Jungfrau: Poisson background, Bragg spots of known place, three gains, and losses on request."""

from ...control import DetectorPlugin
from .params import SimulatorParams, SimulatorSettings

PLUGIN = DetectorPlugin(
    name="simulator",
    params=SimulatorParams,
    settings=SimulatorSettings,
    source="lima2_receivers.detectors.simulator.source:SimulatorSource",
    control="lima2_receivers.detectors.simulator.control:SimulatorControl",
    host_control="lima2_receivers.detectors.simulator.host:SimulatorHostControl",
)
