"""A Smartpix's control half: it drives the simulated detector."""

from __future__ import annotations

from ...plan import AcquisitionPlan, decode_params
from ..protocol import Arm
from ..remote import RemoteControl
from .params import SmartpixParams, SmartpixSettings


class SmartpixControl(RemoteControl[SmartpixSettings]):
    """Drives a simulated Smartpix's process."""

    _every = 1  # of the series that is armed

    def endpoint(self, settings: SmartpixSettings) -> str:
        """Return where the simulated detector takes commands."""
        return settings.control

    def arm(self, series: int, plan: AcquisitionPlan) -> Arm:
        """Return how the series begins."""
        params = decode_params(plan.detector, SmartpixParams, "detector")
        self._every = params.every
        return Arm(series, plan.acquisition.nb_frames, parameters=plan.detector)

    async def trigger(self, n_frames: int, expo_time: float, latency_time: float) -> None:
        """Expose until ``n_frames`` more are sent: the simulated detector counts those, and knows one period."""
        await super().trigger(n_frames, expo_time * self._every, latency_time * self._every)
