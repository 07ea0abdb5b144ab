"""Files of writers that were killed: readable for everybody after a repair, with what they held."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import h5py
import hdf5plugin  # noqa: F401 - registers the filters
import numpy as np
import pytest

from lima2_receivers.acquisition import Outcome
from lima2_receivers.detectors.jungfrau.packets import HEADER
from lima2_receivers.detectors.jungfrau.params import JungfrauSettings, frame_spec
from lima2_receivers.detectors.jungfrau.raw_files import RawFiles
from lima2_receivers.ledger import Counts
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.claim import Claim
from lima2_receivers.saving.findings import Kind, State
from lima2_receivers.saving.hold import Hold
from lima2_receivers.saving.ledger_file import LedgerFile, LedgerSummary
from lima2_receivers.saving.mend import mend
from lima2_receivers.saving.read import read_rows, read_sparse, read_statuses, read_summary
from lima2_receivers.saving.remarks import RemarkFile
from lima2_receivers.saving.repair import repair
from lima2_receivers.saving.superblock import SIZE, Superblock, decode
from lima2_receivers.source import FramePackets
from lima2_receivers.topology import NO_RECEIVER, NO_ROW, Places, RoundRobin

STREAMS = ("dense", "raw", "results", "sparse")

KILLED_LEDGER = """
import os, sys
from pathlib import Path
import numpy as np
from lima2_receivers.saving.ledger_file import LedgerFile
from lima2_receivers.topology import RoundRobin
ledger = LedgerFile(Path(sys.argv[1]), RoundRobin(int(sys.argv[2])))
for frame in range(int(sys.argv[3])):
    ledger.append(np.array([3 if frame % 7 == 4 else 1], "u1"), np.zeros(1), np.ones(1, "u8"))
