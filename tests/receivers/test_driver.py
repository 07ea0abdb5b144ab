"""The driver: what goes wrong in one acquisition, detector or receiver is told, and ends nothing else."""

import asyncio
import time

import msgspec
import numpy as np
import pytest

from lima2_processing.frame import AcquisitionId, FrameSpec
from lima2_receivers.acquisition import Event, State
from lima2_receivers.conductor.driver import Driver
from lima2_receivers.conductor.run import Run
from lima2_receivers.config import DeadlineConfig
from lima2_receivers.control import Capabilities, DetectorStatus, Range
from lima2_receivers.errors import DetectorError, SavingError, UnreachableError
from lima2_receivers.ledger import Counts, FrameStatus, SystemLedger
from lima2_receivers.ledger import Run as LedgerRun
from lima2_receivers.ledger_table import TableLedger
from lima2_receivers.messages import Announce, Done, Forget, Progress, ReceiverProgress, Settle, SettledRows
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, SavingParams, TriggerMode
from lima2_receivers.topology import RoundRobin

ID = AcquisitionId("0" * 32)
SECONDS = 10.0
CAPABILITIES = Capabilities("fake", (TriggerMode.SOFTWARE,), Range(0, 1), Range(0, 1), FrameSpec((4, 4), "<u2"))


class FakeControl:
    """A detector that does as it is told, or raises what the test says."""

    def __init__(self):
        self.errors = {}
        self.sent = 0

    async def connect(self):
        self._raise("connect")
        return CAPABILITIES

    async def status(self):
        self._raise("status")
        return DetectorStatus(7, self.sent, self.sent, busy=False)

    async def stop(self):
        self._raise("stop")
        return DetectorStatus(7, self.sent, self.sent, busy=False)

    def _raise(self, name):
        if name in self.errors:
            raise self.errors[name]


class FakeLink:
    """A receiver that has everything saved that was announced; ``spoil`` changes its reports."""

    rank = 0
    instance = "one"
    alive = True

    def __init__(self):
        self.due = 0
        self.closed = False
        self.forgotten = []
        self.knows = True  # what it is asked for
        self.spoil = lambda report: report

    async def poll(self, cursors):
        asked = cursors if self.knows else {}
        reports = tuple(self.spoil(self._report(name, first)) for name, first in asked.items())
        return ReceiverProgress("one", reports, 0, 8)

    async def ask(self, message, expected, timeout=None):
        match message:
            case Announce(n_frames=n_frames, final=final):
                self.due, self.closed = n_frames, final
            case Forget(acquisition):
                self.forgotten.append(acquisition)
        return Done()

    def _report(self, name, first):
        runs = (LedgerRun(FrameStatus.SAVED, self.due - first),) if self.due > first else ()
        state = State.CLOSED if self.closed else State.PREPARED
        stamps = b"\0" * 8 * max(0, self.due - first)
        return Progress(name, state, first, runs, stamps, self.due, self.due, 0, Counts(saved=self.due), self.due - 1)


class Rig:
    def __init__(self, folder, link=None, ledger=None, deadlines=None):
        self.control, self.link = FakeControl(), link or FakeLink()
        self.driver = Driver(self.control, [self.link], deadlines or DeadlineConfig(stalled=0.3))
        saving, acquisition = (
            SavingParams(str(folder)),
            AcquisitionParams(trigger_mode=TriggerMode.SOFTWARE, nb_frames=9),
        )
        self.run = Run(ID, AcquisitionPlan(saving, acquisition), 7, ledger or SystemLedger(RoundRobin(1)))
        self.run.open_files(folder / "master.h5", folder / "ledger.h5")
        self.run.machine.handle(Event.READY)
        self.driver.add(self.run)
        self.driver.handle(self.run, Event.START)
        self.watchers = [
            asyncio.create_task(self.driver.watch_detector()),
            asyncio.create_task(self.driver.watch_receiver(self.link)),
        ]

    async def take(self, n_frames):
        self.run.asked(n_frames)
        self.control.sent += n_frames
        await self.until(lambda: self.run.written >= n_frames)

    async def until(self, condition):
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.run.state()
            await asyncio.sleep(0.01)

    async def closed(self):
        await self.until(lambda: not self.run.live)
        return self.run.state()


