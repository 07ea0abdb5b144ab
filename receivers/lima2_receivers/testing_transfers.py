"""Contract tests that a plugin of a detector that writes into rings inherits; see ``lima2_receivers.testing``."""
# ruff: noqa: S101 - assertions are what a contract is made of

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from .errors import ProtocolError
from .source import Stranger, TransferSource
from .transfers import Completion

SERIES, OTHER_SERIES = 7, 8
NOISE_RECORDS = 500
SHORT = ("slot", "channel")  # numbers of 32 bits; others have 64


class TransferSourceContract(ABC):
    """What every TransferSource owes the receiver, whatever is in a completion record."""

    @abstractmethod
    def make_source(self, series: int) -> TransferSource[Any]:
        """Return a fresh source of that series, the same but for the series each time."""

    @abstractmethod
    def completion(self, series: int, index: int) -> Completion:
        """Return the record of a frame, as the detector posts it."""

    @abstractmethod
    def malformed(self, series: int) -> Mapping[str, Completion]:
        """Return records that the protocol forbids, by what is wrong: size, channel, number, ..."""

    def others(self, series: int) -> Mapping[str, Completion]:
        """Return records of the detector's other streams, by what they are; none: it has no others."""
        del series
        return {}

    def test_frames_are_found_in_any_order(self) -> None:
        """Each by its own number, as often as it comes."""
        source = self.make_source(SERIES)
        for index in (0, 1, 5, 2, 2, 10**9, 0):
            assert source.locate(self.completion(SERIES, index)) == index

    def test_another_series_is_a_stranger(self) -> None:
        """Whatever else is in its record, and whatever came before."""
        source = self.make_source(SERIES)
        assert source.locate(self.completion(SERIES, 0)) == 0
        assert source.locate(self.completion(OTHER_SERIES, 0)) == Stranger(OTHER_SERIES)
        for each in self.malformed(OTHER_SERIES).values():
            assert source.locate(each) == Stranger(OTHER_SERIES)

    def test_other_streams_are_told_apart(self) -> None:
        """They are this series', and no frames."""
        source = self.make_source(SERIES)
        for what, each in self.others(SERIES).items():
            assert source.locate(each) is None, what

    def test_malformed_records_are_refused_with_a_reason(self) -> None:
        """Each is a ProtocolError that says what was got and what is expected, and changes nothing."""
        malformed = self.malformed(SERIES)
        assert malformed, "the contract needs some malformed records"
        source = self.make_source(SERIES)
        for index, (what, each) in enumerate(malformed.items()):
            with pytest.raises(ProtocolError) as caught:
                pytest.fail(f"{what}: got {source.locate(each)}, expected a ProtocolError")
            assert "expected" in str(caught.value), what
            assert source.locate(self.completion(SERIES, index)) == index

    def test_a_frame_of_another_size_is_never_taken(self) -> None:
        """It would leave old pixels behind it, or not fit."""
        source, good = self.make_source(SERIES), self.completion(SERIES, 0)
        for nbytes in (0, good.nbytes - 1, good.nbytes + 1, 2**64 - 1):
            with pytest.raises(ProtocolError):
                source.locate(msgspec.structs.replace(good, nbytes=nbytes))

    def test_noise_never_raises_anything_else(self) -> None:
        """Any numbers are a frame, another stream's, a stranger, or refused."""
        source, good = self.make_source(SERIES), self.completion(SERIES, 3)
        chance = random.Random(0)
        names = [field for field in Completion.__struct_fields__ if field != "time"]
        for _ in range(NOISE_RECORDS):
            changed = {n: chance.getrandbits(32 if n in SHORT else 64) for n in chance.sample(names, 2)}
            record = msgspec.structs.replace(good, **changed)
            try:
                found = source.locate(record)
            except ProtocolError:
                continue
            assert found is None or isinstance(found, Stranger) or found >= 0
            if isinstance(found, int):
                assert record.nbytes == source.spec.nbytes
