"""Contract tests that a detector plugin inherits, so that its author need not think of every way a stream goes wrong.

In a test module: ``class TestMySource(SourceContract)`` with the abstract methods filled in; pytest then runs what
follows against it. ``pytest.register_assert_rewrite("lima2_receivers.testing")`` in a ``conftest.py`` gives failures
their details.
"""
# ruff: noqa: S101 - assertions are what a contract is made of

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from lima2_processing.frame import Frame

from .errors import ProtocolError
from .packing import unpack
from .source import Item, PackedFrame, Remark, SeriesEnd, Source, Stranger

SERIES, OTHER_SERIES = 7, 8
SHORT_PART = 512  # bytes up to which a part is cut at every place
NOISE_MESSAGES = 500


class SourceContract(ABC):
    """What every Source owes the receiver, whatever a network and a detector do to its stream."""

    @abstractmethod
    def make_source(self, series: int) -> Source[msgspec.Struct]:
        """Return a fresh source of that series, the same but for the series each time."""

    @abstractmethod
    def frame_message(self, series: int, index: int) -> list[bytes]:
        """Return the message of a complete frame, as the detector sends it; frames of different index differ."""

    def end_message(self, series: int, n_frames: int) -> list[bytes] | None:
        """Return the message that ends a series; None where the detector sends none."""
        del series, n_frames
        return None

    def frame_pixels(self, series: int, index: int) -> bytes:
        """Return the pixels of that frame, as they are in memory; the message's last part unless replaced."""
        return self.frame_message(series, index)[-1]

    @abstractmethod
    def malformed(self, series: int) -> Mapping[str, list[bytes]]:
        """Return messages that the protocol forbids, by what is wrong: wrong size, type, shape, version, ..."""

    def test_frames_come_out_as_they_were_sent(self) -> None:
        """Index, pixels, shape and type are those of the message."""
        source = self.make_source(SERIES)
        for index in range(3):
            message = self.frame_message(SERIES, index)
            frame = _only_frame(source, message)
            assert frame.index == index
            assert np.isfinite(frame.timestamp)
            if isinstance(frame, PackedFrame):
                data = _unpacked(frame, source)
            else:
                assert frame.modules == source.spec.all_modules
                data = frame.data
            assert data.shape == source.spec.shape
            assert data.dtype == np.dtype(source.spec.dtype)
            assert data.tobytes() == self.frame_pixels(SERIES, index)

    def test_pixels_are_a_view_of_the_message(self) -> None:
        """The ring's memory is lent, not copied."""
        parts = _lend(self.frame_message(SERIES, 0))
        (frame,) = _without_remarks(self.make_source(SERIES).receive(parts))
        if isinstance(frame, PackedFrame):
            pytest.skip("pixels come packed")
        assert isinstance(frame, Frame)
        assert np.shares_memory(frame.data, np.frombuffer(parts[-1], np.uint8))

    @pytest.mark.parametrize("order", [(0, 3, 5), (2, 0, 1), (1, 1, 0, 1)], ids=["loss", "reordering", "duplicates"])
    def test_loss_order_and_duplicates_pass_through(self, order: tuple[int, ...]) -> None:
        """What to do about them is the receiver's, which knows the frames' numbers."""
        source = self.make_source(SERIES)
        assert [_only_frame(source, self.frame_message(SERIES, index)).index for index in order] == list(order)

    def test_the_end_tells_how_many_frames_there_were(self) -> None:
        """An end carries the whole series' number of frames."""
        message = self.end_message(SERIES, 12)
        if message is None:
            pytest.skip("this detector sends no end of a series")
        (end,) = _without_remarks(self.make_source(SERIES).receive(_lend(message)))
        assert end in (SeriesEnd(12), SeriesEnd(None))

    def test_another_series_is_a_stranger(self) -> None:
        """Frames and ends of another series are told apart, whatever came before."""
        source = self.make_source(SERIES)
        for message in (self.frame_message(OTHER_SERIES, 0), self.end_message(OTHER_SERIES, 3)):
            if message is not None:
                assert source.receive(_lend(message)) == [Stranger(OTHER_SERIES)]

    def test_overlapping_series_are_told_apart(self) -> None:
        """Two acquisitions may share a stream: each message belongs to exactly one."""
        sources = {series: self.make_source(series) for series in (SERIES, OTHER_SERIES)}
        for index in range(4):
            for series in sources:
                message = self.frame_message(series, index)
                found = {other: source.receive(_lend(message))[0] for other, source in sources.items()}
                assert [other for other, item in found.items() if isinstance(item, Frame | PackedFrame)] == [series]

    def test_truncated_and_lengthened_messages_are_refused(self) -> None:
        """No part may miss bytes or have more, and no part may be missing or added."""
        source = self.make_source(SERIES)
        messages = [self.frame_message(SERIES, 0), self.end_message(SERIES, 3)]
        for message in (m for m in messages if m is not None):
            for damaged in _damaged(message):
                with pytest.raises(ProtocolError):
                    source.receive(_lend(damaged))

    def test_malformed_messages_are_refused_with_a_reason(self) -> None:
        """Each is a ProtocolError that says what was got and what is expected."""
        source = self.make_source(SERIES)
        malformed = self.malformed(SERIES)
        assert malformed, "the contract needs some malformed messages"
        for what, message in malformed.items():
            with pytest.raises(ProtocolError) as caught:
                pytest.fail(f"{what}: got {source.receive(_lend(message))}, expected a ProtocolError")
            assert "expected" in str(caught.value), what

    def test_a_refused_message_changes_nothing(self) -> None:
        """The frame after a bad message comes out as if nothing had been."""
        source = self.make_source(SERIES)
        for index, message in enumerate(self.malformed(SERIES).values()):
            with pytest.raises(ProtocolError):
                source.receive(_lend(message))
            assert _only_frame(source, self.frame_message(SERIES, index)).index == index

    def test_noise_is_refused(self) -> None:
        """Random bytes are a ProtocolError and nothing else."""
        source = self.make_source(SERIES)
        chance = random.Random(0)
        sizes = [len(part) for part in self.frame_message(SERIES, 0)]
        for _ in range(NOISE_MESSAGES):
            noise = [chance.randbytes(chance.choice([*sizes[:1], chance.randrange(200)])) for _ in sizes]
            with pytest.raises(ProtocolError):
                source.receive(_lend(noise[: chance.randrange(len(noise) + 1)]))

    def test_damaged_bytes_never_raise_anything_else(self) -> None:
        """A message with any one byte of its first part changed is parsed or refused, no more."""
        source = self.make_source(SERIES)
        first, *rest = self.frame_message(SERIES, 0)
        for position in range(min(len(first), SHORT_PART)):
            for value in (0x00, 0x7F, 0x80, 0xFF):
                changed = first[:position] + bytes([value]) + first[position + 1 :]
                try:
                    items = source.receive(_lend([changed, *rest]))
                except ProtocolError:
                    continue
                assert all(isinstance(item, Frame | PackedFrame | SeriesEnd | Stranger | Remark) for item in items)


