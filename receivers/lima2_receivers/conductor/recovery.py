"""Going on where a conductor was killed: acquisitions are rebuilt from its journals, and then from the receivers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np

from lima2_processing.frame import AcquisitionId

from ..acquisition import Instruction, State
from ..config import Config
from ..control import Control
from ..errors import ReceiverError
from ..ledgers import new_ledger
from ..plugins import dispatch_of
from ..rollover import rows_per_file
from ..saving.claim import Claim
from ..saving.master import MasterInfo
from ..saving.names import confine
from ..saving.read import LedgerRows, read_ledger
from ..topology import Places
from .driver import Driver, explain
from .journal import Closed, Made, Opening, Record
from .journal_files import JournalFile, JournalFolder
from .links import ReceiverLink, discard_all
from .prepare import made_files
from .run import Run

log = logging.getLogger(__name__)

_NOTHING = LedgerRows(
    np.empty(0, np.uint8),
    Places(np.empty(0, np.uint16), np.empty(0, np.uint64)),
    np.empty(0, np.float64),
    np.empty(0, np.uint64),
)


class Recovery:
    """What a conductor that died left behind.

    :param config: of the detector's daemons.
    :param journals: of this conductor and those before it.
    """

    def __init__(self, config: Config, journals: JournalFolder) -> None:
        self.closed: dict[AcquisitionId, Closed] = {}  # acquisitions that were over
        self._config = config
        self._journals = journals
        self._todo: list[tuple[Run, tuple[Instruction, ...]]] = []
        self._unmade: list[tuple[Path, Opening]] = []

    def load(self) -> list[Run]:
        """Read the journals, and return the acquisitions that live, the oldest first. Blocks."""
        found = [(path, record) for path, record in self._journals.load() if self._usable(path, record)]
        living = [record for _, record in found if record.closed is None]
        for path, record in found:
            if record.closed is not None:
                self.closed[record.opening.acquisition] = record.closed
            elif record.made is None:
                self._unmade.append((path, record.opening))
            else:
                latest = record is living[-1]
                try:
                    self._todo.append(self._rebuild(path, record, record.made, latest))
                except Exception as error:  # also a bug must not keep the conductor from starting
                    self._journals.put_aside(path, f"acquisition {record.opening.acquisition}: {explain(error)}")
        return [run for run, _ in self._todo]

    def _usable(self, path: Path, record: Record) -> bool:
        opening, config = record.opening, self._config
        endpoints = tuple(receiver.commands for receiver in config.receivers)
        if record.closed is not None:
            return True
        why = ""
        if (opening.endpoints, opening.dispatch) != (endpoints, dispatch_of(config)):
            why = "it was made with other receivers"
        try:
            confine(opening.plan.saving.base_path, config.saving.roots)
        except ReceiverError as error:
            why = why or str(error)
        if opening.files != tuple(map(str, made_files(opening.plan, config))):
            why = why or "its files are not those of its plan"
        if why:
            self._journals.put_aside(path, f"acquisition {opening.acquisition}: {why}")
        return not why

    def _rebuild(self, path: Path, record: Record, made: Made, latest: bool) -> tuple[Run, tuple[Instruction, ...]]:
        opening, facts = record.opening, record.facts
        if not latest and facts.state is not State.STOPPING:  # else it would have kept the next one from the detector
            facts = msgspec.structs.replace(facts, state=State.DRAINING)
        ledger = new_ledger(opening.dispatch, len(opening.endpoints))
        run = Run(opening.acquisition, opening.plan, made.series, ledger, self._config.saving.mode)
        run.replaces = self._config.ingest is not None and not any(output.window for output in made.outputs)
        files = [Path(file) for file in opening.files]
        instructions = run.resume(made, facts, _read_earlier(files[1]))
        run.reopen_files(files, self._info(opening, made))
        run.journal = JournalFile(path, Record(opening, made, facts).entries())
        log.warning("acquisition %s is taken over, %s", run.id, facts.state)
        return run, instructions

    def _info(self, opening: Opening, made: Made) -> MasterInfo:
        """Return what the file of all frames is made from; the master file is there already."""
        return MasterInfo(
            acquisition=opening.acquisition,
            detector=self._config.detector.name,
            instrument=self._config.detector.instrument,
            model="",
            plan=opening.plan,
            frame_spec=made.prepared.frame_spec,
            outputs=made.outputs,
            constants=(),
            files=made.files,
            ledger=Path(opening.files[1]).name,
            pipelines=made.prepared.pipelines,
            per_file=rows_per_file(self._config.saving.mode, opening.plan.saving.nb_frames_per_file),
        )

    async def take_over(
        self, driver: Driver, control: Control, links: Sequence[ReceiverLink]
    ) -> dict[AcquisitionId, str]:
        """Undo prepares, take the detector over, and let acquisitions go on.

        :returns: the acquisitions that were being prepared, each with what became of it.
        """
        undone = await self._undo_prepares(driver, control, links)
        if self._todo:
            try:
                await driver.connect_detector()
            except Exception as error:  # whoever needs it will fail with the reason
                log.warning("%s", explain(error))
        for run, _ in self._todo:
            if run.machine.state in (State.PREPARED, State.RUNNING):
                await self._adopt(run, driver, control)
        driver.ready.set()
        for run, instructions in self._todo:
            driver.carry_out(run, instructions)
        return undone

    async def _adopt(self, run: Run, driver: Driver, control: Control) -> None:
        timing = run.plan.acquisition
        try:
            run.adopt(await control.adopt(run.series, run.plan, run.announced))
            if run.machine.state is State.RUNNING and timing.trigger_mode.by_signal:
                await control.trigger(run.limit, timing.expo_time, timing.latency_time)  # it may not have been told
            await driver.note(run)
        except Exception as error:  # a bug in a plugin is a fault of its detector
            driver.fail(run, f"the conductor was restarted, and the detector can't be taken over: {explain(error)}")

    async def _undo_prepares(
        self, driver: Driver, control: Control, links: Sequence[ReceiverLink]
    ) -> dict[AcquisitionId, str]:
        undone: dict[AcquisitionId, str] = {}
        for path, opening in self._unmade:
            log.warning("acquisition %s was being prepared: it is undone", opening.acquisition)
            try:
                await driver.connect_detector()
                await control.stop()
            except Exception as error:  # a bug in a plugin must not keep the rest from being undone
                log.warning("the detector could not be disarmed: %s", explain(error))
            await discard_all(links, opening.acquisition, self._config.deadlines.prepare)
            try:
                await asyncio.to_thread(remove_files, opening)
                path.unlink(missing_ok=True)
            except OSError as error:
                self._journals.put_aside(path, f"files could not be removed: {error}")
            undone[opening.acquisition] = "the conductor was restarted while it was prepared"
        return undone


def remove_files(opening: Opening) -> None:
    """Remove what the conductor had made when it was killed in a prepare, and put back what that replaced. Blocks.

    :raises OSError: a file can't be removed.
    """
    for file in opening.files:
        if not Path(file).parent.is_dir():  # it was killed before it made anything
            continue
        claimed = Claim.resume(Path(file))
        if claimed.replaces or file not in opening.replaces:
            claimed.drop()
        else:  # it is the old one still
            claimed.written()


def _read_earlier(ledger: Path) -> LedgerRows:
    """Return what the ledger file has; nothing where it can't be read: the receivers know what they settled."""
    with suppress(ReceiverError):
        return read_ledger(ledger)
    log.warning("%s can't be read: what receivers that died had saved is not known any more", ledger)
    return _NOTHING
