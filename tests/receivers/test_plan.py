"""Plans: decoded strictly, and what is wrong is named by its path."""

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from lima2_processing.frame import FrameSpec, OutputKind
from lima2_receivers.errors import PlanError
from lima2_receivers.plan import (
    AcquisitionParams,
    AcquisitionPlan,
    PipelineChoice,
    SavingParams,
    StreamSaving,
    TriggerMode,
    decode_params,
    raw_output,
)


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    noise: Annotated[float, Meta(gt=0)] = 0.5
    name: str = ""


def decode(**tables) -> AcquisitionPlan:
    """Return the plan of these tables, as it comes out of a message."""
    tables = {"saving": {"base_path": "/data"}} | tables
    return msgspec.msgpack.decode(msgspec.msgpack.encode(tables), type=AcquisitionPlan)


def raw(**params) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(params))


def test_what_is_not_given_has_its_default():
    plan = decode()
    assert plan == AcquisitionPlan(SavingParams("/data"))
    assert (plan.acquisition.nb_frames, plan.acquisition.trigger_mode) == (1, TriggerMode.INTERNAL)
    assert plan.saving.stream("raw") == StreamSaving()


def test_a_plan_survives_the_wire():
    plan = AcquisitionPlan(
        SavingParams("/data", "scan", streams={"raw": StreamSaving(enabled=False)}),
        AcquisitionParams(10, 0.5, trigger_mode=TriggerMode.SOFTWARE, nb_frames_per_trigger=5),
        PipelineChoice("smx", raw(noise=1.0)),
        raw(loss=0.5),
    )
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=AcquisitionPlan)
    assert again == plan
    assert not again.saving.stream("raw").enabled
    assert decode_params(again.pipeline.params, Params, "pipeline.params").noise == 1.0


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"pipelin": None}, r"unknown field `pipelin`"),
        ({"acquisition": {"expo": 1.0}}, r"unknown field `expo` - at `\$\.acquisition`"),
        ({"acquisition": {"nb_frames": -1}}, r">= 0 - at `\$\.acquisition\.nb_frames`"),
        ({"acquisition": {"nb_frames": 1.5}}, r"Expected `int`, got `float` - at `\$\.acquisition\.nb_frames`"),
        ({"acquisition": {"expo_time": 0.0}}, r"> 0.* - at `\$\.acquisition\.expo_time`"),
        ({"acquisition": {"expo_time": 1e9}}, r"<= 86400.* - at `\$\.acquisition\.expo_time`"),
        ({"acquisition": {"expo_time": float("nan")}}, r"\$\.acquisition\.expo_time"),
        ({"acquisition": {"latency_time": -1e-9}}, r">= 0.* - at `\$\.acquisition\.latency_time`"),
        ({"acquisition": {"latency_time": float("nan")}}, r"\$\.acquisition\.latency_time"),
        ({"acquisition": {"nb_frames_per_trigger": 0}}, r">= 1 - at `\$\.acquisition\.nb_frames_per_trigger`"),
        ({"acquisition": {"trigger_mode": "often"}}, r"'often' - at `\$\.acquisition\.trigger_mode`"),
        ({"saving": {}}, r"missing required field `base_path` - at `\$\.saving`"),
        ({"saving": {"base_path": "/d", "file_exists_policy": "ask"}}, r"'ask' - at `\$\.saving\.file_exists_policy`"),
        ({"saving": {"base_path": "/d", "streams": {"raw": {"on": True}}}}, r"field `on` - at `\$\.saving\.streams"),
        ({"pipeline": {"nam": "smx"}}, r"unknown field `nam` - at `\$\.pipeline`"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(tables, said):
    with pytest.raises(msgspec.ValidationError, match=said):
        decode(**tables)


@pytest.mark.parametrize(
    "prefix", ["..", ".", ".hidden", "../up", "a/b", "/a", "a\\b", "", "a b", "é", "a\0", "a\n", "x" * 101]
)
def test_a_prefix_that_is_more_than_a_name_is_refused(prefix):
    with pytest.raises(msgspec.ValidationError, match=r"- at `\$\.saving\.filename_prefix`"):
        decode(saving={"base_path": "/data", "filename_prefix": prefix})


@pytest.mark.parametrize("prefix", ["a", "scan_0007", "lyso-1.2", "_x", "-x", "a..b", "x" * 100])
def test_a_prefix_of_letters_digits_and_marks_is_taken(prefix):
    assert decode(saving={"base_path": "/data", "filename_prefix": prefix}).saving.filename_prefix == prefix


@given(st.text(max_size=20))
def test_no_prefix_that_is_taken_leads_elsewhere(prefix):
    try:
        taken = decode(saving={"base_path": "/data", "filename_prefix": prefix}).saving.filename_prefix
    except msgspec.ValidationError:
        return
    assert taken.isascii()
    assert taken.isprintable()
    assert not set(taken) & set("/\\ ")
    assert not taken.startswith(".")


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"noize": 1.0}, r"unknown field `noize`"),
        ({"noise": -1.0}, r"> 0.* - at `\$\.noise`"),
        ({"noise": "low"}, r"got `str` - at `\$\.noise`"),
    ],
)
def test_wrong_parameters_of_a_plugin_are_refused_with_their_place(params, said):
    with pytest.raises(PlanError, match=rf"^pipeline\.params: .*{said}"):
        decode_params(raw(**params), Params, "pipeline.params")


def test_parameters_that_are_not_given_have_their_defaults():
    assert decode_params(PipelineChoice().params, Params, "pipeline.params") == Params()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81", b"\x80\x80", b"\x90", b"\x81\xa4name\xa1\xff", b"\x91" * 5000])
def test_parameters_that_are_not_messagepack_are_refused(data):
    with pytest.raises(PlanError, match=r"^detector: "):
        decode_params(msgspec.Raw(data), Params, "detector")


def test_raw_frames_are_an_output_as_the_detector_sends_them():
    output = raw_output(FrameSpec((2, 8, 16), "<u2"))
    assert (output.name, output.stream, output.kind) == ("raw", "raw", OutputKind.IMAGE)
    assert (output.dtype, output.shape, output.fill) == ("<u2", (2, 8, 16), 65535)
