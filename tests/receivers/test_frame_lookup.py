"""Which frame is meant, what became of it and where it is; and what a receiver still has in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_processing.frame import AcquisitionId, FrameSpec, LocalIdx, OutputKind, ReceiverIdx, SparseFrame
from lima2_receivers.conductor.lookup import locate
from lima2_receivers.errors import StateError
from lima2_receivers.ledger import FrameStatus, SystemLedger
from lima2_receivers.messages import Dataset, LocateFrame, Place, Prepared
from lima2_receivers.receiver import recent
from lima2_receivers.receiver.recent import REMEMBERED, RecentImages
from lima2_receivers.saving.part import EncodedRow
from lima2_receivers.topology import RoundRobin

ID = AcquisitionId("0" * 32)
RAW = Dataset("raw", "/m/raw", OutputKind.IMAGE, "<u2", (4, 4))
DENSE = Dataset("dense", "/m/data", OutputKind.IMAGE, "<f4", (4, 4))
HITS = Dataset("is_hit", "/m/is_hit", OutputKind.SCALAR, "|u1", ())
ENDPOINTS = ("ipc:///r0", "ipc:///r1", "ipc:///r2")
FATES = st.sampled_from([FrameStatus.SAVED, FrameStatus.VETOED, FrameStatus.LOST, FrameStatus.FAILED])


def prepared(*datasets):
    return Prepared(ID, "/d/m.h5", "/d/l.h5", datasets, FrameSpec((4, 4), "<u2"), ())


def settled(fates, n_receivers=3):
    ledger = SystemLedger(RoundRobin(n_receivers))
    for frame, fate in enumerate(fates):
        receiver, row = ledger.topology.locate(frame)
        ledger.parts[receiver].settle(row, fate, "" if fate is FrameStatus.SAVED else f"why {frame}")
    return ledger


def find(ledger, written, frame=-1, output="", datasets=(RAW, DENSE, HITS)):
    return locate(LocateFrame(ID, frame, output), ledger, written, prepared(*datasets), ENDPOINTS)


@given(st.lists(FATES, min_size=1, max_size=60))
def test_every_settled_frame_is_found_with_its_fate_and_place(fates):
    ledger = settled(fates)
    for frame, fate in enumerate(fates):
        found = find(ledger, len(fates), frame)
        assert (found.frame, found.status) == (frame, fate)
        assert found.reason == ("" if fate is FrameStatus.SAVED else f"why {frame}")
        assert found.place == Place(ReceiverIdx(frame % 3), LocalIdx(frame // 3), f"ipc:///r{frame % 3}")


@given(st.lists(FATES, max_size=60), st.integers(0, 60))
def test_the_latest_is_the_last_saved_of_the_leading_ones(fates, written):
    written = min(written, len(fates))
    saved = [frame for frame in range(written) if fates[frame] is FrameStatus.SAVED]
    if saved:
        assert find(settled(fates), written).frame == saved[-1]
    else:
        with pytest.raises(StateError, match=f"no frame is saved yet, {written} are settled"):
            find(settled(fates), written)


def test_a_latest_one_far_behind_is_found():
    ledger = settled([FrameStatus.SAVED], n_receivers=1)
    ledger.parts[0].settle_rest(10_000, FrameStatus.LOST, "lost")
    assert find(ledger, 10_000).frame == 0


def test_a_frame_that_is_not_there_yet_is_told():
    with pytest.raises(StateError, match=f"acquisition {ID}: frame 7 is not there, 2 frames are settled"):
        find(settled([FrameStatus.SAVED] * 2), 2, 7)


def test_the_main_image_is_meant_where_nothing_is_named():
    ledger = settled([FrameStatus.SAVED])
    assert find(ledger, 1).dataset == DENSE
    assert find(ledger, 1, datasets=(HITS, RAW)).dataset == RAW
    assert find(ledger, 1, output="is_hit").dataset == HITS
    with pytest.raises(StateError, match="got output 'sparse', expected one that is saved: raw, dense, is_hit"):
        find(ledger, 1, output="sparse")
    with pytest.raises(StateError, match="saves no images"):
        find(ledger, 1, datasets=(HITS,))


def row(number, **values):
    return EncodedRow(LocalIdx(number), values)


def test_images_of_the_latest_rows_are_remembered():
    images = RecentImages("it")
    for number in range(REMEMBERED + 3):
        image = memoryview(b"pixels of %d" % number)
        images.put(
            row(number, raw=image, n_peaks=np.array(3), sparse=SparseFrame(np.array([1], "u4"), np.array([2.0])))
        )
    assert images.get(LocalIdx(REMEMBERED + 2), "raw") == b"pixels of %d" % (REMEMBERED + 2)
    assert images.get(LocalIdx(3), "raw") == b"pixels of 3"
    for number, output in ((2, "raw"), (3, "n_peaks"), (3, "sparse"), (3, "dense")):
        with pytest.raises(StateError, match=f"it: {output} of row {number} is not in memory, rows .* are"):
            images.get(LocalIdx(number), output)
    images.clear()
    with pytest.raises(StateError):
        images.get(LocalIdx(3), "raw")


def test_an_image_that_fits_no_message_is_not_sent(monkeypatch):
    monkeypatch.setattr(recent, "LARGEST", 5)
    images = RecentImages("it")
    images.put(row(0, raw=b"12345", dense=b"123456"))
    assert images.get(LocalIdx(0), "raw") == b"12345"
    with pytest.raises(StateError, match="dense of row 0 has 6 bytes, 5 can be sent"):
        images.get(LocalIdx(0), "dense")
