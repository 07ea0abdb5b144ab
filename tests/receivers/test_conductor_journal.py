"""What a conductor writes down: read back as it was, and of no harm where it is damaged."""

import logging

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_processing.frame import AcquisitionId, FrameSpec, PipelineFacts
from lima2_receivers.acquisition import Outcome, State
from lima2_receivers.conductor.journal import (
    MAGIC,
    Closed,
    Facts,
    Made,
    Opening,
    Record,
    begin,
    decode_journal,
    encode_entry,
)
from lima2_receivers.conductor.journal_files import REMEMBERED, JournalFile, JournalFolder, journal_folder
from lima2_receivers.conductor.recovery import remove_files
from lima2_receivers.config import ConductorConfig, Config, DetectorConfig, ReceiverConfig, SavingConfig
from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts
from lima2_receivers.messages import FateRuns, LedgerReport, Prepared
from lima2_receivers.plan import AcquisitionParams, AcquisitionPlan, FileExistsPolicy, SavingParams, TriggerMode
from lima2_receivers.published import AcquisitionState
from lima2_receivers.saving.claim import Claim, Heir
from lima2_receivers.topology import Dispatch

counts = st.integers(0, 2**40)
ids = st.text(min_size=1).map(AcquisitionId)
facts = st.builds(Facts, st.sampled_from(State), counts, st.text(), st.booleans(), st.booleans(), st.text())
openings = st.builds(
    lambda name, number, series: opening(name, number, series), ids, st.integers(0, 2**31), st.integers(0, 2**62)
)


def opening(name="a", nb_frames=5, series=7, files=(), replaces=()):
    timing = AcquisitionParams(nb_frames, trigger_mode=TriggerMode.SOFTWARE)
    plan = AcquisitionPlan(SavingParams("/data"), timing, detector=msgspec.Raw(msgspec.msgpack.encode({"loss": 0.5})))
    return Opening(AcquisitionId(name), plan, series, ("ipc:///r0",), Dispatch.DYNAMIC, files, replaces)


def made(name="a"):
    spec = FrameSpec((4, 4), "<u2")
    prepared = Prepared(AcquisitionId(name), "/data/m.h5", "/data/l.h5", (), spec, (PipelineFacts(),))
    return Made(prepared, 99, (), ({"raw": "run_raw_0.h5"},))


def closed(name="a"):
    state = AcquisitionState(AcquisitionId(name), State.CLOSED, Outcome.COMPLETE, "", 5, "triggers", 5, ())
    report = LedgerReport(AcquisitionId(name), 5, "triggers", Counts(saved=5), {}, FateRuns((0,), (5,), (1,)), 5, 0)
    return Closed(state, report)


def whole(*entries):
    return begin() + b"".join(map(encode_entry, entries))


@given(openings, st.lists(facts, max_size=5), st.booleans())
@settings(deadline=None)
def test_what_was_written_is_read(first, changes, over):
    entries = [first, made(), *changes, *([closed()] if over else [])]
    record = decode_journal(whole(*entries))
    expected = Record(first, made(), changes[-1] if changes else Facts(), closed() if over else None)
    assert record == expected
    assert decode_journal(whole(*record.entries())) == expected


@given(st.lists(facts, min_size=1, max_size=4), st.data())
@settings(deadline=None)
def test_a_journal_that_was_cut_off_says_what_was_whole(changes, data):
    entries = [encode_entry(entry) for entry in (opening(), made(), *changes)]
    ends = np.cumsum([len(begin()), *map(len, entries)])
    cut = data.draw(st.integers(0, int(ends[-1])))
    kept = (begin() + b"".join(entries))[:cut]
    n_whole = int(np.searchsorted(ends, cut, "right")) - 1
    if n_whole < 1:
        with pytest.raises(SavingError):
            decode_journal(kept)
        return
    record = decode_journal(kept)
    assert (record.made is None) == (n_whole < 2)
    assert record.facts == ([Facts(), *changes][max(0, n_whole - 2)])


@given(st.data())
@settings(deadline=None)
def test_a_damaged_byte_is_told_or_costs_the_entries_behind_it(data):
    good = whole(opening(), made(), Facts(State.RUNNING, 3))
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        record = decode_journal(bytes(bad))
    except SavingError:
        return
    assert record in (Record(opening()), Record(opening(), made()))


