"""Documents on their way to the writer: in order, once, none lost, and the sender never waits."""

import socket
import threading
import uuid

import msgspec
import pytest
import zmq

from lima2_ophyd.tiled.bus import DocumentSender
from lima2_ophyd.tiled.writer import DocumentReceiver, run_writer


@pytest.fixture
def endpoint():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Writer:
    """A receiver in a thread that keeps what it gets."""

    def __init__(self, endpoint):
        self.found = []
        self.arrived = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.failures = 0
        self._receiver = DocumentReceiver(endpoint, self._take, lambda: self.failures)
        self._thread = threading.Thread(target=self._receiver.serve)
        self._thread.start()

    def _take(self, name, document):
        self.gate.wait(10)
        self.found.append((name, document))
        self.arrived.set()

    def close(self):
        self.gate.set()
        self._receiver.stop()
        self._thread.join(10)


@pytest.fixture
def start_writer(endpoint):
    writers = []

    def start():
        writers.append(Writer(endpoint))
        return writers[-1]

    yield start
    for writer in writers:
        writer.close()


@pytest.fixture
def sender(endpoint, tmp_path):
    made = DocumentSender(endpoint, tmp_path, warn_at=50)
    yield made
    made.close(0.0)


def run_documents(n_events=5):
    uid = uuid.uuid4().hex
    events = [("event", {"uid": f"{uid}-{i}", "seq_num": i}) for i in range(n_events)]
    return [("start", {"uid": uid}), *events, ("stop", {"uid": f"{uid}-stop", "run_start": uid})]


def send(sender, documents):
    for name, document in documents:
        sender(name, document)


def test_documents_arrive_in_order(start_writer, sender):
    writer = start_writer()
    documents = run_documents(2000)
    send(sender, documents)
    sender.flush(20)
    assert writer.found == documents
    assert sender.backlog == 0


def test_a_writer_that_comes_late_misses_nothing(start_writer, sender):
    documents = run_documents()
    send(sender, documents)
    assert sender.backlog == len(documents)
    writer = start_writer()
    sender.flush(20)
    assert writer.found == documents


def test_the_sender_does_not_wait_and_reports_the_backlog(start_writer, sender, caplog):
    writer = start_writer()
    sender.wait_ready(10)
    writer.gate.clear()
    send(sender, run_documents(100))
    assert sender.backlog == 102
    assert "documents wait for the writer" in caplog.text
    with pytest.raises(TimeoutError, match="102 documents were not taken"):
        sender.flush(0.1)
    writer.gate.set()
    sender.flush(20)


def test_a_new_writer_gets_open_runs_from_their_start(start_writer, sender):
    first, second = run_documents(), run_documents()
    writer = start_writer()
    send(sender, first)
    send(sender, second[:3])
    sender.flush(20)
    writer.close()

    writer = start_writer()
    send(sender, second[3:])
    sender.flush(20)
    assert writer.found == second


def test_several_senders_keep_their_own_order(start_writer, endpoint, sender):
    writer = start_writer()
    other = DocumentSender(endpoint)
    mine, theirs = run_documents(50), run_documents(50)
    for one, another in zip(mine, theirs, strict=True):
        sender(*one)
        other(*another)
    sender.flush(20)
    assert other.close(20) == 0
    assert [one for one in writer.found if one in mine] == mine
    assert [one for one in writer.found if one in theirs] == theirs


def test_what_nobody_took_is_in_the_backup_folder(endpoint, tmp_path, caplog):
    sender = DocumentSender(endpoint, tmp_path / "backup")
    documents = run_documents()
    send(sender, documents)
    assert sender.close(0.1) == len(documents)
    (file,) = (tmp_path / "backup").glob("*.jsonl")
    found = [tuple(msgspec.json.decode(line)) for line in file.read_bytes().splitlines()]
    assert found == documents
    assert str(file) in caplog.text


def test_runs_that_are_not_in_tiled_are_reported(start_writer, sender, caplog):
    writer = start_writer()
    writer.failures = 1
    send(sender, run_documents())
    sender.flush(20)
    assert sender.failures == 1
    assert "1 runs are not in Tiled" in caplog.text


def test_rubbish_at_the_writer_is_dropped(start_writer, endpoint, sender):
    writer = start_writer()
    rubbish = zmq.Context.instance().socket(zmq.DEALER)
    rubbish.linger = 500
    rubbish.connect(endpoint)
    rubbish.send_multipart([b"", b"\xff\xff"])
    rubbish.send(msgspec.msgpack.encode({"type": "Numbered"}))
    rubbish.close()
    documents = run_documents()
    send(sender, documents)
    sender.flush(20)
    assert writer.found == documents


def test_no_writer_is_an_error_within_the_deadline(sender):
    with pytest.raises(TimeoutError, match="no document writer answered"):
        sender.wait_ready(0.1)


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:5578", "tcp://*:5578", "tcp://10.0.0.1:5578"])
def test_the_writer_is_not_for_other_hosts(endpoint, tmp_path):
    with pytest.raises(SystemExit, match="other hosts reach it, and it has no keys"):
        run_writer(endpoint, "http://127.0.0.1:9", "key", tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