def _lend(message: Sequence[bytes]) -> list[memoryview]:
    """Return the message as the receiver hands it over: views of memory that it may use again."""
    return [memoryview(bytearray(part)) for part in message]


def _only_frame(source: Source[msgspec.Struct], message: Sequence[bytes]) -> Frame | PackedFrame:
    (frame,) = _without_remarks(source.receive(_lend(message)))
    assert isinstance(frame, Frame | PackedFrame)
    return frame


def _without_remarks(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if not isinstance(item, Remark)]


def _unpacked(frame: PackedFrame, source: Source[msgspec.Struct]) -> NDArray[np.generic]:
    data = np.empty(source.spec.shape, source.spec.dtype)
    for channel, image in zip(data.reshape(-1, *data.shape[-2:]), frame.channels, strict=True):
        unpack(image, channel)
    return data


def _damaged(message: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Yield the message with missing and additional bytes and parts."""
    for position, part in enumerate(message):
        cuts = range(len(part)) if len(part) <= SHORT_PART else (0, 1, len(part) // 2, len(part) - 1)
        for cut in cuts:
            yield [*message[:position], part[:cut], *message[position + 1 :]]
        yield [*message[:position], part + b"\0", *message[position + 1 :]]
    for missing in range(len(message)):
        yield [*message[:missing], *message[missing + 1 :]]
    yield [*message, b"more"]
