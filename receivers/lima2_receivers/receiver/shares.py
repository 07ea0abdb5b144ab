"""Checking and making shares: everything that a prepare on a receiver does, and undoes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from lima2_processing.errors import DeviceMemoryError, ParameterError, ProcessingError
from lima2_processing.failover import Failover
from lima2_processing.frame import AcquisitionId, Constant, Output, PipelineFacts, ReceiverIdx
from lima2_processing.pipeline import Calibration, Pipeline

from ..acquisition import Acquisition, Event
from ..config import Config, detector_settings
from ..control import Transport
from ..errors import PipelineError, PlanError, ReceiverError
from ..messages import ConstantInfo, ReceiverPrepared
from ..plan import RAW_STREAM, ReceiverPlan, decode_params, raw_output
from ..plugins import DETECTORS, PIPELINES, decode_pipeline
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
from .calibration import load_calibration
from .device_memory import DeviceMemory, Room
from .packets import Packets
from .recent import REMEMBERED
from .ring import FrameRing
from .rows import ArrivalRows, FixedRows, Rows
from .share import WAITING, Share
from .transfers import Transfers

if TYPE_CHECKING:
    from lima2_processing.device import Device

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
        self._device: Device | None = None
        self._memory = DeviceMemory(f"receiver {rank}")

    def check(self, plan: ReceiverPlan) -> Mapping[str, Calibration]:
        """See whether a share could be made, without making anything.

        Its frames may still turn out not to fit: the detector says what they look like only when it is armed.

        :returns: what the calibration files hold that the plan's pipeline names.
        :raises ReceiverError: it couldn't; the message says why.
        """
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
        streams: tuple[str, ...] = (RAW_STREAM,)
        calibration: Mapping[str, Calibration] = {}
        if plan.plan.pipeline is not None:
            calibration = load_calibration(decode_pipeline(plan.plan.pipeline), self._config.calibration_roots)
            streams += PIPELINES.get(plan.plan.pipeline.name).streams
        for name in saving.streams:
            if name not in streams:
                raise PlanError(f"saving.streams: got {name!r}, expected one of {', '.join(sorted(streams))}")
        enabled = [stream for stream in streams if saving.stream(stream).enabled]
        rolling = plan.rows_per_file > 0
        names = list(part_names(saving.filename_prefix, self._rank, enabled, rolling).values())
        if rolling:
            names += [other for name in names for other in numbered_files(Path(saving.base_path), name)]
        source = self._make_source(plan)
        if isinstance(source, PacketSource):
            names += source.file_names(saving.filename_prefix, self._rank)
        elif isinstance(source, Source) and source.remarks:
            names.append(remark_name(saving.filename_prefix, self._rank))
        check_files(Path(saving.base_path), names, saving.file_exists_policy)
        probe(Path(saving.base_path), mode, self._config.saving.swmr_on)
        return calibration

    def make(self, acquisition: AcquisitionId, plan: ReceiverPlan) -> tuple[Share, ReceiverPrepared]:
        """Make pipeline, files and threads of a share.

        :raises ReceiverError: something doesn't fit; nothing is left behind.
        """
        calibration = self.check(plan)
        if plan.frame_spec.nbytes > self._ring.slot_bytes:
            raise PlanError(
                f"frames of {plan.frame_spec.nbytes} bytes do not fit the ring: "
                f"receivers[{self._rank}].ring.slot_bytes is {self._ring.slot_bytes}"
            )
        nb_frames = plan.plan.acquisition.nb_frames
        with ExitStack() as undo:
            pipeline = self._make_pipeline(acquisition, plan, calibration)
            outputs: tuple[Output, ...] = (raw_output(plan.frame_spec),)
            constants: tuple[Constant, ...] = ()
            if pipeline is not None:
                undo.callback(pipeline.close)
                outputs += pipeline.outputs()
                constants = pipeline.constants()
            source = self._make_source(plan)
            topology, rank = RoundRobin(plan.n_receivers), ReceiverIdx(self._rank)
            rows: Rows = ArrivalRows() if plan.dispatch is Dispatch.DYNAMIC else FixedRows(topology, rank)
            files = self._make_files(acquisition, plan, outputs, constants, planned=rows.due(nb_frames, final=False))
            undo.callback(files.discard)
            remarks = self._make_remarks(plan, source)
            if remarks is not None:
                undo.callback(remarks.discard)
            share = Share(
                acquisition=Acquisition(f"acquisition {acquisition} on receiver {self._rank}"),
                rows=rows,
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
            return PartFiles(folder, self._rank, saving, outputs, constants, metadata, ahead)
        per_file = plan.rows_per_file
        return RollingFiles(folder, self._rank, saving, outputs, constants, metadata, per_file, planned, ahead)

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

    def _make_pipeline(
        self, acquisition: AcquisitionId, plan: ReceiverPlan, calibration: Mapping[str, Calibration]
    ) -> Failover | None:
        if plan.plan.pipeline is None:
            return None
        params = decode_pipeline(plan.plan.pipeline)
        kind = PIPELINES.get(plan.plan.pipeline.name).load()

        def make(device: Device) -> Pipeline[msgspec.Struct]:
            return kind(params, plan.frame_spec, device, calibration, self._receiver.batch)

        try:
            device = self._open_device()
            try:
                made = Failover(make(device), lambda: make(self._open_spare()))
            except DeviceMemoryError as error:
                raise self._memory.explain(error, self._room(device)) from error
        except ParameterError as error:
            raise PlanError(str(error)) from error
        except ProcessingError as error:
            raise PipelineError(f"receiver {self._rank}: {error}") from error
        try:
            self._memory.admit(acquisition, made, self._room(device))
        except ReceiverError:
            made.close()
            raise
        return made

    def _room(self, device: Device) -> Room:
        """Return how much of the device this receiver may use."""
        limit = self._receiver.opencl.memory
        ring = self._ring.memory.nbytes if device.is_host else 0
        if limit and limit < device.memory:
            return Room(device.name, limit, f"receivers[{self._rank}].opencl.memory", ring)
        return Room(device.name, device.memory, "all it has", ring)

    def _open_device(self) -> Device:
        """Return this process's device, opened when first needed and kept for all acquisitions."""
        from lima2_processing.device import open_device  # imports OpenCL, which the daemon's settings must precede

        if self._device is None:
            self._device = open_device(self._receiver.opencl.device)
            log.info("OpenCL device: %s", self._device.name)
        return self._device

    def _open_spare(self) -> Device:
        """Return a new CPU device, for an acquisition whose device failed; the next acquisition chooses again."""
        from lima2_processing.device import open_cpu  # see above

        self._device = None
        return open_cpu()