ledger.flush()
os.write(1, b"flushed\\n")
sys.stdin.read()
"""


@pytest.fixture
def kill_ledger(tmp_path):
    """Write the ledger of a conductor that is killed then: ``kill_ledger(n_receivers, n_frames) -> path``."""

    def write(n_receivers: int, n_frames: int):
        path = tmp_path / "run_ledger.h5"
        command = [sys.executable, "-c", KILLED_LEDGER, str(path), str(n_receivers), str(n_frames)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout.readline() == b"flushed\n"
            finally:
                process.kill()
        return path

    return write


def plain(path, model, rows):
    """Check a part file as a program reads it that knows nothing of SWMR, and nothing of us."""
    with h5py.File(path, "r") as file:
        for output in model.OUTPUTS:
            name = f"entry_0000/{'sparse_frames' if output.stream == 'sparse' else output.stream}/{output.name}"
            if name not in file:
                continue
            data = file[name][()]
            assert len(data) >= rows
            for row in range(rows):
                if not model.is_lost(row):
                    expected = model.values(row)[output.name]
                    assert np.array_equal(data[row], expected, equal_nan=data.dtype.kind == "f")


def by_name(reports):
    return {report.path.rpartition("/")[2]: report for report in reports}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def kill(writer, answers):
    """Kill a writer while it writes, and return how many rows it had acknowledged."""
    writer.tell("free")
    for _ in range(answers):
        writer.answer()
    return writer.kill()


@pytest.mark.parametrize("answers", [1, 5, 12, 30])
def test_part_files_of_a_killed_receiver(tmp_path, model, start_writer, answers):
    rows = kill(start_writer(0, 1), answers)
    paths = sorted(tmp_path.glob("*.h5"))
    for path in paths:
        with pytest.raises(OSError, match="already open for write"):
            h5py.File(path, "r")
    before = contents(tmp_path)
    told = repair(paths, dry_run=True)
    assert contents(tmp_path) == before
    assert {report.state for report in told} == {State.REPAIRABLE}
    done = repair(paths)
    assert {report.state for report in done} == {State.REPAIRED}
    for path, first, second in zip(paths, told, done, strict=True):
        assert (first.rows, first.complete) == (second.rows, second.complete)
        assert second.kind is Kind.PART
        assert second.complete >= rows
        assert len(path.read_bytes()) >= len(before[path.name])
        assert path.read_bytes()[SIZE:].startswith(before[path.name][SIZE:])
        plain(path, model, rows)
    for row in range(rows):
        found = read_sparse(tmp_path / "run_sparse_0.h5", row)
        assert len(found.index) == (0 if model.is_lost(row) else len(model.values(row)["sparse"].index))
    after = contents(tmp_path)
    assert {(report.state, report.why) for report in repair(paths)} == {(State.WHOLE, "")}
    assert contents(tmp_path) == after


def test_the_result_is_that_of_h5clear(tmp_path, start_writer):
    tool = shutil.which("h5clear")
    if tool is None:
        pytest.skip("h5clear is not installed (Debian: hdf5-tools)")
    kill(start_writer(0, 1), 9)
    for path in list(tmp_path.glob("*.h5")):
        data = path.read_bytes()
        head = decode(data[:SIZE])
        for end in (head.end, 4096):  # also one that a flush of the dataset alone would leave
            stale = Superblock(head.version, head.flags, 0, head.extension, end, head.root)
            ours, theirs = path.with_suffix(".ours"), path.with_suffix(".theirs")
            for copy in (ours, theirs):
                copy.write_bytes(stale.encode() + data[SIZE:])
            assert mend(ours).state is State.REPAIRED
            subprocess.run([tool, "-s", "--increment=0", theirs], check=True, timeout=60)
            assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("reserved", [0, 10_000])
def test_an_end_that_is_wrong(tmp_path, model, start_writer, reserved):
    """One that is behind was not written down; one that is ahead is room that was taken and never written."""
    rows = kill(start_writer(0, 1), 5)
    path = tmp_path / "run_dense_0.h5"
    data = path.read_bytes()
    head = decode(data[:SIZE])
    end = len(data) + reserved if reserved else 4096
    path.write_bytes(Superblock(head.version, head.flags, 0, head.extension, end, head.root).encode() + data[SIZE:])
    assert mend(path).state is State.REPAIRED
    assert path.stat().st_size == max(end, len(data)) == decode(path.read_bytes()[:SIZE]).end
    plain(path, model, rows)


def test_a_file_that_is_being_written_is_refused(tmp_path, start_writer):
    writer = start_writer(0, 1)
    writer.ask(3)
    before = contents(tmp_path)
    for dry_run in (True, False):
        for report in repair(sorted(tmp_path.glob("*.h5")), dry_run):
            assert report.state is State.BUSY
            assert report.bad
            assert report.why == f"{report.path}: it is being written: its writer lives"
    assert contents(tmp_path) == before
    assert writer.ask(5) == "5"
    assert writer.ask("close 5") == "closed"
    assert {report.state for report in repair(tmp_path.glob("*.h5"))} == {State.WHOLE}


@pytest.mark.parametrize("kept", [60, 2000, 0.5, 0.9, -1])
@pytest.mark.parametrize("closed", [False, True])
def test_a_truncated_file_is_told_and_left_alone(tmp_path, model, start_writer, kept, closed):
    writer = start_writer(0, 1)
    writer.ask(20)
    if closed:
        writer.ask("close 20")
    else:
        writer.kill()
    path = tmp_path / "run_raw_0.h5"
    data = path.read_bytes()
    path.write_bytes(data[: kept if kept == int(kept) else int(kept * len(data))])
    before = path.read_bytes()
    (report,) = repair([path])
    assert report.state is State.FAILED
    assert str(path) in report.why
    assert path.read_bytes() == before


@pytest.mark.parametrize("data", [b"no HDF5 at all, but long enough to have a superblock in it", b"\x89HDF"])
def test_what_is_no_hdf5_is_told_and_left_alone(tmp_path, data):
    path = tmp_path / "run_raw_0.h5"
    path.write_bytes(data)
    (report,) = repair([path])
    assert report.state is State.FAILED
    assert str(path) in report.why
    assert path.read_bytes() == data


def test_a_file_of_somebody_else_is_told_and_left_alone(tmp_path):
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w", libver="latest", locking=False) as file:
        file["value"] = 1
        file.swmr_mode = True
        file.flush()
        shutil.copy(path, tmp_path / "killed.h5")
    before = contents(tmp_path)
    for report in repair([path, tmp_path / "killed.h5", tmp_path, tmp_path / "nowhere.h5"]):
        assert report.state is State.FAILED
        assert report.path in report.why
    assert "none of our files" in mend(path).why
    assert contents(tmp_path) == before


@pytest.mark.parametrize("size", [0, 1])
def test_a_file_whose_writer_never_began_is_told(tmp_path, size):
    path = tmp_path / "run_raw_0.h5"
    path.write_bytes(b"\0" * size)
    (report,) = repair([path])
    assert report.state is (State.FAILED if size else State.EMPTY)
    assert path.stat().st_size == size


EARLY = """
import os, signal, sys
from pathlib import Path
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.h5 import claim, create, group
made = create(claim(Path(sys.argv[1]), FileExistsPolicy.ABORT))
if sys.argv[2] == "flushed":
    group(made, "entry_0000", "NXentry")
    made.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["at once", "flushed"])
