"""Captures played: the frames are those that the detector's own source makes of the messages."""

import contextlib
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_processing.frame import FrameSpec
from lima2_receivers.capture.format import CaptureHead, CaptureWriter
from lima2_receivers.detectors.eiger2 import packets
from lima2_receivers.detectors.jungfrau.packets import packets_of
from lima2_receivers.detectors.jungfrau.params import JungfrauSettings, frame_spec
from lima2_receivers.detectors.reader.params import ReaderSettings
from lima2_receivers.detectors.reader.supply import open_stack, read_supply
from lima2_receivers.detectors.simulator.params import SimulatorSettings
from lima2_receivers.detectors.simulator.params import frame_spec as simulator_spec
from lima2_receivers.detectors.stream import encode_end, encode_frame_header
from lima2_receivers.errors import ConfigError, DetectorError
from lima2_receivers.packing import Packing

WHEN = datetime(2026, 11, 23, tzinfo=UTC)
SETTINGS = {
    "simulator": {"control": "ipc:///c", "folder": "/f", "size": "tiny"},
    "reader": {"control": "ipc:///c", "folder": "/f", "recording": "/r"},
    "eiger2": {"url": "http://eiger"},
}


@pytest.fixture
def write(tmp_path):
    """Write a capture: ``write("eiger2", [[b"message"], ...])``; its path comes back."""

    def write(plugin, records, name="run.capture", **settings):
        path = tmp_path / name
        head = CaptureHead(plugin, settings or SETTINGS[plugin], "detector", 0, "ipc:///d", 0.0)
        writer = CaptureWriter(path, head)
        for record in records:
            parts, port = record if isinstance(record, tuple) else (record, 0)
            writer.write(parts, 0.0, port)
        writer.close()
        return path

    return write


def open_file(path, **settings):
    return open_stack(ReaderSettings("unused", "/unused", str(path), **settings))


def frames_of(stack):
    found = [stack.read(index) for index in range(len(stack))]
    stack.close()
    return found


def images(count=5, shape=(24, 40), dtype="<u2"):
    return [np.random.default_rng(at).poisson(3, shape).astype(dtype) for at in range(count)]


def stream_frame(spec, series, index, image):
    return [encode_frame_header(spec, series, index, spec.all_modules, 0.0), image.tobytes()]


def test_messages_of_the_first_series_are_played_by_their_numbers(write, caplog):
    spec = FrameSpec((24, 40), "<u2")
    sent = images(6)
    order = (2, 0, 3, 0, 5)  # of a receiver that gets some of the frames, in any order, one of them twice
    records = [[b"rubbish"], *(stream_frame(spec, 7, index, sent[index]) for index in order), [encode_end(7, 6)]]
    records.append(stream_frame(spec, 8, 0, sent[1]))
    stack = open_file(write("reader", records))
    assert stack.spec == spec
    assert "2 messages are not of series 7" in caplog.text
    np.testing.assert_array_equal(frames_of(stack), [sent[index] for index in (0, 2, 3, 5)])


def test_the_modules_of_the_simulator_lie_as_it_was_configured(write):
    spec = simulator_spec(SimulatorSettings(**{**SETTINGS["simulator"], "size": "tiny"}))
    image = np.arange(64 * 128, dtype="<u2").reshape(spec.shape)
    stack = open_file(write("simulator", [stream_frame(spec, 1, 0, image)]))
    assert stack.spec == spec
    np.testing.assert_array_equal(frames_of(stack), [image])
    other = FrameSpec((8, 8), "<f4")
    blank = stream_frame(other, 1, 0, np.zeros(other.shape, other.dtype))
    stack = open_file(write("simulator", [blank], name="other.capture"))
    assert stack.spec == other
    stack.close()


