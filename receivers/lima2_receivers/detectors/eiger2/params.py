"""What an Eiger2 can be told: where it is (settings), and what one acquisition asks of it (parameters)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class Eiger2Params(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of an Eiger2. What is 0 or none stays as the detector has it.

    :param photon_energy: in eV; 0: as it is. Setting it moves the thresholds and changes the flatfield.
    :param threshold_energy: of the first threshold, in eV; 0: as it is.
    :param compression: of the stream.
    """

    photon_energy: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    threshold_energy: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    compression: Literal["bslz4", "lz4", "none"] = "bslz4"


class Eiger2Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The Eiger2's table in the configuration.

    :param url: of its control unit, such as ``http://eiger:80``.
    :param api: version of SIMPLON in its paths.
    :param stream: format of its data stream.
    """

    url: str
    api: str = "1.8.0"
    stream: Literal["cbor", "legacy"] = "cbor"
