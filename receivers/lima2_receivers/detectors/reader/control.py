"""The Reader's control half."""

from __future__ import annotations

from ...plan import AcquisitionPlan, decode_params
from ..protocol import Arm
from ..remote import RemoteControl
from .params import ReaderParams, ReaderSettings


class ReaderControl(RemoteControl[ReaderSettings]):
    """Drives a Reader process."""

    def endpoint(self, settings: ReaderSettings) -> str:
        """Return where the Reader takes commands."""
        return settings.control

    def arm(self, series: int, plan: AcquisitionPlan) -> Arm:
        """Return how the series begins."""
        decode_params(plan.detector, ReaderParams, "detector")
        return Arm(series, plan.acquisition.nb_frames)
