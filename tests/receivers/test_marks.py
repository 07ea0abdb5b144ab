"""Timestamps and modules of frames, as receivers report them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lima2_processing.parts import module_shares
from lima2_receivers.acquisition import State
from lima2_receivers.conductor.marks import Marks
from lima2_receivers.ledger import Counts, FrameStatus, Run, SystemLedger
from lima2_receivers.ledger_parts import PartsLedger
from lima2_receivers.ledger_table import TableLedger
from lima2_receivers.messages import ALL_MODULES, Progress
from lima2_receivers.topology import NO_RECEIVER, NO_ROW, Places, RoundRobin

SAVED, LOST = FrameStatus.SAVED, FrameStatus.LOST


def report(first, stamps, bitmaps=None):
    """A receiver's report of rows from ``first`` on, with the bitmaps of their modules."""
    packed = b"" if bitmaps is None else np.array(bitmaps, "<u8").tobytes()
    return Progress(
        "0" * 32, State.RUNNING, first, (), np.array(stamps, "<f8").tobytes(), 0, 0, 0, Counts(), 0, modules=packed
    )


@st.composite
def reported(draw):
    """Rows of each receiver: their bitmap, or none where all modules came, and whether they are saved."""
    n_receivers, n_rows = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    n_modules = draw(st.integers(n_receivers, 6))
    shares = module_shares(n_modules, n_receivers)
    rows = [
        [(draw(st.none() | st.integers(0, (1 << len(own)) - 1)), draw(st.booleans())) for _ in range(n_rows)]
        for own in shares
    ]
    return n_modules, shares, rows


def tell(ledger, marks, rank, rows, cuts):
    """Report rows in pieces, which overlap."""
    known = 0
    for until in cuts:
        first = max(0, known - 1)
        bitmaps = [ALL_MODULES if bits is None else bits for bits, _ in rows[first:until]]
        flawed = any(bits is not None for bits, _ in rows[first:until])
        marks.extend(rank, report(first, range(first, until), bitmaps if flawed else None), known)
        runs = tuple(Run(SAVED if saved else LOST, 1) for _, saved in rows[first:until])
        ledger.extend(rank, first, runs, ())
        known = until


@given(reported(), st.data())
def test_the_bitmap_of_a_frame_is_that_of_all_parts(case, data):
    n_modules, shares, rows = case
    n_rows = len(rows[0])
    ledger, marks = PartsLedger(len(rows)), Marks(len(rows))
    for rank, mine in enumerate(rows):
        tell(ledger, marks, rank, mine, [*sorted(data.draw(st.sets(st.integers(1, n_rows)))), n_rows])
    found = marks.modules(ledger, 0, n_rows, n_modules)
    for frame in range(n_rows):
        expected = 0
        for own, mine in zip(shares, rows, strict=True):
            bits, saved = mine[frame]
            whole = (1 << len(own)) - 1
            expected |= ((whole if bits is None else bits) if saved else 0) << own.start
        assert found[frame] == expected
    assert marks.timestamps(ledger.places(0, n_rows)).tolist() == list(range(n_rows))


def test_in_turn_a_frame_has_the_bitmap_of_its_receiver():
    ledger, marks = SystemLedger(RoundRobin(2)), Marks(2)
    tell(ledger, marks, 0, [(None, True), (0b10, True)], [2])
    tell(ledger, marks, 1, [(0b01, False), (None, True)], [1, 2])
    assert marks.modules(ledger, 0, 4, 2).tolist() == [0b11, 0, 0b10, 0b11]
    assert marks.timestamps(ledger.places(0, 4)).tolist() == [0, 0, 1, 1]


def test_frames_that_nobody_has_have_neither():
    ledger, marks = TableLedger(1), Marks(1)
    ledger.extend(0, 0, (Run(SAVED, 1),), [1])
    marks.extend(0, report(0, [5.0]), 0)
    ledger.write_off(2, [])
    assert marks.modules(ledger, 0, 2, 1).tolist() == [0, 1]
    assert np.isnan(marks.timestamps(ledger.places(0, 2))).tolist() == [True, False]


def test_of_parts_the_first_time_that_is_known_counts():
    ledger, marks = PartsLedger(2), Marks(2)
    for rank, stamps in enumerate(([np.nan, 3.0], [1.0, 2.0])):
        marks.extend(rank, report(0, stamps), 0)
        ledger.extend(rank, 0, (Run(SAVED, 2),))
    assert marks.timestamps(ledger.places(0, 2)).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("known", [0, 1])
def test_a_gap_is_left_to_the_ledger_to_refuse(known):
    marks = Marks(1)
    marks.extend(0, report(2, [1.0]), known)
    places = Places(np.array([0, NO_RECEIVER], "u2"), np.array([0, NO_ROW], "u8"))
    assert np.isnan(marks.timestamps(places)).all()