@pytest.mark.parametrize("name", ["run_raw_0.h5", "merged.h5"])
def test_a_file_whose_writer_was_killed_while_it_made_it(tmp_path, kill_ledger, name, how):
    path = tmp_path / name
    subprocess.run([sys.executable, "-c", EARLY, path, how], timeout=60)
    data = path.read_bytes()
    assert decode(data[:SIZE]).flags == 1
    (report,) = repair([path])
    assert (report.state, report.bad) == (State.EMPTY, False)
    assert "its writer was killed" in report.why
    kill_ledger(1, 6)
    (report,) = repair([path])
    assert report.bad is (name == "run_raw_0.h5")
    assert not report.bad or "though the ledger counts 5 frames of it" in report.why
    assert path.read_bytes() == data


def test_a_file_that_was_to_be_replaced_is_told(tmp_path):
    path = tmp_path / "run_raw_0.h5"
    path.write_bytes(b"old")
    Claim(path, FileExistsPolicy.OVERWRITE).written()  # and no more
    (report,) = repair([path])
    assert report.state is State.EMPTY
    assert f"{path}.replaced is the file that it was to replace" in report.why
    assert (tmp_path / "run_raw_0.h5.replaced").read_bytes() == b"old"


def test_a_file_that_can_only_be_read(tmp_path, start_writer):
    """A whole one is fine; one to be repaired is told, and left as it is."""
    folder = tmp_path / "disk"
    folder.mkdir()
    kill(start_writer(0, 1), 3)
    if os.geteuid():
        shutil.copytree(tmp_path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("disk"))
        for path in folder.iterdir():
            path.chmod(0o444)
        reports = repair(sorted(folder.iterdir()))
    else:
        mount = ["mount", "-t", "tmpfs", "tmpfs", folder]
        if (done := subprocess.run(mount, capture_output=True)).returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
        try:
            for path in tmp_path.glob("*.h5"):
                shutil.copy(path, folder)
            assert mend(folder / "run_raw_0.h5").state is State.REPAIRED
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            reports = repair(sorted(folder.iterdir()))
        finally:
            subprocess.run(["umount", folder], check=True)
        whole = by_name(reports).pop("run_raw_0.h5")
        assert (whole.state, whole.why) == (State.WHOLE, "")
        reports = [report for report in reports if report != whole]
    assert len(reports) >= 3
    for report in reports:
        assert report.state is State.FAILED
        assert report.path in report.why
        assert "Read-only file system" in report.why or "Permission denied" in report.why


# --- acquisitions ---


def test_all_files_of_an_acquisition_whose_processes_were_killed(
    tmp_path, model, make_master, start_writer, kill_ledger
):
    writers = [start_writer(rank, 2) for rank in (0, 1)]
    master, datasets = make_master(2)
    writers[0].ask(8)
    writers[1].ask(5)
    for writer in writers:
        writer.kill()
    kill_ledger(2, 9)
    reports = by_name(repair([master], dry_run=True))
    assert not any(report.bad for report in reports.values())
    reports = by_name(repair([master]))
    names = [f"run_{stream}_{rank}.h5" for stream in STREAMS for rank in (0, 1)]
    assert sorted(reports) == sorted(["run_master.h5", "run_ledger.h5", *names])
    assert reports["run_master.h5"].state is State.WHOLE
    for rank, (rows, known) in enumerate([(8, 5), (5, 4)]):
        for stream in STREAMS:
            report = reports[f"run_{stream}_{rank}.h5"]
            lost = sum(model.is_lost(row * 2 + rank) for row in range(known))
            assert (report.state, report.complete, report.acknowledged) == (State.REPAIRED, rows, known - lost)
            assert not report.missing
            assert report.beyond > 0
    ledger = reports["run_ledger.h5"]
    counts = Counts(saved=8, lost=1)
    assert (ledger.state, ledger.counts) == (State.REPAIRED, counts)
    assert ledger.beyond == 3 + 1
    found = read_summary(tmp_path / "run_ledger.h5")
    assert found == LedgerSummary(
        acquisition="0" * 32,
        announced=9,
        announced_by="ledger",
        counts=counts,
        reasons={"not recorded: the conductor was killed": 1},
        outcome=Outcome.FAILED,
        reason="the conductor was killed; 4 more frames are in part files, which it had not counted",
    )
    with h5py.File(tmp_path / "run_ledger.h5") as file:
        assert len(file["entry_0000/ledger/frame_number"]) == 9
    path = next(dataset.path for dataset in datasets if dataset.name == "n_peaks")
    assert len(read_rows(master, path)) == 15
    before = contents(tmp_path)
    assert {report.state for report in repair([master])} == {State.WHOLE}
    assert contents(tmp_path) == before


