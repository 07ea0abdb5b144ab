"""An Eiger2's control half: configures it in an order that respects side effects, arms and triggers it."""

from __future__ import annotations

import logging
import math

from lima2_processing.frame import FrameSpec

from ...control import Armed, Capabilities, DetectorStatus, Range
from ...errors import DetectorError, PlanError, StateError
from ...plan import AcquisitionParams, AcquisitionPlan, TriggerMode, decode_params
from ...topology import Dispatch
from .exposures import STATUS, Exposures
from .params import Eiger2Params, Eiger2Settings
from .simplon import Simplon, Value

log = logging.getLogger(__name__)

CONFIG, STREAM = "detector/config", "stream/config"
_DTYPES = {8: "|u1", 16: "<u2", 32: "<u4"}
INITIALIZE_SECONDS = 300.0
MAX_THRESHOLDS = 2
_MODES = {
    TriggerMode.INTERNAL: "ints",
    TriggerMode.SOFTWARE: "ints",
    TriggerMode.EXTERNAL: "exts",
    TriggerMode.GATE: "exte",
}
_ENDLESS = 1_000_000  # triggers that it is armed for where their number is not known
_AT_REST = ("idle", "ready")  # nothing is exposed
_CLOSE = 1e-3  # how far what is read back may be from what was set, relatively


