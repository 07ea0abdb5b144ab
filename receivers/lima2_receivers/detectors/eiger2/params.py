"""What an Eiger2 can be told: where it is (settings), and what one acquisition asks of it (parameters)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class Eiger2Params(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of an Eiger2. What is 0 or none stays as the detector has it.

    :param photon_energy: in eV; 0: as it is. Setting it moves the thresholds and changes the flatfield.
    :param threshold_energy: of the first threshold, in eV; 0: as it is.
    :param threshold_2_energy: of the second threshold, in eV; 0: it is as the detector has it.
    :param thresholds: how many are used, each a channel of the frames; 0: as the detector has it.
    :param difference: whether the difference of the two thresholds is a channel, too; none: as it is.
    :param flatfield: whether the detector divides images by its flatfield; none: as it is.
    :param pixel_mask: whether the detector marks masked pixels by the largest value; none: as it is.
    :param header: what the detector tells when a series begins: with ``all``, flatfield, pixel mask and count-rate
        table, too. It is kept in ``PREFIX_header_RANK.cbor``.
    :param header_appendix: text that the detector sends along when a series begins.
    :param image_appendix: text that the detector sends along with each image.
    :param compression: of the stream.
    """

    photon_energy: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    threshold_energy: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    threshold_2_energy: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    thresholds: Literal[0, 1, 2] = 0
    difference: bool | None = None
    flatfield: bool | None = None
    pixel_mask: bool | None = None
    header: Literal["none", "basic", "all"] = "basic"
    header_appendix: Annotated[str, Meta(max_length=100_000)] = ""
    image_appendix: Annotated[str, Meta(max_length=10_000)] = ""
    compression: Literal["bslz4", "lz4", "none"] = "bslz4"


class Eiger2Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The Eiger2's table in the configuration.

    :param url: of its control unit, such as ``http://eiger:80``.
    :param api: version of SIMPLON in its paths.
    :param stream: format of its data stream.
    :param initialize: True: a detector that is not initialized, or in error, is initialized when the conductor
        connects. That may take minutes.
    """

    url: str
    api: str = "1.8.0"
    stream: Literal["cbor", "legacy"] = "cbor"
    initialize: bool = False
