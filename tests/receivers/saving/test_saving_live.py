"""Reading while writers in other processes write, and after they were killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lima2_processing.frame import OutputKind
from lima2_receivers.plan import Compression
from lima2_receivers.saving.part import dataset_path
from lima2_receivers.saving.read import open_file, read_frame, read_rows, read_sparse, read_statuses
from lima2_receivers.topology import RoundRobin

RESULTS = ("raw", "dense", "background_avg", "n_peaks", "is_hit", "peaks")


def check_frame(model, master: Path, paths: dict[str, str], frame: int, there: bool = True) -> None:
    for name in RESULTS:
        output = next(output for output in model.OUTPUTS if output.name == name)
        found = read_frame(master, paths[name], frame)
        missing = model.is_lost(frame) or not there
        expected = np.full(output.shape, output.fill, output.dtype) if missing else model.values(frame)[name]
        assert np.array_equal(found, expected, equal_nan=found.dtype.kind == "f"), (name, frame)


def check_sparse_part(model, folder: Path, rank: int, n_receivers: int, rows: int) -> None:
    for row in range(rows):
        frame = row * n_receivers + rank
        found = read_sparse(folder / f"run_sparse_{rank}.h5", row)
        pixels = 0 if model.is_lost(frame) else len(model.values(frame)["sparse"].index)
        assert len(found.index) == len(found.intensity) == pixels
        if pixels:
            assert np.array_equal(found.index, model.values(frame)["sparse"].index)
            assert np.array_equal(found.intensity, model.values(frame)["sparse"].intensity)


def paths_of(datasets) -> dict[str, str]:
    return {dataset.name: dataset.path for dataset in datasets}


def test_frames_are_there_while_receivers_write_at_different_paces(tmp_path, model, make_master, start_writer):
    writers = [start_writer(rank, 2) for rank in (0, 1)]
    master, datasets = make_master(2)
    paths = paths_of(datasets)
    topology = RoundRobin(2)
    assert len(read_rows(master, paths["raw"])) == 0
    done = [0, 0]
    for rank, rows in ((0, 1), (1, 3), (0, 6), (1, 4), (1, 7), (0, 7)):
        assert writers[rank].ask(rows) == str(rows)
        done[rank] = rows
        for frame in range(2 * min(done)):
            check_frame(model, master, paths, frame)
        longest = max(topology.frame_at(at, done[at] - 1) + 1 for at in (0, 1) if done[at])
        assert len(read_rows(master, paths["n_peaks"])) == longest
        for frame in range(longest):
            check_frame(model, master, paths, frame, there=frame // 2 < done[frame % 2])
        for at in (0, 1):
            check_sparse_part(model, tmp_path, at, 2, done[at])
    assert [writer.ask(f"close {rows}") for writer, rows in zip(writers, (9, 8), strict=True)] == ["closed"] * 2
    for output in model.OUTPUTS:
        if output.kind is not OutputKind.SPARSE:
            assert read_rows(master, paths[output.name]).shape == (17, *output.shape)
    for frame in range(17):
        check_frame(model, master, paths, frame, there=frame < 14)


def test_a_file_that_is_held_open_shows_new_frames_after_refresh(tmp_path, model, make_master, start_writer):
    writer = start_writer(0, 1)
    master, datasets = make_master(1)
    path = paths_of(datasets)["raw"]
    writer.ask(1)
    with open_file(master) as file:
        dataset = file[path]
        assert len(dataset) == 1
        writer.ask(3)
        dataset.refresh()
        assert np.array_equal(dataset[2], model.values(2)["raw"])


def test_a_reader_races_a_writer_and_never_sees_a_pointer_past_the_pixels(tmp_path, model, start_writer):
    writer = start_writer(0, 1)
    writer.tell("free")
    writer.answer()
    part = tmp_path / "run_sparse_0.h5"
    seen = 0
    for _ in range(200):
        with open_file(part) as file:
            data = file["entry_0000/sparse_frames"]
            end = int(data["frame_ptr"][-1])
            rows = len(data["frame_ptr"]) - 1
            for column in ("index", "intensity"):
                data[column].refresh()
                assert len(data[column]) >= end
        if rows > seen:
            seen = rows
            found = read_sparse(part, rows - 1)
            expected = model.values(rows - 1)["sparse"]
            assert np.array_equal(found.index, expected.index[: 0 if model.is_lost(rows - 1) else None])
    assert writer.kill() >= seen - 1


@pytest.mark.parametrize(
    ("answers", "compression"),
    [(1, "none"), (2, "bshuf_lz4"), (5, "zip"), (11, "bshuf_zstd"), (23, "bshuf_lz4"), (40, "none")],
)
def test_everything_acknowledged_survives_a_kill(tmp_path, model, make_master, start_writer, answers, compression):
    writers = [start_writer(rank, 2, Compression(compression)) for rank in (0, 1)]
    master, datasets = make_master(2)
    paths = paths_of(datasets)
    for writer in writers:
        writer.tell("free")
    for writer in writers:
        for _ in range(answers):
            writer.answer()
    rows = [writer.kill() for writer in writers]
    assert min(rows) >= answers
    for rank in (0, 1):
        for row in range(rows[rank]):
            check_frame(model, master, paths, row * 2 + rank)
    for rank in (0, 1):
        check_sparse_part(model, tmp_path, rank, 2, rows[rank])


FULL = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
import saving_model as model
from lima2_receivers.acquisition import Outcome
from lima2_receivers.errors import SavingError
from lima2_receivers.ledger import Counts
from lima2_receivers.plan import Compression
from lima2_receivers.saving.ledger_file import LedgerFile, LedgerSummary
from lima2_receivers.topology import RoundRobin
folder = Path(sys.argv[2])
flushed = 0

def tell(action, *values):
    try:
        action(*values)
    except SavingError as error:
        print(flushed, error, flush=True)
        return False
    return True
"""

