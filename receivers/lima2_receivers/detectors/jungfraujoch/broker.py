"""The REST interface of Jungfraujoch's broker, as far as it is used (its published API definition, 1.0.0-rc)."""

from __future__ import annotations

from typing import TypeVar

import httpx
import msgspec
from msgspec import Raw, Struct

from ...errors import DetectorError, PlanError
from ..rest import Rest

T = TypeVar("T")


class BrokerStatus(Struct, frozen=True):
    """What the broker is doing.

    :param state: Inactive, Idle, Busy, Measuring, Pedestal or Error.
    :param message: for people.
    """

    state: str
    message: str | None = None


class Statistics(Struct, frozen=True):
    """Of the data collection that runs or was last. What the broker does not say is None.

    :param run_number: what images carry as the number of their series.
    :param images_collected: so far.
    :param detector_width: of an image, in pixels.
    :param detector_height: of an image, in pixels.
    :param detector_pixel_depth: bytes of a pixel.
    """

    run_number: int | None = None
    images_collected: int | None = None
    detector_width: int | None = None
    detector_height: int | None = None
    detector_pixel_depth: int | None = None


class DetectorEntry(Struct, frozen=True):
    """A detector that the broker knows.

    :param width: of an image, in pixels.
    :param height: of an image, in pixels.
    :param pixel_size_mm: in millimetres.
    """

    id: int
    description: str
    width: int
    height: int
    pixel_size_mm: float | None = None


class DetectorList(Struct, frozen=True):
    """All of them, and the number of the one in use."""

    detectors: tuple[DetectorEntry, ...]
    current_id: int


class ImagePusher(Struct, frozen=True):
    """How images leave the broker.

    :param pusher_type: ``ZeroMQ`` or another way.
    :param addr: one a socket.
    """

    pusher_type: str
    addr: tuple[str, ...]


class DatasetSettings(Struct, frozen=True, rename={"incident_energy_kev": "incident_energy_keV"}):
    """What ``start`` is told.

    :param image_time_us: from the start of an image to that of the next, in microseconds.
    :param file_prefix: without one, no image is sent.
    :param images_per_file: 0: all belong to one file.
    :param run_number: what images carry as the number of their series.
    """

    images_per_trigger: int
    ntrigger: int
    image_time_us: int
    beam_x_pxl: float
    beam_y_pxl: float
    detector_distance_mm: float
    incident_energy_kev: float
    file_prefix: str
    compression: str
    run_number: int
    images_per_file: int = 0
    save_calibration: bool = False


class Broker:
    """One broker. Every call has a deadline, and raises DetectorError that names what was asked.

    :param url: of the broker.
    :param timeout: of a call, in seconds.
    :raises ConfigError: the URL is none.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self._rest = Rest(url, timeout)

    async def status(self) -> BrokerStatus:
        """Return what the broker is doing."""
        return await self._get("/status", BrokerStatus)

    async def statistics(self) -> Statistics:
        """Return what is known of the data collection that runs or was last."""
        answer = await self._rest.ask("GET", "/statistics/data_collection")
        if answer.status_code == httpx.codes.NOT_FOUND:  # there was none
            return Statistics()
        self._rest.require_good(answer, "/statistics/data_collection")
        return self._rest.decode(answer, Statistics, "/statistics/data_collection")

    async def detector(self) -> DetectorEntry:
        """Return the detector in use."""
        found = await self._get("/config/select_detector", DetectorList)
        for each in found.detectors:
            if each.id == found.current_id:
                return each
        raise DetectorError(f"{self.url}: /config/select_detector: there is no detector {found.current_id} in its list")

    async def image_pusher(self) -> ImagePusher:
        """Return how images leave the broker."""
        return await self._get("/image_pusher/status", ImagePusher)

    async def image_format(self) -> dict[str, Raw]:
        """Return how images are made, as the JSON of each setting."""
        return await self._get("/config/image_format", dict[str, Raw])

    async def set_image_format(self, settings: dict[str, Raw]) -> None:
        """Set how images are made: all settings, those that stay included."""
        answer = await self._rest.ask("PUT", "/config/image_format", msgspec.json.encode(settings))
        self._rest.require_good(answer, "/config/image_format")

    async def start(self, settings: DatasetSettings, timeout: float) -> None:
        """Start a data collection, and return when the detector waits for triggers.

        :param timeout: in seconds.
        :raises PlanError: the broker refuses these settings.
        """
        answer = await self._rest.ask("POST", "/start", msgspec.json.encode(settings), seconds=timeout)
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise PlanError(f"detector: {self.url}: /start was refused: {answer.text}")
        self._rest.require_good(answer, "/start")

    async def command(self, name: str) -> None:
        """Give a command: ``trigger`` or ``cancel``."""
        answer = await self._rest.ask("POST", f"/{name}")
        self._rest.require_good(answer, f"/{name}")

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def _get(self, path: str, kind: type[T]) -> T:
        answer = await self._rest.ask("GET", path)
        self._rest.require_good(answer, path)
        return self._rest.decode(answer, kind, path)
