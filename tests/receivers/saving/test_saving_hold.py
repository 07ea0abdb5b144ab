"""Who writes a file is known as long as it lives, and disturbs no reader."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys

import h5py
import pytest

from lima2_receivers.errors import SavingError
from lima2_receivers.plan import FileExistsPolicy
from lima2_receivers.saving.claim import Claim
from lima2_receivers.saving.hold import Hold, check, take
from lima2_receivers.saving.mend import is_busy

HOLDER = """
import sys
from pathlib import Path
from lima2_receivers.saving.hold import Hold
held = Hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_writer_in_another_process_is_seen_until_it_is_killed(tmp_path):
    path = tmp_path / "file"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            assert is_busy(path)
            with path.open("r+b") as file, pytest.raises(SavingError, match="is being written"):
                take(file.fileno(), path)
        finally:
            process.kill()
            process.wait(60)
    assert not is_busy(path)
    with path.open("r+b") as file:
        take(file.fileno(), path)
        assert is_busy(path)  # by us, who repair it
    assert not is_busy(path)


def test_release_lets_go_and_can_be_said_twice(tmp_path):
    held = Hold(tmp_path / "file")
    assert is_busy(tmp_path / "file")
    held.release()
    held.release()
    assert not is_busy(tmp_path / "file")


def test_other_descriptors_of_the_process_do_not_drop_it(tmp_path):
    """As they would drop a lock of the process, by POSIX."""
    held = Hold(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"written")
    assert is_busy(tmp_path / "file")
    held.release()


@pytest.mark.parametrize("end", [Claim.written, Claim.drop])
def test_a_claim_holds_its_file_until_it_is_written_or_dropped(tmp_path, end):
    claimed = Claim(tmp_path / "file", FileExistsPolicy.ABORT)
    assert is_busy(claimed.path)
    claimed.keep()
    assert is_busy(claimed.path)
    end(claimed)
    end(claimed)
    assert not claimed.path.exists() or not is_busy(claimed.path)


def test_readers_that_lock_are_not_disturbed_and_disturb_nobody(tmp_path):
    """HDF5 locks by flock, which does not know of our locks, on local file systems."""
    path = tmp_path / "file.h5"
    held = Hold(path)
    with h5py.File(path, "w", libver="latest", locking=False) as writer:
        writer["value"] = 1
        writer.swmr_mode = True
        opened = "h5py.File(sys.argv[1], 'r', swmr=True, libver='latest', locking=True)"
        code = f"import h5py, sys; print({opened}['value'][()])"
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("1\n", 0), done.stderr
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held.release()
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_busy(path)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def refuse(*_args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    path = tmp_path / "file"
    monkeypatch.setattr("lima2_receivers.saving.hold.fcntl.fcntl", refuse)
    Hold(path).release()
    assert f"{path}: it can't be marked as being written" in caplog.text
    with path.open("r+b") as file:
        for action in (check, take):
            with pytest.raises(SavingError, match="its file system has no locks"):
                action(file.fileno(), path)
