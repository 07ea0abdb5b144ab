"""A real Jungfrau's control half, by PSI's client ``slsdet``."""

from __future__ import annotations

import asyncio
import time
from importlib.util import find_spec

from ...control import Armed, Capabilities, DetectorStatus, Range
from ...errors import ConfigError, DetectorError, PlanError, StateError
from ...messages import Done
from ...plan import AcquisitionPlan, TriggerMode, decode_params
from ...topology import Dispatch
from .params import Gain, JungfrauParams, JungfrauSettings, frame_spec
from .sls import BUSY
from .sls_messages import Configure, Configured, Expose, Halt, Look, Seen
from .sls_network import MAX_RECEIVERS, attachment, networks
from .sls_process import SlsProcess

_POLL = 0.02  # seconds between looks at the detector while something is waited for
_GAINS = {Gain.DYNAMIC: "DYNAMIC", Gain.FORCE_G1: "FORCE_SWITCH_G1", Gain.FORCE_G2: "FORCE_SWITCH_G2"}  # of gainMode


class SlsControl:
    """Drives a Jungfrau: a trigger is a start of its own, and the detector counts frames over all of them.

    :param settings: where and what the detector is.
    :param receivers: their data endpoints, in the order of ranks.
    :param timeout: deadline of each call of PSI's client, in seconds.
    :param dispatch: whether the detector sends whole frames to one receiver after the other, or each module to its own.
    :raises ConfigError: the client is not installed, or the network is not described whole.
    """

    def __init__(
        self, settings: JungfrauSettings, receivers: tuple[str, ...], timeout: float, dispatch: Dispatch
    ) -> None:
        if find_spec("slsdet") is None:
            raise ConfigError(
                "detector.settings.hostnames: got a real Jungfrau, which needs PSI's client: "
                "pip install 'lima2-ophyd[psi]', or the slsdet of the detector's own version"
            )
        self._settings = settings
        self._networks = networks(settings, receivers, by_module=dispatch is Dispatch.PARTIAL_FRAME)
        self._n_destinations = len(self._networks[0].destinations)
        self._timeout = timeout
        self._process = SlsProcess(f"jungfrau {'+'.join(settings.hostnames)}", timeout)
        self._armed = False
        self._series = 0
        self._triggered = self._sent = 0
        self._short_since = 0.0  # when it was first seen at rest with frames missing; 0: it was not

    async def connect(self) -> Capabilities:
        """Connect, unless it is connected and answers, and return what the detector can do.

        :raises DetectorError: a module does not answer, or is no Jungfrau.
        """
        await self._process.start(attachment(self._settings))
        n_modules = self._settings.n_modules
        return Capabilities(
            model=f"Jungfrau of {n_modules} module{'s' if n_modules > 1 else ''}",
            trigger_modes=(TriggerMode.INTERNAL, TriggerMode.SOFTWARE),
            expo_time=Range(1e-7, 3600.0),
            latency_time=Range(0.0, 3600.0),
            frame_spec=frame_spec(self._settings),
            max_receivers=MAX_RECEIVERS,
        )

    async def prepare(self, series: int, plan: AcquisitionPlan) -> Armed:
        """Configure the detector. The number of the series is that of its first frame.

        :raises PlanError: the detector can't do that, or took another value than it was given.
        """
        del series
        acquisition = plan.acquisition
        if not acquisition.nb_frames:
            raise PlanError("acquisition.nb_frames: got 0, expected a number: a Jungfrau must know at each start")
        params = decode_params(plan.detector, JungfrauParams, "detector")
        self._armed = False
        configured = await self._process.ask(
            Configure(
                interfaces=self._settings.interfaces,
                networks=self._networks,
                rows=params.read_rows,
                gain=_GAINS[params.gain],
                expo_time=acquisition.expo_time,
                period=acquisition.expo_time + acquisition.latency_time,
            ),
            Configured,
        )
        self._armed = True
        self._series = configured.series
        self._triggered = self._sent = 0
        return Armed(frame_spec(self._settings, params.read_rows), self._series)

    async def trigger(self, n_frames: int, expo_time: float, latency_time: float) -> None:
        """Start an exposure of ``n_frames``, and return when it has begun.

        :raises StateError: another one is under way, or the detector is not armed.
        :raises PlanError: the detector took another time than it was given.
        """
        if not self._armed:
            raise StateError("the detector is not armed")
        if n_frames < 1:
            raise StateError(f"trigger.n_frames: got {n_frames}, expected a number: a Jungfrau must know at each start")
        if not await self._at_rest(self._timeout / 2):
            raise StateError("the last trigger is still being exposed")
        self._short_since = 0.0
        first = self._triggered % self._n_destinations
        await self._process.ask(Expose(first, n_frames, expo_time, expo_time + latency_time), Done)
        self._triggered += n_frames

    async def adopt(self, series: int, plan: AcquisitionPlan, asked: int) -> DetectorStatus:
        """Go on with a series: the detector counts frames, and at rest it says how many triggers it got.

        :raises DetectorError: its frame numbers are not those of this series.
        """
        del plan
        seen = await self._process.ask(Look(count=True), Seen)
        sent = min(seen.next_frames) - series if seen.next_frames else 0
        if not 0 <= sent <= asked:
            raise DetectorError(
                f"{'+'.join(self._settings.hostnames)}: its next frame is {series + sent}, "
                f"expected {series} to {series + asked}: was it used by someone else?"
            )
        self._armed, self._series, self._short_since = True, series, 0.0
        self._triggered, self._sent = sent if seen.next_frames else asked, sent
        return await self.status()

    async def status(self) -> DetectorStatus:
        """Return what the detector is doing."""
        counts = 0 <= self._sent < self._triggered
        seen = await self._process.ask(Look(count=counts), Seen)
        busy = bool(BUSY.intersection(seen.states))
        broken = [
            host
            for host, state in zip(attachment(self._settings).hostnames, seen.states, strict=True)
            if state == "ERROR"
        ]
        fault = f"{', '.join(broken)} is in state ERROR" if broken else ""
        if seen.next_frames and counts:
            fault = self._count(min(seen.next_frames) - self._series) or fault
            busy = self._sent < self._triggered and not fault
        return DetectorStatus(self._series, self._triggered, self._sent, busy, fault)

    async def stop(self) -> DetectorStatus:
        """Stop what is exposed. How many frames an exposure gave that was cut short, it can't say."""
        await self._process.start(attachment(self._settings))
        self._armed = False
        if (await self.status()).busy:
            await self._process.ask(Halt(), Done)
            self._sent = -1
            if not await self._at_rest(self._timeout):
                raise DetectorError(
                    f"{'+'.join(self._settings.hostnames)}: not at rest {self._timeout:g} s after a stop"
                )
        return DetectorStatus(self._series, self._triggered, self._sent, busy=False)

    async def close(self) -> None:
        """End PSI's client; the detector stays as it is."""
        await self._process.close()

    async def _at_rest(self, seconds: float) -> bool:
        """Wait until nothing is exposed; False: something still is."""
        deadline = time.monotonic() + seconds
        while (await self.status()).busy:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL)
        return True

    def _count(self, n_frames: int) -> str:
        """Take the number of frames that the detector has counted, now that it is at rest; return what is wrong."""
        if n_frames >= self._triggered:
            self._sent, self._short_since = self._triggered, 0.0
            return ""
        now = time.monotonic()
        self._short_since = self._short_since or now  # a start may not show at once
        if now - self._short_since < self._timeout:
            return ""
        return f"came to rest after {max(n_frames, 0)} of {self._triggered} frames: was it stopped by someone else?"
