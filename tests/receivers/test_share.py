"""A receiver's share of an acquisition: what becomes of each frame, and of the ring's slots."""

import itertools
import threading
import time

import h5py
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lima2_processing.errors import ProcessingError
from lima2_processing.frame import (
    Accumulated,
    Frame,
    FrameResult,
    FrameSpec,
    ModuleLayout,
    Output,
    OutputKind,
    Results,
    SparseFrame,
)
from lima2_receivers.acquisition import Acquisition, Event, Outcome, State
from lima2_receivers.errors import SavingError, StateError
from lima2_receivers.ledger import Counts, FrameStatus, Run
from lima2_receivers.plan import Compression, FileExistsPolicy, SavingParams, StreamSaving, raw_output
from lima2_receivers.receiver.book import REMEMBERED_ROWS
from lima2_receivers.receiver.ring import FrameRing
from lima2_receivers.receiver.rows import FixedRows
from lima2_receivers.receiver.share import Share
from lima2_receivers.saving.part import PartFiles
from lima2_receivers.source import SeriesEnd, Source
from lima2_receivers.topology import RoundRobin

ID = "0" * 32
DEADLINE = 30.0
LONG = 600.0  # seconds: a drain timeout that never passes
SHORT = 0.05  # seconds: one that is meant to pass
SPEC = FrameSpec((2, 4, 6), "<u2", ModuleLayout(((0, 0), (4, 0)), (8, 6), (4, 6)))
FILL = 65535
SAVED, VETOED, LOST, FAILED = FrameStatus.SAVED, FrameStatus.VETOED, FrameStatus.LOST, FrameStatus.FAILED
OVERTAKEN = "never arrived, later frames did"
SPARSE = Output("sparse", OutputKind.SPARSE, "<f4", (8, 6), "sparse")
PEAKS = Output("n_peaks", OutputKind.SCALAR, "<i4", (), "results")
HIT = Output("is_hit", OutputKind.SCALAR, "|u1", (), "results")
WINDOW = 4
ACCUMULATED = Output("acc", OutputKind.IMAGE, "<u4", (8, 6), "accumulated", window=WINDOW)
OUTPUTS = (SPARSE, PEAKS, HIT, ACCUMULATED)


class SilentSource(Source):
    def receive(self, message):
        raise NotImplementedError


