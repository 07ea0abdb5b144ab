"""A Jungfrau's control half: PSI's client where the configuration names modules, else the simulated detector."""

from __future__ import annotations

from ...plan import AcquisitionPlan, decode_params
from ...topology import Dispatch
from ..protocol import Arm
from ..remote import RemoteControl
from .params import Gain, JungfrauParams, JungfrauSettings
from .sls_control import SlsControl


def make_control(
    settings: JungfrauSettings, receivers: tuple[str, ...], timeout: float, dispatch: Dispatch
) -> SlsControl | SimulatedControl:
    """Return the control of the detector that the configuration describes; see ``Control``.

    :raises ConfigError: PSI's client is not installed, or the network is not described whole.
    """
    if settings.hostnames:
        return SlsControl(settings, receivers, timeout, dispatch)
    return SimulatedControl(settings, receivers, timeout, dispatch)


class SimulatedControl(RemoteControl[JungfrauSettings]):
    """Drives a simulated Jungfrau's process."""

    def endpoint(self, settings: JungfrauSettings) -> str:
        """Return where the simulated detector takes commands."""
        return settings.control

    def arm(self, series: int, plan: AcquisitionPlan) -> Arm:
        """Return how the series begins."""
        params = decode_params(plan.detector, JungfrauParams, "detector")
        stage = list(Gain).index(params.gain)
        return Arm(series, plan.acquisition.nb_frames, read_rows=params.read_rows, gain=stage)
