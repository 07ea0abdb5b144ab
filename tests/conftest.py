"""What all tests share: where real data is, and the processes of a small site."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def recorded_module() -> Path:
    """The folder of recorded Jungfrau frames."""
    root = Path(os.environ.get("LIMA2_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = root / "jungfrau_mod5"
    if not folder.is_dir():
        pytest.skip(f"no recorded frames in {folder}: set LIMA2_TEST_DATA to the folder that holds jungfrau_mod5")
    return folder


@pytest.fixture
def sockets():
    """A folder with a name short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="lima2-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def recorded():
    """Gives a folder of recorded data by its name, or skips the test."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("LIMA2_TEST_DATA", REPOSITORY.parent / "shared" / "data")) / name
        if not folder.is_dir():
            pytest.skip(f"no recorded data in {folder}: set LIMA2_TEST_DATA to the folder that holds {name}")
        return folder

    return find
