"""What the Reader can be told."""

from __future__ import annotations

from msgspec import Struct


class ReaderParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What a plan may ask of the Reader: nothing."""


class ReaderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The Reader's table in the configuration.

    :param control: endpoint of its commands.
    :param folder: absolute folder for its journals.
    :param recording: folder of ``*_rawN.bin`` files, played in the order of N.
    """

    control: str
    folder: str
    recording: str
