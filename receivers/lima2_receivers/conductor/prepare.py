"""Preparing an acquisition on all parts, or on none."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Sequence
from pathlib import Path

import msgspec

from lima2_processing.parts import parts_of

from ..cancellation import in_thread, to_the_end
from ..config import Config
from ..control import Capabilities, Control
from ..errors import ReceiverError
from ..messages import Dataset, Prepared, PrepareReceiver
from ..plan import AcquisitionPlan, PipelineChoice, ReceiverPlan
from ..plugins import decode_pipeline, dispatch_of
from ..receiver.calibration import with_hashes
from ..rollover import SavingMode, rows_per_file
from ..saving.master import MasterInfo, write_master
from ..saving.names import check_files, confine, frames_name, ledger_name, master_name
from ..saving.probe import probe
from ..topology import Dispatch
from .ingest import IngestLink
from .journal import Made, Opening
from .links import ReceiverLink, check_all, discard_all, prepare_all
from .run import Run
from .validate import check_plan

log = logging.getLogger(__name__)


def resolve_plan(plan: AcquisitionPlan, capabilities: Capabilities, config: Config) -> AcquisitionPlan:
    """Check a plan whole and fill in the hashes of its calibration files. Reads files, makes none.

    :raises ReceiverError: what is wrong, with its place in the plan.
    """
    check_plan(plan, capabilities, config)
    folder = confine(plan.saving.base_path, config.saving.roots)
    names = [path.name for path in made_files(plan, config)]
    check_files(folder, names, plan.saving.file_exists_policy)
    probe(folder, config.saving.mode, config.saving.swmr_on)
    if plan.pipeline is None:
        return plan
    params = with_hashes(decode_pipeline(plan.pipeline), config.calibration_roots)
    choice = PipelineChoice(plan.pipeline.name, msgspec.Raw(msgspec.msgpack.encode(params)))
    return msgspec.structs.replace(plan, pipeline=choice)


def made_files(plan: AcquisitionPlan, config: Config) -> tuple[Path, ...]:
    """Return what the conductor makes: master, ledger and, where it is made at the end, the file of all frames."""
    folder, prefix = Path(plan.saving.base_path), plan.saving.filename_prefix
    names = [master_name(prefix), ledger_name(prefix)]
    if _mapped_at_the_end(plan, config):
        names.append(frames_name(prefix))
    return tuple(folder / name for name in names)


def opening_of(run: Run, config: Config) -> Opening:
    """Return what another conductor has to know to undo a prepare."""
    files = [str(path) for path in made_files(run.plan, config)]
    return Opening(
        acquisition=run.id,
        plan=run.plan,
        series=run.series,
        endpoints=tuple(receiver.commands for receiver in config.receivers),
        dispatch=dispatch_of(config),
        files=tuple(files),
        replaces=tuple(path for path in files if os.path.lexists(path)),
    )


async def prepare(
    run: Run,
    capabilities: Capabilities,
    control: Control,
    links: Sequence[ReceiverLink],
    config: Config,
    ingest: IngestLink | None = None,
) -> Prepared:
    """Arm the detector, and make pipelines and files on every receiver, the master and the ledger.

    :raises ReceiverError: a part can't; every other part is as it was before.
    """
    seconds = config.deadlines.prepare
    plan = run.plan
    dispatch = dispatch_of(config)
    per_file = rows_per_file(config.saving.mode, plan.saving.nb_frames_per_file)
    shares = [
        PrepareReceiver(
            run.id,
            ReceiverPlan(link.rank, len(links), run.series, capabilities.frame_spec, plan, dispatch, per_file),
            check_only=True,
        )
        for link in links
    ]
    await check_all(links, shares, seconds)
    if ingest is not None:
        await ingest.ready(len(links))
    try:
        if (await control.status()).busy:
            await control.stop()  # it was left running by a conductor that died: no acquisition that lives uses it
        armed = await control.prepare(run.series, plan)
        spec, run.series = armed.frame_spec, armed.series
        shares = [
            PrepareReceiver(run.id, msgspec.structs.replace(message.share, frame_spec=spec, series=run.series))
            for message in shares
        ]
        parts = parts_of(spec, len(links)) if dispatch is Dispatch.PARTIAL_FRAME else ()
        replies = await prepare_all(links, shares, seconds, parts)
        # Sums over a lost receiver's frames are lost with it.
        run.replaces = ingest is not None and not any(output.window for output in replies[0].outputs)
        master, ledger, *frames = made_files(plan, config)
        info = MasterInfo(
            acquisition=run.id,
            detector=config.detector.name,
            instrument=config.detector.instrument,
            model=capabilities.model,
            plan=plan,
            frame_spec=spec,
            outputs=replies[0].outputs,
            constants=replies[0].constants,
            files=tuple(reply.files for reply in replies),
            ledger=ledger.name,
            pipelines=tuple(reply.facts for reply in replies),
            frames=frames[0].name if frames else "",
            per_file=per_file,
            parts=parts,
        )
        claimed = await in_thread(lambda: run.open_files(master, ledger))
        datasets = await in_thread(lambda: write_master(claimed, info))
        for path in frames:
            await in_thread(lambda path=path: run.files.open_frames(path, info))
        prepared = _prepared(run, info, master, ledger, datasets)
        made = Made(prepared, run.series, info.outputs, info.files)
        if (journal := run.journal) is not None:
            await in_thread(lambda: journal.add(made))
    except BaseException:
        await to_the_end(_undo(run, control, links, seconds))
        raise
    return prepared


def _mapped_at_the_end(plan: AcquisitionPlan, config: Config) -> bool:
    """Tell whether the master can't say where frames are before all of them are settled."""
    endless = config.saving.mode is SavingMode.CLOSE_PER_FILE and not plan.acquisition.nb_frames
    return endless or dispatch_of(config) is Dispatch.DYNAMIC


def _prepared(run: Run, info: MasterInfo, master: Path, ledger: Path, datasets: tuple[Dataset, ...]) -> Prepared:
    return Prepared(
        acquisition=run.id,
        master_file=str(master),
        ledger_file=str(ledger),
        datasets=datasets,
        frame_spec=info.frame_spec,
        pipelines=info.pipelines,
    )


async def _undo(run: Run, control: Control, links: Sequence[ReceiverLink], seconds: float) -> None:
    await asyncio.gather(
        _try("files could not be removed", in_thread(run.discard)),
        _try("receivers could not be told", discard_all(links, run.id, seconds)),
        _try("the detector could not be disarmed", control.stop()),
    )


async def _try(failure: str, step: Awaitable[object]) -> None:
    try:
        await step
    except ReceiverError as error:
        log.warning("%s: %s", failure, error)
    except Exception:  # a bug in one step must not keep the others from being done
        log.exception("%s", failure)
