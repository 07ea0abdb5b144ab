"""CBOR as detectors send it: what cbor2 makes of a message, without a copy of its long byte strings."""

import cbor2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lima2_receivers.detectors.eiger2 import cbor, packets
from lima2_receivers.errors import ProtocolError
from lima2_receivers.packing import Packing

LONG = cbor.LONG
long_bytes = st.sampled_from([LONG - 1, LONG, LONG + 1, 3 * LONG]).map(lambda size: b"\xda" * size)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | long_bytes
    | st.just("t" * LONG)
)
items = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5) | long_bytes, inner, max_size=4)
        | st.builds(cbor2.CBORTag, st.sampled_from([24, 40, 69, 1040, 56500, 2**40, cbor._PLACE]), inner)
    ),
    max_leaves=30,
)


def outcome(decode, message):
    """Return what a message holds, with bytes for views; None: it is refused."""
    try:
        return plain(decode(message))
    except (ProtocolError, cbor2.CBORDecodeError):
        return None


def plain(value):
    match value:
        case memoryview():
            return bytes(value)
        case cbor2.CBORTag():
            return ("tag", value.tag, plain(value.value))
        case dict() | cbor2.frozendict():
            return {plain(name): plain(each) for name, each in value.items()}
        case list() | tuple():
            return [plain(each) for each in value]
        case _:
            return value


def by_cbor2(message):
    return cbor2.loads(message, max_depth=cbor.MAX_DEPTH, allow_indefinite=False, strict_hashable_types=True)


@settings(max_examples=300, deadline=None)
@given(items)
def test_values_are_those_of_cbor2(item):
    message = cbor2.dumps(item)
    assert outcome(cbor.decode, memoryview(message)) == outcome(by_cbor2, message)


@settings(max_examples=500, deadline=None)
@given(items, st.data())
def test_damaged_messages_are_read_as_cbor2_reads_them_or_refused(item, data):
    message = bytearray(cbor2.dumps({"a": item, "b": b"x" * LONG}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(message)))
        message[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    found = outcome(cbor.decode, memoryview(message))
    if found is not None:  # some of what cbor2 takes is refused, or stays a tag
        try:
            again = outcome(lambda each: cbor._decode(each, cbor._DECODERS), bytes(message))
        except ProtocolError:
            again = None
        assert repr(found) == repr(again)


def test_pixels_are_views_of_the_message():
    image = np.random.default_rng(0).integers(0, 60_000, (100, 100), "<u2")
    for packing in (Packing.NONE, Packing.BSLZ4):
        images = {"threshold_1": image, "threshold_2": image}
        message = np.frombuffer(packets.image2(1, 2, images, packing, packets_time()), np.uint8)
        found = cbor.decode(message.data)
        for channel in found["data"].values():
            pixels = channel.value[1].value
            view = pixels.value[2] if packing is Packing.BSLZ4 else pixels
            assert isinstance(view, memoryview)
            assert np.shares_memory(np.frombuffer(view, np.uint8), message)
            assert bytes(view) == packets.pack(image, packing)


def packets_time():
    from datetime import UTC, datetime

    return datetime(2026, 11, 23, tzinfo=UTC)


def test_a_message_of_many_items_is_decoded_all_the_same():
    many = {"a": [0] * cbor.MOST_ITEMS, "b": b"x" * LONG}
    assert cbor.decode(memoryview(cbor2.dumps(many))) == many
    long = [b"x" * LONG] * (cbor.MOST_LONG + 1)
    assert cbor.decode(memoryview(cbor2.dumps(long))) == long


def test_a_place_cannot_be_forged():
    forged = {"a": cbor2.CBORTag(cbor._PLACE, 0), "b": b"x" * LONG}
    assert cbor.decode(memoryview(cbor2.dumps(forged))) == forged


def test_tags_that_nobody_needs_stay_tags():
    for tag, value in ((35, "(a+)+$"), (36, "text"), (30, [1, 0]), (5, [10**6, 1]), (258, [[1], 2])):
        found = cbor.decode(memoryview(cbor2.dumps(cbor2.CBORTag(tag, value))))
        assert isinstance(found, cbor2.CBORTag)
        assert (found.tag, plain(found.value)) == (tag, value)


@pytest.mark.parametrize("tag", cbor._REPEATING)
def test_tags_that_repeat_parts_are_refused(tag):
    with pytest.raises(ProtocolError, match="repeats its own parts"):
        cbor.decode(memoryview(cbor2.dumps(cbor2.CBORTag(tag, 0))))
