"""Files that are closed one after the other, by themselves."""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lima2_receivers.acquisition import Outcome
from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, FileExistsPolicy
from lima2_receivers.saving.ledger_copies import LedgerCopies
from lima2_receivers.saving.ledger_file import LedgerSummary
from lima2_receivers.saving.names import part_names
from lima2_receivers.saving.read import read_rows, read_sparse
from lima2_receivers.saving.rolling import RollingFiles
from lima2_receivers.topology import RoundRobin

MEASUREMENT = "/entry_0000/measurement"
DENSE = "entry_0000/dense/dense"


def rolling(folder, model, per_file=4, planned=0, **changes):
    return RollingFiles(
        folder, 0, model.saving(folder, **changes), model.OUTPUTS, model.CONSTANTS, model.METADATA, per_file, planned
    )


def put(files, model, *rows):
    for row in rows:
        files.write((model.encoded(files, row, row),))


def dense(folder, number):
    with h5py.File(folder / f"run_dense_0_{number:04d}.h5", "r") as file:
        return file[DENSE][()]


def published(folder):
    return sorted(path.name for path in folder.glob("run_dense_0_*.h5"))


def test_a_file_appears_when_it_is_full(tmp_path, model):
    files = rolling(tmp_path, model)
    put(files, model, 0, 2, 3, 5)
    files.flush()
    assert published(tmp_path) == []
    assert all(files.holds_back(row) for row in (0, 2, 3, 5))
    files.skip(1)
    files.flush()
    assert published(tmp_path) == ["run_dense_0_0000.h5"]
    assert [files.holds_back(row) for row in (0, 2, 3, 5)] == [False, False, False, True]
    found = dense(tmp_path, 0)
    assert len(found) == 4
    for row in (0, 2, 3):
        np.testing.assert_array_equal(found[row], model.values(row)["dense"])
    files.close(6)
    assert published(tmp_path) == ["run_dense_0_0000.h5", "run_dense_0_0001.h5"]
    assert not list(tmp_path.glob("*.writing"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_are_found_whatever_their_order_and_wherever_files_were_closed_early(tmp_path_factory, model, data):
    folder = tmp_path_factory.mktemp("rolling")
    per_file = data.draw(st.integers(1, 5))
    n_rows = data.draw(st.integers(1, 12))
    lost = data.draw(st.sets(st.integers(0, n_rows - 1)))
    files = rolling(folder, model, per_file)
    cut = data.draw(st.integers(0, n_rows))  # closed early after so many rows
    for rows in (range(cut), range(cut, n_rows)):
        for row in data.draw(st.permutations(list(rows))):
            if row in lost:
                files.skip(row)
            else:
                put(files, model, row)
            if data.draw(st.booleans()):
                files.flush()
        files.flush(partly=True)
        assert not any(files.holds_back(row) for row in rows)
    for row in set(range(n_rows)) - lost:
        number, at = divmod(row, per_file)
        np.testing.assert_array_equal(dense(folder, number)[at], model.values(row)["dense"])
        sparse = read_sparse(folder / f"run_sparse_0_{number:04d}.h5", at)
        np.testing.assert_array_equal(sparse.index, model.values(row)["sparse"].index)
    files.close(n_rows)
    assert not list(folder.glob("*.writing"))


def test_a_file_that_is_continued_stays_readable_until_it_is_replaced(tmp_path, model):
    files = rolling(tmp_path, model)
    put(files, model, 0)
    files.flush(partly=True)
    put(files, model, 1)
    files.flush()
    assert len(dense(tmp_path, 0)) == 1
    assert (files.holds_back(0), files.holds_back(1)) == (True, True)
    files.flush(partly=True)
    assert len(dense(tmp_path, 0)) == 2
    files.close(2)


def test_the_last_file_is_as_long_as_was_planned(tmp_path, model):
    files = rolling(tmp_path, model, planned=7)
    put(files, model, 0, 4)
    files.close(5)
    assert [len(dense(tmp_path, number)) for number in (0, 1)] == [4, 3]


def test_a_file_that_can_not_be_closed_is_not_there(tmp_path, model, monkeypatch):
    """Its rows have failed; files before it stay."""
    files = rolling(tmp_path, model, per_file=2)
    put(files, model, 0, 1)
    files.flush()
    put(files, model, 2, 3)

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lima2_receivers.saving.part.os.fsync", fail)
    with pytest.raises(SavingError, match="No space left"):
        files.flush()
    monkeypatch.undo()
    files.close(4)
    assert published(tmp_path) == ["run_dense_0_0000.h5"]
    assert not list(tmp_path.glob("*.writing"))


@pytest.mark.parametrize("left", ["run_raw_0_0007.h5", "run_raw_0_0002.h5.writing"])
def test_old_files_are_refused_or_replaced_or_put_back(tmp_path, model, left):
    old = tmp_path / left
    old.write_text("old")
    other = tmp_path / "run_raw_01_0007.h5"  # another prefix, that begins alike
    other.write_text("other")
    with pytest.raises(SavingError, match="File exists"):
        rolling(tmp_path, model)
    files = rolling(tmp_path, model, policy=FileExistsPolicy.OVERWRITE)
    assert not old.exists()
    files.discard()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([left, other.name])
    assert old.read_text() == "old"
    files = rolling(tmp_path, model, policy=FileExistsPolicy.OVERWRITE)
    put(files, model, 0)
    files.close(1)
    assert not old.exists()
    assert not list(tmp_path.glob("*.replaced"))
    assert other.read_text() == "other"


def test_two_at_once_do_not_share_files(tmp_path, model):
    first = rolling(tmp_path, model)
    with pytest.raises(SavingError):
        rolling(tmp_path, model)
    put(first, model, 0)
    first.close(1)
    assert len(dense(Path(tmp_path), 0)) == 1


@pytest.fixture
def run_of_six(tmp_path, model, make_master):
    """The master of a run of 10 frames in files of 4, of which 6 were taken and frame 4 was lost."""
    names = part_names("run", 0, ("raw", "dense", "sparse", "results"), rolling=True)
    saving = model.saving(tmp_path)
    plan = AcquisitionPlan(saving=saving, acquisition=AcquisitionParams(nb_frames=10), pipeline=None)
    master, _ = make_master(1, files=(names,), per_file=4, plan=plan)
    files = rolling(tmp_path, model, planned=10)
    put(files, model, 0, 1, 2, 3, 5)
    files.skip(4)
    files.close(6)
    ledger = LedgerCopies(tmp_path / "run_ledger.h5", RoundRobin(1))
    ledger.append(np.array([1, 1, 1, 1, 3, 1], "u1"), np.arange(6.0), np.ones(6, "u8"))
    ledger.close(LedgerSummary("0" * 32, 6, "triggers", Counts(), {}, Outcome.COMPLETE, ""))
    return master


def test_the_master_shows_what_our_readers_find(run_of_six, model):
    with h5py.File(run_of_six, "r") as file:
        plain = {name: file[f"{MEASUREMENT}/{name}"][()] for name in ("data", "raw", "n_peaks", "peaks")}
    for name, whole in plain.items():
        assert len(whole) == 10
        np.testing.assert_array_equal(read_rows(run_of_six, f"{MEASUREMENT}/{name}"), whole[:6])
    for frame in (0, 1, 2, 3, 5):
        np.testing.assert_array_equal(plain["data"][frame], model.values(frame)["dense"])
    assert np.isnan(plain["data"][[4, 6, 9]]).all()


def test_a_file_that_should_be_there_and_is_not_is_an_error(run_of_six, tmp_path):
    """Another host may not see it yet; fill would be wrong without a word."""
    (tmp_path / "run_dense_0_0001.h5").unlink()
    assert len(read_rows(run_of_six, f"{MEASUREMENT}/data", 0, 5)) == 5  # frame 4 was lost
    with pytest.raises(SavingError, match=r"run_dense_0_0001\.h5"):
        read_rows(run_of_six, f"{MEASUREMENT}/data", 0, 6)


def test_tiled_reads_the_same(run_of_six):
    stack = pytest.importorskip("lima2_ophyd.tiled.table").TableStack(str(run_of_six), f"{MEASUREMENT}/data")
    with stack:
        np.testing.assert_array_equal(stack[1:6], read_rows(run_of_six, f"{MEASUREMENT}/data", 1, 6))
