"""What the Reader can be told."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class ReaderParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of the Reader: nothing."""


class ReaderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The Reader's table in the configuration.

    :param control: endpoint of its commands.
    :param folder: absolute folder for its journals.
    :param recording: folder of ``*_rawN.bin`` files, played in the order of N.
    :param send_timeout: seconds that a frame waits for its receiver before it is dropped; after that, frames for this
        receiver don't wait until it takes one again.
    """

    control: str
    folder: str
    recording: str
    send_timeout: Annotated[float, Meta(gt=0, le=3600)] = 5.0
