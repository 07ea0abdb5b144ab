"""What an Eiger2 said beside its pixels, kept in a file and read back."""

import contextlib
from datetime import UTC, datetime

import cbor2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lima2_receivers.detectors.eiger2 import packets
from lima2_receivers.detectors.eiger2.header import read_header
from lima2_receivers.errors import SavingError
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.remarks import RemarkFile, read_remarks


def written(path, *items, policy=FileExistsPolicy.ABORT):
    file = RemarkFile(path, policy)
    for item in items:
        file.write(cbor2.dumps(item))
    file.close()
    file.keep()


def test_a_real_header_has_its_arrays(recorded, tmp_path):
    folder = recorded("eiger2_16M_stream2")
    file = RemarkFile(tmp_path / "run_header_0.cbor", FileExistsPolicy.ABORT)
    for name in ("start", "end"):
        file.write((folder / f"{name}.cbor").read_bytes())
    file.close()
    header = read_header(tmp_path / "run_header_0.cbor")
    assert header.start["detector_description"] == "Dectris EIGER2 Si 16M"
    assert header.start["series_id"] == header.end["series_id"] == 15614


def test_images_and_a_missing_end(tmp_path):
    path = tmp_path / "h.cbor"
    written(path, {"type": "start", "series_id": 1}, {"type": "image", "image_id": 4, "user_data": {"angle": 0.5}})
    header = read_header(path)
    assert (header.images, header.end) == ({4: {"angle": 0.5}}, {})


@given(st.lists(st.integers() | st.text() | st.binary(), max_size=5), st.integers(0, 200))
def test_whatever_is_cut_off_the_rest_can_be_read(tmp_path_factory, items, cut):
    path = tmp_path_factory.mktemp("remarks") / "h.cbor"
    written(path, *items)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(0, len(whole) - cut)])
    found = list(read_remarks(path))
    assert found == items[: len(found)]
    assert len(found) == len(items) or cut


def test_a_file_that_is_something_else_is_refused(tmp_path):
    for item in (5, {"type": "image"}, {"type": "image", "image_id": "x", "user_data": 1}):
        path = tmp_path / "h.cbor"
        written(path, item, policy=FileExistsPolicy.OVERWRITE)
        with pytest.raises(SavingError, match="expected"):
            read_header(path)
    with pytest.raises(SavingError, match="No such file"):
        read_header(tmp_path / "none.cbor")


def huge_array(*shape):
    return cbor2.dumps({"type": "start", "mask": cbor2.CBORTag(40, [shape, cbor2.CBORTag(64, b"")])})


@given(st.binary(max_size=60) | st.tuples(st.integers(0, 150), st.binary(max_size=4)))
@example(huge_array(2**31 - 1, 2**31 - 1))
@example(b"\xa1\x64type\xd8\x1c\x81\xd8\x1d\x00")  # a list in itself
@example(b"\x81" * 100_000)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("remarks") / "h.cbor"
    if isinstance(content, tuple):  # a change of what would be good
        good = packets.start2(1, np.zeros((3, 4), "<u2"), ("threshold_1",), 3, datetime(2026, 11, 23, tzinfo=UTC))
        content = good[: content[0]] + content[1] + good[content[0] :]
    path.write_bytes(content)
    for read in (read_header, lambda path: list(read_remarks(path))):
        with contextlib.suppress(SavingError):
            read(path)


def test_a_discarded_file_brings_the_old_one_back(tmp_path):
    path = tmp_path / "h.cbor"
    written(path, 1)
    new = RemarkFile(path, FileExistsPolicy.OVERWRITE)
    new.write(b"\x02")
    new.discard()
    assert list(read_remarks(path)) == [1]
    with pytest.raises(SavingError, match="File exists"):
        RemarkFile(path, FileExistsPolicy.ABORT)


def test_arrays_come_back(tmp_path):
    from lima2_receivers.packing import Packing

    mask = np.arange(12, dtype="<u4").reshape(3, 4)
    path = tmp_path / "h.cbor"
    written(path, {"type": "start", "pixel_mask": {"threshold_1": packets._channel(mask, Packing.NONE)}})
    np.testing.assert_array_equal(read_header(path).start["pixel_mask"]["threshold_1"], mask)
