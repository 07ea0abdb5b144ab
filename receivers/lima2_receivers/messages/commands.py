"""What clients ask of a conductor, what it replies, and the state that it publishes."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from lima2_processing.frame import AcquisitionId, FrameSpec, OutputKind, PipelineFacts

from ..control import Capabilities
from ..plan import AcquisitionPlan, NonNegative
from ..published import AcquisitionState, DetectorState, IngestState, ReceiverState
from .base import Message


class Describe(Message, frozen=True):
    """Ask what this system is: detector, pipelines, limits."""


class PipelineDescription(Struct, frozen=True):
    """An installed pipeline.

    :param name: as plans give it.
    :param schema: JSON schema of its parameters, as JSON text.
    """

    name: str
    schema: str


class Description(Message, frozen=True):
    """What this system is.

    :param detector: name of the detector.
    :param instrument: name of the instrument.
    :param capabilities: what the detector can do.
    :param pipelines: what can be computed.
    :param n_receivers: how many receivers there are.
    :param roots: folders that files may go to.
    """

    detector: str
    instrument: str
    capabilities: Capabilities
    pipelines: tuple[PipelineDescription, ...]
    n_receivers: int
    roots: tuple[str, ...]


class Prepare(Message, frozen=True):
    """Check a plan whole, arm the detector, make pipelines and files."""

    acquisition: AcquisitionId
    plan: AcquisitionPlan


class Dataset(Struct, frozen=True):
    """One dataset of the master file that grows by one row a frame.

    :param name: the output's name.
    :param path: of the dataset in the master file.
    :param kind: what one frame's value is.
    :param dtype: NumPy type string.
    :param shape: of one frame's value.
    :param chunk_frames: frames that a reader best asks for together.
    """

    name: str
    path: str
    kind: OutputKind
    dtype: str
    shape: tuple[int, ...]
    chunk_frames: int = 1
    unit: str = ""
    label: str = ""
    hinted: bool = False


class Prepared(Message, frozen=True):
    """The acquisition can start.

    :param master_file: absolute path.
    :param ledger_file: absolute path.
    :param datasets: of the master file. That of ``SPARSE`` kind is not in the file: its frames are in the part files.
    :param frame_spec: what the detector sends.
    :param pipelines: what is to be known of each receiver's pipeline, by rank.
    """

    acquisition: AcquisitionId
    master_file: str
    ledger_file: str
    datasets: tuple[Dataset, ...]
    frame_spec: FrameSpec
    pipelines: tuple[PipelineFacts, ...]


class Start(Message, frozen=True):
    """Start a prepared acquisition; in internal mode the detector exposes its frames."""

    acquisition: AcquisitionId


class Trigger(Message, frozen=True):
    """Give one software trigger.

    :param n_frames: how many frames it exposes; 0: as the plan says (``nb_frames_per_trigger``).
    :param expo_time: seconds; 0: as the plan says.
    :param latency_time: seconds; -1: as the plan says.
    """

    acquisition: AcquisitionId
    n_frames: NonNegative = 0
    expo_time: Annotated[float, Meta(ge=0)] = 0.0
    latency_time: Annotated[float, Meta(ge=-1)] = -1.0


class Finish(Message, frozen=True):
    """Give no more triggers: the acquisition drains once the detector has sent what was asked for so far.

    What exposes until it is stopped, or is triggered by a signal without an end, is stopped. Replied to at once; the
    detector is free for another acquisition when this one drains.
    """

    acquisition: AcquisitionId


class Stop(Message, frozen=True):
    """Stop an acquisition and reply when its files are closed. Idempotent; an acquisition that is not known is not."""

    acquisition: AcquisitionId


class GetState(Message, frozen=True):
    """Ask for the snapshot that is published."""


class GetValues(Message, frozen=True):
    """Ask for the scalars of one frame that is settled and flushed.

    :param frame: its number; -1: the latest of the leading settled frames.
    """

    acquisition: AcquisitionId
    frame: int = -1


class Values(Message, frozen=True):
    """The scalars of one frame; a lost or vetoed frame has none.

    :param frame: its number.
    :param values: by output name.
    """

    frame: int
    values: dict[str, float]


class SystemState(Message, frozen=True):
    """The whole state of a system: published on every change, and every 0.2 s.

    :param instance: of the conductor; new at each start.
    :param sequence: counts up by one a snapshot.
    :param detector: what the detector is doing.
    :param fault: what is wrong with it; empty where nothing is.
    :param acquisitions: those that live, and the last few that are closed.
    :param ingest: None: there is none.
    """

    instance: str
    sequence: int
    detector: DetectorState
    fault: str
    receivers: tuple[ReceiverState, ...]
    acquisitions: tuple[AcquisitionState, ...]
    ingest: IngestState | None = None


class AcquisitionClosed(Message, frozen=True):
    """Reply to Stop: how the acquisition ended."""

    final: AcquisitionState
