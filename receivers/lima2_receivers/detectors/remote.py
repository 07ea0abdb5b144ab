"""The control half of detectors whose other end is a sender process of ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import msgspec

from ..control import Armed, Capabilities, DetectorStatus
from ..errors import DetectorError, ReceiverError, UnreachableError
from ..messages import Done, Message
from ..plan import AcquisitionPlan
from ..topology import Dispatch
from ..transport.requests import Requester
from . import protocol
from .protocol import Arm, Described, Expose, GetCapabilities, GetStatus, Halt, Status, decode_sender_reply

S = TypeVar("S", bound=msgspec.Struct)
R = TypeVar("R", bound=Message)


class RemoteControl(ABC, Generic[S]):
    """Implements ``Control`` by requests to the sender process.

    :param settings: the plugin's own table of the configuration.
    :param receivers: their data endpoints.
    :param timeout: deadline of each call in seconds.
    :param dispatch: the sender process knows it from the configuration.
    """

    def __init__(self, settings: S, receivers: tuple[str, ...], timeout: float, dispatch: Dispatch) -> None:
        del dispatch
        self.settings = settings
        self.receivers = receivers
        self._armed: int | None = None
        self._triggered = 0
        self._requester = Requester(self.endpoint(settings), "detector", timeout, decode_sender_reply)

    @abstractmethod
    def endpoint(self, settings: S) -> str:
        """Return where the sender process takes commands."""

    @abstractmethod
    def arm(self, series: int, plan: AcquisitionPlan) -> Arm:
        """Return how the series begins.

        :raises PlanError: the plan's ``detector`` part is wrong.
        """

    async def connect(self) -> Capabilities:
        """Connect, and return what the detector can do."""
        self._requester.open()
        return (await self._ask(GetCapabilities(), Described)).capabilities

    async def prepare(self, series: int, plan: AcquisitionPlan) -> Armed:
        """Arm the detector and return what its frames will look like."""
        acquisition = plan.acquisition
        arm = msgspec.structs.replace(
            self.arm(series, plan), mode=acquisition.trigger_mode, per_trigger=acquisition.nb_frames_per_trigger
        )
        armed = await self._ask(arm, protocol.Armed)
        self._armed, self._triggered = armed.series, 0
        return Armed(armed.frame_spec, armed.series)

    async def trigger(self, n_frames: int, expo_time: float, latency_time: float) -> None:
        """Expose ``n_frames`` more frames; 0: until stopped. Receivers go on in turn where the last trigger ended."""
        first = self._triggered % len(self.receivers)
        await self._ask(Expose(n_frames, expo_time, latency_time, first), Done)
        self._triggered += n_frames

    async def adopt(self, series: int, plan: AcquisitionPlan, asked: int) -> DetectorStatus:
        """Go on with a series: the sender process counts triggers and frames by itself."""
        del asked
        self.arm(series, plan)  # for what a plugin keeps of the plan
        status = (await self._ask(GetStatus(), Status)).status
        if status.series != series:
            raise DetectorError(f"detector: it has series {status.series}, expected {series}: it was restarted")
        self._armed, self._triggered = series, status.triggered
        return status

    async def status(self) -> DetectorStatus:
        """Return what the detector is doing."""
        status = (await self._ask(GetStatus(), Status)).status
        if self._armed in (None, status.series) or status.fault:
            return status
        fault = f"it no longer knows series {self._armed}: it was restarted, or armed by someone else"
        return msgspec.structs.replace(status, fault=fault)

    async def stop(self) -> DetectorStatus:
        """Stop exposing and return the final status."""
        self._armed = None
        return (await self._ask(Halt(), Status)).status

    async def close(self) -> None:
        """Free the socket."""
        await self._requester.close()

    async def _ask(self, message: Message, expected: type[R]) -> R:
        try:
            return await self._requester.request(message, expected)
        except UnreachableError as error:
            raise DetectorError(str(error)) from error
        except ReceiverError as error:
            raise type(error)(f"detector: {error}") from error
