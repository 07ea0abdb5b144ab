"""Stream v1: a real series, the contract of all sources, and parts that differ from sender to sender."""

import contextlib
import json

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.eiger2 import packets
from lima2_receivers.detectors.eiger2.events import StreamEnd, StreamImage, StreamStart
from lima2_receivers.detectors.eiger2.params import Eiger2Params
from lima2_receivers.detectors.eiger2.source import Eiger2Source
from lima2_receivers.detectors.eiger2.stream1 import parse_stream1
from lima2_receivers.errors import ProtocolError
from lima2_receivers.packing import Packing, unpack
from lima2_receivers.source import PackedFrame, Remark, SeriesEnd
from lima2_receivers.testing import SourceContract


def lend(parts):
    return [memoryview(part) for part in parts]


def pixels(index, dtype="<u2"):
    return np.random.default_rng(index).poisson(index + 2, (31, 45)).astype(dtype)


@pytest.mark.parametrize("packing", [Packing.BSLZ4, Packing.NONE])
@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4"])
class TestStream1(SourceContract):
    @pytest.fixture(autouse=True)
    def choose(self, packing, dtype):
        self.packing, self.dtype = packing, dtype

    def make_source(self, series):
        return Eiger2Source(Eiger2Params(), FrameSpec((31, 45), self.dtype), series)

    def frame_message(self, series, index):
        return packets.image1(series, index, pixels(index, self.dtype), self.packing)

    def frame_pixels(self, series, index):
        return pixels(index, self.dtype).tobytes()

    def end_message(self, series, n_frames):
        return packets.end1(series)

    def test_truncated_and_lengthened_messages_are_refused(self):
        """What the pixels need may miss no byte; parts behind the pixels are the sender's own."""
        source = self.make_source(7)
        good = self.frame_message(7, 0)
        for position in range(3):
            for cut in (0, 1, len(good[position]) // 2, len(good[position]) - 1):
                with pytest.raises(ProtocolError, match="expected"):
                    source.receive(lend([*good[:position], good[position][:cut], *good[position + 1 :]]))
            with pytest.raises(ProtocolError, match="expected"):
                source.receive(lend([*good[:position], good[position] + b"\0", *good[position + 1 :]]))
        for missing in range(3):
            with pytest.raises(ProtocolError, match="expected"):
                source.receive(lend(good[:missing] + good[missing + 1 :]))
        for parts in (good[:3], [*good, b"an appendix"]):
            frame, *said = source.receive(lend(parts))
            assert [cbor2.loads(remark.data)["user_data"] for remark in said] == [parts[4:]] * (len(parts) > 4)
            assert isinstance(frame, PackedFrame)

    def malformed(self, series):
        head, shape, data, *rest = self.frame_message(series, 0)

        def changed(**fields):
            return [head, json.dumps({**json.loads(shape), **fields}).encode(), data, *rest]

        return {
            "another size": changed(size=len(data) + 1),
            "another encoding": changed(encoding="jpeg"),
            "the encoding of another type": changed(encoding="bs24-lz4<"),
            "another type": changed(type="complex64"),
            "another shape": changed(shape=[45, 30]),
            "rows before columns": changed(shape=[31, 45]),
            "three dimensions": changed(shape=[1, 45, 31]),
            "a negative frame": [json.dumps({**json.loads(head), "frame": -1}).encode(), shape, data],
            "another htype": [json.dumps({"htype": "dimage-9.0", "series": series}).encode(), shape, data],
            "no JSON": [b"{", shape, data],
        }


def test_a_real_series(recorded):
    folder = recorded("eiger4M_v1_stream")

    def message(*numbers):
        return lend([(folder / f"streamfile_{number}").read_bytes() for number in numbers])

    for kind, parts, event in (
        (StreamStart, message(1, 2, 3), parse_stream1(message(1, 2, 3))),
        (StreamEnd, message(22), parse_stream1(message(22))),
    ):
        assert isinstance(event, kind)
        assert event.series == 6
        assert cbor2.loads(event.content)["parts"] == [bytes(part) for part in parts]
    images = [parse_stream1(message(*range(first, first + 4))) for first in (10, 14, 18)]
    source = Eiger2Source(Eiger2Params(), FrameSpec((2167, 2070), "<u2"), 6)
    for index, image in enumerate(images):
        assert isinstance(image, StreamImage)
        assert (image.series, image.index, image.shape, image.dtype) == (6, index, (2167, 2070), "<u2")
        found = np.empty(image.shape, image.dtype)
        unpack(image.channels[0], found)
        assert (found == 65535).any()
        (frame,) = source.receive(message(*range(10 + 4 * index, 14 + 4 * index)))
        assert frame.index == index
    assert source.receive(message(22))[1:] == [SeriesEnd(None)]
    assert [type(item) for item in source.receive(message(1, 2, 3))] == [Remark]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_bytes_are_parsed_or_refused(data):
    parts = [bytearray(part) for part in packets.image1(3, 1, pixels(1), Packing.NONE)]
    part = parts[data.draw(st.integers(0, 1))]
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, max(0, len(part) - 1)))
        part[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    with contextlib.suppress(ProtocolError):
        Eiger2Source(Eiger2Params(), FrameSpec((31, 45), "<u2"), 3).receive(lend(parts))
