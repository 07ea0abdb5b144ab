"""Capture files: what is written is read, and whatever happens to a file, what is before it stays readable."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.capture.format import (
    MAGIC,
    Capture,
    CaptureHead,
    CaptureWriter,
    decode_head,
    encode_head,
    encode_record,
    find_records,
    is_capture,
)
from lima2_receivers.errors import ConfigError, SavingError

HEAD = CaptureHead("eiger2", {"url": "http://eiger", "n": 3, "list": [1, 2]}, "detector", 1, "ipc:///d", 1e9)
RECORDS = st.lists(
    st.tuples(st.lists(st.binary(max_size=50), max_size=5), st.floats(0, 2e9), st.integers(0, 2**32 - 1)), max_size=6
)


def file_of(records):
    """The bytes of a file, and where each record ends."""
    content, ends = encode_head(HEAD), []
    for record in records:
        content += b"".join(encode_record(*record))
        ends.append(len(content))
    return content, ends


def read(content):
    """What is in a file: its records, and what ends them."""
    head, begin = decode_head(memoryview(content))
    entries, flaw = find_records(memoryview(content), begin)
    found = []
    for entry in entries:
        at, parts = entry.parts, []
        for size in entry.sizes:
            parts.append(content[at : at + size])
            at += size
        found.append((parts, entry.time, entry.port))
    return head, found, flaw


@given(RECORDS)
def test_what_is_written_is_read(records):
    content, _ = file_of(records)
    assert read(content) == (HEAD, records, "")


@given(RECORDS, st.data())
def test_a_file_that_is_cut_off_is_read_up_to_the_last_whole_record(records, data):
    content, ends = file_of(records)
    begin = len(encode_head(HEAD))
    cut = data.draw(st.integers(begin, len(content)))
    whole = sum(end <= cut for end in ends)
    _, found, flaw = read(content[:cut])
    assert found == records[:whole]
    assert bool(flaw) == (cut not in (begin, *ends))


@given(RECORDS.filter(bool), st.data())
def test_records_before_a_damage_are_read(records, data):
    content, ends = file_of(records)
    begin = len(encode_head(HEAD))
    at = data.draw(st.integers(begin, len(content) - 1))
    damaged = bytearray(content)
    damaged[at] ^= data.draw(st.integers(1, 255))
    whole = sum(end <= at for end in ends)
    _, found, flaw = read(bytes(damaged))
    assert found == records[:whole]
    assert flaw.startswith(f"record {whole}, at byte {([begin, *ends])[whole]} of {len(content)}, is cut off")


@given(st.binary(max_size=200), RECORDS)
def test_any_bytes_behind_a_head_are_no_crash(rubbish, records):
    content, _ = file_of(records)
    _, found, _ = read(content + rubbish)
    assert found[: len(records)] == records


@given(st.binary(max_size=100) | st.binary(max_size=100).map(lambda rest: MAGIC + rest))
def test_a_head_that_is_none_is_refused(content):
    with pytest.raises(ConfigError):
        decode_head(memoryview(content))


@given(st.data())
def test_a_head_that_is_damaged_is_refused(data):
    content = bytearray(encode_head(HEAD))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ConfigError):
        decode_head(memoryview(content))


def test_files_are_written_and_read(tmp_path):
    path = tmp_path / "run.capture"
    writer = CaptureWriter(path, HEAD)
    writer.write([b"header", memoryview(b"pixels")], 5.0)
    writer.write([], 6.0, 3)
    writer.flush()
    with Capture(path) as capture:
        assert len(capture.entries) == 2
    writer.write([b""], 7.0)
    writer.close()
    writer.close()
    with Capture(path) as capture:
        assert (capture.head, capture.flaw) == (HEAD, "")
        assert [[bytes(part) for part in capture.parts(entry)] for entry in capture.entries] == [
            [b"header", b"pixels"],
            [],
            [b""],
        ]
        assert bytes(capture.joined(capture.entries[0])) == b"headerpixels"
        assert [(entry.time, entry.port) for entry in capture.entries] == [(5.0, 0), (6.0, 3), (7.0, 0)]
        kept = capture.parts(capture.entries[0])[1]
    assert bytes(kept) == b"pixels"


def test_a_file_that_is_there_is_not_replaced(tmp_path):
    path = tmp_path / "run.capture"
    path.write_text("mine")
    with pytest.raises(SavingError, match=f"making capture {path}: File exists"):
        CaptureWriter(path, HEAD)
    assert path.read_text() == "mine"


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path, monkeypatch):
    path = tmp_path / "run.capture"
    writer = CaptureWriter(path, HEAD)
    writer.write([b"first"], 1.0)
    writer.flush()

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_file", type("Full", (), {"writelines": staticmethod(full), "real": writer._file})())
    with pytest.raises(SavingError, match="No space left on device"):
        writer.write([b"second"], 2.0)
    writer._file.real.close()
    with Capture(path) as capture:
        assert len(capture.entries) == 1


def test_what_is_no_capture_is_named(tmp_path):
    path = tmp_path / "other"
    for content, words in ((b"", "cannot mmap an empty file"), (b"\x89HDF\r\n\x1a\n", r"got b'\\x89HDF")):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=f"capture {path}: .*{words}"):
            Capture(path)
        assert not is_capture(path)
    with pytest.raises(ConfigError, match="No such file"):
        Capture(tmp_path / "none")
    later = bytearray(encode_head(HEAD))
    later[8] = 2
    path.write_bytes(later)
    assert is_capture(path)
    with pytest.raises(ConfigError, match="got a capture of version 2, expected 1"):
        Capture(path)
