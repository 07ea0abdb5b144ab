"""What the conductor knows of an acquisition."""

from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

from lima2_processing.frame import AcquisitionId, FrameSpec
from lima2_receivers.acquisition import Instruction, State
from lima2_receivers.conductor.journal import Facts, Made
from lima2_receivers.conductor.run import Run
from lima2_receivers.control import DetectorStatus
from lima2_receivers.ledger import Counts, FrameStatus, SystemLedger
from lima2_receivers.ledger import Run as LedgerRun
from lima2_receivers.messages import FateRuns, Prepared, Progress
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, FileExistsPolicy, SavingParams, TriggerMode
from lima2_receivers.saving.read import LedgerRows, open_file, read_summary
from lima2_receivers.topology import RoundRobin

ACQUISITION = AcquisitionId("0" * 32)


def progress(rows, first=0, state=State.RUNNING):
    return Progress(
        acquisition=ACQUISITION,
        state=state,
        first=first,
        runs=(LedgerRun(FrameStatus.SAVED, rows - first),) if rows > first else (),
        timestamps=np.arange(first, rows, dtype="<f8").tobytes(),
        received=rows,
        processed=rows,
        hits=0,
        counts=Counts(saved=rows),
        highest=rows - 1,
    )


def new_run(tmp_path, n_receivers=1):
    ledger = SystemLedger(RoundRobin(n_receivers))
    run = Run(ACQUISITION, AcquisitionPlan(saving=SavingParams(str(tmp_path))), 7, ledger)
    run.open_files(tmp_path / "master.h5", tmp_path / "ledger.h5")
    return run


def test_frames_that_settle_before_their_trigger_is_counted_are_recorded_after_it(tmp_path):
    run = new_run(tmp_path)
    run.take(0, progress(3))
    assert not run.unrecorded
    run.asked(3)
    assert run.unrecorded
    assert run.record()
    assert run.written == 3
    run.discard()


def test_only_leading_frames_of_all_receivers_are_recorded(tmp_path):
    run = new_run(tmp_path, n_receivers=2)
    run.asked(6)
    run.take(0, progress(3))
    run.record()
    assert run.written == 1
    run.take(1, progress(1))
    run.record()
    assert run.written == 3
    run.take(1, progress(3, first=0))  # a report that overlaps what is known
    run.record()
    assert run.written == 6
    with open_file(tmp_path / "ledger.h5") as file:
        ledger = file["/entry_0000/ledger"]
        assert ledger["timestamp"][:].tolist() == [0, 0, 1, 1, 2, 2]
        assert ledger["receiver"][:].tolist() == [0, 1] * 3
    run.discard()


def test_a_stop_announces_what_was_reached(tmp_path):
    run = new_run(tmp_path)
    run.asked(100)
    run.conclude(DetectorStatus(series=7, triggered=100, sent=40, busy=False))
    assert (run.announced, run.announced_by) == (40, "control")
    other = new_run(tmp_path / "other")
    other.asked(100)
    other.take(0, progress(12))
    other.conclude(None)
    assert (other.announced, other.announced_by) == (12, "highest")
    run.discard()
    other.discard()


def test_a_dead_receiver_fails_its_frames(tmp_path):
    run = new_run(tmp_path, n_receivers=2)
    run.asked(10)
    run.take(0, progress(5, state=State.CLOSED))
    run.take(1, progress(2))
    assert not run.drained()
    run.bury(1)
    assert run.drained()
    run.settle_dead()
    state = run.state()
    assert (state.counts.saved, state.counts.failed) == (7, 3)
    assert state.reasons == {"receiver 1 was lost": 3}
    run.discard()


