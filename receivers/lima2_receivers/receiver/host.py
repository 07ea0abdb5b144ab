"""A detector's control half on this host: its calls bounded in time, and in order for each acquisition."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from lima2_processing.frame import AcquisitionId

from ..config import Config, detector_settings
from ..control import HostControl
from ..errors import DetectorError, ReceiverError
from ..plan import ReceiverPlan
from ..plugins import DETECTORS

log = logging.getLogger(__name__)


class Host:
    """Calls the HostControl of the configuration's detector, if it has one.

    :param config: of the detector's daemons.
    :param rank: of this receiver.
    """

    def __init__(self, config: Config, rank: int) -> None:
        plugin = DETECTORS.get(config.detector.plugin)
        kind = plugin.load_host_control()
        self._control: HostControl | None = kind(detector_settings(config, plugin.settings), rank) if kind else None
        self._who = f"receiver {rank}: the host's part of the detector {plugin.name}"
        self._seconds = config.deadlines.command
        self._series: dict[AcquisitionId, int] = {}

    async def prepare(self, acquisition: AcquisitionId, plan: ReceiverPlan) -> None:
        """Let it get ready for an acquisition.

        :raises DetectorError: it can't, or takes too long; it was told that the acquisition is over.
        """
        if self._control is None:
            return
        self._series[acquisition] = plan.series
        try:
            await self._bounded("prepare", self._control.prepare(plan.series, plan.plan, plan.frame_spec))
        except BaseException:
            await self.stop(acquisition)
            raise

    async def stop(self, acquisition: AcquisitionId) -> None:
        """Tell it that an acquisition is over, once. What goes wrong is only logged: files are closed all the same."""
        series = self._series.pop(acquisition, None)
        if self._control is None or series is None:
            return
        try:
            await self._bounded("stop", self._control.stop(series))
        except ReceiverError as error:
            log.warning("%s", error)

    async def close(self) -> None:
        """Tell it that all is over."""
        for acquisition in list(self._series):
            await self.stop(acquisition)
        if self._control is not None:
            try:
                await self._bounded("close", self._control.close())
            except ReceiverError as error:
                log.warning("%s", error)

    async def _bounded(self, what: str, call: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await call
        except TimeoutError as error:
            raise DetectorError(f"{self._who} did not {what} within {self._seconds:g} s") from error
        except ReceiverError as error:
            raise DetectorError(f"{self._who}: {error}") from error
        except Exception as error:  # a vendor's kit may raise anything
            log.exception("%s", self._who)
            raise DetectorError(f"{self._who}: {what}: {type(error).__name__}: {error}") from error