class FakePipeline:
    """Finds as many peaks as the frame's number; ``spoil`` changes what comes out."""

    def __init__(self):
        self.spoil = lambda frames, results: results
        self.closed = 0
        self._in_window = []

    def process(self, frames):
        results = tuple(self._result(frame) for frame in frames)
        done = ()
        for frame in frames:
            if self._in_window and self._in_window[0] // WINDOW != frame.index // WINDOW:
                done += self.finish()
            self._in_window.append(frame.index)
        return Results(tuple(self.spoil(frames, results)), done)

    def finish(self):
        indices, self._in_window = self._in_window, []
        total = np.full((8, 6), sum(indices), "<u4")
        return (Accumulated(indices[0] // WINDOW, {"acc": total}),) if indices else ()

    def close(self):
        self.closed += 1

    def _result(self, frame):
        pixel = np.array([frame.index % 48], "<u4")
        values = {
            "sparse": SparseFrame(pixel, pixel.astype("<f4")),
            "n_peaks": np.array(frame.index, "<i4"),
            "is_hit": np.array(frame.index % 2, "|u1"),
        }
        return FrameResult(frame.index, values)


class BrokenFiles(PartFiles):
    """Part files on a disk that fails from a call on that the test chooses."""

    fail_write = fail_flush = fail_close = False

    def write(self, rows):
        if self.fail_write:
            raise SavingError("writing /d/raw.h5: No space left on device")
        super().write(rows)

    def flush(self):
        if self.fail_flush:
            raise SavingError("flushing /d/raw.h5: No space left on device")
        super().flush()

    def close(self, rows):
        super().close(rows)
        if self.fail_close:
            raise SavingError("closing /d/raw.h5: No space left on device")


class Rig:
    """A share with the threads of a daemon around it: the intake's and the ticks are the test's own."""

    def __init__(
        self,
        folder,
        rank=0,
        n_receivers=1,
        pipeline=None,
        drain_timeout=LONG,
        slots=4,
        batch=3,
        overwrite=False,
        nb_frames=0,
    ):
        self.folder = folder
        if overwrite:
            (folder / f"run_raw_{rank}.h5").write_text("old")
        policy = FileExistsPolicy.OVERWRITE if overwrite else FileExistsPolicy.ABORT
        self.machine = Acquisition(f"acquisition {ID}")
        self.ring = FrameRing(slots, SPEC.nbytes)
        self.topology = RoundRobin(n_receivers)
        self.pipeline = pipeline
        outputs = (raw_output(SPEC), *(OUTPUTS if pipeline else ()))
        streams = {
            name: StreamSaving(compression=Compression.NONE) for name in ("raw", "sparse", "results", "accumulated")
        }
        saving = SavingParams(str(folder), "run", policy, streams)
        self.files = BrokenFiles(folder, rank, saving, outputs, (), {})
        self.share = Share(
            acquisition=self.machine,
            rows=FixedRows(self.topology, rank),
            source=SilentSource(msgspec.Struct(), SPEC, 1),
            pipeline=pipeline,
            outputs=outputs,
            files=self.files,
            ring=self.ring,
            batch=batch,
            encoders=2,
            flush_period=0.01,
            drain_timeout=drain_timeout,
            nb_frames=nb_frames,
        )
        self.machine.handle(Event.READY)
        self.share.start()

    def send(self, *indices, modules=SPEC.all_modules, dtype=SPEC.dtype):
        """Hand over frames as the intake does, and return which were taken."""
        return [self._send(index, modules, dtype) for index in indices]

    def _send(self, index, modules, dtype):
        slot = self.ring.take(DEADLINE)
        assert slot is not None, "the ring ran dry"
        data = slot.memory.view(dtype).reshape(SPEC.shape)
        data[:] = index + 1
        taken = self.share.accept(Frame(index, data, modules, 1000.0 + index), slot)
        if not taken:
            data[:] = 99  # the intake uses the slot for the next frame
            self.ring.give(slot)
        return taken

    def until(self, settled=None):
        """Tick as the daemon does until so many leading rows are settled, or else until the share can be closed."""
        deadline = time.monotonic() + DEADLINE
        pause = threading.Event()
        while time.monotonic() < deadline:
            done = self.share.tick()
            if done if settled is None else len(self.fates()) >= settled:
                return
            pause.wait(0.002)
        pytest.fail(f"after {DEADLINE} s: {self.share.progress(ID, 0)}")

    def finish(self, announced):
        """Announce the final number of frames, drain, close, and check what always holds."""
        self.share.announce(announced, final=True)
        self.until()
        self.share.close()
        assert self.machine.state is State.CLOSED
        self.check_slots()

    def check_slots(self):
        assert self.ring.free == self.ring.slots

    def fates(self, first=0):
        return [(run.status, run.reason) for run in self.share.progress(ID, first).runs for _ in range(run.count)]

    def statuses(self):
        return [status for status, _ in self.fates()]

    def raw(self, rank=0):
        """Return one pixel of each row, and check that a row has one value throughout."""
        with h5py.File(self.folder / f"run_raw_{rank}.h5", "r") as file:
            rows = file["/entry_0000/raw/raw"][()].reshape(-1, 48)
        assert np.all(rows == rows[:, :1])
        return rows[:, 0].tolist()


@pytest.fixture
def rig(tmp_path):
    """Make a share: ``rig(pipeline=..., drain_timeout=...)``. It is closed with the test."""
    made = []

    def make(**options):
        made.append(Rig(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.share.close()


def test_frames_are_saved(rig):
    r = rig()
    assert all(r.send(*range(20)))
    r.finish(20)
    assert r.fates() == [(SAVED, "")] * 20
    assert r.raw() == list(range(1, 21))
    assert r.machine.outcome is Outcome.COMPLETE
    progress = r.share.progress(ID, 0)
    assert progress.runs == (Run(SAVED, 20),)
    assert (progress.received, progress.processed, progress.hits, progress.highest) == (20, 20, 0, 19)
    assert progress.counts == Counts(saved=20)
    assert (progress.state, progress.reason) == (State.CLOSED, "")


def test_an_acquisition_without_frames_is_complete(rig):
    r = rig()
    r.finish(0)
    assert r.raw() == []
    assert r.machine.outcome is Outcome.COMPLETE


def test_a_receiver_takes_its_own_frames_only(rig):
    r = rig(rank=1, n_receivers=3)
    assert r.send(*range(8)) == [False, True, False, False, True, False, False, True]
    r.finish(8)
    assert r.raw(rank=1) == [2, 5, 8]
    assert r.share.progress(ID, 0).highest == 7


def test_progress_goes_on_where_the_asker_left_off(rig):
    r = rig()
    r.send(0, 1, 3)
    r.finish(4)
    assert r.fates(2) == [(LOST, OVERTAKEN), (SAVED, "")]
    stamps = np.frombuffer(r.share.progress(ID, 2).timestamps, "<f8")
    assert np.array_equal(stamps, [np.nan, 1003.0], equal_nan=True)
    assert r.share.progress(ID, 4).runs == ()


def test_frames_that_were_overtaken_are_lost(rig):
    r = rig()
    r.send(0, 3, 4)
    r.until(settled=5)
    assert r.fates() == [(SAVED, ""), (LOST, OVERTAKEN), (LOST, OVERTAKEN), (SAVED, ""), (SAVED, "")]
    r.finish(5)
    assert r.raw() == [1, FILL, FILL, 4, 5]
    assert r.machine.outcome is Outcome.COMPLETE


def test_duplicates_are_dropped(rig):
    r = rig()
    assert r.send(0, 0, 1, 0) == [True, False, True, False]
    r.until(settled=2)
    assert r.send(0, 1) == [False, False]
    r.finish(2)
    assert r.raw() == [1, 2]
    assert r.share.progress(ID, 0).received == 2


@pytest.mark.parametrize("pipeline", [None, FakePipeline()], ids=["raw", "pipeline"])
@pytest.mark.parametrize("settle", [False, True], ids=["at once", "later"])
def test_stragglers_are_dropped(rig, pipeline, settle):
    r = rig(pipeline=pipeline)
    assert r.send(0, 3) == [True, True]
    if settle:
        r.until(settled=4)
    assert r.send(1, 2) == [False, False]
    r.finish(4)
    assert r.statuses() == [SAVED, LOST, LOST, SAVED]
    assert r.raw() == [1, FILL, FILL, 4]


def test_an_incomplete_frame_is_lost(rig):
    r = rig()
    assert r.send(0) + r.send(1, modules=0b01) + r.send(2) == [True, False, True]
    r.finish(3)
    assert r.fates()[1] == (LOST, "incomplete: modules are missing")
    assert r.raw() == [1, FILL, 3]


def test_what_is_due_and_does_not_come_is_lost_after_the_deadline(rig):
    r = rig(drain_timeout=SHORT)
    r.share.announce(4, final=False)
    r.send(0, 1)
    r.until(settled=4)
    assert r.fates()[2:] == [(LOST, "did not arrive within 0.05 s of being due")] * 2
    assert r.send(2) == [False]
    r.finish(4)
    assert r.raw() == [1, 2, FILL, FILL]


def test_nothing_is_lost_before_the_deadline(rig):
    r = rig(drain_timeout=LONG)
    r.share.announce(3, final=True)
    r.send(0)
    r.until(settled=1)
    assert not r.share.tick()
    assert r.send(1, 2) == [True, True]
    r.finish(3)
    assert r.statuses() == [SAVED] * 3


def test_nothing_is_lost_while_another_acquisition_fills_the_ring(rig):
    """Frames wait before it, and then need a moment to come."""
    r = rig(drain_timeout=LONG)
    r.share.announce(2, final=False)
    taken = [r.ring.take(0) for _ in range(r.ring.free)]
    r.share._book._progressed -= 2 * LONG
    r.share.tick()
    for slot in taken:
        r.ring.give(slot)
    r.share.tick()
    r.send(0)
    r.until(settled=1)
    assert r.statuses() == [SAVED]
    r.share._book._progressed -= 2 * LONG
    r.share._blocked -= 2 * LONG
    r.until(settled=2)
    assert r.statuses() == [SAVED, LOST]
    r.finish(2)


def test_what_did_not_come_before_the_detectors_end_is_lost_at_once(rig):
    r = rig(drain_timeout=LONG)
    r.send(0, 2)
    r.share.series_ended(SeriesEnd(5))
    r.finish(5)
    assert r.fates()[3:] == [(LOST, "never arrived")] * 2
    assert r.statuses()[:3] == [SAVED, LOST, SAVED]
    assert r.raw() == [1, FILL, 3, FILL, FILL]


@pytest.mark.parametrize("pipeline", [None, FakePipeline()], ids=["raw", "pipeline"])
def test_frames_go_on_after_some_were_lost_by_the_deadline(rig, pipeline):
    """Rows that are settled are not settled again when a later frame overtakes them."""
    r = rig(pipeline=pipeline, drain_timeout=SHORT)
    r.share.announce(4, final=False)
    r.send(0)
    r.until(settled=4)
    r.share.announce(8, final=False)
    assert r.send(6, 7) == [True, True]
    r.finish(8)
    assert r.statuses() == [SAVED, LOST, LOST, LOST, LOST, LOST, SAVED, SAVED]
    assert r.fates()[4] == (LOST, OVERTAKEN)
    assert r.raw() == [1, FILL, FILL, FILL, FILL, FILL, 7, 8]
    assert r.share.progress(ID, 0).reason == ""


def test_a_frame_that_comes_while_it_is_given_up_is_dropped(rig):
    r = rig(pipeline=FakePipeline(), drain_timeout=SHORT)
    begun, gate = threading.Event(), threading.Event()
    skip = r.files.skip

    def slow_skip(row):
        begun.set()
        assert gate.wait(DEADLINE)
        skip(row)

    r.files.skip = slow_skip
    r.share.announce(2, final=True)
    while not begun.wait(0.002):
        r.share.tick()
    assert r.send(1) == [False]
    gate.set()
    r.finish(2)
    assert r.statuses() == [LOST, LOST]
    assert r.machine.outcome is Outcome.COMPLETE


def test_a_disk_that_fails_fails_the_rest_and_keeps_what_was_acknowledged(rig):
    r = rig(drain_timeout=SHORT)
    r.send(0, 1)
    r.until(settled=2)
    r.files.fail_write = True
    reason = "writing /d/raw.h5: No space left on device"
    r.send(2)
    r.until(settled=3)
    assert r.share.progress(ID, 0).reason == reason
    assert r.send(3, 4) == [False, False]
    r.finish(6)
    assert r.fates() == [(SAVED, "")] * 2 + [(FAILED, reason)] * 3 + [(LOST, reason)]
    assert r.raw()[:2] == [1, 2]
    assert r.machine.outcome is Outcome.FAILED
    assert r.machine.reason == reason


def test_rows_that_were_written_but_not_flushed_have_failed(rig):
    r = rig()
    r.send(0)
    r.until(settled=1)
    r.files.fail_flush = True
    r.send(2)
    r.until(settled=3)
    reason = "flushing /d/raw.h5: No space left on device"
    assert r.fates() == [(SAVED, ""), (LOST, OVERTAKEN), (FAILED, reason)]
    r.finish(3)
    assert r.machine.reason == reason


def test_rows_that_were_written_before_something_else_failed_are_flushed(rig):
    pipeline = FakePipeline()
    r = rig(pipeline=pipeline, batch=1, slots=8)
    written, go = threading.Event(), threading.Event()
    write, flush = r.files.write, r.files.flush
    unflushed = []

    def held(rows):
        write(rows)
        unflushed.append(rows[0].row)
        if rows[0].row == 1:
            written.set()
            assert go.wait(DEADLINE)

    def flushing():
        flush()
        unflushed.clear()

    r.files.write, r.files.flush = held, flushing
    r.send(0, 1)
    assert written.wait(DEADLINE)
    r.share.fail("no conductor")
    go.set()
    r.until(settled=2)
    assert r.statuses() == [SAVED, SAVED]
    assert not unflushed


def test_files_that_cannot_be_closed_fail_the_acquisition(rig):
    r = rig()
    r.send(0)
    r.files.fail_close = True
    r.finish(1)
    assert r.machine.outcome is Outcome.FAILED
    assert r.machine.reason == "closing /d/raw.h5: No space left on device"


def test_a_frame_that_does_not_fit_fails_alone(rig):
    r = rig()
    r.send(0)
    r.send(1, dtype="<i2")
    r.send(2)
    r.finish(3)
    assert r.statuses() == [SAVED, FAILED, SAVED]
    assert r.fates()[1][1] == "output raw: got <i2 (2, 4, 6), expected <u2 (2, 4, 6)"
    assert r.machine.outcome is Outcome.COMPLETE


def test_the_first_reason_to_fail_is_kept(rig):
    r = rig()
    r.share.fail("the first")
    r.share.fail("the second")
    assert r.send(0) == [False]
    r.until(settled=1)
    assert r.fates() == [(FAILED, "the first")]
    r.finish(1)
    assert r.machine.reason == "the first"


def test_results_and_scalars_are_those_of_their_frame(rig):
    pipeline = FakePipeline()
    r = rig(pipeline=pipeline)
    r.send(*range(6))
    r.finish(6)
    assert r.share.scalars(5) == {"n_peaks": 5.0, "is_hit": 1.0}
    assert pipeline.closed
    assert r.share.progress(ID, 0).hits == 3
    with h5py.File(r.folder / "run_results_0.h5", "r") as file:
        assert file["/entry_0000/results/n_peaks"][()].tolist() == list(range(6))


@pytest.mark.parametrize("batch", [1, 3])
def test_what_was_accumulated_has_a_row_a_window(rig, tmp_path, batch):
    r = rig(pipeline=FakePipeline(), batch=batch)
    for index in (0, 1, 2, 3, 4, 6, 13):  # nothing of window 2 comes
        r.send(index)
    r.finish(14)
    with h5py.File(tmp_path / "run_accumulated_0.h5", "r") as file:
        rows = file["/entry_0000/accumulated/acc"][()]
    assert rows.shape == (4, 8, 6)
    assert rows[:, 0, 0].tolist() == [0 + 1 + 2 + 3, 4 + 6, 2**32 - 1, 13]


def test_what_can_not_be_accumulated_fails_the_share(rig):
    pipeline = FakePipeline()
    r = rig(pipeline=pipeline)

    def finish():
        raise ProcessingError("the device is lost")

    r.send(0, 1)
    r.until(settled=2)
    pipeline.finish = finish
    r.share.announce(2, final=True)
    r.until()
    r.share.close()
    assert "the device is lost" in r.machine.reason


def test_a_row_that_is_not_settled_has_no_scalars_yet(rig):
    r = rig(pipeline=FakePipeline())
    with pytest.raises(StateError, match="row 0 is not settled, 0 rows are"):
        r.share.scalars(0)
    r.send(1)
    r.until(settled=2)
    assert r.share.scalars(0) == {}


def test_scalars_are_remembered_for_a_while(rig):
    r = rig(pipeline=FakePipeline(), slots=64, batch=64)
    r.send(*range(REMEMBERED_ROWS + 200))
    r.finish(REMEMBERED_ROWS + 200)
    assert r.share.scalars(REMEMBERED_ROWS + 199)["n_peaks"] == REMEMBERED_ROWS + 199
    with pytest.raises(StateError, match="row 0 is no longer in memory"):
        r.share.scalars(0)


def test_a_vetoed_frame_counts_as_vetoed_and_keeps_what_it_has(rig):
    pipeline = FakePipeline()
    pipeline.spoil = lambda _, results: [FrameResult(x.index, x.values, vetoed=x.index % 2 == 0) for x in results]
    r = rig(pipeline=pipeline)
    r.send(*range(4))
    r.finish(4)
    assert r.fates() == [(VETOED, "vetoed by the pipeline"), (SAVED, "")] * 2
    assert r.share.scalars(2) == {"n_peaks": 2.0, "is_hit": 0.0}
    assert r.raw() == [1, 2, 3, 4]
    assert r.machine.outcome is Outcome.COMPLETE


def test_a_batch_that_cannot_be_processed_fails_alone(rig):
    def spoil(frames, results):
        if frames[0].index == 1:
            raise ProcessingError("no photons")
        return results

    pipeline = FakePipeline()
    pipeline.spoil = spoil
    r = rig(pipeline=pipeline, batch=1)
    r.send(0, 1, 2)
    r.finish(3)
    assert r.fates() == [(SAVED, ""), (FAILED, "pipeline: no photons"), (SAVED, "")]
    assert r.machine.outcome is Outcome.COMPLETE


def raise_zero_division(_frames, _results):
    raise ZeroDivisionError("by zero")


BUGS = {
    "raises": raise_zero_division,
    "too few results": lambda _frames, results: results[:-1],
    "unknown output": lambda _, results: [FrameResult(x.index, x.values | {"more": np.zeros(3)}) for x in results],
    "no scalar": lambda _, results: [FrameResult(x.index, x.values | {"n_peaks": np.zeros(3)}) for x in results],
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS.keys())
def test_a_bug_in_a_pipeline_fails_the_acquisition_and_keeps_no_slot(rig, bug):
    pipeline = FakePipeline()
    r = rig(pipeline=pipeline, batch=1)
    r.send(0)
    r.until(settled=1)
    pipeline.spoil = bug
    r.send(1)
    r.until(settled=2)
    r.send(*range(2, 10))
    r.finish(10)
    assert r.statuses() == [SAVED] + [FAILED] * 9
    assert r.machine.outcome is Outcome.FAILED
    assert r.machine.reason.startswith("internal error: ")


def test_closing_early_finishes_what_was_taken(rig):
    r = rig()
    assert all(r.send(*range(4)))
    r.share.close()
    r.check_slots()
    assert r.raw() == [1, 2, 3, 4]
    assert r.statuses() == [SAVED] * 4


def test_nothing_is_taken_once_it_is_closed(rig):
    r = rig()
    r.send(0)
    r.share.close()
    assert r.send(1, 5) == [False, False]
    r.check_slots()
    r.share.close()
    assert r.statuses() == [SAVED]


def test_a_second_end_changes_nothing(rig):
    r = rig()
    r.send(0)
    r.finish(1)
    r.share.announce(5, final=True)
    assert not r.share.tick()
    assert r.statuses() == [SAVED]
    assert r.machine.outcome is Outcome.COMPLETE


def test_discarding_removes_the_files(rig, tmp_path):
    r = rig(pipeline=FakePipeline())
    r.send(*range(4))
    r.share.discard()
    r.check_slots()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Fresh folders, one after the other."""
    base = tmp_path_factory.mktemp("shares")
    return (base / str(number) for number in itertools.count())


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(indices=st.lists(st.integers(0, 12), max_size=20), pipeline=st.booleans(), ended=st.booleans())
def test_any_order_of_arrival_settles_every_row_once(folders, indices, pipeline, ended):
    r = Rig(next(folders), pipeline=FakePipeline() if pipeline else None, drain_timeout=LONG if ended else SHORT)
    highest, kept = -1, set()
    for index in indices:
        assert r.send(index) == [index > highest]
        if index > highest:
            highest = index
            kept.add(index)
    if ended:
        r.share.series_ended(SeriesEnd(13))
    r.finish(13)
    assert r.statuses() == [SAVED if row in kept else LOST for row in range(13)]
    assert r.raw() == [row + 1 if row in kept else FILL for row in range(13)]
    assert r.share.progress(ID, 0).counts == Counts(saved=len(kept), lost=13 - len(kept))
    assert r.machine.outcome is Outcome.COMPLETE


def test_a_pipeline_that_can_not_be_closed_fails_the_share_and_not_the_daemon(rig):
    class Clinging(FakePipeline):
        def close(self):
            raise RuntimeError("CL_OUT_OF_RESOURCES")

    r = rig(pipeline=Clinging())
    r.send(0, 1)
    r.finish(2)
    assert r.machine.reason == "internal error: RuntimeError: CL_OUT_OF_RESOURCES"
    assert r.raw() == [1, 2]


def test_a_share_that_nobody_asks_for_is_an_orphan_until_somebody_does(rig):
    r = rig()
    assert not r.share.orphaned(time.monotonic() - LONG)
    later = time.monotonic() + SHORT
    assert r.share.orphaned(later)
    while time.monotonic() <= later:
        r.share.progress(ID, 0)
    r.share.progress(ID, 0)
    assert not r.share.orphaned(later)


def test_an_orphan_whose_frames_still_come_is_none(rig):
    r = rig()
    later = time.monotonic() + SHORT
    assert r.share.orphaned(later)
    for index in itertools.count():
        r.send(index)
        if time.monotonic() > later:
            break
    r.send(index + 1)
    assert not r.share.orphaned(later)


def test_an_abandoned_share_keeps_what_it_has_and_closes(rig):
    r = rig()
    r.send(0, 1)
    r.until(settled=2)
    r.share.abandon("no conductor")
    r.share.close()
    assert r.machine.state is State.CLOSED
    assert r.machine.reason == "no conductor"
    assert r.raw() == [1, 2]
    r.check_slots()


def test_files_that_are_replaced_wait_until_the_first_frame_or_the_end(tmp_path, rig):
    """A discard puts them back; a share without frames that is closed replaces them."""
    r = rig(overwrite=True)
    r.share.discard()
    assert (tmp_path / "run_raw_0.h5").read_text() == "old"
    r = rig(overwrite=True)
    assert (tmp_path / "run_raw_0.h5.replaced").read_text() == "old"
    r.send(0)
    r.until(settled=1)
    assert not (tmp_path / "run_raw_0.h5.replaced").exists()
    r.finish(1)
    r = rig(overwrite=True)
    r.finish(0)
    assert [path.name for path in tmp_path.iterdir()] == ["run_raw_0.h5"]


def test_a_frame_beyond_the_last_is_dropped(rig, caplog):
    """Its number is broken: it would have overtaken all that is still to come."""
    bench = rig(nb_frames=4)
    assert bench.send(0, 20_000, 4, 1, 2, 3) == [True, False, False, True, True, True]
    bench.share.announce(4, final=True)
    bench.until()
    bench.share.close()
    assert bench.fates() == [(FrameStatus.SAVED, "")] * 4
    assert "got frame 20000 of 4" in caplog.text
