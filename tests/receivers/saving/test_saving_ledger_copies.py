"""The ledger's file where each state of it is a file of its own."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from lima2_receivers.acquisition import Outcome
from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving import ledger_copies
from lima2_receivers.saving.ledger_copies import LedgerCopies
from lima2_receivers.saving.ledger_file import LedgerFile, LedgerSummary
from lima2_receivers.saving.read import read_statuses, read_summary
from lima2_receivers.topology import RoundRobin

SUMMARY = LedgerSummary("0" * 32, 5, "triggers", Counts(saved=5), {}, Outcome.COMPLETE, "")


def write(ledger):
    for statuses in ([1, 3], [1, 2, 1]):
        ledger.append(np.array(statuses, "u1"), np.arange(len(statuses)) + 0.5, np.ones(len(statuses), "u8"))
        ledger.flush()


def test_each_flush_leaves_a_whole_file_that_never_changes(tmp_path):
    path = tmp_path / "run_ledger.h5"
    ledger = LedgerCopies(path, RoundRobin(2))
    with h5py.File(path, "r") as before:  # opens without SWMR, also while it is written
        write(ledger)
        assert len(before["entry_0000/ledger/row"]) == 0
    with h5py.File(path, "r") as file:
        assert file["entry_0000/ledger/frame_status"][()].tolist() == [1, 3, 1, 2, 1]
    assert read_summary(path) is None
    ledger.close(SUMMARY)
    assert read_summary(path) == SUMMARY
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_it_holds_what_the_other_ledger_file_does(tmp_path):
    files = LedgerFile(tmp_path / "one.h5", RoundRobin(2)), LedgerCopies(tmp_path / "other.h5", RoundRobin(2))
    for ledger in files:
        write(ledger)
        ledger.close(SUMMARY)
    with h5py.File(tmp_path / "one.h5") as one, h5py.File(tmp_path / "other.h5") as other:
        for name in one["entry_0000/ledger"]:
            mine, theirs = one[f"entry_0000/ledger/{name}"], other[f"entry_0000/ledger/{name}"]
            assert mine.dtype == theirs.dtype
            np.testing.assert_equal(mine.fillvalue, theirs.fillvalue)
            np.testing.assert_array_equal(mine[()], theirs[()])


def test_it_rests_after_it_was_written(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ledger_copies.time, "monotonic", lambda: now[0])
    ledger = LedgerCopies(tmp_path / "run_ledger.h5", RoundRobin(1))
    write_once = ledger._write
    monkeypatch.setattr(ledger, "_write", lambda summary: (write_once(summary), now.__setitem__(0, now[0] + 2)))
    assert not ledger.resting
    ledger.flush()
    now[0] += 17
    assert ledger.resting
    now[0] += 1
    assert not ledger.resting


def test_what_it_replaces_comes_back_where_it_is_discarded(tmp_path):
    path = tmp_path / "run_ledger.h5"
    path.write_text("old")
    with pytest.raises(SavingError, match="File exists"):
        LedgerCopies(path, RoundRobin(1))
    assert path.read_text() == "old"
    ledger = LedgerCopies(path, RoundRobin(1), FileExistsPolicy.OVERWRITE)
    assert not len(read_statuses(path))
    ledger.discard()
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
