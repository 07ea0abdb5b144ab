"""The transfer ring in shared memory: what is read is what was written, whatever is overwritten or damaged."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_receivers.errors import ConfigError, ProtocolError
from lima2_receivers.transfers import RECORD_BYTES, Completion
from lima2_receivers.transport import shared_ring
from lima2_receivers.transport.shared_ring import FOLDER, SharedInitiator, SharedTarget, ring_path

SLOTS, SLOT_BYTES = 4, 5000
POSTED = shared_ring._POSTED


@pytest.fixture
def endpoint():
    found = f"rashpa:///test-{uuid.uuid4().hex}"
    yield found
    ring_path(found, "data").unlink(missing_ok=True)


@contextmanager
def pair(endpoint, slots=SLOTS):
    target = SharedTarget(endpoint, "data", slots, SLOT_BYTES)
    try:
        initiator = SharedInitiator(endpoint, "data")
        try:
            yield target, initiator
        finally:
            initiator.close()
    finally:
        target.close()


@pytest.fixture
def ends(endpoint):
    with pair(endpoint) as both:
        yield both


def pixels(frame, nbytes=SLOT_BYTES):
    return np.full(nbytes, frame % 251, np.uint8)


def put(initiator, frame, nbytes=SLOT_BYTES, post=True):
    sequence, slot = initiator.write(pixels(frame, nbytes).data)
    completion = Completion(sequence, 7, frame, 0, slot, nbytes, 1.5)
    if post:
        initiator.post(completion)
    return completion


def get(target):
    """The next completion and its pixels; None: they were overwritten."""
    completion = target.poll()
    if completion is None:
        return None, None
    into = np.empty(completion.nbytes, np.uint8)
    return completion, into if target.read(completion, into) else None


def test_what_is_written_is_read(ends):
    target, initiator = ends
    assert target.poll() is None
    for frame in range(3 * SLOTS):
        put_in = put(initiator, frame, SLOT_BYTES - frame)
        completion, found = get(target)
        assert completion == put_in
        assert (found == pixels(frame, SLOT_BYTES - frame)).all()
    assert target.poll() is None
    assert target.missed == 0


def test_a_late_reader_finds_the_last_frames_and_knows_which_were_overwritten(ends):
    target, initiator = ends
    for frame in range(20):
        put(initiator, frame)
    found = [get(target) for _ in range(20)]
    assert [completion.frame for completion, _ in found] == list(range(20))
    assert [data is not None for _, data in found] == [False] * 16 + [True] * 4
    assert [int(data[0]) for _, data in found[16:]] == [16, 17, 18, 19]


def test_a_frame_that_is_overwritten_while_it_is_copied_is_not_delivered(ends, monkeypatch):
    """Also where only its first pixels were, or only the mark before them."""
    target, initiator = ends
    copied = []

    def copy(source, into):
        half = len(into) // 2
        into[:half] = source[:half]
        for frame in range(1, SLOTS + 1):
            put(initiator, frame)
        into[half:] = source[half:]
        copied.append(into.copy())

    put(initiator, 0)
    monkeypatch.setattr(target, "_copy", copy)
    assert get(target)[1] is None
    assert set(copied[0].tolist()) == {0, SLOTS}  # it would have been half of one, half of another


def test_a_transfer_that_has_begun_takes_the_slot(ends):
    """No completion record says so yet."""
    target, initiator = ends
    for frame in range(SLOTS):
        put(initiator, frame)
    put(initiator, SLOTS, post=False)
    assert [get(target)[1] is None for _ in range(SLOTS)] == [True, False, False, False]


def test_records_that_were_overwritten_are_counted(endpoint, monkeypatch):
    monkeypatch.setattr(shared_ring, "LEAST_EVENTS", 8)
    monkeypatch.setattr(shared_ring, "EVENTS_A_SLOT", 2)
    with pair(endpoint) as (target, initiator):
        for frame in range(30):
            put(initiator, frame)
        found = []
        while (one := get(target))[0] is not None:
            found.append((one[0].frame, one[1] is not None))
        assert found == [(frame, frame >= 26) for frame in range(22, 30)]
        assert target.missed == 22
        put(initiator, 30)
        assert get(target)[0].frame == 30


def test_a_detector_that_starts_again_goes_on_where_the_last_one_ended(endpoint):
    with pair(endpoint) as (target, first):
        for frame in range(3):
            put(first, frame)
        put(first, 3, post=False)  # it was killed then
        second = SharedInitiator(endpoint, "data")
        put(second, 10)
        found = [get(target) for _ in range(4)]
        second.close()
    assert [completion.frame for completion, _ in found] == [0, 1, 2, 10]
    assert [data is None for _, data in found] == [True, False, False, False]  # the new one is where frame 0 was
    assert [int(data[0]) for _, data in found[1:]] == [1, 2, 10]


def test_the_file_is_for_this_user_alone_and_goes_with_the_ring(endpoint):
    path = ring_path(endpoint, "data")
    assert path.parent == FOLDER
    with pair(endpoint) as (target, initiator):
        assert path.stat().st_mode & 0o777 == 0o600
        assert initiator.registration == target.registration
        target.close()
        assert not path.exists()
        assert not initiator.alive
        put(initiator, 0)  # into memory that nobody reads, and that harms nobody
        with pytest.raises(ProtocolError, match="is closed"):
            target.poll()
    target.close()
    initiator.close()
    with pytest.raises(ProtocolError, match="let go of"):
        put(initiator, 0)


def test_a_ring_in_use_is_not_taken_over(endpoint, ends):
    other = f"{endpoint}-2"
    with pair(other), pytest.raises(ConfigError, match=r"data: rashpa:///.*-2 is in use by another process"):
        SharedTarget(other, "data", SLOTS, SLOT_BYTES)


KILLED = """
import os, sys
from lima2_receivers.transport.shared_ring import SharedTarget
target = SharedTarget(sys.argv[1], "data", 4, 5000)
print("made", flush=True)
sys.stdin.read()
os._exit(1)
"""


def test_what_a_killed_receiver_left_behind_is_replaced(endpoint):
    """And the detector that has it mapped learns of it."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, endpoint], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout.readline() == b"made\n"
        old = SharedInitiator(endpoint, "data")
        with pytest.raises(ConfigError, match="in use by another process"):
            SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)
        process.kill()
    assert old.alive
    with pair(endpoint) as (target, new):
        assert not old.alive
        assert new.registration.key != old.registration.key
        put(old, 1)
        put(new, 2)
        assert get(target)[0].frame == 2
        assert target.poll() is None
    old.close()


