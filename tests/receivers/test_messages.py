"""Messages: every one makes the round trip, and whatever else comes is a ProtocolError."""

from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_processing.frame import FrameSpec, ModuleLayout, Output, OutputKind, PipelineFacts
from lima2_receivers import messages as m
from lima2_receivers import published
from lima2_receivers.acquisition import Outcome, State
from lima2_receivers.control import Capabilities, Range
from lima2_receivers.errors import ProtocolError
from lima2_receivers.ledger import Counts, FrameStatus, Run
from lima2_receivers.plan import AcquisitionPlan, Compression, ReceiverPlan, SavingParams, TriggerMode

ID = "0123456789abcdef" * 2
FACTS = PipelineFacts("cpu", 1 << 28, {"masked": 12, "unused": 30})
SPEC = FrameSpec((8, 512, 1024), "<u2", ModuleLayout(((0, 0), (550, 0)), (1064, 1030), (256, 256), 2))
PLAN = AcquisitionPlan(SavingParams("/data", "scan"), detector=msgspec.Raw(b"\x81\xa4loss\xcb?\xe0\0\0\0\0\0\0"))
OUTPUT = Output("n_peaks", OutputKind.SCALAR, "<i4", (), "results", label="peaks", hinted=True)
COUNTS = Counts(5, 1, 2, 3)
ACQUISITION = published.AcquisitionState(
    ID,
    State.CLOSED,
    Outcome.FAILED,
    "disk full",
    12,
    "triggers",
    11,
    (published.ReceiverCounters(9, 8, 7, COUNTS),) * 2,
    "/data/scan_master.h5",
    {"disk full": 3},
)
STATE = m.SystemState(
    "i1",
    7,
    published.DetectorState.ARMED,
    "",
    (published.ReceiverState(0, "ipc:///run/r0", True, 0.1, 2, 16),),
    (ACQUISITION,),
    published.IngestState("ipc:///run/i", True, 0.1, 5, 27, (0, 1), 1, 3),
)
PROGRESS = m.Progress(
    ID,
    State.DRAINING,
    3,
    (Run(FrameStatus.SAVED, 2), Run(FrameStatus.LOST, 1, "never arrived")),
    np.array([1.5, 2.5, np.nan], "<f8").tobytes(),
    3,
    2,
    1,
    COUNTS,
    9,
    "",
)
CAPABILITIES = Capabilities(
    "Simulated 4M", (TriggerMode.INTERNAL, TriggerMode.SOFTWARE), Range(1e-5, 10.0), Range(0.0, 1.0), SPEC
)

CONDUCTOR = [
    m.Hello(peer="client"), m.Describe(), m.Prepare(ID, PLAN), m.Start(ID), m.Trigger(ID, 5, 0.1, 0.0), m.Stop(ID),
    m.Finish(ID), m.GetState(), m.GetValues(ID, 3), m.LocateFrame(ID, -1, "raw"),
    m.GetLedger(ID),
]  # fmt: skip
RECEIVER = [
    m.Hello(), m.PrepareReceiver(ID, ReceiverPlan(1, 2, 77, SPEC, PLAN), check_only=True),
    m.Announce(ID, 10, final=True), m.Settle(ID, 10), m.Discard(ID), m.Forget(ID), m.Poll({ID: 7}), m.GetRow(ID, 3),
    m.GetFrame(ID, 3, "raw"),
]  # fmt: skip
REPLIES = [
    m.Welcome("receiver 0", "i1"), m.Done(), m.Failed(3, "no"),
    m.Description("jungfrau", "ID00", CAPABILITIES, (m.PipelineDescription("smx", "{}"),), 2, ("/data",)),
    m.Prepared(ID, "/d/m.h5", "/d/l.h5", (m.Dataset("raw", "/e/r", OutputKind.IMAGE, "<u2", (2, 3)),), SPEC, (FACTS,)),
    m.Values(3, {"n_peaks": 4.0}), STATE,
    m.ReceiverPrepared((OUTPUT,), (m.ConstantInfo("radius", "<f4", (10,), "sparse", "m"),), {"raw": "a.h5"}, FACTS),
    m.ReceiverProgress("i1", (PROGRESS,), 4, 16), m.SettledRows(7), m.AcquisitionClosed(ACQUISITION),
    m.FrameLocation(
        ID, 7, FrameStatus.LOST, "never arrived", m.Place(1, 3, "ipc:///r1"), "/d/m.h5",
        m.Dataset("raw", "/e/r", OutputKind.IMAGE, "<u2", (2, 3)),
    ),
    m.FrameChunk(Compression.ZIP, b"123"),
    m.LedgerReport(ID, 9, "control", COUNTS, {"lost": 2}, m.FateRuns((0, 5), (5, 4), (1, 3)), 7, 2),
    m.IngestProgress("i1", 5, 27, (0, 2), 1, 3),
]  # fmt: skip
INGEST = [m.Hello(), m.PollIngest((0, 2))]
UNIONS = [
    (m.decode_conductor_request, m.ConductorRequest, CONDUCTOR, "request to the conductor"),
    (m.decode_receiver_request, m.ReceiverRequest, RECEIVER, "request to a receiver"),
    (m.decode_ingest_request, m.IngestRequest, INGEST, "request to an ingest"),
    (m.decode_reply, m.Reply, REPLIES, "reply"),
]
KNOWN = {what: get_args(union) for _, union, _, what in UNIONS}
EVERY = [(decode, message) for decode, _, examples, _ in UNIONS for message in examples]
DECODERS = pytest.mark.parametrize(
    ("decode", "what"),
    [(decode, what) for decode, _, _, what in UNIONS],
    ids=["conductor", "receiver", "ingest", "reply"],
)


