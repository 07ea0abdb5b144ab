"""Contract tests that a plugin of a detector that sends packets inherits; see ``lima2_receivers.testing``."""
# ruff: noqa: S101 - assertions are what a contract is made of

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from .receiver.assembly import OPEN_FRAMES, PATIENCE, Assembled, Assembler, Strangers
from .receiver.ring import FrameRing
from .source import REFUSED, Located, PacketSource, Run

SERIES, EARLIER = 1000, 900
NOISE_PACKETS = 500
NO_FRAMES = 0  # any number of frames


class PacketSourceContract(ABC):
    """What every PacketSource owes the receiver, whatever a network and a detector do to its packets."""

    @abstractmethod
    def make_source(self, series: int) -> PacketSource[Any, Any]:
        """Return a fresh source of that series, the same but for the series each time."""

    @abstractmethod
    def packets(self, series: int, index: int) -> list[bytes]:
        """Return the packets of a frame, as the detector sends them; all packets and frames differ."""

    @abstractmethod
    def frame_pixels(self, series: int, index: int) -> bytes:
        """Return the pixels of that frame, as they are in memory."""

    @abstractmethod
    def malformed(self, series: int) -> Mapping[str, bytes]:
        """Return packets that the protocol forbids, by what is wrong: size, type, version, place, ..."""

    def test_frames_come_out_as_they_were_sent(self) -> None:
        """Whatever the order of the packets in a frame, and however often one comes."""
        chance = random.Random(0)
        for arrange in (list, lambda packets: packets[::-1], lambda packets: packets * 2, _shuffled(chance)):
            bench = _Bench(self.make_source(SERIES))
            for index in range(3):
                bench.put(arrange(self.packets(SERIES, index)))
            assert [frame.index for frame in bench.frames] == [0, 1, 2]
            assert bench.pixels == [self.frame_pixels(SERIES, index) for index in range(3)]
            assert not any(frame.flaw for frame in bench.frames)

    def test_frames_may_be_mixed_up(self) -> None:
        """Packets of neighbouring frames come in turn."""
        bench = _Bench(self.make_source(SERIES))
        both = zip(self.packets(SERIES, 0), self.packets(SERIES, 1), strict=True)
        bench.put([packet for pair in both for packet in pair[::-1]])
        assert bench.pixels == [self.frame_pixels(SERIES, index) for index in range(2)]

    def test_loss_is_counted_and_costs_no_other_frame(self) -> None:
        """A frame that misses packets says how many, once later ones have overtaken it or its time is over."""
        packets = self.packets(SERIES, 0)
        for missing in {1, len(packets) - 1}:
            bench = _Bench(self.make_source(SERIES))
            bench.put(packets[missing:])
            for index in range(1, OPEN_FRAMES + 1):
                assert not bench.frames
                bench.put(self.packets(SERIES, index))
            assert [frame.index for frame in bench.frames] == list(range(OPEN_FRAMES + 1))
            assert [bool(frame.flaw) for frame in bench.frames] == [True] + [False] * OPEN_FRAMES
            assert bench.frames[0].flaw.startswith(f"{missing} of {len(packets)} packets")
            bench.put(packets[:missing])
            assert len(bench.frames) == OPEN_FRAMES + 1
        bench = _Bench(self.make_source(SERIES))
        bench.put(packets[1:])
        bench.wait(PATIENCE * 0.9)
        assert not bench.frames
        bench.wait(PATIENCE * 0.2)
        assert bench.frames[0].flaw

    def test_stragglers_of_an_earlier_series_are_strangers(self) -> None:
        """They may come at any time, and are no part of this series."""
        bench = _Bench(self.make_source(SERIES))
        packets = self.packets(SERIES, 0)
        bench.put(packets[:1])
        strangers = bench.put(self.packets(EARLIER, 0))
        assert strangers.others.all()
        bench.put(packets[1:])
        assert bench.pixels == [self.frame_pixels(SERIES, 0)]

    def test_numbers_may_wrap(self) -> None:
        """The detector's counter of frames begins again at 0 after its last number."""
        last = 2**64 - 1
        bench = _Bench(self.make_source(last))
        for index in range(3):
            bench.put(self.packets(last, index))
        assert bench.pixels == [self.frame_pixels(last, index) for index in range(3)]
        assert bench.put(self.packets(last - 1, 0)).others.all()

    def test_malformed_packets_are_refused_with_a_reason(self) -> None:
        """Among good ones, which are taken all the same."""
        malformed = self.malformed(SERIES)
        assert malformed, "the contract needs some malformed packets"
        packets = self.packets(SERIES, 0)
        for what, packet in malformed.items():
            bench = _Bench(self.make_source(SERIES))
            strangers = bench.put([*packets[:1], packet, *packets[1:]])
            assert list(strangers.refusals.values()) == [1], what
            assert all("expected" in why for why in strangers.refusals), what
            assert bench.pixels == [self.frame_pixels(SERIES, 0)], what

    def test_truncated_and_lengthened_packets_are_refused(self) -> None:
        """At every length."""
        packet = self.packets(SERIES, 0)[0]
        for size in {0, 1, len(packet) // 2, len(packet) - 1, len(packet) + 1}:
            bench = _Bench(self.make_source(SERIES))
            assert sum(bench.put([(packet + b"\0")[:size]]).refusals.values()) == 1

    def test_noise_is_refused_or_strange(self) -> None:
        """Random bytes raise nothing and, but by a chance that nobody will live to see, are no packet."""
        chance = random.Random(0)
        bench = _Bench(self.make_source(SERIES))
        size = len(self.packets(SERIES, 0)[0])
        strangers = bench.put([chance.randbytes(size) for _ in range(NOISE_PACKETS)])
        assert sum(strangers.refusals.values()) + int(strangers.others.sum()) == NOISE_PACKETS

    def test_packets_are_left_as_they_are(self) -> None:
        """Another acquisition may look at them next, and they may be saved as they came."""
        packets = self.packets(SERIES, 0)
        for some in (packets[:1], packets[:2], packets, packets[::-1]):
            memory, sizes = _arrays(some, len(packets[0]))
            before = memory.copy(), sizes.copy()
            self.make_source(SERIES).locate(memory, sizes)
            assert np.array_equal(memory, before[0])
            assert np.array_equal(sizes, before[1])

    def test_damaged_headers_never_raise(self) -> None:
        """A packet with any one byte of its header changed is placed within its frame, strange, or refused."""
        source = self.make_source(SERIES)
        n_places = source.spec.nbytes // source.payload_bytes
        packet = self.packets(SERIES, 0)[0]
        damaged = [
            packet[:at] + bytes([value]) + packet[at + 1 :]
            for at in range(source.header_bytes)
            for value in (0x00, 0x7F, 0x80, 0xFF)
        ]
        for one in damaged:
            located = source.locate(*_arrays([one], len(packet)))
            if isinstance(located, Run):
                located = Located(np.array([located.frame]), np.array([located.first]))
            assert (located.frames >= REFUSED).all()
            placed = located.places[located.frames >= 0]
            assert ((placed >= 0) & (placed < n_places)).all()

    def test_packets_alone_tell_series_and_look(self) -> None:
        """Where the plugin can play captures, the first frames say what was armed; noise is no harm."""
        source = self.make_source(SERIES)
        size = source.header_bytes + source.payload_bytes
        packets = [packet for index in range(2) for packet in self.packets(SERIES, index)]
        surveyed = type(source).survey(source.settings, *_arrays(packets[::-1], size))
        if surveyed is None:
            pytest.skip("captures of this detector can't be played")
        assert (surveyed.series, surveyed.spec) == (SERIES, source.spec)
        chance = random.Random(0)
        noise = [chance.randbytes(chance.choice((0, 10, size, size + 1))) for _ in range(NOISE_PACKETS)]
        type(source).survey(source.settings, *_arrays(noise, size))
        assert type(source).survey(source.settings, *_arrays([], size)) is None


class _Bench:
    """Puts frames together, and keeps what comes out."""

    def __init__(self, source: PacketSource[Any, Any]) -> None:
        self.ring = FrameRing(2 * OPEN_FRAMES + 2, source.spec.nbytes)
        self.frames: list[Assembled] = []
        self.pixels: list[bytes] = []
        self._size = source.header_bytes + source.payload_bytes
        self._assembler = Assembler(source, self.ring, NO_FRAMES)
        self._now = 0.0

    def put(self, packets: Sequence[bytes]) -> Strangers:
        closed, strangers = self._assembler.place(*_arrays(packets, self._size), self._now)
        self._keep(closed)
        return strangers

    def wait(self, seconds: float) -> None:
        self._now += seconds
        self._keep(self._assembler.expire(self._now))

    def _keep(self, closed: Iterable[Assembled]) -> None:
        for each in closed:
            self.frames.append(each)
            if each.frame is not None and each.slot is not None:
                self.pixels.append(each.frame.data.tobytes())
                self.ring.give(each.slot)


def _arrays(packets: Sequence[bytes], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return packets as the receiver hands them over: what is too long is cut, what is short has old bytes behind."""
    memory = np.full((len(packets), size), 0xA5, np.uint8)
    for row, packet in zip(memory, packets, strict=True):
        cut = packet[:size]
        row[: len(cut)] = np.frombuffer(cut, np.uint8)
    return memory, np.array([len(packet) for packet in packets], np.uint32)


def _shuffled(chance: random.Random) -> Any:
    def shuffle(packets: list[bytes]) -> list[bytes]:
        return chance.sample(packets, len(packets))

    return shuffle