@pytest.mark.parametrize("packing", [Packing.BSLZ4, Packing.NONE])
@pytest.mark.parametrize("channels", [("threshold_1",), ("threshold_1", "threshold_2")])
def test_packed_frames_are_unpacked(write, packing, channels):
    sent = images(4, (len(channels), 24, 40), "<u4")
    records = [[packets.start2(3, sent[0][0], channels, 4, WHEN)]]
    records += [
        [packets.image2(3, at, dict(zip(channels, image, strict=True)), packing, WHEN)] for at, image in enumerate(sent)
    ]
    for plugin in ("eiger2", "jungfraujoch"):
        stack = open_file(write(plugin, [*records, [packets.end2(3)]], name=plugin, url="http://detector"))
        assert stack.spec.shape == ((24, 40) if len(channels) == 1 else (2, 24, 40))
        np.testing.assert_array_equal(frames_of(stack), [image.reshape(stack.spec.shape) for image in sent])


def test_real_stream_v1_is_played(write, recorded):
    folder = recorded("eiger4M_v1_stream")

    def part(number):
        return (folder / f"streamfile_{number}").read_bytes()

    records = [[part(number) for number in range(first, first + 4)] for first in (10, 14, 18)]
    stack = open_file(write("eiger2", records))
    assert (stack.spec.shape, len(stack)) == ((2167, 2070), 3)
    first, second, third = frames_of(stack)
    assert 0 < (first != second).mean() < 0.5
    assert (second != third).any()


def test_real_stream2_is_played(write, recorded):
    folder = recorded("eiger2_16M_stream2")
    records = [[(folder / f"{name}.cbor").read_bytes()] for name in ("start", "image", "end")]
    stack = open_file(write("eiger2", records))
    assert (stack.spec.shape, len(stack)) == ((4362, 4148), 1)
    (image,) = frames_of(stack)
    assert image.any()


@pytest.mark.parametrize(
    ("modules", "interfaces", "rows"), [((1, 1), 1, 512), ((1, 1), 2, 64), ((2, 1), 2, 8), ((2, 2), 1, 256)]
)
@pytest.mark.parametrize("batch", [1, 7])
def test_packets_are_put_together(write, modules, interfaces, rows, batch):
    """In any order, some of them twice, among others; pixels that did not come have all bits set."""
    settings = {"control": "ipc:///c", "folder": "/f", "modules": list(modules), "interfaces": interfaces}
    spec = frame_spec(JungfrauSettings(control="ipc:///c", folder="/f", modules=modules, interfaces=interfaces), rows)
    sent = images(3, spec.shape)
    every = [
        (frame, port, header + bytes(data))
        for frame, image in enumerate(sent)
        for port, header, data in packets_of(image, 500 + frame, modules[1], interfaces)
    ]
    random = np.random.default_rng(0)
    ordered = [every[at] for at in random.permutation(len(every))]
    lost = next(at for at, (frame, _, _) in enumerate(ordered) if frame == 1)
    kept = ordered[:lost] + ordered[lost + 1 :] + ordered[:5]
    records = [([b"too short"], 0)]
    for port in range(modules[0] * modules[1] * interfaces):
        datagrams = [datagram for _, at, datagram in kept if at == port]
        records += [(datagrams[first : first + batch], port) for first in range(0, len(datagrams), batch)]
    stack = open_file(write("jungfrau", records, **settings))
    assert stack.spec == spec
    found = frames_of(stack)
    np.testing.assert_array_equal(found[0], sent[0])
    np.testing.assert_array_equal(found[2], sent[2])
    missing = found[1] == 0xFFFF
    if ordered[lost] not in ordered[:5]:
        assert missing.sum() == 4096
    np.testing.assert_array_equal(found[1][~missing], sent[1][~missing])


def test_a_part_of_a_capture_is_played(write):
    spec = FrameSpec((24, 40), "<u2")
    sent = images(9)
    path = write("reader", [stream_frame(spec, 7, index, image) for index, image in enumerate(sent)])
    supply = read_supply(ReaderSettings("unused", "/unused", str(path), start=1, stride=3))
    np.testing.assert_array_equal(supply.frames[:], sent[1::3])
    supply.close()


def test_a_capture_that_is_cut_off_is_played_up_to_there(write, caplog):
    spec = FrameSpec((24, 40), "<u2")
    path = write("reader", [stream_frame(spec, 7, index, image) for index, image in enumerate(images())])
    path.write_bytes(path.read_bytes()[:-1])
    stack = open_file(path)
    assert len(stack) == 4
    assert "record 4, at byte" in caplog.text
    stack.close()


