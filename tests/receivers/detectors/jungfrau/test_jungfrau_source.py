"""Where a Jungfrau's packets belong, for every way of reading it out."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.detectors.jungfrau.packets import HEADER, packets_of
from lima2_receivers.detectors.jungfrau.params import JungfrauParams, JungfrauSettings, frame_spec
from lima2_receivers.detectors.jungfrau.source import JungfrauSource
from lima2_receivers.source import STRANGE
from lima2_receivers.testing_packets import PacketSourceContract, _arrays

LAYOUT = struct.Struct("<QIIQQHHHHIHBB")  # of the header, from the protocol's description


def settings(modules=(1, 1), interfaces=1):
    return JungfrauSettings(control="ipc:///c", folder="/f", modules=modules, interfaces=interfaces)


class JungfrauContract(PacketSourceContract):
    modules = (1, 1)
    interfaces = 1
    read_rows = 512

    def spec(self):
        return frame_spec(settings(self.modules, self.interfaces), self.read_rows)

    def make_source(self, series):
        params = JungfrauParams(self.read_rows)
        return JungfrauSource(settings(self.modules, self.interfaces), params, self.spec(), series)

    def frame(self, series, index):
        random = np.random.default_rng((series + index) % 2**32)
        return random.integers(0, 2**16, self.spec().shape, np.uint16)

    def frame_pixels(self, series, index):
        return self.frame(series, index).tobytes()

    def packets(self, series, index):
        frame, number = self.frame(series, index), (series + index) % 2**64
        return [h + bytes(p) for _, h, p in packets_of(frame, number, self.modules[1], self.interfaces)]

    def malformed(self, series):
        good = self.packets(series, 0)[0]
        per_port = 128 // self.interfaces

        def changed(**fields):
            header = np.frombuffer(good[:48], HEADER).copy()
            for name, value in fields.items():
                header[name] = value
            return header.tobytes() + good[48:]

        return {
            "size": good[:-1],
            "no bytes": b"",
            "type": changed(type=1),
            "version": changed(version=1),
            "row": changed(row=self.modules[0] * self.interfaces),
            "column": changed(column=self.modules[1]),
            "packet": changed(packet=per_port),
            "huge packet": changed(packet=2**32 - 1),
        }


class TestOneModule(JungfrauContract):
    pass


class TestTwoInterfaces(JungfrauContract):
    interfaces = 2


class TestModules(JungfrauContract):
    modules = (2, 2)
    interfaces = 2
    read_rows = 32


class TestFourMegapixels(JungfrauContract):
    modules = (4, 2)
    read_rows = 8


def locate(source, **fields):
    header = np.zeros((), HEADER)
    for name, value in {"type": 3, "version": 2, **fields}.items():
        header[name] = value
    packets, sizes = _arrays([header.tobytes() + bytes(8192)], 8240)
    each = source._locate_each(packets, sizes)
    if run := source._locate_run(packets, sizes):
        assert (run.frame, run.first, each.refusals) == (each.frames[0], each.places[0], {})
    else:
        assert each.refusals  # a single packet is a run, unless something is wrong
    return int(each.frames[0]), int(each.places[0]), "".join(each.refusals)


def source(modules=(1, 1), interfaces=1, read_rows=512, series=0):
    where = settings(modules, interfaces)
    return JungfrauSource(where, JungfrauParams(read_rows), frame_spec(where, read_rows), series)


def test_the_header_is_laid_out_as_described():
    assert HEADER.itemsize == LAYOUT.size == 48
    values = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 3, 2)
    header = np.frombuffer(LAYOUT.pack(*values), HEADER)[0]
    assert tuple(header.tolist()) == values
    assert [HEADER.fields[name][1] for name in ("frame", "packet", "row", "column", "daq", "type")] == [
        0, 12, 34, 36, 40, 46,
    ]  # fmt: skip


def test_packets_are_as_described():
    frame = np.arange(512 * 1024, dtype=np.uint32).astype(np.uint16).reshape(1, 512, 1024)
    packets = list(packets_of(frame, 77))
    assert len(packets) == 128
    for number, (port, header, pixels) in enumerate(packets):
        fields = LAYOUT.unpack(header)
        assert (port, fields[0], fields[2], fields[11:], len(header) + len(pixels)) == (0, 77, number, (3, 2), 8240)
        assert bytes(pixels) == frame[0, 4 * number : 4 * number + 4].tobytes()


def test_two_interfaces_carry_a_half_each():
    packets = list(packets_of(np.zeros((2, 512, 1024), np.uint16), 1, 1, 2))
    found = [(port, *LAYOUT.unpack(header)[2::4][:1], LAYOUT.unpack(header)[6]) for port, header, _ in packets]
    assert found == [(port, packet, port) for port in range(4) for packet in range(64)]
    assert locate(source((2, 1), 2), row=3, packet=5)[1] == 128 + 64 + 5


def test_fewer_rows_are_the_middle_ones():
    """``readnrows 256`` sends packets 32 to 95."""
    partial = source(read_rows=256)
    assert [locate(partial, packet=packet)[1] for packet in (32, 95)] == [0, 63]
    for packet in (31, 96):
        assert "expected one of the 64" in locate(partial, packet=packet)[2]
    halves = source(interfaces=2, read_rows=256)
    assert [locate(halves, row=row, packet=packet)[1] for row, packet in ((0, 32), (1, 0), (1, 31))] == [0, 32, 63]
    assert locate(halves, row=0, packet=31)[2]


@pytest.mark.parametrize("read_rows", [8, 256, 512])
def test_fewer_rows_lie_where_they_are_in_the_whole_image(read_rows):
    whole, part = (frame_spec(settings((2, 2)), rows).layout for rows in (512, read_rows))
    skipped = (512 - read_rows) // 2
    assert part.image_shape == whole.image_shape
    assert part.origins == tuple((row + skipped, col) for row, col in whole.origins)
    assert part.chip_shape == (read_rows // 2, 256)


def test_the_number_of_the_module_does_not_matter():
    assert locate(source((1, 2)), module=99, column=1)[1] == 128


def test_frames_are_counted_from_the_series():
    assert locate(source(series=1000), frame=1003)[0] == 3
    assert locate(source(series=1000), frame=999)[0] == STRANGE
    assert locate(source(series=2**64 - 1), frame=2)[0] == 3


def test_more_than_eight_modules_are_refused():
    with pytest.raises(ValueError, match="got 9, expected 8"):
        settings((3, 3))


@given(st.lists(st.tuples(*[st.integers(0, high) for high in (3, 4, 3, 140)]), min_size=1, max_size=40), st.booleans())
def test_runs_are_what_looking_at_each_packet_finds(fields, in_order):
    """Rows, columns and numbers of packets by chance, in order and not, also such as there are none."""
    where = source((2, 2), 2, 256, series=2)
    headers = np.zeros(len(fields), HEADER)
    headers["type"], headers["version"] = 3, 2
    for header, (row, frame, column, packet) in zip(headers, fields, strict=True):
        header["row"], header["frame"], header["column"], header["packet"] = row, frame, column, packet
    if in_order:
        headers[:] = headers[0]
        headers["packet"] += np.arange(len(headers), dtype=np.uint32)
    packets, sizes = _arrays([header.tobytes() + bytes(8192) for header in headers], 8240)
    each, run = where._locate_each(packets, sizes), where._locate_run(packets, sizes)
    follow = not each.refusals and len(set(each.frames)) == 1 and (np.diff(each.places) == 1).all()
    if run is not None:
        assert follow
        assert (run.frame, run.first) == (each.frames[0], each.places[0])