def test_several_threads_that_record_write_each_frame_once(tmp_path):
    run = new_run(tmp_path, n_receivers=2)
    n_frames = 2000
    run.asked(n_frames)
    with ThreadPoolExecutor(4) as pool:
        pending = []
        for rows in range(10, n_frames // 2 + 1, 10):
            run.take(0, progress(rows, state=State.CLOSED))
            run.take(1, progress(rows, state=State.CLOSED))
            pending += [pool.submit(run.record) for _ in range(2)]
        closing = pool.submit(run.close)
        for done in (*pending, closing):
            done.result(timeout=30)
    assert run.written == n_frames
    with open_file(tmp_path / "ledger.h5") as file:
        ledger = file["/entry_0000/ledger"]
        assert ledger["frame_number"][:].tolist() == list(range(n_frames))
        assert ledger["timestamp"][:].tolist() == [frame // 2 for frame in range(n_frames)]


def test_a_fate_that_is_known_has_its_timestamp(tmp_path):
    run = new_run(tmp_path, n_receivers=1)
    run.asked(4)
    part = run._ledger.parts[0]

    class Watched(type(part)):
        def extend(self, first, runs):
            super().extend(first, runs)
            run.record()  # as another thread may, at this very moment

    part.__class__ = Watched
    run.take(0, progress(4, state=State.CLOSED))
    run.close()
    with open_file(tmp_path / "ledger.h5") as file:
        assert np.isfinite(file["/entry_0000/ledger/timestamp"][:]).all()


def old_files(tmp_path):
    names = ("master.h5", "ledger.h5")
    for name in names:
        (tmp_path / name).write_text(f"old {name}")
    saving = SavingParams(str(tmp_path), file_exists_policy=FileExistsPolicy.OVERWRITE)
    run = Run(ACQUISITION, AcquisitionPlan(saving=saving), 7, SystemLedger(RoundRobin(1)))
    run.open_files(*(tmp_path / name for name in names))
    return run


def test_files_that_were_to_be_replaced_come_back_when_the_prepare_is_undone(tmp_path):
    old_files(tmp_path).discard()
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"master.h5": "old master.h5", "ledger.h5": "old ledger.h5"}


@pytest.mark.parametrize("how", ["keep_files", "close"])
def test_files_that_were_replaced_are_gone_once_it_runs_or_is_closed(tmp_path, how):
    run = old_files(tmp_path)
    getattr(run, how)()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.h5", "master.h5"]
    run.discard()
    assert [path.name for path in tmp_path.iterdir() if "replaced" in path.name] == []


def test_a_sum_that_does_not_add_up_fails_the_acquisition(tmp_path):
    run = new_run(tmp_path)
    run.asked(5)
    run.take(0, progress(4, state=State.CLOSED))
    run.close()
    assert run.machine.reason == "the ledger does not add up: 4 frames settled, 5 announced"
    assert read_summary(tmp_path / "ledger.h5").outcome == "failed"


def test_a_frame_too_many_does_not_make_up_for_one_that_is_missing(tmp_path):
    run = new_run(tmp_path, n_receivers=2)
    run.asked(6)
    run.take(0, progress(2, state=State.CLOSED))
    run.take(1, progress(4, state=State.CLOSED))
    run.close()
    assert run.machine.reason == "the ledger does not add up: 4 leading frames settled, 6 announced"
    summary = read_summary(tmp_path / "ledger.h5")
    assert (summary.outcome, summary.reason) == ("failed", run.machine.reason)


def test_a_report_says_what_became_of_all_frames(tmp_path):
    run = new_run(tmp_path, n_receivers=2)
    run.asked(6)
    run.take(0, progress(3))
    lost = (LedgerRun(FrameStatus.SAVED, 1), LedgerRun(FrameStatus.LOST, 2, "never arrived"))
    run.take(1, msgspec.structs.replace(progress(3), runs=lost, counts=Counts(1, lost=2)))
    run.record()
    report = run.report()
    assert (report.announced, report.announced_by, report.counts) == (6, "triggers", Counts(4, lost=2))
    assert report.reasons == {"never arrived": 2}
    assert report.runs == FateRuns((0, 3, 4, 5), (3, 1, 1, 1), (1, 3, 1, 3))
    run.discard()


def resumed(tmp_path, facts, earlier=(), mode=TriggerMode.SOFTWARE):
    """A run of 9 frames on two receivers that another conductor had begun."""
    timing = AcquisitionParams(9, trigger_mode=mode)
    plan = AcquisitionPlan(SavingParams(str(tmp_path)), timing)
    run = Run(ACQUISITION, plan, 1, SystemLedger(RoundRobin(2)))
    n = len(earlier)
    rows = LedgerRows(np.array(earlier, "u1"), RoundRobin(2).places(0, n), np.arange(n, dtype="<f8"), np.ones(n, "u8"))
    prepared = Prepared(ACQUISITION, "/m", "/l", (), FrameSpec((4, 4), "<u2"), ())
    return run, run.resume(Made(prepared, 7, (), ({}, {})), facts, rows)


@pytest.mark.parametrize(
    ("facts", "instructions"),
    [
        (Facts(State.PREPARED), ()),
        (Facts(State.RUNNING, 5, finished=True), ()),
        (Facts(State.STOPPING, 5, "control", stopped=True), (Instruction.HALT,)),
        (Facts(State.DRAINING, 5, "highest", reason="hot"), (Instruction.DRAIN,)),
    ],
)
def test_a_run_goes_on_where_its_conductor_died(tmp_path, facts, instructions):
    run, found = resumed(tmp_path, facts)
    assert found == instructions
    assert (run.facts(), run.series, run.exhausted()) == (facts, 7, facts.finished)


@pytest.mark.parametrize(
    ("triggered", "announced"),
    [(3, 3), (5, 5), (0, 2), (8, 5)],  # the last trigger did not arrive; it did; written frames were triggered; absurd
)
def test_the_detector_says_which_triggers_it_got(tmp_path, triggered, announced):
    run, _ = resumed(tmp_path, Facts(State.RUNNING, 5), (FrameStatus.SAVED,) * 2)
    run.adopt(DetectorStatus(7, triggered, triggered, busy=False))
    assert (run.announced, run.machine.state, run.state().written) == (announced, State.RUNNING, 2)


@pytest.mark.parametrize(("n_frames", "by"), [(9, "triggers"), (0, "control")])
def test_a_start_that_never_arrived_was_none(tmp_path, n_frames, by):
    run, _ = resumed(tmp_path, Facts(State.RUNNING, n_frames, by), mode=TriggerMode.INTERNAL)
    run.adopt(DetectorStatus(7, 0, 0, busy=False))
    assert (run.announced, run.announced_by, run.machine.state) == (0, "triggers", State.PREPARED)


def test_what_was_written_before_stays_where_a_receiver_is_gone(tmp_path):
    fates = (FrameStatus.SAVED, FrameStatus.LOST, FrameStatus.SAVED, FrameStatus.SAVED)
    run, _ = resumed(tmp_path, Facts(State.RUNNING, 6), fates)
    paths = [tmp_path / "m.h5", tmp_path / "l.h5"]
    for path in paths:
        path.write_text("of the conductor that died")
    run.reopen_files(paths, None)
    run.take(0, progress(1))
    run.bury(1)
    assert run.record()
    assert (run.written, run.state().written) == (2, 4)
    assert paths[1].read_text() == "of the conductor that died"
    run.take(0, progress(3))
    assert run.record()
    run.settle_dead()
    run.close()
    with open_file(paths[1]) as file:
        ledger = file["/entry_0000/ledger"]
        assert ledger["frame_status"][()].tolist() == [*fates, FrameStatus.SAVED, FrameStatus.FAILED]
        assert ledger["timestamp"][()].tolist()[:5] == [0.0, 1.0, 1.0, 3.0, 2.0]
    assert run.state().reasons == {"lost before the conductor was restarted": 1, "receiver 1 was lost": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.h5", "m.h5"]


def test_a_report_that_goes_on_does_not_close_a_receiver(tmp_path):
    run = new_run(tmp_path)
    run.asked(4)
    run.take(0, msgspec.structs.replace(progress(2, state=State.CLOSED), more=True))
    assert not run.drained()
    run.take(0, progress(4, first=2, state=State.CLOSED))
    assert run.drained()
