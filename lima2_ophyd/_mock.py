"""What a detector does in mock mode: it prepares, triggers at once, and stops, and nothing is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ophyd_async.core import DeviceMock, callback_on_mock_execute, set_mock_value

from lima2_processing.frame import AcquisitionId, FrameSpec, OutputKind, PipelineFacts
from lima2_receivers.acquisition import Outcome, State
from lima2_receivers.ledger import Counts, FrameStatus
from lima2_receivers.messages import Dataset, FateRuns, LedgerReport, Prepared, Values
from lima2_receivers.published import AcquisitionState, ReceiverCounters

from ._commands import pack
from ._plan_signals import decode_plan

if TYPE_CHECKING:
    from .detector import Lima2Detector

MOCK_SHAPE = (8, 16)
MOCK_DATASETS = (
    Dataset("dense", "/entry_0000/measurement/data", OutputKind.IMAGE, "<f4", MOCK_SHAPE, 4, "photons"),
    Dataset("n_peaks", "/entry_0000/measurement/n_peaks", OutputKind.SCALAR, "<u4", (), 1024, hinted=True),
    Dataset("is_hit", "/entry_0000/measurement/is_hit", OutputKind.SCALAR, "|u1", (), 1024, hinted=True),
    Dataset("frame_status", "/entry_0000/measurement/frame_status", OutputKind.SCALAR, "|u1", (), 1024),
)
"""What mock acquisitions say that they save."""


class Lima2DetectorMock(DeviceMock["Lima2Detector"]):
    """Answers the commands of a detector in mock mode.

    A software trigger's frames are written at once; in external modes the test moves the counter ``written``.
    """

    async def connect(self, device: Lima2Detector) -> None:
        """Put the answers in place."""
        commands = device.conductor
        place = ""

        def prepare(acquisition: str, plan: np.ndarray) -> np.ndarray:
            nonlocal place
            saving = decode_plan(plan).saving
            place = f"{saving.base_path}/{saving.filename_prefix}"
            for signal in (device.announced, device.written, device.saved, device.received):
                set_mock_value(signal, 0)
            set_mock_value(device.acquisition_state, State.PREPARED.value)
            return pack(
                Prepared(
                    AcquisitionId(acquisition),
                    f"{place}_master.h5",
                    f"{place}_ledger.h5",
                    MOCK_DATASETS,
                    FrameSpec(MOCK_SHAPE, "<u2"),
                    (PipelineFacts("mock"),),
                )
            )

        async def advance(n_frames: int) -> None:
            written = await device.written.get_value() + n_frames
            for signal in (device.announced, device.received, device.saved, device.written):
                set_mock_value(signal, written)

        async def start(acquisition: str) -> None:
            set_mock_value(device.acquisition_state, State.RUNNING.value)

        async def trigger(acquisition: str, n_frames: int, expo_time: float, latency_time: float) -> None:
            await advance(n_frames)

        async def finish(acquisition: str) -> None:
            set_mock_value(device.acquisition_state, State.DRAINING.value)

        async def stop(acquisition: str, timeout: float) -> np.ndarray:
            set_mock_value(device.acquisition_state, State.CLOSED.value)
            written = await device.written.get_value()
            return pack(
                AcquisitionState(
                    acquisition=AcquisitionId(acquisition),
                    state=State.CLOSED,
                    outcome=Outcome.COMPLETE,
                    reason="",
                    announced=written,
                    announced_by="triggers",
                    written=written,
                    receivers=(ReceiverCounters(received=written),),
                )
            )

        def values(acquisition: str, frame: int) -> np.ndarray:
            return pack(Values(frame, {"n_peaks": 0.0, "is_hit": 0.0}))

        async def ledger(acquisition: str) -> np.ndarray:
            written = await device.written.get_value()
            runs = FateRuns((0,), (written,), (FrameStatus.SAVED,)) if written else FateRuns((), (), ())
            counts = Counts(saved=written)
            return pack(
                LedgerReport(AcquisitionId(acquisition), written, "triggers", counts, {}, runs, processed=0, hits=0)
            )

        callback_on_mock_execute(commands.read_ledger, ledger)
        callback_on_mock_execute(commands.prepare_acquisition, prepare)
        callback_on_mock_execute(commands.start_acquisition, start)
        callback_on_mock_execute(commands.trigger_frames, trigger)
        callback_on_mock_execute(commands.finish_acquisition, finish)
        callback_on_mock_execute(commands.stop_acquisition, stop)
        callback_on_mock_execute(commands.read_values, values)
        set_mock_value(device.healthy, True)
