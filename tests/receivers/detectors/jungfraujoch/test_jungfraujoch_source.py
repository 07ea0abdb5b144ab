"""A Jungfraujoch's stream: the contract of all sources, with signed pixels and messages of its own."""

from datetime import UTC, datetime

import cbor2
import numpy as np
import pytest

from lima2_processing.frame import FrameSpec
from lima2_receivers.detectors.eiger2 import packets
from lima2_receivers.detectors.jungfraujoch.params import JungfraujochParams
from lima2_receivers.detectors.jungfraujoch.source import JungfraujochSource
from lima2_receivers.errors import ProtocolError
from lima2_receivers.packing import Packing
from lima2_receivers.source import Remark, SeriesEnd
from lima2_receivers.testing import SourceContract

WHEN = datetime(2026, 11, 23, tzinfo=UTC)


def pixels(index, dtype):
    return np.random.default_rng(index).integers(-5 if dtype[1] == "i" else 0, 100, (31, 45)).astype(dtype)


def extended(message, **fields):
    """A message with fields that Stream2 does not have, and without some that it has."""
    content = {**cbor2.loads(message), "magic_number": 7, "user_data": {"a": [1, 2]}, **fields}
    for name in ("series_unique_id", "series_date"):
        content.pop(name, None)
    return cbor2.dumps(content)


@pytest.mark.parametrize("packing", [Packing.BSLZ4, Packing.NONE])
@pytest.mark.parametrize("dtype", ["<u2", "<i2", "<u4", "<i4"])
class TestJungfraujoch(SourceContract):
    @pytest.fixture(autouse=True)
    def choose(self, packing, dtype):
        self.packing, self.dtype = packing, dtype

    def make_source(self, series):
        return JungfraujochSource(JungfraujochParams(), FrameSpec((31, 45), self.dtype), series)

    def frame_message(self, series, index):
        image = {"default": pixels(index, self.dtype)}
        return [extended(packets.image2(series, index, image, self.packing, WHEN), spot_count=3)]

    def frame_pixels(self, series, index):
        return pixels(index, self.dtype).tobytes()

    def end_message(self, series, n_frames):
        return [extended(packets.end2(series), images_collected=n_frames)]

    def malformed(self, series):
        image = pixels(0, self.dtype)
        other = {"<u2": "<i2", "<i2": "<u2", "<u4": "<i4", "<i4": "<u4"}[self.dtype]
        return {
            "rows": [packets.image2(series, 0, {"default": image[:-1]}, self.packing, WHEN)],
            "sign": [packets.image2(series, 0, {"default": image.astype(other)}, self.packing, WHEN)],
            "not a map": [cbor2.dumps([1, 2])],
            "another type": [cbor2.dumps({"type": "stop", "series_id": series})],
            "a type of no text": [cbor2.dumps({"type": [1], "series_id": series})],
            "no series": [cbor2.dumps({"type": "end"})],
        }


def test_start_end_and_messages_of_its_own():
    source = JungfraujochSource(JungfraujochParams(), FrameSpec((31, 45), "<i2"), 3)
    start = extended(packets.start2(3, pixels(0, "<i2"), ("default",), 10, WHEN), error_value=-32768)
    assert source.receive([memoryview(start)]) == [Remark(start)]
    assert JungfraujochSource.begins([memoryview(start)])
    for kind in ("calibration", "metadata"):
        assert source.receive([memoryview(cbor2.dumps({"type": kind, "data": {}}))]) == []
    end = packets.end2(3)
    assert source.receive([memoryview(end)]) == [Remark(end), SeriesEnd(None)]
    assert not JungfraujochSource.begins([memoryview(end)])


def test_zstandard_is_refused_by_name():
    image = cbor2.CBORTag(77, cbor2.CBORTag(packets.PACKED, ["bszstd", 2, b"123"]))
    content = {"type": "image", "series_id": 3, "image_id": 0, "data": {"a": cbor2.CBORTag(40, [[31, 45], image])}}
    source = JungfraujochSource(JungfraujochParams(), FrameSpec((31, 45), "<i2"), 3)
    with pytest.raises(ProtocolError, match="got 'bszstd', expected one of bslz4"):
        source.receive([memoryview(cbor2.dumps(content))])
