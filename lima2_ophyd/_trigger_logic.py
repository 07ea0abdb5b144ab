"""How bluesky's trigger information becomes the plan of an acquisition."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePath

import msgspec
from ophyd_async.core import DetectorTriggerLogic, PathInfo, PathProvider, SignalDict, TriggerInfo

from lima2_receivers.errors import PlanError, StateError
from lima2_receivers.plan import AcquisitionPlan, TriggerMode

from ._plan_signals import Place, PlanSignals, require_same
from ._session import Session


class Lima2TriggerLogic(DetectorTriggerLogic):
    """Sends the whole plan at the first prepare of a stage; later ones change frame count and exposure only.

    :param session: of the detector.
    :param signals: the parameters.
    :param path_provider: says where files go.
    """

    def __init__(self, session: Session, signals: PlanSignals, path_provider: PathProvider) -> None:
        self._session = session
        self._signals = signals
        self._path_provider = path_provider
        self.device_name = ""

    def get_deadtime(self, config_values: SignalDict) -> float:
        """Return the least time between exposures in seconds, as the latency signal says."""
        return float(config_values[self._signals.acquisition.latency_time])

    def config_sigs(self) -> set:
        """Return all parameters: they are the configuration in the documents."""
        return set(self._signals.signals())

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        """Prepare for software triggers.

        :param num: frames that will be asked for.
        :param livetime: exposure in seconds; 0: as the signal says.
        :param deadtime: between exposures in seconds; 0: as the signal says.
        """
        await self._prepare(TriggerMode.SOFTWARE, num, livetime, deadtime)

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """Prepare for one frame an edge; see ``prepare_internal``."""
        await self._prepare(TriggerMode.EXTERNAL, num, livetime, 0.0)

    async def prepare_level(self, num: int) -> None:
        """Prepare for one frame a gate; see ``prepare_internal``."""
        await self._prepare(TriggerMode.GATE, num, 0.0, 0.0)

    async def default_trigger_info(self) -> TriggerInfo:
        """Return what a trigger without prepare does: one frame, exposed as the signals say."""
        return TriggerInfo()

    async def require_unchanged(self) -> AcquisitionPlan:
        """Return the plan that was prepared.

        :raises PlanError: a parameter was changed since.
        """
        session = self._session
        if session.plan is None or session.place is None:
            raise StateError(f"{self.device_name}: not prepared since it was staged")
        require_same(session.plan, await self._signals.gather(session.place, session.mode))
        return session.plan

    async def _prepare(self, mode: TriggerMode, num: int, livetime: float, deadtime: float) -> None:
        if num == 0:
            raise PlanError(f"{self.device_name}: number_of_events is 0 (endless), expected at least 1")
        timing = self._signals.acquisition
        if livetime:
            await timing.expo_time.set(livetime)
        if deadtime:
            await timing.latency_time.set(deadtime)
        session = self._session
        if session.plan is None or session.place is None:
            place = await asyncio.to_thread(_place, self._path_provider(self.device_name))
            await session.prepare(await self._signals.gather(place, mode), place)
            return
        if mode is not session.mode:
            raise StateError(f"{self.device_name}: prepared for {session.mode} triggers, stage it again for {mode}")
        now = await self._signals.gather(session.place, mode)
        prepared = msgspec.structs.replace(session.plan, acquisition=now.acquisition)
        require_same(prepared, now)
        session.plan = prepared


def _place(path: PathInfo) -> Place:
    """Return where files go, with the folders made that the path provider wants made."""
    folder = Path(path.directory_path)
    if path.create_dir_depth:
        parts = folder.parts
        known = PurePath(*parts[: path.create_dir_depth])
        if not Path(known).is_dir():
            raise PlanError(f"saving.base_path: the folder {known} is not there, expected to make {folder} in it")
        folder.mkdir(parents=True, exist_ok=True)
    return Place(str(folder), path.filename)
