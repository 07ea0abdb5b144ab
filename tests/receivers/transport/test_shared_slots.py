"""Slots in shared memory: what one process writes, others read, or know that it is there no more."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from lima2_receivers.errors import ConfigError, ProtocolError
from lima2_receivers.handover import SharedMemory
from lima2_receivers.transport.shared_slots import SlotReader, SlotWriter

READ = """
import sys, msgspec, numpy as np
from lima2_receivers.handover import SharedMemory
from lima2_receivers.transport.shared_slots import SlotReader
into = np.zeros(6, np.uint8)
reader = SlotReader(msgspec.json.decode(sys.argv[1], type=SharedMemory))
print(reader.read(2, 7, 3, into), bytes(into))
reader.close()
"""


@pytest.fixture
def writer():
    made = SlotWriter("ingest.ring", 3, 5000)
    yield made
    made.close()


@pytest.fixture
def reader(writer):
    made = SlotReader(writer.place)
    yield made
    made.close()


def view(text: bytes) -> memoryview:
    return memoryview(text)


def got(reader, slot, number, start, size):
    into = np.zeros(size, np.uint8)
    return bytes(into) if reader.read(slot, number, start, into) and into.any() else None


def test_parts_lie_one_after_the_other(writer, reader):
    for slot in range(3):
        into = np.full(9, slot, np.uint8)
        writer.write(slot, 10 + slot, [view(b"abc"), view(b"pixels")])
        assert reader.read(slot, 10 + slot, 0, into)
        assert bytes(into) == b"abcpixels"
        assert writer.read(slot, 3, 6) == b"pixels"


def test_the_last_byte_of_the_last_slot_is_there(writer, reader):
    writer.write(2, 1, [view(bytes(4999)), view(b"x")])
    into = np.zeros(1, np.uint8)
    assert reader.read(2, 1, 4999, into)
    assert bytes(into) == b"x"


def test_another_process_reads_it(writer):
    writer.write(2, 7, [view(b"abc"), view(b"pixels")])
    place = msgspec.json.encode(writer.place).decode()
    said = subprocess.run([sys.executable, "-c", READ, place], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "True b'pixels'\n"


def test_what_was_overwritten_is_not_handed_on(writer, reader):
    writer.write(1, 7, [view(b"old")])
    writer.write(1, 8, [view(b"new")])
    into = np.zeros(3, np.uint8)
    assert not reader.read(1, 7, 0, into)
    assert not into.any()
    assert reader.read(1, 8, 0, into)


def test_what_is_overwritten_while_it_is_read_is_not_handed_on(writer, reader, monkeypatch):
    writer.write(1, 7, [view(b"old")])
    copy = np.copyto

    def copy_late(into, pixels):
        monkeypatch.undo()
        copy(into, pixels)
        writer.write(1, 8, [view(b"new")])

    monkeypatch.setattr(np, "copyto", copy_late)
    assert not reader.read(1, 7, 0, np.zeros(3, np.uint8))


def test_what_is_being_written_has_no_number(writer, reader, monkeypatch):
    writer.write(1, 7, [view(b"old")])
    seen = []
    copy = np.copyto

    def look(into, pixels):
        monkeypatch.undo()
        seen.append(reader.read(1, 7, 0, np.zeros(3, np.uint8)))
        copy(into, pixels)

    monkeypatch.setattr(np, "copyto", look)
    writer.write(1, 8, [view(b"new")])
    assert seen == [False]


@pytest.mark.parametrize(("slot", "start", "size"), [(3, 0, 1), (-1, 0, 1), (0, 4999, 2), (0, -1, 2), (0, 5001, 0)])
def test_a_place_that_is_not_there_is_refused(reader, slot, start, size):
    with pytest.raises(ProtocolError, match=f"got {size} bytes at {start} of slot {slot}, expected 5000 bytes of one"):
        reader.read(slot, 1, start, np.zeros(size, np.uint8))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("key", 5, "is not the memory that was announced"),
        ("process", 2**22 + 1, "can't be opened"),
        ("descriptor", 9999, "can't be opened"),
        ("slot_bytes", 2**30, "can't be opened"),
    ],
)
def test_other_memory_is_not_taken_for_it(writer, field, value, said):
    with pytest.raises(ProtocolError, match=said):
        SlotReader(msgspec.structs.replace(writer.place, **{field: value}))


def test_who_has_opened_it_keeps_it_when_its_maker_is_gone(writer):
    made = SlotWriter("ingest.ring", 2, 100)
    made.write(0, 1, [view(b"pixels")])
    found = SlotReader(made.place)
    made.close()
    into = np.zeros(6, np.uint8)
    assert found.read(0, 1, 0, into)
    assert bytes(into) == b"pixels"
    with pytest.raises(ProtocolError):
        SlotReader(made.place)
    found.close()


def test_more_memory_than_there_is_is_refused():
    with pytest.raises(
        ConfigError, match=r"ingest\.ring: got 2 slots of \d+ bytes, expected \d+ bytes of memory at most"
    ):
        SlotWriter("ingest.ring", 2, 2**60)


def test_a_place_makes_the_round_trip():
    place = SharedMemory(1, 2, 3, 4, 5)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(place), type=SharedMemory) == place
