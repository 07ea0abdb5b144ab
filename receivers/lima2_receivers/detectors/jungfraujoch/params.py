"""What a Jungfraujoch can be told: where it is (settings), and what one acquisition asks of it (parameters)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct


class PixelType(StrEnum):
    """How pixels are stored."""

    UINT8 = "uint8"
    UINT16 = "uint16"
    INT16 = "int16"
    UINT32 = "uint32"
    INT32 = "int32"


class JungfraujochParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of a Jungfraujoch.

    :param photon_energy: in eV; it converts to photons. Needed: there is no value that it keeps.
    :param detector_distance: in metres; passed on to the broker.
    :param beam_center: of the image, in pixels (row, col); passed on to the broker.
    :param pixel_type: of the images; signed ones keep noise around zero.
    :param compression: of the stream.
    """

    photon_energy: Annotated[float, Meta(ge=0, le=5e5)] = 0.0
    detector_distance: Annotated[float, Meta(ge=0)] = 0.0
    beam_center: tuple[float, float] = (0.0, 0.0)
    pixel_type: PixelType = PixelType.UINT32
    compression: Literal["bslz4", "none"] = "bslz4"


class JungfraujochSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The Jungfraujoch's table in the configuration.

    :param url: of its broker, such as ``http://jfjoch:5232``.
    :param start_timeout: seconds that the broker may take to make ready for triggers, or to end after a stop.
    """

    url: str
    start_timeout: Annotated[float, Meta(gt=0)] = 30.0