def test_a_ledger_alone_tells_of_part_files_and_leaves_them(tmp_path, start_writer, kill_ledger):
    writer = start_writer(0, 1)
    writer.ask(10)
    writer.kill()
    ledger = kill_ledger(1, 6)
    before = contents(tmp_path)
    (report,) = repair([ledger])
    assert (report.state, report.beyond) == (State.REPAIRED, 4)
    assert read_summary(ledger).acquisition == "0" * 32
    del before["run_ledger.h5"]
    assert before.items() <= contents(tmp_path).items()


def test_a_ledger_waits_for_receivers_that_still_write(tmp_path, start_writer, kill_ledger):
    writer = start_writer(0, 1)
    writer.ask(10)
    ledger = kill_ledger(1, 6)
    (report,) = repair([ledger])
    assert (report.state, report.bad) == (State.BUSY, True)
    assert "its part files are still being written" in report.why
    assert read_summary(ledger) is None
    writer.kill()
    assert repair([ledger])[0].state is State.REPAIRED


def test_a_ledger_whose_conductor_lives_is_left_alone(tmp_path):
    ledger = LedgerFile(tmp_path / "run_ledger.h5", RoundRobin(1))
    ledger.append(np.ones(3, "u1"), np.zeros(3), np.ones(3, "u8"))
    ledger.flush()
    (report,) = repair([tmp_path / "run_ledger.h5"])
    assert report.state is State.BUSY
    summary = LedgerSummary("0" * 32, 3, "triggers", Counts(3), {}, Outcome.COMPLETE, "")
    ledger.close(summary)
    (report,) = repair([tmp_path / "run_ledger.h5"])
    assert (report.state, report.counts) == (State.WHOLE, Counts(3))
    assert read_summary(tmp_path / "run_ledger.h5") == summary


def test_a_ledger_that_was_cut_between_its_columns(tmp_path, kill_ledger):
    path = kill_ledger(1, 5)
    assert mend(path).state is State.REPAIRED
    with h5py.File(path, "r+", libver="latest") as file:  # as a kill in the middle of an append leaves it
        for name, rows in (("frame_number", 8), ("frame_status", 8), ("receiver", 7)):
            file[f"entry_0000/ledger/{name}"].resize(rows, axis=0)
    (report,) = repair([path])
    assert (report.state, report.counts) == (State.REPAIRED, Counts(saved=4, lost=1))
    assert read_summary(path).announced == 5
    assert read_statuses(path).tolist() == [1, 1, 1, 1, 3, 255, 255, 255]