@pytest.mark.parametrize(
    ("plugin", "records", "words"),
    [
        ("simulator", [], "got 0 records, expected a frame of detector plugin 'simulator' among them"),
        ("eiger2", [[b"rubbish"], [packets.end2(3)]], "got 2 records, expected a frame"),
        ("gone", [], "no lima2.detectors plugin 'gone': installed are"),
    ],
)
def test_a_capture_without_frames_is_refused(write, plugin, records, words):
    settings = {"url": "u"} if plugin == "gone" else {}
    with pytest.raises(ConfigError, match=words):
        open_file(write(plugin, records, **settings))


@pytest.mark.parametrize("records", [[], [([b"too short"], 0)], [([], 0)], [([b"\0" * 8240], 0)]])
def test_a_capture_without_packets_is_refused(write, records):
    with pytest.raises(ConfigError, match="expected a frame of detector plugin 'jungfrau'"):
        open_file(write("jungfrau", records, control="ipc:///c", folder="/f"))


@given(st.data())
def test_any_bytes_give_frames_or_an_error(tmp_path_factory, data):
    """Whatever was captured: noise, real messages, and messages that were spoilt."""
    plugin = data.draw(st.sampled_from(["reader", "simulator", "eiger2", "jungfrau"]))
    settings = SETTINGS.get(plugin, {"control": "ipc:///c", "folder": "/f", "modules": [1, 2]})
    real = [real_message(plugin, index) for index in range(3)]
    spoilt = st.tuples(st.sampled_from(real), st.integers(0, 100), st.integers(1, 255)).map(spoil)
    noise = st.lists(st.binary(max_size=100) | st.binary(min_size=8240, max_size=8240), max_size=3)
    records = data.draw(st.lists(st.sampled_from(real) | spoilt | noise, max_size=5))
    path = tmp_path_factory.mktemp("any") / "run.capture"
    writer = CaptureWriter(path, CaptureHead(plugin, settings, "detector", 0, "ipc:///d", 0.0))
    for record in records:
        writer.write(record, 0.0)
    writer.close()
    try:
        stack = open_file(path)
    except ConfigError as error:
        assert "expected a frame" in str(error)  # noqa: PT017
        return
    for index in range(len(stack)):
        with contextlib.suppress(DetectorError):  # pixels that do not unpack
            assert stack.read(index).shape == stack.spec.shape
    stack.close()


def real_message(plugin, index):
    match plugin:
        case "eiger2":
            return [packets.image2(3, index, {"threshold_1": images(3)[index]}, Packing.BSLZ4, WHEN)]
        case "jungfrau":
            frame = np.full((2, 8, 1024), index, "<u2")
            return [header + bytes(pixels) for _, header, pixels in packets_of(frame, 7 + index, 2)]
    return stream_frame(FrameSpec((24, 40), "<u2"), 7, index, images(3)[index])


def spoil(drawn):
    """A message with one byte changed, near the beginning of its first part."""
    message, at, value = drawn
    first = bytearray(message[0])
    first[at % len(first)] ^= value
    return [bytes(first), *message[1:]]


@pytest.mark.parametrize("dtype", [b"<01\0", b"|O\0\0", b"i,f\0", b"<M8\0", b"(2)i", b"|S2\0", b"2i2\0"])
def test_pixels_that_are_no_numbers_are_refused(write, dtype):
    header, data = stream_frame(FrameSpec((2, 4), "<u2"), 7, 0, np.zeros((2, 4), "<u2"))
    spoilt = header.replace(b"<u2\0", dtype)
    assert spoilt != header
    with pytest.raises(ConfigError, match="expected a frame of detector plugin"):
        open_file(write("reader", [[spoilt, data]]))


def test_settings_that_do_not_fit_are_refused(write):
    with pytest.raises(ConfigError, match=r"settings of detector plugin eiger2: .*`url`"):
        open_file(write("eiger2", [], api="1"))
