"""Checking and making shares: everything that a prepare on a receiver does, and undoes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import assert_never

import msgspec

from lima2_processing.errors import ParameterError
from lima2_processing.failover import Failover
from lima2_processing.frame import AcquisitionId, Constant, Output, PipelineFacts, ReceiverIdx
from lima2_processing.parts import parts_of
from lima2_processing.result_pool import ResultPools

from ..acquisition import Acquisition, Event
from ..config import Config, detector_settings
from ..control import Transport
from ..errors import PlanError
from ..messages import ConstantInfo, ReceiverPrepared
from ..plan import RAW_STREAM, ReceiverPlan, decode_params, raw_output
from ..plugins import DETECTORS, PIPELINES
from ..rollover import rows_per_file
from ..saving.names import check_files, confine, numbered_files, part_names, remark_name
from ..saving.part import PartFiles
from ..saving.probe import probe
from ..saving.remarks import RemarkFile
from ..saving.rolling import RollingFiles
from ..saving.row_files import RowFiles
from ..source import PacketSource, Source, TransferSource
from ..topology import Dispatch, RoundRobin
from .assembly import Assembler
from .packets import Packets
from .pipelines import PipelineMaker
from .recent import REMEMBERED
from .ring import FrameRing
from .rows import ArrivalRows, FixedRows, Rows
from .share import WAITING, Share
from .transfers import Transfers

log = logging.getLogger(__name__)

BATCHES = 2  # that a pipeline is given together: one is sent to the device while the other is worked on


class ShareMaker:
    """Turns plans into shares. Its methods block; the daemon runs them in threads.

    :param config: of the detector's daemons.
    :param rank: of this receiver.
    :param ring: where frames wait.
    """

    def __init__(self, config: Config, rank: int, ring: FrameRing) -> None:
        self._config = config
        self._rank = rank
        self._receiver = config.receivers[rank]
        self._ring = ring
        self._detector = DETECTORS.get(config.detector.plugin)
        self._pipelines = PipelineMaker(config, rank, ring)
        self._pools = ResultPools()

    def check(self, plan: ReceiverPlan) -> None:
        """See whether a share could be made, without making anything.

        Its frames may still turn out not to fit: the detector says what they look like only when it is armed.

        :raises ReceiverError: it couldn't; the message says why.
        """
        self._check(own_share(plan))

    def close(self) -> None:
        """Let go of what is kept for further acquisitions."""
        self._pipelines.close()

    def _check(self, plan: ReceiverPlan) -> None:
        if (plan.rank, plan.n_receivers) != (self._rank, len(self._config.receivers)):
            raise PlanError(
                f"got the share of receiver {plan.rank} of {plan.n_receivers}, "
                f"this is receiver {self._rank} of {len(self._config.receivers)}"
            )
        saving = plan.plan.saving
        mode = self._config.saving.mode
        if plan.rows_per_file != (own := rows_per_file(mode, saving.nb_frames_per_file)):
            raise PlanError(
                f"got {plan.rows_per_file} rows a file, expected {own}: saving.mode is {mode} here; "
                "do conductor and receiver have the same configuration?"
            )
        confine(saving.base_path, self._config.saving.roots)
        streams = self._streams(plan)
        if plan.plan.pipeline is not None:
            self._pipelines.check(plan.plan.pipeline)
        for name in saving.streams:
            if name not in streams:
                raise PlanError(f"saving.streams: got {name!r}, expected one of {', '.join(sorted(streams))}")
        check_files(Path(saving.base_path), self._names(plan), saving.file_exists_policy)
        probe(Path(saving.base_path), mode, self._config.saving.swmr_on)

    def files(self, plan: ReceiverPlan) -> list[Path]:
        """Return the paths of all files that a share writes."""
        return [Path(plan.plan.saving.base_path) / name for name in self._names(own_share(plan))]

    def _streams(self, plan: ReceiverPlan) -> tuple[str, ...]:
        pipeline = plan.plan.pipeline
        return (RAW_STREAM,) if pipeline is None else (RAW_STREAM, *PIPELINES.get(pipeline.name).streams)

    def _names(self, plan: ReceiverPlan) -> list[str]:
        saving = plan.plan.saving
        enabled = [stream for stream in self._streams(plan) if saving.stream(stream).enabled]
        rolling = plan.rows_per_file > 0
        names = list(part_names(saving.filename_prefix, self._rank, enabled, rolling).values())
        if rolling:
            names += [other for name in names for other in numbered_files(Path(saving.base_path), name)]
        source = self._make_source(plan)
        if isinstance(source, PacketSource):
            names += source.file_names(saving.filename_prefix, self._rank)
        elif isinstance(source, Source) and source.remarks:
            names.append(remark_name(saving.filename_prefix, self._rank))
        return names

    def make(self, acquisition: AcquisitionId, plan: ReceiverPlan) -> tuple[Share, ReceiverPrepared]:
        """Make pipeline, files and threads of a share.

        :raises ReceiverError: something doesn't fit; nothing is left behind.
        """
        plan = own_share(plan)
        self._check(plan)
        if plan.frame_spec.nbytes > self._ring.slot_bytes:
            raise PlanError(
                f"frames of {plan.frame_spec.nbytes} bytes do not fit the ring: "
                f"receivers[{self._rank}].ring.slot_bytes is {self._ring.slot_bytes}"
            )
        nb_frames = plan.plan.acquisition.nb_frames
        with ExitStack() as undo:
            pipeline: Failover | None = None
            if plan.plan.pipeline is not None:
                pipeline = self._pipelines.make(acquisition, plan.plan.pipeline, plan.frame_spec)
            outputs: tuple[Output, ...] = (raw_output(plan.frame_spec),)
            constants: tuple[Constant, ...] = ()
            if pipeline is not None:
                undo.callback(pipeline.close)
                outputs += pipeline.outputs()
                constants = pipeline.constants()
            source = self._make_source(plan)
            topology, rank = RoundRobin(plan.n_receivers), ReceiverIdx(self._rank)
            rows = _rows(plan)
            files = self._make_files(acquisition, plan, outputs, constants, planned=rows.due(nb_frames, final=False))
            undo.callback(files.discard)
            remarks = self._make_remarks(plan, source)
            if remarks is not None:
                undo.callback(remarks.discard)
            share = Share(
                acquisition=Acquisition(f"acquisition {acquisition} on receiver {self._rank}"),
                rows=_rows(plan),
                source=source,
                pipeline=pipeline,
                outputs=outputs,
                files=files,
                remarks=remarks,
                nb_frames=nb_frames,
                ring=self._ring,
                batch=BATCHES * self._receiver.batch,
                encoders=self._receiver.encoders,
                flush_period=self._config.saving.flush_period,
                drain_timeout=self._config.deadlines.drain,
            )
            if isinstance(source, PacketSource):
                packet_files = source.make_files(
                    Path(plan.plan.saving.base_path),
                    plan.plan.saving.filename_prefix,
                    self._rank,
                    plan.plan.saving.file_exists_policy,
                )
                assembler = Assembler(source, self._ring, plan.plan.acquisition.nb_frames)
                share.packets = Packets(share, assembler, self._ring, packet_files)
            elif isinstance(source, TransferSource):
                share.packets = Transfers(share, source, self._ring, topology, rank, plan.plan.acquisition.nb_frames)
            share.acquisition.handle(Event.READY)
            share.start()
            undo.pop_all()
        return share, ReceiverPrepared(
            outputs=outputs,
            constants=tuple(
                ConstantInfo(c.name, c.data.dtype.str, c.data.shape, c.stream, c.unit, c.label) for c in constants
            ),
            files=files.names,
            facts=pipeline.facts() if pipeline is not None else PipelineFacts(),
        )

    def _make_files(
        self,
        acquisition: AcquisitionId,
        plan: ReceiverPlan,
        outputs: Sequence[Output],
        constants: Sequence[Constant],
        planned: int,
    ) -> RowFiles:
        folder, saving, metadata = Path(plan.plan.saving.base_path), plan.plan.saving, self._metadata(acquisition)
        ahead = WAITING + self._receiver.encoders + REMEMBERED + 1  # one is being written
        if not plan.rows_per_file:
            return PartFiles(folder, self._rank, saving, outputs, constants, metadata, ahead, self._pools)
        per_file = plan.rows_per_file
        return RollingFiles(
            folder, self._rank, saving, outputs, constants, metadata, per_file, planned, ahead, self._pools
        )

    def _make_remarks(
        self, plan: ReceiverPlan, source: Source[msgspec.Struct] | PacketSource | TransferSource
    ) -> RemarkFile | None:
        if not isinstance(source, Source) or not source.remarks:
            return None
        saving = plan.plan.saving
        path = Path(saving.base_path) / remark_name(saving.filename_prefix, self._rank)
        return RemarkFile(path, saving.file_exists_policy)

    def _make_source(self, plan: ReceiverPlan) -> Source[msgspec.Struct] | PacketSource | TransferSource:
        params = decode_params(plan.plan.detector, self._detector.params, "detector")
        match self._detector.transport:
            case Transport.UDP:
                settings = detector_settings(self._config, self._detector.settings)
                return self._detector.load_packet_source()(settings, params, plan.frame_spec, plan.series)
            case Transport.RING:
                return self._detector.load_transfer_source()(params, plan.frame_spec, plan.series)
            case _:
                return self._detector.load_source()(params, plan.frame_spec, plan.series)

    def _metadata(self, acquisition: AcquisitionId) -> dict[str, str]:
        return {
            "acquisition": acquisition,
            "detector": self._config.detector.name,
            "instrument": self._config.detector.instrument,
        }


def own_share(plan: ReceiverPlan) -> ReceiverPlan:
    """Return a plan whose frames are what this receiver gets of them: a part, where frames are spread by modules.

    :raises PlanError: frames can't be spread so.
    """
    if plan.dispatch is not Dispatch.PARTIAL_FRAME:
        return plan
    try:
        spec = parts_of(plan.frame_spec, plan.n_receivers)[plan.rank]
    except ParameterError as error:
        raise PlanError(str(error)) from error
    return msgspec.structs.replace(plan, frame_spec=spec)


def _rows(plan: ReceiverPlan) -> Rows:
    match plan.dispatch:
        case Dispatch.ROUND_ROBIN:
            return FixedRows(RoundRobin(plan.n_receivers), ReceiverIdx(plan.rank))
        case Dispatch.DYNAMIC:
            return ArrivalRows()
        case Dispatch.PARTIAL_FRAME:  # a part of every frame comes here
            return FixedRows(RoundRobin(1), ReceiverIdx(0))
        case _:
            assert_never(plan.dispatch)
