"""A RunEngine, a fake conductor behind a detector, and a list of validated documents."""

import asyncio
import importlib.util
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import msgspec
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from event_model import DocumentNames, schema_validators
from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from lima2_ophyd.detector import Lima2Detector


def _load(name):
    spec = importlib.util.spec_from_file_location(f"lima2_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


fake_conductor = _load("fake_conductor")


class FakeParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the pipeline that the fake conductor pretends to run."""

    noise: float = 1.0
    connected: int = 3


@pytest.fixture
def fake():
    """The module of the fake conductor."""
    return fake_conductor


@pytest.fixture
def conductor():
    folder = tempfile.mkdtemp(prefix="lima2-")
    running = fake_conductor.FakeConductor(folder)
    yield running
    running.close()
    shutil.rmtree(folder)


async def _cancel_all():
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def run_engine():
    """A RunEngine, in a loop and thread that end with the test."""
    engine = RunEngine({}, context_managers=[], call_returns_result=True)
    yield engine
    if engine.state not in ("idle", "panicked"):
        engine.halt()
    loop = engine.loop
    call_in_bluesky_event_loop(_cancel_all(), 5)
    loop.call_soon_threadsafe(loop.stop)
    for thread in threading.enumerate():
        if thread.name == "bluesky-run-engine":
            thread.join(5)
    loop.close()


@pytest.fixture
def documents(run_engine):
    """What the RunEngine emits, each validated against its schema."""
    found = []

    def take(name, document):
        schema_validators[DocumentNames[name]].validate(document)
        found.append((name, document))

    run_engine.subscribe(take)
    return found


@pytest.fixture
def make_detector(run_engine, conductor, tmp_path):
    """Connected detectors of the fake conductor."""
    made = []

    def make(name="det"):
        provider = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
        with init_devices():
            detector = Lima2Detector(
                conductor.commands,
                conductor.state,
                provider,
                pipeline="fake",
                pipeline_params=FakeParams,
                patience=5.0,
                name=name,
            )
        made.append(detector)
        return detector

    yield make
    for detector in made:
        call_in_bluesky_event_loop(detector.disconnect(), 5)


@pytest.fixture
def detector(make_detector):
    return make_detector()


@pytest.fixture
def mock_detector(run_engine, tmp_path):
    provider = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
    with init_devices(mock=True):
        det = Lima2Detector("ipc:///none/c", "ipc:///none/s", provider, pipeline="fake", pipeline_params=FakeParams)
    return det  # noqa: RET504 - init_devices takes the name from the variable