@pytest.fixture
async def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    assert not any(task.done() for task in made.watchers), "a watcher has ended"
    for task in made.watchers:
        task.cancel()
    await asyncio.gather(*made.watchers, return_exceptions=True)


async def test_frames_are_recorded_and_a_stop_closes(rig):
    await rig.take(4)
    rig.driver.handle(rig.run, Event.STOP)
    final = await rig.closed()
    assert (final.outcome, final.written, final.announced) == ("stopped", 4, 4)
    await rig.until(lambda: rig.link.forgotten == [ID])


@pytest.mark.parametrize("error", [DetectorError("no answer"), RuntimeError("a bug")])
async def test_a_detector_that_can_not_be_stopped_leaves_nothing_stopping(rig, error):
    await rig.take(4)
    rig.control.errors["stop"] = error
    rig.driver.handle(rig.run, Event.STOP)
    final = await rig.closed()
    assert final.outcome == "failed"
    assert "the detector could not be stopped" in final.reason
    assert str(error) in final.reason
    assert (final.announced, final.counts.saved) == (4, 4)


@pytest.mark.parametrize("error", [DetectorError("no answer"), RuntimeError("a bug")])
async def test_a_detector_that_fails_fails_what_runs_and_is_asked_again(rig, error):
    await rig.take(2)
    rig.control.errors["status"] = error
    final = await rig.closed()
    assert str(error) in final.reason
    assert rig.driver.capabilities is None
    del rig.control.errors["status"]
    await rig.until(lambda: not rig.driver.fault and rig.driver.capabilities is CAPABILITIES)


@pytest.mark.parametrize(
    ("first", "stamps", "reason"),
    [(100, b"", "receiver 0: rows 2 to 99 are missing from the report"), (2, b"123", "receiver 0: internal error: ")],
)
async def test_a_report_that_makes_no_sense_fails_its_acquisition_alone(rig, first, stamps, reason):
    await rig.take(2)
    rig.link.spoil = lambda report: Progress(
        report.acquisition, report.state, first, report.runs, stamps, 0, 0, 0, Counts(), -1
    )
    rig.link.due = 5
    final = await rig.closed()
    assert final.outcome == "failed"
    assert reason in final.reason


async def test_a_receiver_that_knows_nothing_of_an_acquisition_was_restarted_while_it_was_prepared(rig):
    await rig.take(2)
    rig.link.knows = False
    final = await rig.closed()
    assert final.reason == "receiver 0 does not know it: was it restarted?"
    assert (final.announced, final.counts.saved) == (2, 2)


async def test_a_ledger_that_can_not_be_written_fails_the_acquisition(rig, monkeypatch):
    def full():
        raise SavingError("writing ledger.h5: No space left on device")

    await rig.take(2)
    monkeypatch.setattr(rig.run, "record", full)
    rig.run.asked(1)
    rig.control.sent += 1
    final = await rig.closed()
    assert "No space left on device" in final.reason


async def test_nothing_that_moves_while_draining_is_given_up(rig):
    await rig.take(2)
    rig.link.spoil = lambda report: Progress(
        report.acquisition, State.PREPARED, report.first, (), b"", 2, 2, 0, Counts(saved=2), 1
    )
    rig.driver.handle(rig.run, Event.STOP)
    final = await rig.closed()
    assert final.reason == "no progress for 0.3 s while draining"


async def test_shutting_down_ends_what_lives(rig):
    await rig.take(3)
    await rig.driver.shut_down()
    assert not rig.run.live
    assert rig.run.state().reason == "the conductor was shut down"
    assert rig.run.state().counts.saved == 3


async def test_waiting_for_a_stop_has_a_deadline(tmp_path):
    deadlines = DeadlineConfig(command=0.01, stalled=0.01)
    driver = Driver(FakeControl(), [FakeLink()], deadlines)
    run = Run(ID, AcquisitionPlan(SavingParams(str(tmp_path))), 7, SystemLedger(RoundRobin(1)))
    with pytest.raises(UnreachableError, match=r"still preparing 0\.06 s after its stop"):
        await driver.closed(run)


