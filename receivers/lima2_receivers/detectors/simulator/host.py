"""The simulator's part on each receiver host: it does nothing but write down what it is told, for tests."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from lima2_processing.frame import FrameSpec

from ...errors import DetectorError
from ...plan import AcquisitionPlan, decode_params
from .params import SimulatorParams, SimulatorSettings


class Told(msgspec.Struct, frozen=True):
    """One line of ``host_RANK.jsonl`` in the simulator's folder.

    :param what: ``prepare``, ``stop`` or ``close``.
    :param series: 0 for ``close``.
    """

    what: str
    series: int = 0


class SimulatorHostControl:
    """Stands for a vendor's kit on a receiver host.

    :param settings: of the simulator; without ``hosts``, nothing is done.
    :param rank: of the receiver.
    """

    def __init__(self, settings: SimulatorSettings, rank: int) -> None:
        self._settings = settings
        self._rank = rank

    async def prepare(self, series: int, plan: AcquisitionPlan, spec: FrameSpec) -> None:
        """Get ready, unless the plan wants this host to refuse or to hang.

        :raises DetectorError: it refuses.
        """
        del spec
        self._note(Told("prepare", series))
        params = decode_params(plan.detector, SimulatorParams, "detector")
        if self._settings.hosts and self._rank in params.hosts_refuse:
            raise DetectorError("it refuses, as the plan wants")
        if self._settings.hosts and self._rank in params.hosts_hang:
            await asyncio.Event().wait()

    async def stop(self, series: int) -> None:
        """Note that an acquisition is over."""
        self._note(Told("stop", series))

    async def close(self) -> None:
        """Note that the receiver ends."""
        self._note(Told("close"))

    def _note(self, told: Told) -> None:
        if self._settings.hosts:
            folder = Path(self._settings.folder)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"host_{self._rank}.jsonl").open("ab") as file:
                file.write(msgspec.json.encode(told) + b"\n")
