"""What a receiver knows of its rows: told from any row on, in reports that fit a message."""

import numpy as np
import pytest

from lima2_processing.frame import AcquisitionId, FrameIdx, LocalIdx
from lima2_receivers.acquisition import State
from lima2_receivers.ledger import FrameStatus, Run
from lima2_receivers.receiver import book as book_module
from lima2_receivers.receiver.book import Book, Fate

ID = AcquisitionId("a")


def told(book, first):
    found = book.progress(ID, State.RUNNING, "", first)
    return found.runs, np.frombuffer(found.timestamps, "<f8").tolist(), found.more


def settled(*rows):
    book = Book("a")
    for row in rows:
        book.claim(LocalIdx(row), FrameIdx(row), 100.0 + row)
    book.settle(Fate(LocalIdx(row), FrameStatus.SAVED) for row in rows)
    return book


def test_another_conductor_is_told_all_from_the_beginning():
    book = settled(0, 1, 2)
    assert told(book, 3) == ((), [], False)
    assert told(book, 0) == ((Run(FrameStatus.SAVED, 3),), [100.0, 101.0, 102.0], False)
    assert told(book, 1) == ((Run(FrameStatus.SAVED, 2),), [101.0, 102.0], False)


def test_a_row_that_never_came_has_no_timestamp():
    book = settled(0, 2)
    book.settle([Fate(LocalIdx(1), FrameStatus.LOST, "never"), Fate(LocalIdx(3), FrameStatus.LOST, "never")])
    runs, stamps, more = told(book, 0)
    assert [run.status for run in runs] == [FrameStatus.SAVED, FrameStatus.LOST, FrameStatus.SAVED, FrameStatus.LOST]
    np.testing.assert_array_equal(stamps, [100.0, np.nan, 102.0, np.nan])
    assert not more


@pytest.mark.parametrize(("first", "count", "more"), [(0, 2, True), (2, 2, True), (4, 1, False), (5, 0, False)])
def test_a_long_report_is_cut(monkeypatch, first, count, more):
    monkeypatch.setattr(book_module, "REPORTED_ROWS", 2)
    runs, stamps, goes_on = told(settled(*range(5)), first)
    assert sum(run.count for run in runs) == len(stamps) == count
    assert goes_on is more