KILLED_REPAIR = """
import os, signal, sys
import h5py
file = h5py.File(sys.argv[1], "r+", libver="latest", locking=False)
if sys.argv[2] != "opened":
    file.swmr_mode = True
    file["entry_0000/ledger/summary"].resize(1, axis=0)
    file.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["opened", "resized"])
def test_a_repair_that_is_killed_itself_can_be_done_again(tmp_path, kill_ledger, when):
    """In the middle of what ``close_ledger`` does, after the file was marked as closed."""
    path = kill_ledger(1, 6)
    assert mend(path).state is State.REPAIRED
    subprocess.run([sys.executable, "-c", KILLED_REPAIR, path, when], timeout=60)
    assert decode(path.read_bytes()[:SIZE]).flags
    assert repair([path])[0].state is State.REPAIRED
    assert read_summary(path).counts == Counts(saved=5, lost=1)
    assert repair([path])[0].state is State.WHOLE


def test_rows_that_the_ledger_counts_and_that_are_not_there_are_told(tmp_path, start_writer, kill_ledger):
    writer = start_writer(0, 1)
    writer.ask(4)
    writer.kill()
    kill_ledger(1, 8)
    reports = repair(sorted(tmp_path.glob("run_*_0.h5")))
    for report in reports:
        assert (report.state, report.bad) == (State.REPAIRED, True)
        assert (report.acknowledged, report.missing) == (7, 3)
        assert f"{report.path}: got no row 5" in report.why


def test_a_missing_part_file_is_told(tmp_path, make_master, start_writer, kill_ledger):
    master, _ = make_master(1)
    kill_ledger(1, 1)
    writer = start_writer(0, 1)
    writer.ask(1)
    writer.kill()
    (tmp_path / "run_dense_0.h5").unlink()
    bad = [report for report in repair([master]) if report.bad]
    assert [report.why for report in bad] == [f"{tmp_path / 'run_dense_0.h5'}: it is not there"]


def test_a_broken_master_still_stands_for_its_family(tmp_path, make_master, start_writer):
    kill(start_writer(0, 1), 1)
    master = tmp_path / "run_master.h5"
    master.touch()
    (tmp_path / "other_raw_0.h5").touch()
    reports = by_name(repair([master]))
    assert reports.pop("run_master.h5").state is State.EMPTY
    assert sorted(reports) == [f"run_{stream}_0.h5" for stream in STREAMS]


# --- dynamic dispatch ---

IMAGES = ("data", "dense", "raw", "n_peaks", "background_avg", "peaks")


class Dealt:
    """Frames dealt to two receivers, some to none."""

    def __init__(self, n_frames):
        self.receivers = np.array([(0, 1, 1, NO_RECEIVER, 0)[frame % 5] for frame in range(n_frames)], "u2")
        self.rows = np.full(n_frames, NO_ROW, "u8")
        self.orders = [np.flatnonzero(self.receivers == rank) for rank in (0, 1)]
        for order in self.orders:
            self.rows[order] = np.arange(len(order))

    def places(self, first, last):
        return Places(self.receivers[first:last], self.rows[first:last])


def write_dealt(model, folder, n_frames):
    dealt = Dealt(n_frames)
    for rank, order in enumerate(dealt.orders):
        part = model.part_files(folder, rank)
        part.write([model.encoded(part, row, int(frame)) for row, frame in enumerate(order)])
        part.close(len(order))
    ledger = LedgerFile(folder / "run_ledger.h5", dealt)
    ledger.append(np.where(dealt.receivers == NO_RECEIVER, 3, 1), np.zeros(n_frames), np.ones(n_frames, "u8"))
    ledger.flush()
    return dealt, ledger


@pytest.mark.parametrize("left", [None, b"", "flushed", b"\x89HDF\r\n\x1a\n and what else was written of it"])
def test_the_file_of_all_frames_is_made_once_more(tmp_path, model, make_master, left):
    master, _ = make_master(2, frames="run_frames.h5")
    n_frames = 23
    dealt, ledger = write_dealt(model, tmp_path, n_frames)
    summary = LedgerSummary("0" * 32, n_frames, "triggers", Counts(), {}, Outcome.COMPLETE, "")
    if left == "flushed":
        command = [sys.executable, "-c", EARLY, tmp_path / "run_frames.h5", left]
        subprocess.run(command, timeout=60)
        left = (tmp_path / "run_frames.h5").read_bytes()
    elif left is not None:
        (tmp_path / "run_frames.h5").write_bytes(left)
    assert by_name(repair([master]))["run_frames.h5"].state is State.FAILED  # its acquisition is not over
    ledger.close(summary)
    before = contents(tmp_path)
    assert by_name(repair([master], dry_run=True))["run_frames.h5"].state is State.REPAIRABLE
    assert contents(tmp_path) == before
    reports = by_name(repair([master]))
    assert reports["run_frames.h5"].state is State.REPAIRED
    assert not any(report.bad for report in reports.values())
    after = contents(tmp_path)
    assert before.items() - {("run_frames.h5", left)} <= after.items()
    with h5py.File(master) as file:
        for name in IMAGES:
            found = file[f"entry_0000/measurement/{name}"][()]
            output = next(each for each in model.OUTPUTS if each.name == ("dense" if name == "data" else name))
            assert found.shape == (n_frames, *output.shape)
            for frame in range(n_frames):
                lost = dealt.receivers[frame] == NO_RECEIVER
                wanted = np.full(output.shape, output.fill, output.dtype) if lost else model.values(frame)[output.name]
                np.testing.assert_array_equal(found[frame], wanted)
    with h5py.File(tmp_path / "run_frames.h5") as file:
        assert file["entry_0000/measurement/data"].attrs["units"] == "photons"
        assert file["entry_0000/measurement/data"].attrs["interpretation"] == "image"
    assert {report.state for report in repair([master])} == {State.WHOLE}
    assert contents(tmp_path) == after


def test_frames_that_a_part_file_does_not_have_do_not_hide_the_others(tmp_path, model, make_master):
    """HDF5 reads nothing at all of a virtual dataset where a source is shorter than it says."""
    master, _ = make_master(2, frames="run_frames.h5")
    _, ledger = write_dealt(model, tmp_path, 10)
    ledger.close(LedgerSummary("0" * 32, 10, "triggers", Counts(), {}, Outcome.COMPLETE, ""))
    with h5py.File(tmp_path / "run_results_1.h5", "r+", libver="latest") as file:
        file["entry_0000/results/n_peaks"].resize(2, axis=0)
    (tmp_path / "run_results_0.h5").unlink()
    repair([master])
    with h5py.File(master) as file:
        lacking = np.iinfo("i4").min
        assert file["entry_0000/measurement/n_peaks"][()].tolist() == [lacking, 1, 2, *[lacking] * 7]
        assert file["entry_0000/measurement/raw"].shape[0] == 10


# --- files that are no HDF5 ---


def test_packets_of_a_killed_receiver(tmp_path):
    spec = frame_spec(JungfrauSettings(control="ipc:///c", folder="/f", modules=(2, 1)), read_rows=64)
    files = RawFiles(tmp_path, "run", 0, spec, (2, 1), FileExistsPolicy.ABORT)
    for index in range(3):
        headers = np.zeros((2, HEADER.itemsize), "u1")
        files.write(FramePackets(index, np.zeros(spec.shape, "<u2"), np.ones(2 * 64 // 4, bool), headers))
    paths = sorted(tmp_path.iterdir())
    assert {report.state for report in repair(paths)} == {State.BUSY}
    copies = tmp_path / "killed"
    copies.mkdir()
    for path in paths:  # as a kill leaves them, but for the lock
        shutil.copy(path, copies)
    files.close()
    with (copies / "run_0_d1_f0_0.raw").open("ab") as packets:
        packets.write(b"cut off")
    told = by_name(repair(copies.iterdir(), dry_run=True))
    assert told["run_0_master_0.json"].state is State.REPAIRABLE
    done = by_name(repair(copies.iterdir()))
    assert [(report.state, report.complete) for _, report in sorted(done.items())] == [
        (State.WHOLE, 3),
        (State.WHOLE, 3),
        (State.REPAIRED, 3),
    ]
    assert "the last 7 bytes" in done["run_0_d1_f0_0.raw"].why
    name = "run_0_master_0.json"
    assert json.loads((copies / name).read_text()) == json.loads((tmp_path / name).read_text())
    assert {report.state for report in repair(copies.iterdir())} == {State.WHOLE}


def test_remarks_are_counted(tmp_path):
    path = tmp_path / "run_header_0.cbor"
    remarks = RemarkFile(path, FileExistsPolicy.ABORT)
    remarks.write(b"\x01\x02\x43ab")  # the last one is cut off
    assert repair([path])[0].state is State.BUSY
    remarks.close()
    (report,) = repair([path])
    assert (report.state, report.kind, report.rows) == (State.WHOLE, Kind.REMARKS, {"items": 2})


@pytest.mark.parametrize("name", ["run_header_0.cbor", "run_0_d0_f0_0.raw", "run_0_master_0.json", "other.raw"])
def test_what_is_no_remark_and_no_packet_is_told(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff{")
    (report,) = repair([path])
    assert report.state is State.FAILED
    assert "/" in report.why


def test_nothing_is_held_after_a_repair(tmp_path, start_writer):
    kill(start_writer(0, 1), 2)
    repair(tmp_path.glob("*.h5"))
    path = tmp_path / "run_raw_0.h5"
    claimed = Claim(path, FileExistsPolicy.OVERWRITE)
    claimed.drop()
    assert mend(path).state is State.WHOLE
    Hold(tmp_path / "new").release()
