"""The simulator's and the reader's byte stream against the contract, and byte by byte."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_processing.frame import Frame
from lima2_processing.layouts import grid, jungfrau
from lima2_receivers.detectors.reader.params import ReaderParams
from lima2_receivers.detectors.reader.source import ReaderSource
from lima2_receivers.detectors.simulator.params import SimulatorParams
from lima2_receivers.detectors.simulator.source import SimulatorSource
from lima2_receivers.detectors.stream import HEADER, encode_end, encode_frame_header
from lima2_receivers.errors import ProtocolError
from lima2_receivers.source import SeriesEnd, Stranger
from lima2_receivers.testing import SourceContract

TINY = grid((1, 1), (4, 8), (2, 4), gap_pixels=True, module_gap=(0, 0))


def frame_message(spec, series, number, **changed):
    pixels = (np.arange(spec.nbytes // 2) + number).astype("<u2").tobytes()
    header = bytearray(encode_frame_header(spec, series, number, spec.all_modules, 1.75e9))
    for field, value in changed.items():
        offset, code = FIELDS[field]
        struct.pack_into(code, header, offset, value)
    return [bytes(header), pixels]


FIELDS = {
    "magic": (0, "<4s"),
    "version": (4, "<H"),
    "kind": (6, "<H"),
    "index": (16, "<Q"),
    "modules": (24, "<Q"),
    "timestamp": (32, "<d"),
    "nbytes": (40, "<Q"),
    "dtype": (48, "<4s"),
    "ndim": (52, "<B"),
    "rows": (60, "<I"),
}


class StreamContract(SourceContract):
    spec = TINY

    def frame_message(self, series, index):
        return frame_message(self.spec, series, index)

    def end_message(self, series, n_frames):
        return [encode_end(series, n_frames)]

    def malformed(self, series):
        wrong = {
            "magic": b"L2SG",
            "version": 2,
            "kind": 2,
            "index": 1 << 63,
            "modules": self.spec.all_modules + 1,
            "timestamp": float("nan"),
            "nbytes": self.spec.nbytes + 2,
            "dtype": b"<i2\0",
            "ndim": 2,
            "rows": 3,
        }
        messages = {field: frame_message(self.spec, series, 0, **{field: value}) for field, value in wrong.items()}
        return messages | {
            "no parts": [],
            "end with pixels": [encode_end(series, 1), b"pixels"],
            "index of an end": [encode_end(series, 1 << 60)],
        }


class TestSimulatorSource(StreamContract):
    def make_source(self, series):
        return SimulatorSource(SimulatorParams(), self.spec, series)


class TestReaderSource(StreamContract):
    spec = jungfrau(1, gap_pixels=False)

    def make_source(self, series):
        return ReaderSource(ReaderParams(), self.spec, series)


def test_header_is_as_documented():
    header = encode_frame_header(TINY, 0x0102, 0x0304, 1, 2.5)
    assert header == (
        b"L2SF\x01\x00\x00\x00"
        b"\x02\x01\x00\x00\x00\x00\x00\x00"
        b"\x04\x03\x00\x00\x00\x00\x00\x00"
        b"\x01\x00\x00\x00\x00\x00\x00\x00"
        b"\x00\x00\x00\x00\x00\x00\x04\x40"
        b"\x40\x00\x00\x00\x00\x00\x00\x00"
        b"<u2\x00\x03\x00\x00\x00"
        b"\x01\x00\x00\x00\x04\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00"
    )


def test_errors_tell_what_was_got_and_expected():
    source = SimulatorSource(SimulatorParams(), TINY, 7)
    header, pixels = frame_message(TINY, 7, 0)
    with pytest.raises(ProtocolError, match="bytes of a frame: got 62, expected 64"):
        source.receive([memoryview(header), memoryview(pixels[:-2])])
    with pytest.raises(ProtocolError, match="version 9, expected b'L2SF' version 1"):
        source.receive([memoryview(part) for part in frame_message(TINY, 7, 0, version=9)])


parts = st.lists(st.one_of(st.binary(max_size=100), st.binary(min_size=HEADER.size, max_size=HEADER.size)), max_size=3)
headers = st.builds(
    HEADER.pack,
    st.sampled_from([b"L2SF", b"L2SG"]),
    st.integers(0, 2),
    st.integers(0, 3),
    st.integers(6, 8),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.floats(),
    st.sampled_from([0, 64, 2**64 - 1]),
    st.sampled_from([b"<u2", b"<f4", b"\xff\xff\xff\xff"]),
    st.integers(0, 255),
    *[st.integers(0, 2**32 - 1) for _ in range(4)],
)
nearly = st.builds(lambda header, pixels: [header, *pixels], headers, st.lists(st.binary(max_size=70), max_size=2))


@given(st.one_of(parts, nearly))
def test_any_bytes_give_items_or_a_protocol_error(message):
    source = SimulatorSource(SimulatorParams(), TINY, 7)
    try:
        items = source.receive([memoryview(part) for part in message])
    except ProtocolError:
        return
    assert all(isinstance(item, Frame | SeriesEnd | Stranger) for item in items)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_encoded_is_parsed_back(series, index, timestamp):
    source = SimulatorSource(SimulatorParams(), TINY, series)
    header = encode_frame_header(TINY, series, index, 1, timestamp)
    (frame,) = source.receive([memoryview(header), memoryview(bytes(TINY.nbytes))])
    assert (frame.index, frame.modules, frame.timestamp) == (index, 1, timestamp)