class Eiger2Control:
    """Drives an Eiger2 by SIMPLON. Its stream goes to all receivers that connect to it, each image to one of them.

    :param settings: where the detector is.
    :param receivers: their endpoints; the detector does not need to know them.
    :param timeout: deadline of each call in seconds.
    :param dispatch: it does not need to know that, either.
    """

    def __init__(
        self, settings: Eiger2Settings, receivers: tuple[str, ...], timeout: float, dispatch: Dispatch
    ) -> None:
        del receivers, dispatch
        self._settings = settings
        self._timeout = timeout
        self._simplon = Simplon(settings.url, settings.api, timeout)
        self._series = 0
        self._exposures = Exposures(self._simplon, timeout)
        self._exposure = (0.0, 0.0)  # exposure and latency, as armed
        self._signalled = False  # a signal triggers, which SIMPLON does not count
        self._nb_frames = 0

    async def connect(self) -> Capabilities:
        """Connect, and return what the detector can do.

        :raises DetectorError: it does not answer, or it was never initialized.
        """
        state = await self._simplon.text(STATUS, "state")
        if state in ("na", "error") and self._settings.initialize:
            log.info("%s is in state %s: it is initialized, which takes a while", self._settings.url, state)
            await self._simplon.command("initialize", INITIALIZE_SECONDS)
        elif state == "na":
            raise DetectorError(
                f"{self._settings.url} is not initialized: give it the command initialize, or set `initialize = true`"
            )
        return Capabilities(
            model=await self._simplon.text(CONFIG, "description"),
            trigger_modes=tuple(TriggerMode),
            expo_time=Range(1e-7, 3600.0),
            latency_time=Range(0.0, 3600.0),
            frame_spec=await self._frame_spec(),
        )

    async def prepare(self, series: int, plan: AcquisitionPlan) -> Armed:
        """Configure and arm the detector; the number of the series is its own.

        :raises PlanError: the detector can't do that, or took another value than it was given.
        """
        acquisition = plan.acquisition
        params = decode_params(plan.detector, Eiger2Params, "detector")
        per_trigger, n_triggers = _triggers(acquisition)
        await self._configure(params)
        await self._set(CONFIG, "trigger_mode", _MODES[acquisition.trigger_mode])
        await self._set(CONFIG, "ntrigger", n_triggers)
        await self._set(CONFIG, "nimages", per_trigger)
        frame_time = await self._set_times(acquisition)
        spec = await self._frame_spec()
        self._series = await self._simplon.arm()
        self._exposure = (acquisition.expo_time, acquisition.latency_time)
        self._exposures.arm(per_trigger, frame_time)
        self._signalled, self._nb_frames = acquisition.trigger_mode.by_signal, acquisition.nb_frames
        return Armed(spec, self._series)

    async def trigger(self, n_frames: int, expo_time: float, latency_time: float) -> None:
        """Give as many triggers as ``n_frames`` need, one after the other, and return when the first has begun.

        Where a signal triggers, there is nothing to do: the detector takes it from ``prepare`` on.

        :raises StateError: an exposure is under way, or this is not what the detector was armed for.
        """
        if self._signalled:
            return
        if (expo_time, latency_time) != self._exposure:
            raise StateError(
                f"trigger: got {expo_time:g} s and {latency_time:g} s, "
                f"expected {self._exposure[0]:g} s and {self._exposure[1]:g} s, which it was armed with"
            )
        await self._exposures.trigger(n_frames)

    async def adopt(self, series: int, plan: AcquisitionPlan, asked: int) -> DetectorStatus:
        """Go on with a series. SIMPLON counts no triggers, so that its state has to tell which were given.

        :raises DetectorError: it is not armed, or can't tell: some of several software triggers were asked for.
        """
        acquisition = plan.acquisition
        per_trigger, n_triggers = _triggers(acquisition)
        signalled = acquisition.trigger_mode.by_signal
        state = await self._simplon.text(STATUS, "state")
        given = 0 if signalled else _given(state, asked, acquisition.nb_frames, n_triggers)
        if given < 0:
            raise DetectorError(
                f"{self._settings.url}: is in state {state}, which does not tell how many of {asked} frames "
                "were triggered"
            )
        self._series = series
        self._exposure = (acquisition.expo_time, acquisition.latency_time)
        self._signalled, self._nb_frames = signalled, acquisition.nb_frames
        frame_time = await self._simplon.number(CONFIG, "frame_time")
        self._exposures.arm(per_trigger, frame_time)
        if not signalled:
            self._exposures.adopt(given, state == "acquire")
        return await self.status()

    async def status(self) -> DetectorStatus:
        """Return what the detector is doing."""
        state = await self._simplon.text(STATUS, "state")
        exposures = self._exposures
        fault = exposures.fault
        if state == "error":
            fault = f"is in error: {', '.join(await self._simplon.texts(STATUS, 'error')) or 'it does not say why'}"
        busy = exposures.under_way or state not in (*_AT_REST, "error")
        if self._signalled:
            sent = self._sent_by_signal(state)
            return DetectorStatus(self._series, max(sent, 0), sent, busy, fault)
        return DetectorStatus(self._series, exposures.triggered, exposures.sent, busy, fault)

    async def stop(self) -> DetectorStatus:
        """Cancel what is exposed, and disarm. How many frames an exposure gave that was cut short, it can't say."""
        if self._signalled:
            sent = self._sent_by_signal(await self._simplon.text(STATUS, "state"))
            await self._exposures.stop()
            return DetectorStatus(self._series, max(sent, 0), sent, busy=False)
        await self._exposures.stop()
        return DetectorStatus(self._series, self._exposures.triggered, self._exposures.sent, busy=False)

    async def close(self) -> None:
        """Close the connections; the detector stays as it is."""
        await self._exposures.close()
        await self._simplon.close()

    def _sent_by_signal(self, state: str) -> int:
        """Return how many frames it sent; -1: not known, since it is idle only once it has had all its triggers."""
        return self._nb_frames if self._nb_frames and state == "idle" else -1

    async def _configure(self, params: Eiger2Params) -> None:
        """Set energies first, since they move thresholds and flatfields, then the stream."""
        state = await self._simplon.text(STATUS, "state")
        if state != "idle":  # configuring needs it
            await self._simplon.command("disarm")
        if params.photon_energy:
            await self._set(CONFIG, "photon_energy", params.photon_energy)
        if params.threshold_energy:
            await self._set(CONFIG, "threshold_energy", params.threshold_energy)
        await self._set_thresholds(params)
        corrections = {"flatfield_correction_applied": params.flatfield, "pixel_mask_applied": params.pixel_mask}
        for name, applied in corrections.items():
            if applied is not None:
                await self._set(CONFIG, name, applied)
        await self._set(CONFIG, "compression", params.compression)
        await self._set(STREAM, "format", self._settings.stream)
        await self._set(STREAM, "header_detail", params.header)
        for name, text in (("header_appendix", params.header_appendix), ("image_appendix", params.image_appendix)):
            if text or await self._simplon.has(STREAM, name):  # else the last acquisition's would be sent again
                await self._set(STREAM, name, text)
        await self._set(STREAM, "mode", "enabled")

    async def _set_thresholds(self, params: Eiger2Params) -> None:
        """Set the second threshold, and which channels there are."""
        if params.threshold_2_energy:
            await self._set(CONFIG, "threshold/2/energy", params.threshold_2_energy)
        if params.thresholds:
            await self._set(CONFIG, "threshold/1/mode", "enabled")
            await self._set(
                CONFIG, "threshold/2/mode", "enabled" if params.thresholds == MAX_THRESHOLDS else "disabled"
            )
        if params.difference is not None:
            await self._set(CONFIG, "threshold/difference/mode", "enabled" if params.difference else "disabled")

    async def _set_times(self, acquisition: AcquisitionParams) -> float:
        """Set frame time, then count time: each changes the other, so both are read back at the end.

        :returns: the frame time that the detector has, in seconds.
        """
        frame_time = acquisition.expo_time + acquisition.latency_time
        wanted = {"frame_time": frame_time, "count_time": acquisition.expo_time}
        for name, value in wanted.items():
            await self._simplon.put(CONFIG, name, value)
        shortest = await self._simplon.number(CONFIG, "detector_readout_time")
        got = {name: await self._simplon.number(CONFIG, name) for name in wanted}
        for name, value in wanted.items():
            # Without latency, the read-out is taken off the exposure, or added to the frame.
            if abs(got[name] - value) > _CLOSE * value + shortest:
                raise PlanError(f"acquisition: the detector took {name} {got[name]:g} s, expected {value:g} s")
        return got["frame_time"]

    async def _set(self, place: str, name: str, value: Value) -> None:
        """Set a value, read it back, and refuse what differs."""
        await self._simplon.put(place, name, value)
        if isinstance(value, str):
            got: Value = await self._simplon.text(place, name)
            same = got == value
        elif isinstance(value, bool):
            got = await self._simplon.flag(place, name)
            same = got == value
        else:
            got = await self._simplon.number(place, name)
            same = math.isclose(got, float(value), rel_tol=_CLOSE)
        if not same:
            raise PlanError(f"detector: {place}/{name} is {got!r} after it was set to {value!r}")

    async def _frame_spec(self) -> FrameSpec:
        rows, columns, bits = [
            await self._simplon.whole(CONFIG, name)
            for name in ("y_pixels_in_detector", "x_pixels_in_detector", "bit_depth_image")
        ]
        if bits not in _DTYPES:
            raise DetectorError(f"detector: bit_depth_image is {bits}, expected one of {', '.join(map(str, _DTYPES))}")
        sizes = [await self._simplon.number(CONFIG, name) for name in ("y_pixel_size", "x_pixel_size")]
        channels = await self._channels()
        shape = (rows, columns) if channels == 1 else (channels, rows, columns)
        return FrameSpec(shape, _DTYPES[bits], pixel_size=(sizes[0], sizes[1]))

    async def _channels(self) -> int:
        """Return how many images a frame has: one a threshold in use, and their difference; just one in Stream v1."""
        if self._settings.stream == "legacy":
            return 1
        enabled = 0
        for name in ("threshold/1/mode", "threshold/2/mode", "threshold/difference/mode"):
            if await self._simplon.has(CONFIG, name):
                enabled += await self._simplon.text(CONFIG, name) == "enabled"
        return max(1, enabled)