def test_other_files_are_left_alone(endpoint, tmp_path):
    path = ring_path(endpoint, "data")
    other = tmp_path / "precious"
    other.write_text("precious")
    path.symlink_to(other)
    with pytest.raises(ConfigError, match="can't be made: Too many levels of symbolic links"):
        SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)
    with pytest.raises(ConfigError, match="can't be opened"):
        SharedInitiator(endpoint, "data")
    assert other.read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="is there and is no file"):
        SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)


def test_more_memory_than_there_is_leaves_nothing_behind(endpoint):
    with pytest.raises(ConfigError, match=r"can't be made: (No space left on device|File too large)"):
        SharedTarget(endpoint, "data", 1000, 2**40)
    assert not ring_path(endpoint, "data").exists()


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a b", "a\n", "x" * 101, "é"])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(ConfigError, match=r"receivers\[0\]\.data: got .*, expected rashpa:///NAME"):
        ring_path(f"rashpa:///{name}", "receivers[0].data")


def test_a_detector_refuses_what_is_no_ring(endpoint):
    path = ring_path(endpoint, "data")
    with pytest.raises(ConfigError, match="can't be opened"):
        SharedInitiator(endpoint, "data")
    with pair(endpoint):
        good = path.read_bytes()
    late = good[: 8 * POSTED] + b"\xff" * 8 + good[8 * POSTED + 8 :]
    for damaged in (b"", b"short", bytes(8192), good[:-1], good + b"\0", good[:24] + b"\xff" * 8 + good[32:], late):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"can't be opened|expected|no transfer ring|is damaged"):
            SharedInitiator(endpoint, "data")


def test_frames_that_do_not_fit_are_refused(ends):
    target, initiator = ends
    with pytest.raises(ProtocolError, match="got a frame of 5001 bytes, expected at most 5000"):
        put(initiator, 0, SLOT_BYTES + 1)
    good = put(initiator, 0)
    into = np.empty(SLOT_BYTES, np.uint8)
    for slot, nbytes in ((SLOTS, 1), (2**32 - 1, 1), (0, SLOT_BYTES + 1)):
        wrong = Completion(good.sequence, 7, 0, 0, slot, nbytes, 0.0)
        with pytest.raises(ProtocolError, match=r"expected at most 5000 in one of 4 slots"):
            target.read(wrong, into)


def test_a_damaged_record_is_refused_and_costs_no_other(ends):
    target, initiator = ends
    for frame in range(3):
        put(initiator, frame)
    target._memory.event(2)[20] ^= 1
    assert get(target)[0].frame == 0
    with pytest.raises(ProtocolError, match="got check sum"):
        target.poll()
    assert get(target)[0].frame == 2


