"""Errors and their numbers."""

import pytest

from lima2_receivers import errors
from lima2_receivers.errors import ReceiverError, error_from_code
from lima2_receivers.messages import decode_reply, encode, failed

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReceiverError)]


def test_every_kind_has_a_number_of_its_own():
    assert len({kind.code for kind in KINDS}) == len(KINDS) > 1
    assert all("code" in vars(kind) for kind in KINDS), "a number that is inherited is another kind's"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_kind_and_message_survive_the_wire(kind):
    reply = decode_reply(encode(failed(kind("$.noize: got 3 µm, expected none"))))
    error = error_from_code(reply.code, reply.message)
    assert type(error) is kind
    assert str(error) == "$.noize: got 3 µm, expected none"


@pytest.mark.parametrize("code", [0, -1, 999])
def test_a_number_from_a_newer_peer_gives_the_base_class(code):
    error = error_from_code(code, "something new")
    assert type(error) is ReceiverError
    assert str(error) == "something new"