@given(st.binary(max_size=200))
def test_what_is_no_journal_is_told(data):
    for bad in (data, MAGIC + data, begin() + data):
        with pytest.raises(SavingError, match="journal"):
            decode_journal(bad)


def test_another_version_is_told():
    with pytest.raises(SavingError, match="got version 2, expected 1"):
        decode_journal(MAGIC + b"\2\0" + encode_entry(opening()))


def test_journals_are_kept_while_they_are_needed_and_unusable_ones_are_put_aside(tmp_path, caplog):
    folder = JournalFolder(tmp_path / "journals")
    assert folder.load() == []
    for number in range(REMEMBERED + 3):
        file = folder.open(opening(str(number), series=100 + number))
        file.add(made(str(number)))
        if number != 1:
            file.add(closed(str(number)))
            file.add(Facts())  # too late, and of no harm
    (folder.folder / "5.journal").write_bytes(b"rubbish")
    (folder.folder / "notes.txt").write_text("not ours")
    folder.open(opening("last", series=10**19))
    with caplog.at_level(logging.ERROR):
        found = {record.opening.acquisition: record for _, record in folder.load()}
    assert list(found) == ["1", *(str(number) for number in range(3, REMEMBERED + 3)), "last"]
    assert (found["1"].closed, found["last"].made) == (None, None)
    assert (folder.folder / "5.journal.unusable").read_bytes() == b"rubbish"
    assert "5.journal" in caplog.text


def test_journals_that_others_could_have_written_are_not_read(tmp_path, caplog):
    folder = JournalFolder(tmp_path / "journals")
    folder.open(opening())
    assert len(folder.load()) == 1
    folder.folder.chmod(0o770)
    assert folder.load() == []
    assert "can be written by others" in caplog.text


def test_a_journal_goes_on_behind_a_torn_end(tmp_path):
    path = tmp_path / "7.journal"
    file = JournalFile(path, [opening(), made()])
    file.add(Facts(State.RUNNING, 3))
    path.write_bytes(path.read_bytes() + encode_entry(Facts(State.RUNNING, 4))[:-1])
    record = decode_journal(path.read_bytes())
    assert record.facts.announced == 3
    again = JournalFile(path, record.entries())
    again.add(Facts(State.DRAINING, 5))
    assert decode_journal(path.read_bytes()).facts == Facts(State.DRAINING, 5)
    again.remove()
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_can_not_be_written_is_told(tmp_path):
    (tmp_path / "journals").write_text("in the way")
    with pytest.raises(SavingError, match=r"journal .*7\.journal: "):
        JournalFolder(tmp_path / "journals").open(opening())


def test_each_conductor_has_a_folder_of_its_own(tmp_path):
    def folder(commands, journal=""):
        conductor = ConductorConfig(commands, "ipc:///s", journal)
        receivers = (ReceiverConfig("ipc:///r", "ipc:///d"),)
        return journal_folder(Config(DetectorConfig("simulator"), conductor, receivers, SavingConfig((str(tmp_path),))))

    assert str(folder("ipc:///run/lima2/commands")) == "/run/lima2/commands.journal"
    assert folder("tcp://10.0.0.1:5000").parent == tmp_path / ".lima2"
    assert folder("tcp://10.0.0.1:5000") != folder("tcp://10.0.0.1:5001")
    assert str(folder("tcp://10.0.0.1:5000", "/var/lib/lima2")) == "/var/lib/lima2"


@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_a_prepare_that_was_killed_leaves_what_was_there_before(tmp_path, claimed, old):
    path = tmp_path / "run_master.h5"
    if old:
        path.write_text("old")
    begun = opening(files=(str(path),), replaces=(str(path),) if old else ())
    if claimed:
        Claim(path, FileExistsPolicy.OVERWRITE).path.write_text("new")
    remove_files(begun)
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == ([("run_master.h5", "old")] if old else [])


def test_an_heir_takes_the_place_of_the_old_file_when_it_is_told_to(tmp_path):
    path = tmp_path / "run_ledger.h5"
    path.write_text("oldest")
    Claim(path, FileExistsPolicy.OVERWRITE).path.write_text("old")
    Heir(path)  # of a conductor that was killed as well
    heir = Heir(path)
    heir.path.write_text("new")
    assert path.read_text() == "old"
    heir.take_over()
    heir.take_over()
    assert path.read_text() == "new"
    heir.drop()  # too late
    heir.keep()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    another = Heir(path)
    another.drop()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [(path.name, "new")]
