"""What one acquisition is to do: the whole specification, frozen, checked before anything moves."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from lima2_processing.frame import FrameSpec, Output, OutputKind

from .errors import PlanError
from .topology import Dispatch

T = TypeVar("T")
NonNegative = Annotated[int, Meta(ge=0)]


class TriggerMode(StrEnum):
    """What starts the exposure of frames."""

    INTERNAL = "internal"  # start exposes all frames
    SOFTWARE = "software"  # each Trigger command exposes nb_frames_per_trigger frames
    EXTERNAL = "external"  # an edge of a signal exposes nb_frames_per_trigger frames
    GATE = "gate"  # a frame is exposed while a signal is high

    @property
    def by_signal(self) -> bool:
        """Whether a signal starts exposures: the conductor does not see it, so that the detector has to count."""
        return self in (TriggerMode.EXTERNAL, TriggerMode.GATE)


class Compression(StrEnum):
    """How the chunks of a stream are stored."""

    NONE = "none"
    ZIP = "zip"
    BSHUF_LZ4 = "bshuf_lz4"
    BSHUF_ZSTD = "bshuf_zstd"


class FileExistsPolicy(StrEnum):
    """What happens where a file of that name is there already."""

    ABORT = "abort"  # refused at prepare
    OVERWRITE = "overwrite"  # replaced at prepare


class AcquisitionParams(Struct, frozen=True, forbid_unknown_fields=True):
    """What the detector is to do.

    :param nb_frames: frames in all; 0: until stopped.
    :param expo_time: exposure of a frame in seconds.
    :param latency_time: from the end of an exposure to the start of the next, in seconds; 0: as short as it gets.
    :param trigger_mode: what starts exposures.
    :param nb_frames_per_trigger: frames that one trigger gives, in software and external mode.
    :param first_trigger_timeout: seconds from the start within which the first trigger must come, in all modes but
        internal, or the acquisition fails; 0: it waits for ever.
    """

    nb_frames: NonNegative = 1
    expo_time: Annotated[float, Meta(gt=0, le=86400)] = 0.01
    latency_time: Annotated[float, Meta(ge=0, le=86400)] = 0.0
    trigger_mode: TriggerMode = TriggerMode.INTERNAL
    nb_frames_per_trigger: Annotated[int, Meta(ge=1)] = 1
    first_trigger_timeout: Annotated[float, Meta(ge=0, le=86400)] = 0.0


class StreamSaving(Struct, frozen=True, forbid_unknown_fields=True):
    """How one stream is saved.

    :param enabled: False: the stream is computed but not saved.
    :param compression: of images; what is small is never compressed.
    """

    enabled: bool = True
    compression: Compression = Compression.BSHUF_LZ4


class SavingParams(Struct, frozen=True, forbid_unknown_fields=True):
    """Where and how files are saved.

    :param base_path: absolute folder, the same on every host, below a root that the configuration allows.
    :param filename_prefix: first part of every file name; letters, digits, ``_``, ``-`` and ``.``, no path separators.
    :param file_exists_policy: what happens where a file is there already.
    :param streams: saving of streams by name (``raw``, ``dense``, ...); one that is not named has the defaults.
    :param nb_frames_per_file: frames in a file of a receiver, where the configuration's ``saving.mode`` is
        ``close_per_file``; 0: 100.
    """

    base_path: str
    filename_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_\-][A-Za-z0-9_.\-]*\Z", max_length=100)] = "lima2"
    file_exists_policy: FileExistsPolicy = FileExistsPolicy.ABORT
    streams: dict[str, StreamSaving] = {}
    nb_frames_per_file: Annotated[int, Meta(ge=0, le=1_000_000)] = 0

    def stream(self, name: str) -> StreamSaving:
        """Return how the stream of that name is saved."""
        return self.streams.get(name, StreamSaving())


class PipelineChoice(Struct, frozen=True, forbid_unknown_fields=True):
    """Which pipeline runs, and its parameters.

    :param name: of an installed pipeline, such as ``smx``.
    :param params: MessagePack of the pipeline's parameter struct; decoded strictly with that struct.
    """

    name: str = "smx"
    params: msgspec.Raw = msgspec.Raw(b"\x80")


class AcquisitionPlan(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole specification of an acquisition.

    :param acquisition: what the detector is to do.
    :param saving: where files go.
    :param pipeline: what is computed; None: nothing, frames are saved as they came.
    :param detector: MessagePack of the detector plugin's own parameters; decoded strictly with its struct.
    """

    saving: SavingParams
    acquisition: AcquisitionParams = AcquisitionParams()
    pipeline: PipelineChoice | None = PipelineChoice()
    detector: msgspec.Raw = msgspec.Raw(b"\x80")


class ReceiverPlan(Struct, frozen=True):
    """A receiver's share of a plan.

    :param rank: which receiver this is.
    :param n_receivers: how many share the acquisition.
    :param dispatch: how frames spread over them.
    :param series: the number that the detector stamps on this acquisition's frames.
    :param frame_spec: what the frames look like, from the detector's control.
    :param plan: the whole plan.
    :param rows_per_file: of its files; 0: one file a stream, readable while it is written.
    """

    rank: int
    n_receivers: int
    series: int
    frame_spec: FrameSpec
    plan: AcquisitionPlan
    dispatch: Dispatch = Dispatch.ROUND_ROBIN
    rows_per_file: int = 0


RAW_STREAM = "raw"


def raw_output(spec: FrameSpec) -> Output:
    """Return the output that holds frames as the detector sent them."""
    return Output(
        name=RAW_STREAM, kind=OutputKind.IMAGE, dtype=spec.dtype, shape=spec.shape, stream=RAW_STREAM, label="raw frame"
    )


def decode_params(raw: msgspec.Raw, kind: type[T], where: str) -> T:
    """Decode plugin parameters strictly.

    :param raw: MessagePack of the parameters.
    :param kind: the plugin's struct.
    :param where: their place in the plan, named in the error.
    :raises PlanError: a field is unknown, of the wrong type or out of range.
    """
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"{where}: {error}") from error
