"""Checking a plan against what detector, configuration and plugins allow, before anything moves."""

from __future__ import annotations

import msgspec

from lima2_processing.errors import ParameterError
from lima2_processing.parts import parts_of

from ..config import Config
from ..control import Capabilities, Range
from ..errors import PlanError, StateError
from ..plan import AcquisitionPlan, TriggerMode, decode_params
from ..plugins import DETECTORS, PIPELINES, decode_pipeline, dispatch_of
from ..rollover import SavingMode
from ..topology import Dispatch


def check_plan(plan: AcquisitionPlan, capabilities: Capabilities, config: Config) -> None:
    """Check a whole plan.

    :raises PlanError: what is wrong, with its path in the plan, what was given and what is allowed.
    """
    acquisition = plan.acquisition
    if 0 < capabilities.max_receivers < len(config.receivers):
        raise PlanError(
            f"receivers: got {len(config.receivers)}, expected at most {capabilities.max_receivers} "
            f"for the stream of {capabilities.model}"
        )
    if acquisition.trigger_mode not in capabilities.trigger_modes:
        allowed = ", ".join(capabilities.trigger_modes)
        raise PlanError(f"acquisition.trigger_mode: got {acquisition.trigger_mode}, {capabilities.model} has {allowed}")
    _check_times("acquisition", acquisition.expo_time, acquisition.latency_time, capabilities)
    if acquisition.nb_frames and acquisition.nb_frames_per_trigger > acquisition.nb_frames:
        raise PlanError(
            f"acquisition.nb_frames_per_trigger: got {acquisition.nb_frames_per_trigger}, "
            f"expected at most nb_frames, {acquisition.nb_frames}"
        )
    if acquisition.nb_frames_per_trigger != 1:
        if acquisition.trigger_mode is TriggerMode.INTERNAL:
            raise PlanError("acquisition.nb_frames_per_trigger: internal mode has no triggers, expected 1")
        if acquisition.trigger_mode is TriggerMode.GATE:
            raise PlanError("acquisition.nb_frames_per_trigger: a gate exposes one frame, expected 1")
    if plan.saving.nb_frames_per_file and config.saving.mode is SavingMode.SWMR:
        raise PlanError(
            f"saving.nb_frames_per_file: got {plan.saving.nb_frames_per_file}, expected 0: saving.mode of the "
            "configuration is swmr, which has one file a stream"
        )
    decode_params(plan.detector, DETECTORS.get(config.detector.plugin).params, "detector")
    params = decode_pipeline(plan.pipeline) if plan.pipeline is not None else None
    if dispatch_of(config) is Dispatch.PARTIAL_FRAME:
        _check_parts(plan, params, capabilities, config)


def _check_parts(
    plan: AcquisitionPlan, params: msgspec.Struct | None, capabilities: Capabilities, config: Config
) -> None:
    """Check that receivers can have some modules each of every frame."""
    if config.saving.mode is not SavingMode.SWMR:
        raise PlanError(
            f"dispatch: got {Dispatch.PARTIAL_FRAME}, which needs saving.mode swmr, got {config.saving.mode}: "
            "the parts of frames can't be put together over several files yet"
        )
    try:
        parts_of(capabilities.frame_spec, len(config.receivers))
    except ParameterError as error:
        raise PlanError(str(error)) from error
    if plan.pipeline is not None and (why := PIPELINES.get(plan.pipeline.name).whole_frames(params)):
        raise PlanError(f"pipeline {plan.pipeline.name} on receivers that have a part of each frame: {why}")


def check_trigger(
    n_frames: int, expo_time: float, latency_time: float, room: int, capabilities: Capabilities | None
) -> None:
    """Check a software trigger.

    :param room: frames that it may ask for at most; -1: any number.
    :param capabilities: of the detector; None: it is away, and will refuse the trigger itself.
    :raises StateError: it asks for too many frames.
    :raises PlanError: a value is out of range.
    """
    if n_frames < 1:
        raise PlanError(f"trigger.n_frames: got {n_frames}, expected at least 1")
    if 0 <= room < n_frames:
        raise StateError(f"trigger.n_frames: got {n_frames}, expected at most {room}, what is left of nb_frames")
    if capabilities is not None:
        _check_times("trigger", expo_time, latency_time, capabilities)


def _check_times(place: str, expo_time: float, latency_time: float, capabilities: Capabilities) -> None:
    for name, value in (("expo_time", expo_time), ("latency_time", latency_time)):
        allowed: Range = getattr(capabilities, name)
        if value not in allowed:
            raise PlanError(
                f"{place}.{name}: got {value:g} s, {capabilities.model} takes {allowed.low:g} to {allowed.high:g} s"
            )
