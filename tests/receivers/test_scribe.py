"""Rows settle when they can be read: where files are closed one after the other, with their file."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest

from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts, FrameStatus
from lima2_receivers.receiver.book import Book, Fate
from lima2_receivers.receiver.scribe import Missing, Publish, Saving, Scribe
from lima2_receivers.saving.row_files import EncodedRow


@dataclass
class Files:
    """Files of three rows each, that only count."""

    rows: set[int] = field(default_factory=set)
    closed: set[int] = field(default_factory=set)
    broken: bool = False

    def write(self, rows):
        self.rows.update(row.row for row in rows)

    def skip(self, row):
        self.rows.add(row)

    def flush(self, partly=False):
        for number in {row // 3 for row in self.rows}:
            if partly or all(3 * number + at in self.rows for at in range(3)):
                self._close(number)

    def _close(self, number):
        if number in self.closed and number * 3 + 2 in self.rows:
            return
        if self.broken:
            raise SavingError("no room")
        self.closed.add(number)

    def holds_back(self, row):
        return row // 3 not in self.closed

    def close(self, rows):
        self.flush(partly=True)


class Desk:
    """A scribe with its book, and files that hold rows back."""

    def __init__(self) -> None:
        self.files, self.book, self.failures = Files(), Book("run"), []
        self.scribe = Scribe(self.files, None, self.book, 4, 0.05, self._fail)
        self.scribe.start()

    def _fail(self, error):
        self.failures.append(str(error))
        return str(error)

    def save(self, *rows):
        for row in rows:
            for lost in self.book.claim(row, row, 0.0):
                self.scribe.hand(Fate(lost, FrameStatus.LOST, "never arrived"))
            self.scribe.hand(Saving(EncodedRow(row, {}), {}))

    def until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)

    @property
    def progress(self):
        return self.book.progress("run", "running", "", 0)


@pytest.fixture
def desk():
    made = Desk()
    yield made
    made.scribe.finish()


def test_rows_settle_with_their_file(desk):
    desk.save(0, 1, 2, 3)
    desk.scribe.finish()
    assert desk.progress.counts == Counts(saved=4)


def test_rows_are_held_until_all_that_is_due_is_there(desk):
    desk.save(0, 1, 2, 3, 5)  # 4 is lost, and so the second file is full
    desk.save(6)
    desk.until(lambda: (desk.progress.held, desk.progress.counts) == (1, Counts(saved=5, lost=1)))
    assert not desk.book.holds_all()  # more may be on its way
    desk.book.expect(8)
    assert not desk.book.holds_all()  # row 7 is due
    assert not desk.book.complete()
    assert desk.book.overdue(draining=False, patience=-1)
    desk.scribe.hand(Missing(8, "never arrived"))
    desk.until(desk.book.holds_all)
    assert desk.book.complete()
    assert not desk.book.overdue(draining=False, patience=-1)
    desk.scribe.hand(Publish())
    desk.until(lambda: desk.progress.held == 0)
    assert desk.progress.counts == Counts(saved=6, lost=2)
    assert not desk.book.holds_all()


def test_rows_whose_file_can_not_be_closed_have_failed(desk):
    desk.save(0, 1, 2)
    desk.until(lambda: desk.progress.counts == Counts(saved=3))
    desk.files.broken = True
    desk.save(3, 4)
    desk.scribe.finish()
    assert desk.failures == ["no room"]
    assert desk.progress.counts == Counts(saved=3, failed=2)
