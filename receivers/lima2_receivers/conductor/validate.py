"""Checking a plan against what detector, configuration and plugins allow, before anything moves."""

from __future__ import annotations

from ..config import Config
from ..control import Capabilities
from ..errors import PlanError
from ..plan import AcquisitionPlan, TriggerMode, decode_params
from ..plugins import DETECTORS, decode_pipeline


def check_plan(plan: AcquisitionPlan, capabilities: Capabilities, config: Config) -> None:
    """Check a whole plan.

    :raises PlanError: what is wrong, with its path in the plan, what was given and what is allowed.
    """
    acquisition = plan.acquisition
    if acquisition.trigger_mode not in capabilities.trigger_modes:
        allowed = ", ".join(capabilities.trigger_modes)
        raise PlanError(f"acquisition.trigger_mode: got {acquisition.trigger_mode}, {capabilities.model} has {allowed}")
    for name in ("expo_time", "latency_time"):
        value, allowed = getattr(acquisition, name), getattr(capabilities, name)
        if value not in allowed:
            raise PlanError(
                f"acquisition.{name}: got {value:g} s, {capabilities.model} takes {allowed.low:g} to {allowed.high:g} s"
            )
    if acquisition.nb_frames and acquisition.nb_frames_per_trigger > acquisition.nb_frames:
        raise PlanError(
            f"acquisition.nb_frames_per_trigger: got {acquisition.nb_frames_per_trigger}, "
            f"expected at most nb_frames, {acquisition.nb_frames}"
        )
    if acquisition.trigger_mode is TriggerMode.INTERNAL and acquisition.nb_frames_per_trigger != 1:
        raise PlanError("acquisition.nb_frames_per_trigger: internal mode has no triggers, expected 1")
    decode_params(plan.detector, DETECTORS.get(config.detector.plugin).params, "detector")
    if plan.pipeline is not None:
        decode_pipeline(plan.pipeline)
