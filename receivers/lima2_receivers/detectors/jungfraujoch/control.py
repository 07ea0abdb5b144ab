"""A Jungfraujoch's control half: sets the type of pixels, starts a data collection, triggers it."""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec
import numpy as np
from msgspec import Raw

from lima2_processing.frame import FrameSpec

from ...control import Armed, Capabilities, DetectorStatus, Range
from ...errors import DetectorError, PlanError, StateError
from ...plan import AcquisitionParams, AcquisitionPlan, TriggerMode, decode_params
from ...topology import Dispatch
from .broker import Broker, DatasetSettings, DetectorEntry
from .params import JungfraujochParams, JungfraujochSettings, PixelType

log = logging.getLogger(__name__)

_POLL = 0.1  # seconds between looks at the state while a stop takes effect
_CLOSE = 1e-3  # how far an image time may be from whole microseconds, in microseconds
_RUN_NUMBER = 1_000_000  # nanoseconds: numbers of series by the millisecond, which JSON's numbers hold exactly


class JungfraujochControl:
    """Drives a Jungfraujoch by its broker. The stream goes to one receiver.

    :param settings: where the broker is.
    :param receivers: their endpoints; the broker does not need to know them.
    :param timeout: deadline of each call in seconds, but for start and stop.
    :param dispatch: it does not need to know that, either.
    """

    def __init__(
        self, settings: JungfraujochSettings, receivers: tuple[str, ...], timeout: float, dispatch: Dispatch
    ) -> None:
        del receivers, dispatch
        self._settings = settings
        self._timeout = timeout
        self._broker = Broker(settings.url, timeout)
        self._armed = False
        self._series = 0
        self._per_trigger = self._total = 1
        self._exposure = (0.0, 0.0)  # exposure and latency, as armed
        self._triggered = self._sent = 0
        self._due = 0.0  # when the images of the last trigger are exposed

    async def connect(self) -> Capabilities:
        """Connect, and return what the detector can do.

        :raises DetectorError: the broker does not answer, is not initialized, or sends images another way.
        """
        status = await self._broker.status()
        if status.state in ("Inactive", "Error"):
            said = f": {status.message}" if status.message else ""
            raise DetectorError(f"{self._settings.url} is in state {status.state}{said}; initialize it first")
        pusher = await self._broker.image_pusher()
        if (pusher.pusher_type, len(pusher.addr)) != ("ZeroMQ", 1):
            raise DetectorError(
                f"{self._settings.url} sends images by {pusher.pusher_type} to {len(pusher.addr)} addresses, "
                "expected one ZeroMQ socket"
            )
        detector = await self._broker.detector()
        return Capabilities(
            model=detector.description,
            trigger_modes=(TriggerMode.INTERNAL, TriggerMode.SOFTWARE),
            expo_time=Range(1e-6, 3600.0),
            latency_time=Range(0.0, 3600.0),
            frame_spec=_frame_spec(detector, JungfraujochParams().pixel_type),
            max_receivers=1,
        )

    async def prepare(self, series: int, plan: AcquisitionPlan) -> Armed:
        """Start a data collection that waits for triggers. Images carry a number made from ``series``.

        :raises PlanError: the broker can't do that, or took another value than it was given.
        """
        acquisition = plan.acquisition
        params = decode_params(plan.detector, JungfraujochParams, "detector")
        per_trigger, n_triggers = _split(acquisition)
        if not params.photon_energy:
            raise PlanError("detector.photon_energy: got 0, expected some eV")
        image_time = _microseconds(acquisition.expo_time + acquisition.latency_time)
        state = (await self._broker.status()).state
        if state != "Idle":
            raise DetectorError(f"{self._settings.url}: got state {state}, expected Idle")
        detector = await self._broker.detector()
        await self._set_format(params.pixel_type)
        run_number = series // _RUN_NUMBER
        wanted = DatasetSettings(
            images_per_trigger=per_trigger,
            ntrigger=n_triggers,
            image_time_us=image_time,
            beam_x_pxl=params.beam_center[1],
            beam_y_pxl=params.beam_center[0],
            detector_distance_mm=params.detector_distance * 1e3,
            incident_energy_kev=params.photon_energy / 1e3,
            file_prefix=plan.saving.filename_prefix,
            compression=params.compression,
            run_number=run_number,
        )
        spec = _frame_spec(detector, params.pixel_type)
        try:
            await self._broker.start(wanted, self._settings.start_timeout)
            await self._check_started(run_number, spec)
        except BaseException:
            try:
                await self._cancel()
            except DetectorError as error:  # the first error says more
                log.warning("%s", error)
            raise
        self._armed = True
        self._series = run_number
        self._per_trigger, self._total = per_trigger, per_trigger * n_triggers
        self._exposure = (acquisition.expo_time, acquisition.latency_time)
        self._triggered = self._sent = 0
        return Armed(spec, run_number)

    async def trigger(self, n_frames: int, expo_time: float, latency_time: float) -> None:
        """Give a trigger.

        :raises StateError: this is not what the broker was started for, or an exposure is under way.
        """
        if not self._armed:
            raise StateError("the detector is not armed")
        if n_frames != self._per_trigger:
            raise StateError(f"trigger.n_frames: got {n_frames}, expected {self._per_trigger}: a trigger gives so many")
        if (expo_time, latency_time) != self._exposure:
            raise StateError(
                f"trigger: got {expo_time:g} s and {latency_time:g} s, "
                f"expected {self._exposure[0]:g} s and {self._exposure[1]:g} s, which it was started with"
            )
        if (rest := self._due - time.monotonic()) > self._timeout / 2:
            raise StateError(f"the last trigger is still being exposed, for {rest:.3g} s")
        await asyncio.sleep(max(0.0, rest))
        await self._broker.command("trigger")
        self._due = time.monotonic() + n_frames * (expo_time + latency_time)
        self._triggered += n_frames

    async def adopt(self, series: int, plan: AcquisitionPlan, asked: int) -> DetectorStatus:
        """Go on with a data collection: the images that were collected tell whether the last trigger was given.

        :raises DetectorError: the broker has another collection, or none of the last trigger's images yet.
        """
        acquisition = plan.acquisition
        per_trigger, n_triggers = _split(acquisition)
        state = (await self._broker.status()).state
        found = await self._broker.statistics()
        if found.run_number != series:
            raise DetectorError(f"{self._settings.url}: has run number {found.run_number}, expected {series}")
        missing = asked - (found.images_collected or 0)
        if state != "Idle" and missing >= per_trigger:
            raise DetectorError(
                f"{self._settings.url}: {missing} of {asked} images are missing: the last trigger may not have "
                "been given"
            )
        self._armed, self._series = True, series
        self._per_trigger, self._total = per_trigger, per_trigger * n_triggers
        self._exposure = (acquisition.expo_time, acquisition.latency_time)
        self._triggered, self._sent = asked, 0 if missing > 0 else asked
        self._due = time.monotonic() + max(0, missing) * sum(self._exposure)
        return await self.status()

    async def status(self) -> DetectorStatus:
        """Return what the detector is doing."""
        status = await self._broker.status()
        fault = ""
        if status.state == "Error":
            fault = f"the broker is in error: {status.message or 'it does not say why'}"
        if not self._armed:
            return self._report(busy=status.state == "Measuring", fault=fault)
        if status.state == "Idle":  # the collection has ended
            if self._triggered < self._total:
                return self._report(
                    False, f"the broker ended the series after {self._triggered} of {self._total} frames"
                )
            self._sent, self._armed = self._triggered, False
        elif 0 <= self._sent < self._triggered < self._total:
            await self._count()
        return self._report(busy=self._sent < self._triggered and not fault, fault=fault)

    async def stop(self) -> DetectorStatus:
        """Cancel the data collection. How many images an exposure gave that was cut short, it can't say."""
        try:
            busy = (await self.status()).busy
        except DetectorError as error:
            if not self._armed:
                raise
            log.warning("%s", error)  # it is told all the same
            busy = True
        if self._armed or busy:
            if self._sent != self._triggered:
                self._sent = -1
            self._armed = False
            await self._cancel()
        return self._report(busy=False)

    async def close(self) -> None:
        """Close the connections; the detector stays as it is."""
        await self._broker.close()

    def _report(self, busy: bool, fault: str = "") -> DetectorStatus:
        return DetectorStatus(self._series, self._triggered, self._sent, busy, fault)

    async def _count(self) -> None:
        """Count images between triggers. Lost ones never come, so some time after they were due all are out."""
        collected = (await self._broker.statistics()).images_collected or 0
        if collected >= self._triggered or time.monotonic() > self._due + self._timeout:
            self._sent = self._triggered

    async def _cancel(self) -> None:
        """End the data collection, if there is one, and wait until it has ended.

        :raises DetectorError: it has not in time.
        """
        await self._broker.command("cancel")
        deadline = time.monotonic() + self._settings.start_timeout
        while (state := (await self._broker.status()).state) in ("Measuring", "Busy"):
            if time.monotonic() > deadline:
                seconds = self._settings.start_timeout
                raise DetectorError(f"{self._settings.url}: is still in state {state} {seconds:g} s after a cancel")
            await asyncio.sleep(_POLL)
            if state == "Measuring":  # a start that was under way came after the last cancel
                await self._broker.command("cancel")

    async def _set_format(self, pixel_type: PixelType) -> None:
        """Set the type of pixels, which the broker else chooses by itself, and leave the rest as it is."""
        settings = await self._broker.image_format()
        if settings.get("geometry_transform") != Raw(b"true"):
            raise PlanError(
                f"detector: {self._settings.url}: config/image_format has no geometry_transform, "
                "so that the size of images is not known ahead: switch it on"
            )
        kind = np.dtype(pixel_type.value)
        wanted: dict[str, int | bool] = {"bit_depth_image": 8 * kind.itemsize, "signed_output": kind.kind == "i"}
        changed = settings | {name: Raw(msgspec.json.encode(value)) for name, value in wanted.items()}
        if changed == settings:
            return
        await self._broker.set_image_format(changed)
        found = await self._broker.image_format()
        for name, value in wanted.items():
            if found.get(name) != changed[name]:
                got = bytes(found.get(name, Raw(b"nothing"))).decode()
                raise PlanError(f"detector: config/image_format/{name} is {got} after it was set to {value}")

    async def _check_started(self, run_number: int, spec: FrameSpec) -> None:
        """See whether the broker makes the images that receivers will expect, as far as it says."""
        found = await self._broker.statistics()
        if found.run_number != run_number:  # they are still of an earlier one
            return
        expected = (*spec.shape, np.dtype(spec.dtype).itemsize)
        got = (found.detector_height, found.detector_width, found.detector_pixel_depth)
        if any(each is not None and each != wish for each, wish in zip(got, expected, strict=True)):
            raise PlanError(
                f"detector: {self._settings.url}: got images of rows, cols, bytes a pixel {got}, expected {expected}"
            )


