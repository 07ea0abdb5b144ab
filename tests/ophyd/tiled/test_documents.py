"""Documents survive the bus as they are."""

import enum
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from ophyd_async.core import StrictEnum

from lima2_ophyd.tiled.documents import decode_document, encode_document

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Colour(StrictEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


@settings(deadline=None)
@given(st.dictionaries(st.text(), plain))
def test_plain_documents_come_back_equal(document):
    assert decode_document(encode_document("start", document)) == ("start", document)


@settings(deadline=None)
@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(max_dims=3, max_side=4)))
def test_arrays_come_back_with_type_and_shape(array):
    _, found = decode_document(encode_document("event", {"data": {"x": array}}))
    back = found["data"]["x"]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(1.5), 1.5),
        (np.uint8(7), 7),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Colour.RED, "red"),
        (Number.ONE, 1),
        (Path("/data"), "/data"),
        ((1, 2), [1, 2]),
        (np.array([None, 1]), [None, 1]),
    ],
)
def test_other_values_become_plain(value, expected):
    assert decode_document(encode_document("event", {"x": value})) == ("event", {"x": expected})


def test_what_has_no_type_becomes_text_with_a_warning(caplog):
    assert decode_document(encode_document("start", {"x": 1 + 2j}))[1] == {"x": "(1+2j)"}
    assert "complex" in caplog.text


@pytest.mark.parametrize("data", [b"", b"\xff", msgspec.msgpack.encode(["start"]), msgspec.msgpack.encode(3)])
def test_anything_else_is_no_document(data):
    with pytest.raises(msgspec.MsgspecError):
        decode_document(data)


def test_pickled_objects_are_not_read():
    array = np.array([{"a": 1}], dtype=object)
    import io

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    data = msgspec.msgpack.encode(("start", {"x": msgspec.msgpack.Ext(1, buffer.getvalue())}))
    with pytest.raises(ValueError, match="pickle"):
        decode_document(data)
