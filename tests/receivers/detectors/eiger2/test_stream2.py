"""Stream2: real messages, the contract of all sources, and messages that mean harm."""

import contextlib
from datetime import UTC, datetime

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
from lima2_receivers.detectors.eiger2.stream2 import parse_stream2
from lima2_receivers.errors import ProtocolError
from lima2_receivers.packing import Packing, unpack
from lima2_receivers.source import PackedFrame, Remark, SeriesEnd, Stranger
from lima2_receivers.testing import SourceContract

WHEN = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)
CHANNELS = ("threshold_1", "threshold_2")


def pixels(index, shape=(31, 45), dtype="<u2", seed=0):
    return np.random.default_rng(1000 * seed + index).poisson(index + 2, shape).astype(dtype)


@pytest.mark.parametrize("packing", [Packing.BSLZ4, Packing.NONE])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", ["|u1", "<u2", "<u4"])
class TestStream2(SourceContract):
    @pytest.fixture(autouse=True)
    def choose(self, packing, channels, dtype):
        self.packing, self.channels, self.dtype = packing, CHANNELS[:channels], dtype

    def images(self, index):
        return {name: pixels(index, dtype=self.dtype, seed=at) for at, name in enumerate(self.channels)}

    def make_source(self, series):
        shape = (31, 45) if len(self.channels) == 1 else (2, 31, 45)
        return Eiger2Source(Eiger2Params(), FrameSpec(shape, self.dtype), series)

    def frame_message(self, series, index):
        return [packets.image2(series, index, self.images(index), self.packing, WHEN)]

    def frame_pixels(self, series, index):
        return b"".join(image.tobytes() for image in self.images(index).values())

    def end_message(self, series, n_frames):
        return [packets.end2(series)]

    def malformed(self, series):
        image = pixels(0, dtype=self.dtype)
        named = dict.fromkeys(self.channels, image)
        small = dict.fromkeys(self.channels, image[:-1])
        other = {name: image.astype("<u2" if self.dtype == "<u4" else "<u4") for name in self.channels}
        more = {**named, "threshold_9": image}
        return {
            name: [packets.image2(series, 0, images, self.packing, WHEN)]
            for name, images in {"rows": small, "type": other, "channels": more, "none": {}}.items()
        } | {
            "not a map": [cbor2.dumps([1, 2])],
            "no type": [cbor2.dumps({"series_id": series})],
            "another type": [cbor2.dumps({"type": "stop", "series_id": series})],
            "no series": [cbor2.dumps({"type": "end"})],
            "series of text": [cbor2.dumps({"type": "end", "series_id": "7"})],
            "negative image": [cbor2.dumps({"type": "image", "series_id": series, "image_id": -1, "data": {}})],
        }


def test_a_real_series(recorded):
    folder = recorded("eiger2_16M_stream2")
    start, image, end = (
        parse_stream2(memoryview((folder / f"{n}.cbor").read_bytes())) for n in ("start", "image", "end")
    )
    assert (type(start), start.series, type(end), end.series) == (StreamStart, 15614, StreamEnd, 15614)
    assert start.content == (folder / "start.cbor").read_bytes()
    assert isinstance(image, StreamImage)
    assert (image.series, image.index, image.shape, image.dtype) == (15614, 0, (4362, 4148), "<u2")
    assert datetime.fromtimestamp(image.timestamp, UTC).isoformat() == "2023-10-03T15:47:49.434000+00:00"
    found = np.empty(image.shape, image.dtype)
    unpack(image.channels[0], found)
    assert (found == 65535).mean() > 0.05  # gaps of the modules
    counts = found[found < 65534]
    assert 0 < counts.mean() < 1
    # the same image as Stream v1 has it, from the same source
    blob = (folder / "frame_sample_v1_bslz4").read_bytes()
    assert blob[:12] == bytes(image.channels[0].data[:12])


def test_frames_carry_when_their_exposure_began():
    source = Eiger2Source(Eiger2Params(), FrameSpec((31, 45), "<u2"), 3)
    message = packets.image2(3, 8, {"threshold_1": pixels(8)}, Packing.BSLZ4, WHEN, begin=1.5)
    (frame,) = source.receive([memoryview(message)])
    assert isinstance(frame, PackedFrame)
    assert (frame.index, frame.timestamp) == (8, WHEN.timestamp() + 1.5)


def test_start_and_end_of_a_series():
    source = Eiger2Source(Eiger2Params(), FrameSpec((31, 45), "<u2"), 3)
    start, end = packets.start2(3, pixels(0), CHANNELS, 10, WHEN), packets.end2(3)
    assert source.receive([memoryview(start)]) == [Remark(start)]
    assert source.receive([memoryview(end)]) == [Remark(end), SeriesEnd(None)]


def test_what_users_say_of_an_image_is_kept():
    source = Eiger2Source(Eiger2Params(), FrameSpec((2, 31, 45), "<u2"), 3)
    images = dict.fromkeys(CHANNELS, pixels(0))
    message = packets.image2(3, 7, images, Packing.BSLZ4, WHEN, appendix="a note")
    frame, remark = source.receive([memoryview(message)])
    assert frame.index == 7
    said = cbor2.loads(remark.data)
    assert said == {"type": "image", "series_id": 3, "image_id": 7, "user_data": "a note"}
    too_long = packets.image2(3, 7, images, Packing.BSLZ4, WHEN, appendix="x" * 2**21)
    with pytest.raises(ProtocolError, match=r"user_data: got .* expected 1048576 at most"):
        source.receive([memoryview(too_long)])


