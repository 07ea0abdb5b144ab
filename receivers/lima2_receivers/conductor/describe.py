"""What the conductor says about the system and its detector. Pure."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from ..acquisition import State
from ..config import Config
from ..control import Capabilities
from ..errors import ReceiverError
from ..messages import Description, PipelineDescription
from ..plugins import PIPELINES
from ..published import DetectorState

log = logging.getLogger(__name__)


def describe(config: Config, capabilities: Capabilities) -> Description:
    """Return what the system is: detector, pipelines, limits."""
    return Description(
        detector=config.detector.name,
        instrument=config.detector.instrument,
        capabilities=capabilities,
        pipelines=tuple(_describe_pipeline(name) for name in PIPELINES.names()),
        n_receivers=len(config.receivers),
        roots=config.saving.roots,
    )


def _describe_pipeline(name: str) -> PipelineDescription:
    """Return a pipeline's schema; of one that can't be imported, an empty one, so that the others can be used."""
    try:
        schema = msgspec.json.schema(PIPELINES.get(name).params)
    except ReceiverError as error:
        log.warning("%s", error)
        schema = {}
    return PipelineDescription(name, msgspec.json.encode(schema).decode())


def detector_state(connected: bool, fault: str, live: Sequence[State]) -> DetectorState:
    """Return what the detector is doing.

    :param connected: whether it answers.
    :param fault: what it says is wrong; empty where nothing is.
    :param live: states of the acquisitions that are not closed.
    """
    if not connected:
        return DetectorState.OFFLINE
    if fault:
        return DetectorState.FAULT
    if State.RUNNING in live or State.STOPPING in live:
        return DetectorState.ACQUIRING
    return DetectorState.ARMED if State.PREPARED in live else DetectorState.IDLE
