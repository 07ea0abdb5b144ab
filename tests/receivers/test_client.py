"""The client of a conductor, where connecting goes wrong half way."""

import asyncio
import contextlib

import pytest
import zmq.asyncio

from lima2_receivers import messages as m
from lima2_receivers.client import ConductorClient
from lima2_receivers.errors import StateError
from lima2_receivers.transport.requests import Responder


async def test_a_connect_that_fails_half_way_leaves_no_socket_open(sockets, monkeypatch):
    async def answer(request):
        if isinstance(request, m.Hello):
            return m.Welcome(role="conductor", instance="one", deadlines=m.Deadlines(1.0, 1.0))
        raise StateError("no state yet")

    responder = Responder(f"ipc://{sockets}/c", "conductor.commands", m.decode_conductor_request, answer)
    serving = asyncio.create_task(responder.serve())
    made = []
    make = zmq.asyncio.Context.socket

    def watched(self, *args, **options):
        made.append(make(self, *args, **options))
        return made[-1]

    monkeypatch.setattr(zmq.asyncio.Context, "socket", watched)
    client = ConductorClient(f"ipc://{sockets}/c", f"ipc://{sockets}/s")
    with pytest.raises(StateError, match="no state yet"):
        await client.connect()
    assert len(made) == 2
    assert all(socket.closed for socket in made)
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    await responder.close()