def laughing(depth: int, width: int) -> bytes:
    """Return a list of lists whose items are all one list, by tags of shared values: width ** depth items."""

    def build(number: int, depth: int) -> bytes:
        if not depth:
            return b"\xd8\x1c\x80"
        reference = b"\xd8\x1d" + cbor2.dumps(number + 1)
        return b"\xd8\x1c" + bytes([0x80 + width]) + build(number + 1, depth - 1) + reference * (width - 1)

    return build(0, depth)


def with_user_data(item: bytes) -> bytes:
    message = image_message()
    return bytes([message[0] + 1]) + message[1:] + cbor2.dumps("user_data") + item


def image_message(series=3, unique="A", names=("threshold_1",), index=0):
    channel = packets._channel(pixels(0), Packing.NONE)
    content = {"type": "image", "series_id": series, "series_unique_id": unique, "image_id": index}
    return cbor2.dumps({**content, "data": dict.fromkeys(names, channel)})


HOSTILE = {
    "a map of names that collide": b"\xba"
    + (50_000).to_bytes(4, "big")
    + b"".join(cbor2.dumps(k * (2**61 - 1) % 2**64) + b"\0" for k in range(1, 50_001)),
    "a list that is in itself ten billion times": with_user_data(laughing(10, 10)),
    "a text that is repeated by its number": with_user_data(b"\xd9\x01\x00\x82\x64abcd\xd8\x19\x00"),
    "deep nesting": b"\x81" * 100_000 + b"\x00",
    "a string of 2^63 bytes": b"\x5b\x7f" + b"\xff" * 7,
    "an array of 2^63 items": b"\x9b\x7f" + b"\xff" * 7,
    "a map of 2^63 items": b"\xbb\x7f" + b"\xff" * 7,
    "an endless array": b"\x9f" + b"\x00" * 50,
    "an endless string": b"\x5f" + b"\x41a" * 50,
    "two messages": cbor2.dumps({"type": "end", "series_id": 1}) * 2,
    "a shared value in itself": b"\xd8\x1c\x81\xd8\x1d\x00",
    "a huge number": cbor2.dumps({"type": "end", "series_id": 10**5000}),
    "nothing": b"",
    "a shape of negative size": cbor2.dumps(
        {"type": "image", "series_id": 1, "image_id": 0, "data": {"a": cbor2.CBORTag(40, [[-1, 5], b""])}}
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_messages_are_refused_at_once(what):
    with pytest.raises(ProtocolError, match="expected"):
        parse_stream2(memoryview(HOSTILE[what]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_parsed_or_refused(data):
    message = bytearray(packets.image2(3, 1, {"threshold_1": pixels(1, (3, 4))}, Packing.NONE, WHEN))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
        if not message:
            break
    source = Eiger2Source(Eiger2Params(), FrameSpec((3, 4), "<u2"), 3)
    with contextlib.suppress(ProtocolError):
        source.receive([memoryview(message)])


@pytest.mark.parametrize("name", [10**5000, 5, None, True, 1.5, (1, 2)], ids=lambda name: type(name).__name__)
def test_channels_without_a_name_are_refused(name):
    with pytest.raises(ProtocolError, match="expected"):
        parse_stream2(memoryview(image_message(names=(name,))))


@pytest.mark.parametrize("more", [b"\x5a", b"\x44abc", b"\x00", b"\x5b\x7f" + b"\xff" * 7])
def test_anything_behind_a_message_is_refused(more):
    with pytest.raises(ProtocolError, match="where the message ends"):
        parse_stream2(memoryview(image_message() + more))


def test_a_time_that_is_none_is_not_told():
    for start_time in ([2**62, 1e-300], [1, 0], [float("nan"), 1]):
        message = dict(cbor2.loads(image_message())) | {"series_date": WHEN, "start_time": start_time}
        assert np.isnan(parse_stream2(memoryview(cbor2.dumps(message))).timestamp)


def test_what_users_say_is_kept_whatever_it_is():
    for said in (b"x" * 100_000, {"a": b"y" * 5000}, cbor2.CBORTag(35, "a|b"), [1.5, None, "text"]):
        source = Eiger2Source(Eiger2Params(), FrameSpec((31, 45), "<u2"), 3)
        _, remark = source.receive([memoryview(with_user_data(cbor2.dumps(said)))])
        assert cbor2.dumps(said) in remark.data


def test_channels_come_in_one_order():
    images = {
        name: np.full((31, 45), number, "<u2")
        for number, name in enumerate(("difference", "threshold_2", "threshold_1"))
    }
    event = parse_stream2(memoryview(packets.image2(3, 0, images, Packing.NONE, WHEN)))
    assert [np.frombuffer(channel.data, "<u2")[0] for channel in event.channels] == [2, 1, 0]


def test_a_detector_that_was_restarted_counts_anew():
    """Its first series has the number of one whose stragglers still come."""
    source = Eiger2Source(Eiger2Params(), FrameSpec((31, 45), "<u2"), 3)
    start = cbor2.dumps({"type": "start", "series_id": 3, "series_unique_id": "B"})
    assert source.receive([memoryview(image_message(unique="A"))])[0].index == 0
    assert source.receive([memoryview(start)]) == [Remark(start)]
    assert source.receive([memoryview(image_message(unique="A", index=1))]) == [Stranger(3)]
    assert source.receive([memoryview(image_message(unique="B", index=1))])[0].index == 1
