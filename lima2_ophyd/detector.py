"""The detector, for bluesky: step scans and fly scans through a conductor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
from ophyd_async.core import (
    DEFAULT_TIMEOUT,
    AsyncStatus,
    DetectorTrigger,
    PathProvider,
    SignalR,
    StandardDetector,
    TriggerInfo,
    WatchableAsyncStatus,
    WatcherUpdate,
    default_mock_class,
    soft_signal_r_and_setter,
)

from lima2_receivers.errors import StateError
from lima2_receivers.plugins import PIPELINES
from lima2_receivers.published import AcquisitionState

from ._acquire_logic import Lima2AcquireLogic
from ._commands import Commands
from ._connection import SILENCE, Connection
from ._connector import ConductorConnector, state_signal
from ._data_logic import LastFrameLogic, MasterFileLogic, SignalLogic
from ._ledger import LedgerReader
from ._mock import Lima2DetectorMock
from ._plan_signals import PlanSignals
from ._session import SIGNAL_SECONDS, Session
from ._trigger_logic import Lima2TriggerLogic

STREAMS = ("raw", "dense", "sparse")
"""Streams that have saving parameters."""


@default_mock_class(Lima2DetectorMock)
class Lima2Detector(StandardDetector):
    """A detector behind a conductor. Making one does no I/O; ``connect`` makes the sockets, in bluesky's event loop.

    Parameters are soft signals (``acquisition``, ``pipeline``, ``detector``, ``saving``); the first ``prepare`` after
    ``stage`` sends all of them as one plan and makes the acquisition and its files. Counters (``written``, ``lost``,
    ``hit_rate``, ...) are those of the present acquisition, or of the last one.

    :param commands: the conductor's command endpoint.
    :param state: the endpoint that it publishes its state on.
    :param path_provider: says where files go: a folder that the daemons' configuration allows, and a prefix.
    :param pipeline: name of the pipeline; None: nothing is computed, frames are saved as they came.
    :param pipeline_params: its parameter struct; None: that of the installed pipeline.
    :param detector_params: the detector plugin's own parameter struct; None: nothing of it can be set.
    :param streams: streams that have saving parameters.
    :param key: file of this client's private key, ``conductor.key`` beside it: what ``lima2 keys add`` made; for
        ``tcp`` endpoints. None: there is none.
    :param patience: seconds that the conductor may be silent, such as while it is started again after a crash, before
        plans fail. More than the ``exposure_timeout`` of a trigger (10 s and the exposure) helps no wait for frames.
    :param name: of the device.
    """

    def __init__(
        self,
        commands: str,
        state: str,
        path_provider: PathProvider,
        *,
        pipeline: str | None = "smx",
        pipeline_params: type[msgspec.Struct] | None = None,
        detector_params: type[msgspec.Struct] | None = None,
        streams: Sequence[str] = STREAMS,
        key: str | Path | None = None,
        patience: float = SILENCE,
        name: str = "",
    ) -> None:
        file = Path(key).expanduser() if key is not None else None
        connection = Connection(commands, state, name=name or "ophyd", key=file, patience=patience)
        self._connection = connection
        self.conductor = Commands(connection)
        self.session = Session(connection, self.conductor)

        params = pipeline_params
        if params is None and pipeline is not None:
            params = PIPELINES.get(pipeline).params
        signals = PlanSignals(pipeline, params, detector_params, streams)
        self.acquisition = signals.acquisition
        self.pipeline = signals.pipeline
        self.detector = signals.detector
        self.saving = signals.saving

        self.announced = state_signal(int, connection, "announced", _count(lambda found: found.announced))
        self.written = state_signal(int, connection, "written", _count(lambda found: found.written))
        self.received = state_signal(int, connection, "received", _count(_received))
        self.processed = state_signal(int, connection, "processed", _count(_processed))
        self.saved = state_signal(int, connection, "saved", _count(lambda found: found.counts.saved))
        self.vetoed = state_signal(int, connection, "vetoed", _count(lambda found: found.counts.vetoed))
        self.lost = state_signal(int, connection, "lost", _count(lambda found: found.counts.lost))
        self.failed = state_signal(int, connection, "failed", _count(lambda found: found.counts.failed))
        self.hits = state_signal(int, connection, "hits", _count(_hits))
        self.hit_rate = state_signal(float, connection, "hit_rate", _hit_rate)
        self.acquisition_state = state_signal(str, connection, "acquisition_state", _acquisition_state)
        self.detector_state = state_signal(str, connection, "detector_state", _detector_state)
        self.waiting = state_signal(bool, connection, "waiting", _waiting)
        self.healthy = state_signal(bool, connection, "healthy", lambda link: link.healthy)

        self.ledger_report = LedgerReader(self.session)
        self.acquisition_id, self._set_id = soft_signal_r_and_setter(str)
        self.master_file, self._set_master = soft_signal_r_and_setter(str)
        self.opencl_device, self._set_device = soft_signal_r_and_setter(str)
        self.add_config_signals(self.acquisition_id, self.master_file, self.opencl_device)

        self._triggering = Lima2TriggerLogic(self.session, signals, path_provider)
        self.add_detector_logics(
            self._triggering,
            Lima2AcquireLogic(self.session, self._triggering, self.events_to_kickoff),
            MasterFileLogic(self.session, self.written),
            LastFrameLogic(self.session),
            SignalLogic(self.hit_rate, "-hit_rate"),
        )
        self._unfinished = False
        super().__init__(name=name, connector=ConductorConnector(connection))

    def set_name(self, name: str, *, child_name_separator: str | None = None) -> None:
        """Set the name of the device and of all below it."""
        super().set_name(name, child_name_separator=child_name_separator)
        self._triggering.device_name = name
        self.events_to_kickoff.set_name(f"{name}-events_to_kickoff")

    @property
    def ledger(self) -> tuple[SignalR[int] | SignalR[float], ...]:
        """The counters that say what became of the frames of the present acquisition, or of the last one."""
        return (self.announced, self.saved, self.vetoed, self.lost, self.failed, self.hits, self.hit_rate)

    async def disconnect(self) -> None:
        """Close the sockets. The conductor and its acquisitions don't notice; ``connect`` connects again."""
        await self._connection.disconnect()

    @AsyncStatus.wrap
    async def prepare(self, value: TriggerInfo) -> None:
        """Prepare for a number of triggers.

        :param value: what to do; a livetime of 0 means what the exposure signal says.
        """
        if value.trigger is not DetectorTrigger.INTERNAL:
            value = _with_timeout(value, SIGNAL_SECONDS)
        elif value.livetime == 0:
            exposure = await self.acquisition.expo_time.get_value()
            # The default timeout is for the exposure that is given; without one it would be 10 s for any exposure.
            value = _with_timeout(value, exposure + value.deadtime + DEFAULT_TIMEOUT)
        if value.collections_per_event != self.session.collections_per_event and not self.session.described:
            self.session.collections_per_event = value.collections_per_event
        await super().prepare(value)
        prepared = self.session.prepared
        if prepared is not None:
            self._set_id(prepared.acquisition)
            self._set_master(prepared.master_file)
            self._set_device(", ".join(sorted({facts.device for facts in prepared.pipelines})))

    @WatchableAsyncStatus.wrap
    async def trigger(self) -> AsyncIterator[WatcherUpdate[int]]:
        """Take the frames of one event, and fail as soon as the acquisition does."""
        async for update in self.session.guard(super().trigger()):
            yield update

    @WatchableAsyncStatus.wrap
    async def complete(self) -> AsyncIterator[WatcherUpdate[int]]:
        """Wait for the frames of the last kickoff, and fail as soon as the acquisition does."""
        async for update in self.session.guard(super().complete()):
            yield update

    async def end_exposures(self) -> None:
        """Give no more triggers in this stage, and return when the detector has sent all its frames."""
        await self.session.finish()

    async def pause(self) -> None:
        """Note whether the RunEngine pauses while frames are taken that no document refers to yet."""
        self._unfinished = self.session.busy

    async def resume(self) -> None:
        """Go on, if no exposure was under way when the RunEngine paused.

        :raises StateError: one was: bluesky would trigger it again, or lose count of it.
        """
        if self._unfinished:
            raise StateError(
                f"{self.name} was paused in the middle of an exposure and can't be resumed: frames would be taken "
                "twice or get wrong numbers. Use RE.abort() or RE.stop(): what was taken so far is in the files."
            )


def _with_timeout(value: TriggerInfo, seconds: float) -> TriggerInfo:
    """Return it with another timeout of an exposure, unless it was given one."""
    given = value.model_dump(include=value.model_fields_set)
    return TriggerInfo(**{"exposure_timeout": seconds, **given})


def _count(read: Callable[[AcquisitionState], int]) -> Callable[[Connection], int]:
    return lambda connection: 0 if connection.acquisition is None else read(connection.acquisition)


def _received(state: AcquisitionState) -> int:
    return state.received


def _processed(state: AcquisitionState) -> int:
    return state.processed


def _hits(state: AcquisitionState) -> int:
    return state.hits


def _hit_rate(connection: Connection) -> float:
    state = connection.acquisition
    return 0.0 if state is None else _hits(state) / max(1, _processed(state))


def _acquisition_state(connection: Connection) -> str:
    return "none" if connection.acquisition is None else connection.acquisition.state.value


def _waiting(connection: Connection) -> bool:
    return connection.acquisition is not None and connection.acquisition.waiting


def _detector_state(connection: Connection) -> str:
    return "offline" if connection.system is None else connection.system.detector.value
