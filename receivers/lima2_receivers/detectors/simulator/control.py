"""The simulator's control half."""

from __future__ import annotations

from ...plan import AcquisitionPlan, decode_params
from ..protocol import Arm
from ..pulses import Pulses
from ..remote import RemoteControl
from .params import SimulatorParams, SimulatorSettings


class SimulatorControl(RemoteControl[SimulatorSettings]):
    """Drives a simulator process."""

    def endpoint(self, settings: SimulatorSettings) -> str:
        """Return where the simulator takes commands."""
        return settings.control

    def arm(self, series: int, plan: AcquisitionPlan) -> Arm:
        """Return how the series begins."""
        params = decode_params(plan.detector, SimulatorParams, "detector")
        pulses = Pulses(params.pulse_period, params.pulses, params.pulse_width)
        return Arm(series, plan.acquisition.nb_frames, params.loss, params.lose, pulses=pulses)