writes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 6)),
        st.tuples(st.just("begin"), st.just(1)),
        st.tuples(st.just("get"), st.integers(1, 8)),
        st.tuples(st.just("restart"), st.just(1)),
        st.tuples(st.just("bytes"), st.integers(0, 8 * RECORD_BYTES - 1), st.binary(min_size=1, max_size=80)),
        st.tuples(st.just("move"), st.integers(0, 7), st.integers(0, 7)),
        st.tuples(st.just("posted"), st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1))),
    ),
    max_size=40,
)


@settings(deadline=None)  # each example makes a file
@given(writes)
def test_hostile_bytes_never_make_a_wrong_frame(steps):
    """Frames come, records are damaged and moved about, the count of records is: what is read is what was written."""
    endpoint = f"rashpa:///test-{uuid.uuid4().hex}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_ring, "LEAST_EVENTS", 8)
        patch.setattr(shared_ring, "EVENTS_A_SLOT", 2)
        with pair(endpoint) as (target, initiator):
            written, n_frames = {}, 0
            for what, *how in steps:
                match what:
                    case "put" | "begin":
                        for _ in range(how[0]):
                            completion = put(initiator, n_frames, post=what == "put")
                            written[completion.sequence] = completion
                            n_frames += 1
                    case "get":
                        for _ in range(how[0]):
                            check(target, written)
                    case "restart":
                        initiator.close()
                        if target._memory.head[POSTED] >= 2**63:
                            target._memory.head[POSTED] = 0
                        initiator = SharedInitiator(endpoint, "data")
                    case "bytes":
                        events = target._memory.events
                        cut = how[1][: len(events) - how[0]]
                        events[how[0] : how[0] + len(cut)] = cut
                    case "move":
                        target._memory.event(how[1] + 1)[:] = bytes(target._memory.event(how[0] + 1))
                    case "posted":
                        target._memory.head[POSTED] = how[0]
            initiator.close()


def check(target, written):
    try:
        completion = target.poll()
    except ProtocolError:
        return
    if completion is None:
        return
    assert completion == written[completion.sequence]
    into = np.empty(completion.nbytes, np.uint8)
    if target.read(completion, into):
        assert (into == pixels(completion.frame)).all()


@settings(deadline=None)  # each example makes a file
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(2, 5))
def test_what_a_reader_gets_is_what_a_model_says(rounds, slots):
    """Frames are written and read in turns: those that ``slots`` later ones followed are overwritten."""
    endpoint = f"rashpa:///test-{uuid.uuid4().hex}"
    with pair(endpoint, slots) as (target, initiator):
        sent = read = 0
        for turn, count in enumerate(rounds):
            if turn % 2 == 0:
                for _ in range(count):
                    put(initiator, sent)
                    sent += 1
                continue
            for _ in range(count):
                completion, data = get(target)
                if read == sent:
                    assert completion is None
                    break
                assert completion.frame == read
                assert (data is None) == (read < sent - slots)
                read += 1


def test_two_that_start_at_once_do_not_remove_each_others_file(endpoint, monkeypatch):
    """The second finds the first one's file before it is locked, takes it for a stale one, and makes its own."""
    lock, others = shared_ring.fcntl.flock, []

    def late(fd, how):
        if not others:
            others.append(None)
            others[0] = SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)
        lock(fd, how)

    monkeypatch.setattr(shared_ring.fcntl, "flock", late)
    with pytest.raises(ConfigError, match=r"can't be made: another process makes it now"):
        SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)
    SharedInitiator(endpoint, "data").close()
    others[0].close()
    assert not ring_path(endpoint, "data").exists()


def test_a_stale_file_that_another_has_replaced_meanwhile_is_left_alone(endpoint, monkeypatch):
    path = ring_path(endpoint, "data")
    path.write_bytes(bytes(4096))
    lock, others = shared_ring.fcntl.flock, []

    def late(fd, how):
        if not others:
            others.append(None)
            others[0] = SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)
        lock(fd, how)

    monkeypatch.setattr(shared_ring.fcntl, "flock", late)
    with pytest.raises(ConfigError, match="in use by another process"):
        SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)
    SharedInitiator(endpoint, "data").close()
    others[0].close()


SECOND = """
import sys
from lima2_receivers.transport.shared_ring import SharedInitiator
ring = SharedInitiator(sys.argv[1], "data")
print("attached", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time_writes(endpoint):
    """Two would give the same sequence to different pixels."""
    target = SharedTarget(endpoint, "data", SLOTS, SLOT_BYTES)
    command = [sys.executable, "-c", SECOND, endpoint]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"attached\n"
        with pytest.raises(ConfigError, match="another process writes into it"):
            SharedInitiator(endpoint, "data")
        process.kill()
    initiator = SharedInitiator(endpoint, "data")
    put(initiator, 1)
    assert get(target)[0].frame == 1
    initiator.close()
    target.close()
