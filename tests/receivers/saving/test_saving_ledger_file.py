from __future__ import annotations

import json
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from lima2_receivers.acquisition import Outcome
from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts, FrameStatus
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.ledger_file import COLUMNS, GROUP, LedgerFile, LedgerSummary
from lima2_receivers.saving.read import read_statuses, read_summary
from lima2_receivers.topology import RoundRobin

SUMMARY = LedgerSummary("0" * 32, 5, "triggers", Counts(3, 0, 2), {"never arrived": 2}, Outcome.FAILED, "Ω: it broke")


def columns(path):
    with h5py.File(path, "r", swmr=True, libver="latest", locking=False) as file:
        return {name: file[GROUP][name][()] for name in COLUMNS}


def test_every_frame_has_its_place_fate_and_time(tmp_path):
    path = tmp_path / "run_ledger.h5"
    ledger = LedgerFile(path, RoundRobin(2))
    ledger.append(np.array([1, 3, 1], "u1"), np.array([10.0, np.nan, 12.0]), np.array([3, 0, 3], "u8"))
    ledger.flush()
    assert read_statuses(path).tolist() == [1, 3, 1]
    ledger.append(np.array([2, 4], "u1"), np.array([13.0, 14.0]), np.array([1, 0], "u8"))
    ledger.close(SUMMARY)
    found = columns(path)
    assert found["frame_number"].tolist() == [0, 1, 2, 3, 4]
    assert found["frame_status"].tolist() == [1, 3, 1, 2, 4]
    assert found["receiver"].tolist() == [0, 1, 0, 1, 0]
    assert found["row"].tolist() == [0, 0, 1, 1, 2]
    assert np.array_equal(found["timestamp"], [10, np.nan, 12, 13, 14], equal_nan=True)
    assert {name: array.dtype.str for name, array in found.items()} == {
        name: dtype for name, (dtype, _) in COLUMNS.items()
    }


def test_the_summary_is_there_after_close_only(tmp_path):
    path = tmp_path / "run_ledger.h5"
    ledger = LedgerFile(path, RoundRobin(1))
    ledger.flush()
    assert read_summary(path) is None
    ledger.close(SUMMARY)
    assert read_summary(path) == SUMMARY


def test_the_summary_is_text_that_any_reader_shows(tmp_path):
    path = tmp_path / "run_ledger.h5"
    LedgerFile(path, RoundRobin(1)).close(SUMMARY)
    with h5py.File(path, "r") as file:
        text = file[GROUP]["summary"].asstr()[0]
    assert json.loads(text)["reasons"] == {"never arrived": 2}
    assert json.loads(text)["reason"] == "Ω: it broke"


def test_a_summary_of_very_many_reasons_keeps_the_commonest(tmp_path):
    path = tmp_path / "run_ledger.h5"
    reasons = {f"{number}: {'long ' * 100}": 1 for number in range(5000)} | {"never arrived": 70}
    many = LedgerSummary("0" * 32, 5070, "control", Counts(lost=5070), reasons, Outcome.FAILED, "x" * 100_000)
    LedgerFile(path, RoundRobin(1)).close(many)
    found = read_summary(path)
    assert found.counts == many.counts
    assert found.reasons["never arrived"] == 70
    assert sum(found.reasons.values()) == 5070
    assert found.reason.startswith("xxx")


def test_an_existing_file_is_kept_or_replaced(tmp_path):
    path = tmp_path / "run_ledger.h5"
    path.write_bytes(b"precious")
    with pytest.raises(SavingError, match=r"making .*run_ledger\.h5: File exists"):
        LedgerFile(path, RoundRobin(1))
    assert path.read_bytes() == b"precious"
    LedgerFile(path, RoundRobin(1), FileExistsPolicy.OVERWRITE).close(SUMMARY)
    assert read_summary(path) == SUMMARY


def test_discard_removes_the_file(tmp_path):
    LedgerFile(tmp_path / "run_ledger.h5", RoundRobin(1)).discard()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_making_it_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lima2_receivers.saving.ledger_file.growing", fail)
    with pytest.raises(SavingError, match=r"run_ledger\.h5: No space left on device"):
        LedgerFile(tmp_path / "run_ledger.h5", RoundRobin(1))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from lima2_receivers.saving.ledger_file import LedgerFile
from lima2_receivers.topology import RoundRobin
ledger = LedgerFile(Path(sys.argv[1]), RoundRobin(2))
while True:
    ledger.append(np.full(3, 1, "u1"), np.zeros(3), np.ones(3, "u8"))
    ledger.flush()
    os.write(1, b"3\\n")
"""


@pytest.mark.parametrize("answers", [1, 2, 17])
def test_what_was_flushed_survives_a_kill(tmp_path, answers):
    path = tmp_path / "run_ledger.h5"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as process:
        acknowledged = sum(int(process.stdout.readline()) for _ in range(answers))
        process.send_signal(signal.SIGKILL)
        acknowledged += 3 * process.stdout.read().count(b"3")
    statuses = read_statuses(path)
    assert len(statuses) >= acknowledged
    assert set(statuses[:acknowledged]) == {FrameStatus.SAVED}
    assert columns(path)["frame_number"][:acknowledged].tolist() == list(range(acknowledged))
    assert read_summary(path) is None