async def test_where_the_detector_can_not_say_how_many_it_sent_the_highest_number_decides(rig):
    """Also frames that were still on their way when it was stopped."""
    await rig.take(4)
    sent = []

    async def stop():
        sent.append(True)
        return DetectorStatus(7, 4, -1, busy=False)

    def late(report):
        if sent and len(sent) < 4:
            sent.append(True)
            rig.link.due = 6 + len(sent)
        return report

    rig.control.stop = stop
    rig.link.spoil = late
    rig.driver.handle(rig.run, Event.STOP)
    await rig.until(lambda: rig.run.machine.state in (State.DRAINING, State.CLOSED))
    final = await rig.closed()
    assert (final.outcome, final.announced_by) == ("stopped", "highest")
    assert final.announced == final.written == 10


async def test_what_is_prepared_while_a_lost_poll_times_out_is_not_lost_with_it(rig):
    """The receiver was killed, and is back: it has answered the prepare, and not what its predecessor was asked."""
    asked, answer = asyncio.Event(), asyncio.Event()
    poll = rig.link.poll

    async def lost(cursors):
        asked.set()
        await answer.wait()
        rig.link.poll = poll
        raise UnreachableError("receiver 0 did not answer")

    rig.link.poll = lost
    await asyncio.wait_for(asked.wait(), SECONDS)
    later = Run(AcquisitionId("1" * 32), rig.run.plan, 8, SystemLedger(RoundRobin(1)))
    later.machine.handle(Event.READY)
    rig.driver.add(later)
    answer.set()
    await rig.until(lambda: bool(rig.run.machine.reason))
    await rig.until(lambda: not rig.run.live)
    assert (later.machine.state, later.machine.reason) == (State.PREPARED, "")


class ArrivalLink(FakeLink):
    """A receiver that any frame may go to: it has as many as the test says, and no more once it was asked to settle."""

    def __init__(self):
        super().__init__()
        self.has = 0
        self.settled = []

    async def ask(self, message, expected, timeout=None):
        if isinstance(message, Settle):
            self.settled.append(message.n_frames)
            return SettledRows(self.has)
        return await super().ask(message, expected, timeout)

    def _report(self, name, first):
        self.due, due = self.has, self.due
        report = super()._report(name, first)
        self.due = due
        return msgspec.structs.replace(report, frames=np.arange(first, self.has, dtype="<u8").tobytes())


@pytest.fixture
async def dynamic(tmp_path):
    made = Rig(tmp_path, ArrivalLink(), TableLedger(1), DeadlineConfig(drain=1000.0))
    yield made
    for task in made.watchers:
        task.cancel()
    await asyncio.gather(*made.watchers, return_exceptions=True)


async def test_a_frame_is_waited_for_from_its_trigger_on_however_long_nothing_happened_before(dynamic):
    rig, polls = dynamic, []
    status = rig.control.status

    async def counted():
        polls.append(rig.run.told)
        return await status()

    rig.control.status = counted
    rig.run.moved = time.monotonic() - 2000.0
    rig.run.asked(1)
    rig.control.sent = 1
    await rig.until(lambda: polls.count(1) > 5)
    assert rig.link.settled == []
    rig.link.has = 1
    await rig.until(lambda: rig.link.settled == [1])
    assert rig.run.state().counts == Counts(saved=1)


async def test_a_receiver_that_can_not_settle_is_lost_and_its_acquisition_closes(dynamic):
    rig, ask = dynamic, dynamic.link.ask

    async def unreachable(message, expected, timeout=None):
        if isinstance(message, Settle):
            raise UnreachableError("receiver 0 did not answer")
        return await ask(message, expected, timeout)

    rig.link.ask = unreachable
    rig.link.has = 2
    rig.run.asked(2)
    rig.control.sent = 2
    final = await rig.closed()
    assert (final.outcome, final.reason) == ("failed", "receiver 0 did not answer")
    assert (final.announced, final.written, final.counts) == (2, 2, Counts(saved=2))


async def test_a_stop_before_any_frame_closes_without_settling(dynamic):
    dynamic.driver.handle(dynamic.run, Event.STOP)
    final = await dynamic.closed()
    assert (final.outcome, final.announced, final.counts) == ("stopped", 0, Counts())
    assert dynamic.link.settled == []