def _given(state: str, asked: int, nb_frames: int, n_triggers: int) -> int:
    """Return how many frames software has triggered; -1: the state does not tell, or it is not armed.

    :param asked: frames that were to be triggered so far.
    :param n_triggers: that it was armed for; once it has had them, it is idle.
    """
    if not asked:
        return 0 if state == "ready" else -1
    if state == "idle":
        return asked if asked == nb_frames else -1
    return {"ready": 0, "acquire": asked}.get(state, -1) if n_triggers == 1 else -1


def _triggers(acquisition: AcquisitionParams) -> tuple[int, int]:
    """Return how many frames a trigger gives, and how many triggers the detector is armed for.

    :raises PlanError: they don't make the number of frames.
    """
    if acquisition.trigger_mode is TriggerMode.INTERNAL:
        if not acquisition.nb_frames:
            raise PlanError(
                "acquisition.nb_frames: got 0, expected a number: with internal triggers, an Eiger2 must know it"
            )
        return acquisition.nb_frames, 1
    n_triggers, rest = divmod(acquisition.nb_frames, acquisition.nb_frames_per_trigger)
    if rest:
        raise PlanError(
            f"acquisition.nb_frames: got {acquisition.nb_frames}, "
            f"expected a multiple of nb_frames_per_trigger, {acquisition.nb_frames_per_trigger}"
        )
    return acquisition.nb_frames_per_trigger, n_triggers or _ENDLESS
