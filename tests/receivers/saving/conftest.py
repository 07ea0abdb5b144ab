"""Writers in processes of their own, a system of part files with ledger and master, and the model of outputs."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path

import msgspec
import pytest

from lima2_processing.frame import FrameSpec, PipelineFacts
from lima2_receivers.messages import ConstantInfo, Dataset
from lima2_receivers.plan import AcquisitionPlan, Compression
from lima2_receivers.saving.h5 import claim
from lima2_receivers.saving.master import MasterInfo, write_master
from lima2_receivers.saving.names import ledger_name, master_name, part_names

HERE = Path(__file__).parent
DEADLINE = 60.0


def _load_model():
    spec = util.spec_from_file_location("saving_model", HERE / "saving_model.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODEL = _load_model()


@pytest.fixture(scope="session")
def model():
    return MODEL


class WriterProcess:
    """A receiver's writer process; see ``writer_process.py``."""

    def __init__(self, folder: Path, rank: int, n_receivers: int, compression: Compression) -> None:
        command = [
            sys.executable,
            str(HERE / "writer_process.py"),
            str(folder),
            str(rank),
            str(n_receivers),
            compression,
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.answer() == "ready"

    def tell(self, line: object) -> None:
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        self._last = self._process.stdout.readline().strip()
        return self._last

    def ask(self, line: object) -> str:
        self.tell(line)
        return self.answer()

    def kill(self) -> int:
        """Kill it as ``kill -9`` does, and return the last count that it acknowledged."""
        self._process.kill()
        answers = [self._last, *self._process.stdout.read().split()]
        self._process.wait(DEADLINE)
        return int(answers[-1])

    def end(self) -> None:
        """Reap the process, whatever it is doing."""
        self._process.kill()
        self._process.wait(DEADLINE)
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def start_writer(tmp_path):
    """Start writer processes that end with the test: ``start_writer(rank, n_receivers)``."""
    running: list[WriterProcess] = []

    def start(rank: int, n_receivers: int, compression: Compression = Compression.BSHUF_LZ4) -> WriterProcess:
        running.append(WriterProcess(tmp_path, rank, n_receivers, compression))
        return running[-1]

    yield start
    for writer in running:
        writer.end()


@pytest.fixture
def make_master(tmp_path):
    """Write the master of an acquisition: ``make_master(n_receivers) -> path, datasets``."""

    def make(n_receivers: int, outputs=MODEL.OUTPUTS, **changes) -> tuple[Path, tuple[Dataset, ...]]:
        info = master_info(tmp_path, n_receivers, outputs)
        path = tmp_path / master_name("run")
        made = msgspec.structs.replace(info, **changes)
        claimed = claim(path, made.plan.saving.file_exists_policy)
        try:
            datasets = write_master(claimed, made)
        except BaseException:
            claimed.drop()
            raise
        claimed.keep()
        return path, datasets

    return make


def master_info(folder: Path, n_receivers: int, outputs) -> MasterInfo:
    params = MODEL.saving(folder)
    streams = sorted({output.stream for output in outputs})
    return MasterInfo(
        acquisition="0" * 32,
        detector="jungfrau",
        instrument="ID00",
        model="simulated",
        plan=AcquisitionPlan(saving=params, pipeline=None),
        frame_spec=FrameSpec(MODEL.RAW.shape, MODEL.RAW.dtype),
        outputs=tuple(outputs),
        constants=tuple(
            ConstantInfo(c.name, c.data.dtype.str, c.data.shape, c.stream, c.unit, c.label) for c in MODEL.CONSTANTS
        ),
        files=tuple(part_names("run", rank, streams) for rank in range(n_receivers)),
        ledger=ledger_name("run"),
        pipelines=(PipelineFacts("some device", 4096, {"without pedestal or gain": 3, "unused": 7}),) * n_receivers,
    )
