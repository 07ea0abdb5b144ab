"""What an Eiger2 says over its stream, whichever of the two formats it speaks."""

from __future__ import annotations

from dataclasses import dataclass

from ...packing import PackedImage


@dataclass(frozen=True, slots=True)
class StreamStart:
    """A series begins. Sent when the detector is armed.

    :param series: its number.
    :param unique: see ``StreamImage``.
    :param content: all that is said of it, a CBOR item.
    """

    series: int
    unique: str = ""
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class StreamImage:
    """One image, all its channels.

    :param series: its number.
    :param index: of the image, 0 for the first of the series.
    :param shape: of one channel (rows, cols).
    :param dtype: NumPy type string.
    :param channels: their pixels, in the order that the detector sent them.
    :param timestamp: begin of the exposure in seconds since the epoch; NaN where the stream does not say.
    :param unique: id that no other series has, also of a detector that counts anew; empty: the stream has none.
    :param extra: what else was said of this image by its user, a CBOR item; empty: nothing.
    """

    series: int
    index: int
    shape: tuple[int, int]
    dtype: str
    channels: tuple[PackedImage, ...]
    timestamp: float
    unique: str = ""
    extra: bytes = b""


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The detector has sent everything of a series.

    :param series: its number.
    :param unique: see ``StreamImage``.
    :param content: all that is said of it, a CBOR item.
    """

    series: int
    unique: str = ""
    content: bytes = b""


StreamEvent = StreamStart | StreamImage | StreamEnd
