"""A mock broker, and the end of its stream."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import pytest
import zmq


def load_mock():
    """Import the mock broker's module."""
    spec = util.spec_from_file_location("mock_broker", Path(__file__).parent / "mock_broker.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def mock(sockets):
    """A mock broker with a puller on its stream, as ``mock.stream``."""
    stream = zmq.Context.instance().socket(zmq.PULL)
    stream.linger, stream.rcvtimeo = 0, 10_000
    made = load_mock().MockBroker(f"ipc://{sockets}/stream")
    made.stream = stream
    stream.connect(f"ipc://{sockets}/stream")
    yield made
    made.close()
    stream.close(linger=0)