def _frame_spec(detector: DetectorEntry, pixel_type: PixelType) -> FrameSpec:
    size = (detector.pixel_size_mm or 0.075) * 1e-3
    return FrameSpec((detector.height, detector.width), np.dtype(pixel_type.value).str, pixel_size=(size, size))


def _split(acquisition: AcquisitionParams) -> tuple[int, int]:
    """Return frames of a trigger, and triggers.

    :raises PlanError: they don't give whole triggers.
    """
    if not acquisition.nb_frames:
        raise PlanError("acquisition.nb_frames: got 0, expected a number: a Jungfraujoch must know when it is started")
    if acquisition.trigger_mode is TriggerMode.INTERNAL:
        return acquisition.nb_frames, 1
    n_triggers, rest = divmod(acquisition.nb_frames, acquisition.nb_frames_per_trigger)
    if rest:
        raise PlanError(
            f"acquisition.nb_frames: got {acquisition.nb_frames}, "
            f"expected a multiple of nb_frames_per_trigger, {acquisition.nb_frames_per_trigger}"
        )
    return acquisition.nb_frames_per_trigger, n_triggers


def _microseconds(seconds: float) -> int:
    found = round(seconds * 1e6)
    if not found or abs(found - seconds * 1e6) > _CLOSE:
        raise PlanError(f"acquisition: got {seconds:g} s from image to image, expected whole microseconds")
    return found
