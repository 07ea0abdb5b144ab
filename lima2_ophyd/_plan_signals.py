"""The soft parameter signals of a detector, and the plan that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from ophyd_async.core import SignalRW

from lima2_receivers.errors import PlanError
from lima2_receivers.plan import (
    AcquisitionParams,
    AcquisitionPlan,
    PipelineChoice,
    SavingParams,
    StreamSaving,
    TriggerMode,
)

from ._parameters import Parameters

FROM_THE_SCAN = frozenset({"nb_frames", "trigger_mode", "nb_frames_per_trigger"})
"""Fields of AcquisitionParams that follow from how bluesky triggers, so that they are no signals."""


class NoParams(msgspec.Struct, frozen=True):
    """The parameters of what has none."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of an acquisition go.

    :param base_path: absolute folder.
    :param prefix: first part of every file name.
    """

    base_path: str
    prefix: str


class SavingSignals(Parameters):
    """How files are saved: what holds for all of them, and a group for each stream.

    :param streams: names of the streams that the pipeline may have.
    """

    def __init__(self, streams: Sequence[str]) -> None:
        self._streams = {name: Parameters(StreamSaving) for name in streams}
        for name, group in self._streams.items():
            setattr(self, name, group)
        super().__init__(SavingParams, leave_out=frozenset({"base_path", "filename_prefix", "streams"}))

    def signals(self) -> Iterator[SignalRW[Any]]:
        """Iterate over all signals."""
        yield from super().signals()
        for group in self._streams.values():
            yield from group.signals()

    async def gather_at(self, place: Place) -> SavingParams:
        """Return the saving parameters; streams that keep the defaults are not named in them.

        :param place: where the files go.
        :raises PlanError: a value is out of range.
        """
        streams = {name: await group.gather(StreamSaving, f"saving.{name}") for name, group in self._streams.items()}
        changed = {name: msgspec.to_builtins(one) for name, one in streams.items() if one != StreamSaving()}
        return await self.gather(
            SavingParams, "saving", base_path=place.base_path, filename_prefix=place.prefix, streams=changed
        )


class PlanSignals:
    """All groups of parameter signals of a detector.

    :param pipeline: name of the pipeline; None: nothing is computed.
    :param pipeline_params: its parameter struct; None: it has none.
    :param detector_params: the detector plugin's own parameter struct; None: it has none.
    :param streams: names of the streams that can be saved.
    """

    def __init__(
        self,
        pipeline: str | None,
        pipeline_params: type[msgspec.Struct] | None,
        detector_params: type[msgspec.Struct] | None,
        streams: Sequence[str],
    ) -> None:
        self.acquisition = Parameters(AcquisitionParams, leave_out=FROM_THE_SCAN)
        self.pipeline = Parameters(pipeline_params or NoParams)
        self.detector = Parameters(detector_params or NoParams)
        self.saving = SavingSignals(streams)
        self._pipeline_name = pipeline
        self._pipeline_params = pipeline_params or NoParams
        self._detector_params = detector_params

    def signals(self) -> Iterator[SignalRW[Any]]:
        """Iterate over all signals."""
        for group in (self.acquisition, self.pipeline, self.detector, self.saving):
            yield from group.signals()

    async def gather(self, place: Place, mode: TriggerMode) -> AcquisitionPlan:
        """Return the whole plan as the signals have it now.

        :param place: where the files go.
        :param mode: what starts exposures.
        :raises PlanError: a value is out of range; the message has its path.
        """
        acquisition = await self.acquisition.gather(
            AcquisitionParams, "acquisition", nb_frames=0, nb_frames_per_trigger=1, trigger_mode=mode.value
        )
        pipeline = None
        if self._pipeline_name is not None:
            params = await self.pipeline.gather(self._pipeline_params, "pipeline.params")
            pipeline = PipelineChoice(self._pipeline_name, msgspec.Raw(msgspec.msgpack.encode(params)))
        detector = msgspec.Raw(b"\x80")
        if self._detector_params is not None:
            chosen = await self.detector.gather(self._detector_params, "detector")
            detector = msgspec.Raw(msgspec.msgpack.encode(chosen))
        return AcquisitionPlan(
            saving=await self.saving.gather_at(place),
            acquisition=acquisition,
            pipeline=pipeline,
            detector=detector,
        )


def require_same(prepared: AcquisitionPlan, now: AcquisitionPlan) -> None:
    """Check that nothing was changed since a plan was prepared.

    :param prepared: what the acquisition does.
    :param now: what the signals say.
    :raises PlanError: they differ; the message names the parameters, and both values.
    """
    old, new = _flatten(prepared), _flatten(now)
    changed = [
        f"{path}: prepared with {old.get(path)!r}, now {new.get(path)!r}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]
    if changed:
        raise PlanError(f"changed after prepare, stage the detector again to use it: {'; '.join(changed)}")


def encode_plan(plan: AcquisitionPlan) -> np.ndarray:
    """Return a plan as MessagePack in an array, which is what a command can take."""
    return np.frombuffer(msgspec.msgpack.encode(plan), np.uint8)


def decode_plan(data: np.ndarray) -> AcquisitionPlan:
    """Return the plan that ``encode_plan`` packed.

    :raises PlanError: it is none.
    """
    try:
        return msgspec.msgpack.decode(data.tobytes(), type=AcquisitionPlan)
    except msgspec.MsgspecError as error:
        raise PlanError(f"plan of {data.size} bytes: {error}") from error


def _flatten(plan: AcquisitionPlan) -> dict[str, object]:
    tree = {
        "acquisition": msgspec.to_builtins(plan.acquisition),
        "saving": msgspec.to_builtins(plan.saving),
        "pipeline": {plan.pipeline.name: msgspec.msgpack.decode(plan.pipeline.params)} if plan.pipeline else None,
        "detector": msgspec.msgpack.decode(plan.detector),
    }
    found: dict[str, object] = {}

    def walk(path: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}.{key}" if path else str(key), inner)
        else:
            # NaN differs from itself, its text does not.
            found[path] = repr(value) if isinstance(value, float) else value

    walk("", tree)
    return found