def name_of(value):
    return type(value).__name__ if isinstance(value, m.Message) else ""


@pytest.mark.parametrize(("_decode", "union", "examples", "_what"), UNIONS)
def test_there_is_an_example_of_every_message(_decode, union, examples, _what):
    assert {type(message) for message in examples} == set(get_args(union))


@pytest.mark.parametrize(("decode", "message"), EVERY, ids=name_of)
def test_a_message_makes_the_round_trip(decode, message):
    assert decode(m.encode(message)) == message


@pytest.mark.parametrize(("decode", "message"), EVERY, ids=name_of)
def test_a_field_of_a_newer_version_is_ignored(decode, message):
    fields = msgspec.msgpack.decode(m.encode(message)) | {"colour": "red"}
    assert decode(msgspec.msgpack.encode(fields)) == message


@pytest.mark.parametrize(("decode", "message"), EVERY, ids=name_of)
def test_a_message_that_is_cut_short_is_refused(decode, message):
    data = m.encode(message)
    for size in range(len(data)):
        with pytest.raises(ProtocolError):
            decode(data[:size])


@DECODERS
def test_a_message_for_someone_else_is_refused(decode, what):
    for _, message in EVERY:
        if type(message) in KNOWN[what]:
            continue
        with pytest.raises(ProtocolError, match=rf"^{what} of \d+ bytes: .*'{name_of(message)}'"):
            decode(m.encode(message))


@DECODERS
@given(data=st.binary(max_size=200))
def test_noise_is_a_protocol_error(decode, what, data):
    with pytest.raises(ProtocolError, match=rf"^{what} of {len(data)} bytes: "):
        decode(data)


@pytest.mark.parametrize(("decode", "message"), EVERY, ids=name_of)
@settings(max_examples=25)
@given(st.data())
def test_a_damaged_message_is_parsed_or_a_protocol_error(decode, message, data):
    damaged = bytearray(m.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = decode(bytes(damaged))
    except ProtocolError:
        return
    assert isinstance(found, m.Message)


@DECODERS
@pytest.mark.parametrize(
    "data",
    [
        b"\x82\xa4type\xa5Hello\xa4peer\xa1\xff",  # text that is not UTF-8
        b"\x82\xa4type\xa5Hello\xa4more" + b"\x91" * 100_000 + b"\xc0",  # nested deeper than the stack
        b"\x81\xa4type\xdf\xff\xff\xff\xff",  # a map of 4 thousand million entries
        b"\x82\xa4type\xa5Start\xabacquisition\xc6\xff\xff\xff\xff",
    ],
    ids=["encoding", "depth", "map", "length"],
)
def test_hostile_bytes_are_a_protocol_error(decode, what, data):
    with pytest.raises(ProtocolError, match=f"^{what} of "):
        decode(data)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"type": "Prepare", "acquisition": ID, "plan": {"saving": {"base_path": "/d"}, "noize": 1}},
            r"`noize` - at `\$\.plan`",
        ),
        ({"type": "Start"}, r"missing required field `acquisition`"),
        ({"type": "Trigger", "acquisition": ID, "n_frames": "all"}, r"- at `\$\.n_frames`"),
        ({"type": "Dance"}, r"'Dance' - at `\$\.type`"),
        ({}, r"missing required field `type`"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(fields, said):
    with pytest.raises(ProtocolError, match=said):
        m.decode_conductor_request(msgspec.msgpack.encode(fields))


def test_counts_of_an_acquisition_are_those_of_all_receivers():
    assert ACQUISITION.counts == Counts(10, 2, 4, 6)
    assert ACQUISITION.counts.settled == 22
