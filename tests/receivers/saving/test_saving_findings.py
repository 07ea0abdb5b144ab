"""What follows from what is found in files; nothing is read here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_receivers.ledger import Counts, FrameStatus
from lima2_receivers.saving.findings import (
    Column,
    Contents,
    Kind,
    LedgerTable,
    compare,
    family,
    leading,
    prefix_in,
    rank_in,
)
from lima2_receivers.topology import NO_RECEIVER, NO_ROW

SAVED, VETOED, LOST, FAILED = FrameStatus.SAVED, FrameStatus.VETOED, FrameStatus.LOST, FrameStatus.FAILED


def images(rows, *there):
    return Column(rows, 1, np.array(there, np.int64))


def scalars(rows):
    return Column(rows, 1024, np.arange(0, rows, 1024))


def part(stream="dense", pixels=0, **columns):
    return Contents(Kind.PART, stream, "", columns, 0, pixels)


def ledger(*fates):
    """Return a table of (status, receiver, row)."""
    status, receivers, rows = zip(*fates, strict=True) if fates else ((), (), ())
    return LedgerTable(np.array(status, "u1"), np.array(receivers, "u2"), np.array(rows, "u8"))


def test_all_that_the_ledger_counts_is_there():
    found = compare(
        part(dense=images(4, 0, 2, 3)),
        1,
        ledger((SAVED, 0, 0), (SAVED, 1, 0), (SAVED, 0, 1), (LOST, 1, 1), (SAVED, 0, 2), (SAVED, 1, 2)),
    )
    assert (found.acknowledged, found.missing, found.beyond) == (2, 0, 1)


@pytest.mark.parametrize(
    ("status", "column", "missing"),
    [
        (SAVED, images(3, 0, 2), 1),  # no data
        (VETOED, images(3, 0, 2), 0),  # which a vetoed frame may lack
        (LOST, images(3, 0, 2), 0),
        (FAILED, images(1, 0), 0),
        (SAVED, images(1, 0), 1),  # too short
        (VETOED, images(1, 0), 1),
        (SAVED, scalars(3), 0),
        (SAVED, scalars(1), 1),
    ],
)
def test_what_a_row_has_to_have(status, column, missing):
    found = compare(part(one=column), 0, ledger((SAVED, 0, 0), (status, 0, 1)))
    assert (found.missing, found.first_missing) == (missing, 1 if missing else -1)


@pytest.mark.parametrize(("pointers", "index", "missing"), [(3, 9, 0), (2, 9, 1), (3, 8, 2)])
def test_sparse_frames_need_their_pointers_and_pixels(pointers, index, missing):
    columns = {"frame_ptr": scalars(pointers), "index": scalars(index), "intensity": scalars(9)}
    found = compare(part("sparse", 9, **columns), 0, ledger((SAVED, 0, 0), (SAVED, 0, 1)))
    assert found.missing == missing


def test_a_ledger_of_nothing_knows_no_row():
    found = compare(part(dense=images(3, 0, 1)), 0, ledger())
    assert (found.acknowledged, found.missing, found.beyond) == (0, 0, 2)
    nowhere = ledger((LOST, NO_RECEIVER, NO_ROW))
    assert compare(part(n_peaks=scalars(5)), 0, nowhere).beyond == 5


def test_windows_are_no_frames():
    assert compare(part("accumulated", acc_hit=images(1, 0)), 0, ledger((SAVED, 0, 0))) is None


def test_how_many_frames_are_whole():
    assert part(a=scalars(5), b=images(3, 0)).complete == 3
    assert part(frame_ptr=scalars(4), index=scalars(0), intensity=scalars(1)).complete == 3
    assert part().complete == -1


@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 255, 17]), max_size=20),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_the_leading_frames_are_those_of_which_all_is_known(status, receivers, rows):
    found = leading(
        {
            "frame_status": np.array(status, "u1"),
            "receiver": np.zeros(receivers, "u2"),
            "row": np.arange(rows, dtype="u8"),
        }
    )
    n = len(found.statuses)
    assert n == len(found.receivers) == len(found.rows) <= min(len(status), receivers, rows)
    assert found.statuses.tolist() == status[:n]
    assert all(1 <= each <= 4 for each in status[:n])
    assert n == min(len(status), receivers, rows) or not 1 <= status[n] <= 4
    assert found.counts == Counts(*(status[:n].count(each) for each in (1, 2, 3, 4)))


def test_a_family_is_what_has_its_prefix():
    mine = [
        *("run_master.h5", "run_ledger.h5", "run_frames.h5", "run_raw_0.h5", "run_results_12.h5"),
        *("run_header_0.cbor", "run_1_d7_f0_0.raw", "run_1_master_0.json"),
    ]
    others = [
        *(
            "run_2_master.h5",
            "run_2_raw_0.h5",
            "run_2_0_d0_f0_0.raw",
            "runraw_0.h5",
            "run_raw.h5",
            "run_raw_0.h5.replaced",
        ),
        *("my_run_raw_0.h5", "run_2_header_0.cbor", "run_cut.h5", ".lima2-receiver-0-00000000.json"),
    ]
    assert family("run", mine + others, ["run_gone_0.h5"]) == sorted([*mine, "run_gone_0.h5"])
    assert family("r.n", mine) == []


@pytest.mark.parametrize(
    ("name", "kind", "stream", "prefix"),
    [
        ("a_b_master.h5", Kind.MASTER, "", "a_b"),
        ("a_ledger.h5", Kind.LEDGER, "", "a"),
        ("a_frames.h5", Kind.FRAMES, "", "a"),
        ("a_raw_raw_10.h5", Kind.PART, "raw", "a_raw"),
        ("a_raw_0.h5", Kind.PART, "dense", None),
        ("_master.h5", Kind.MASTER, "", None),
        ("a_master.h5.replaced", Kind.MASTER, "", None),
        ("a.h5", Kind.OTHER, "", None),
    ],
)
def test_prefixes(name, kind, stream, prefix):
    assert prefix_in(name, kind, stream) == prefix


def test_ranks():
    assert [rank_in(name) for name in ("a_raw_10.h5", "a_ledger.h5", "a_1_d0_f0_0.raw")] == [10, -1, -1]