FRAMES = """
def make():
    global files
    params = model.saving(folder, Compression.NONE, disabled=tuple(sys.argv[3:]))
    files = model.part_files(folder, params=params)

def fill():
    global flushed
    for row in range(100_000):
        files.write((model.encoded(files, row, row),))
        if row % 10 == 9:
            files.flush()
            flushed = row + 1

if tell(make) and not tell(fill):
    tell(files.close, flushed)
    files.close(flushed)
"""

LEDGER = """
def fill():
    global flushed
    while True:
        ledger.append(np.ones(10, "u1"), np.zeros(10), np.ones(10, "u8"))
        ledger.flush()
        flushed += 10

ledger = LedgerFile(folder / "run_ledger.h5", RoundRobin(2))
tell(fill)
tell(ledger.close, LedgerSummary("", 0, "", Counts(), {}, Outcome.FAILED, "x" * 10_000))
"""


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own: ``small_disk(size) -> folder``."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def make(size: str) -> Path:
        nonlocal mounted
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.decode().strip()}")
        mounted = True
        return folder

    yield make
    if mounted:
        subprocess.run(["umount", folder], check=True)


def run_until_full(model, folder: Path, code: str, *arguments: str) -> list[tuple[int, str]]:
    """Run a writer on a small disk and return what it told: frames flushed until then, and the error."""
    command = [sys.executable, "-c", FULL + code, str(Path(model.__file__).parent), str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")  # HDF5 can crash a process on a full disk
    told = [line.partition(" ") for line in done.stdout.splitlines()]
    assert all("No space left on device" in message and str(folder) in message for _, _, message in told)
    return [(int(flushed), message) for flushed, _, message in told]


@pytest.mark.parametrize(
    ("size", "disabled"), [("1500k", ()), ("2m", ()), ("2m", ("raw", "dense")), ("1m", ("raw", "dense", "sparse"))]
)
def test_a_full_disk_is_told_and_what_was_flushed_is_readable(model, small_disk, size, disabled):
    folder = small_disk(size)
    told = run_until_full(model, folder, FRAMES, *disabled)
    flushed = told[0][0]
    assert flushed > 0
    for output in model.OUTPUTS:
        if output.kind is OutputKind.SPARSE or output.stream in disabled:
            continue
        with open_file(folder / f"run_{output.stream}_0.h5") as file:
            found = file[dataset_path(output)]
            for row in range(flushed):
                assert np.array_equal(found[row], model.values(row)[output.name]), (output.name, row)


def test_a_disk_that_is_full_at_the_first_flush_is_told(model, small_disk):
    assert run_until_full(model, small_disk("600k"), FRAMES)[0][0] == 0


def test_a_disk_that_is_full_at_prepare_is_told_and_nothing_is_left(model, small_disk):
    folder = small_disk("600k")
    free = os.statvfs(folder)
    (folder / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize))
    ((flushed, message),) = run_until_full(model, folder, FRAMES)
    assert (flushed, message.partition(" ")[0]) == (0, "making")
    assert [path.name for path in folder.iterdir()] == ["ballast"]


def test_a_ledger_on_a_full_disk_is_told_and_what_was_flushed_is_readable(model, small_disk):
    folder = small_disk("200k")
    flushed = run_until_full(model, folder, LEDGER)[0][0]
    assert flushed > 0
    assert read_statuses(folder / "run_ledger.h5")[:flushed].tolist() == [1] * flushed
