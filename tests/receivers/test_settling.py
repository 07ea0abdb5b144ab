"""Frames that may be on any receiver: given up when no receiver can have them, and not before."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from lima2_processing.frame import AcquisitionId
from lima2_receivers.acquisition import State
from lima2_receivers.conductor.run import Run
from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts, FrameStatus
from lima2_receivers.ledger import Run as LedgerRun
from lima2_receivers.ledger_table import NEVER, TableLedger
from lima2_receivers.messages import Progress
from lima2_receivers.plan import AcquisitionPlan, SavingParams
from lima2_receivers.saving.frames_file import FramesFile
from lima2_receivers.saving.read import read_statuses, read_summary
from lima2_receivers.topology import NO_RECEIVER

ACQUISITION = AcquisitionId("0" * 32)


def progress(frames, first=0, received=None, state=State.RUNNING):
    """Return what a receiver reports of the frames that it has, all of them saved."""
    mine = frames[first:]
    return Progress(
        acquisition=ACQUISITION,
        state=state,
        first=first,
        runs=(LedgerRun(FrameStatus.SAVED, len(mine)),) if mine else (),
        timestamps=np.zeros(len(mine)).tobytes(),
        received=len(frames) if received is None else received,
        processed=len(frames),
        hits=0,
        counts=Counts(saved=len(frames)),
        highest=max(frames, default=-1),
        frames=np.array(mine, "<u8").tobytes(),
    )


@pytest.fixture
def run(tmp_path):
    return Run(ACQUISITION, AcquisitionPlan(saving=SavingParams(str(tmp_path))), 7, TableLedger(2))


def test_what_is_missing_when_nothing_moves_is_lost_once_all_is_reported(run):
    run.asked(5)
    run.take(0, progress([0, 3]))
    assert not run.overdue(1000)
    assert run.overdue(-1)
    run.settle_below(5, {0: 2, 1: 1})
    assert not run.overdue(-1)  # it is asked for already
    assert run.state().unplaced == Counts()
    run.take(1, progress([4]))
    assert run.state().unplaced == Counts(lost=2)
    assert run.state().reasons == {NEVER: 2}
    assert not run.overdue(-1)
    run.asked(1)
    assert run.overdue(-1)


def test_frames_beyond_those_announced_do_not_stand_for_one_that_is_missing(run):
    """Those of a signal, which the detector counts later than they come."""
    run.asked(4)
    run.take(0, progress([0, 1, 4, 5]))
    run.take(1, progress([2]))
    assert not run.overdue(1000)
    run.take(1, progress([2, 3]))
    assert run.overdue(1000)


def test_nothing_is_given_up_while_a_receiver_works(run):
    run.asked(3)
    run.take(0, progress([0], received=2))
    assert not run.overdue(-1)
    run.take(0, progress([0]))
    assert run.overdue(-1)


def test_frames_before_a_full_ring_are_waited_for_until_they_have_had_time_to_come(run):
    """Another acquisition, that still drains, may fill the ring."""
    run.asked(3)
    run.take(0, progress([0]))
    run.moved -= 2000
    assert run.overdue(1000)
    run.take(0, progress([0], first=1), full=True)
    assert not run.overdue(1000)
    run.take(0, progress([0], first=1))
    assert not run.overdue(1000)


def test_a_receiver_that_is_lost_while_it_settles_is_not_waited_for(run):
    run.asked(3)
    run.take(0, progress([0]))
    run.settle_below(3, {0: 1, 1: 2})
    run.bury(1)
    run.take(0, progress([0], first=1))
    assert run.state().unplaced == Counts(failed=2)
    assert run.state().counts == Counts(saved=1, failed=2)


def test_a_frame_that_came_twice_counts_once(run):
    """With the receiver that reported it first; also where a lost one's report comes late."""
    run.asked(3)
    run.take(0, progress([0, 1]))
    run.take(1, progress([1, 2]))
    assert run.state().counts == Counts(saved=3)
    assert [receiver.counts for receiver in run.state().receivers] == [Counts(saved=2), Counts(saved=1)]
    run.asked(1)
    run.bury(1)
    run.settle_below(4, {0: 2})
    run.take(1, progress([1, 2, 3]))
    assert run.state().counts == Counts(saved=3, failed=1)


def test_where_the_last_file_can_not_be_written_the_summary_says_so(run, tmp_path, monkeypatch):
    run.open_files(tmp_path / "master.h5", tmp_path / "ledger.h5")
    info = SimpleNamespace(by_frame=list, per_file=0, files=({}, {}))
    run.files.open_frames(tmp_path / "frames.h5", info)
    run.asked(1)
    run.take(0, progress([0]))

    def full(*_):
        raise SavingError("writing frames.h5: No space left on device")

    monkeypatch.setattr(FramesFile, "write", full)
    with pytest.raises(SavingError):
        run.close()
    summary = read_summary(tmp_path / "ledger.h5")
    assert (summary.outcome, summary.reason) == ("failed", "writing frames.h5: No space left on device")
    assert read_statuses(tmp_path / "ledger.h5").tolist() == [FrameStatus.SAVED]


def test_rows_that_may_not_be_in_a_file_are_not_shown_by_the_last_one(run, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(FramesFile, "write", lambda _, places, rows: shown.append((places, rows)))
    run.open_files(tmp_path / "master.h5", tmp_path / "ledger.h5")
    run.files.open_frames(tmp_path / "frames.h5", SimpleNamespace(by_frame=list, per_file=0, files=({}, {})))
    run.asked(3)
    runs = (LedgerRun(FrameStatus.SAVED, 1), LedgerRun(FrameStatus.FAILED, 1, "disk"), LedgerRun(FrameStatus.VETOED, 1))
    run.take(0, msgspec.structs.replace(progress([2, 1, 0]), runs=runs))
    run.close()
    places, rows = shown[0]
    assert (places.receivers.tolist(), rows) == ([0, NO_RECEIVER, 0], [3, 0])
    assert places.rows[[0, 2]].tolist() == [2, 0]


def test_rows_whose_file_is_open_are_not_work_in_progress(run):
    run.asked(3)
    held = progress([0, 1, 2], first=3, received=3)
    run.take(0, msgspec.structs.replace(held, first=0, counts=Counts(), held=2))
    assert not run.overdue(-1)  # one of them is still to be written
    run.take(0, msgspec.structs.replace(held, first=0, counts=Counts(), held=3))
    assert run.overdue(-1)


def test_receivers_are_asked_again_where_more_is_announced_meanwhile(run):
    """Rows that came meanwhile may keep the file open that the first answer waits for."""
    run.asked(2)
    run.settle_below(2, {0: 2, 1: 0})
    assert not run.overdue(-1)
    run.asked(2)
    assert run.overdue(-1)
    run.settle_below(4, {0: 3, 1: 1})
    run.take(0, progress([0, 1, 2]))
    run.take(1, progress([3]))
    assert run.state().unplaced == Counts()
    assert run.report().counts.saved == 4
