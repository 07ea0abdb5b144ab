"""Which data an acquisition gives: streams of the master file, and scalars of the frame just taken."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from bluesky.protocols import Reading, StreamAsset
from event_model import DataKey
from ophyd_async.core import (
    DetectorDataLogic,
    PathInfo,
    ReadableDataProvider,
    SignalDataProvider,
    SignalR,
    StreamResourceDataProvider,
    StreamResourceInfo,
)

from lima2_receivers.errors import StateError
from lima2_receivers.messages import Dataset

from ._session import Session

MIMETYPE = "application/x-hdf5"
MAIN = "data"
"""Name of the dataset that gets the detector's own name as its data key."""


class MasterFileProvider(StreamResourceDataProvider):
    """The datasets of one master file.

    :param session: of the detector.
    :param uri: of the master file.
    :param datasets: of it, by data key.
    :param written: leading frames that are settled and flushed.
    """

    def __init__(self, session: Session, uri: str, datasets: dict[str, Dataset], written: SignalR[int]) -> None:
        resources = [
            StreamResourceInfo(
                data_key=key,
                shape=dataset.shape,
                chunk_shape=(dataset.chunk_frames, *dataset.shape),
                dtype_numpy=np.dtype(dataset.dtype).str,
                parameters={"dataset": dataset.path, "swmr": True},
            )
            for key, dataset in datasets.items()
        ]
        super().__init__(uri, resources, MIMETYPE, written)
        self._session = session
        self._datasets = datasets

    async def make_datakeys(self, collections_per_event: int) -> dict[str, DataKey]:
        """Describe what one event has of each dataset: (rows, columns) for one image, (n, rows, columns) for n."""
        keys: dict[str, DataKey] = {}
        for key, dataset in self._datasets.items():
            shape = dataset.shape if collections_per_event == 1 else (collections_per_event, *dataset.shape)
            keys[key] = DataKey(
                source=f"{self.uri}#{dataset.path}",
                shape=list(shape),
                dtype="array" if shape else "number",
                dtype_numpy=np.dtype(dataset.dtype).str,
                external="STREAM:",
            )
            if dataset.unit:
                keys[key]["units"] = dataset.unit
        return keys

    async def make_stream_docs(
        self, collections_written: int, collections_per_event: int
    ) -> AsyncIterator[StreamAsset]:
        """Make the documents for what was written since the last call, and note that they were made."""
        async for document in super().make_stream_docs(collections_written, collections_per_event):
            yield document
        self._session.collected = self.last_emitted * collections_per_event


class MasterFileLogic(DetectorDataLogic):
    """One StreamResource for each dataset of the master file.

    :param session: of the detector.
    :param written: leading frames that are settled and flushed.
    """

    def __init__(self, session: Session, written: SignalR[int]) -> None:
        self._session = session
        self._written = written

    async def prepare_unbounded(self, datakey_name: str) -> MasterFileProvider:
        """Describe the files that prepare made.

        :raises StateError: called twice in one stage, because collections_per_event was changed.
        """
        prepared = self._session.prepared
        if prepared is None:
            raise StateError(f"{datakey_name}: not prepared since it was staged")
        if self._session.described:
            raise StateError(f"{datakey_name}: collections_per_event can't change in a stage, stage the detector again")
        self._session.described = True
        datasets = {data_key(datakey_name, dataset): dataset for dataset in prepared.datasets}
        return MasterFileProvider(self._session, file_uri(prepared.master_file), datasets, self._written)


class LastFrameProvider(ReadableDataProvider):
    """The scalars of the last frame of a step.

    :param session: of the detector.
    :param names: output name by data key.
    """

    def __init__(self, session: Session, names: dict[str, str]) -> None:
        self._session = session
        self._names = names

    async def make_datakeys(self) -> dict[str, DataKey]:
        """Describe the scalars."""
        source = f"lima2+{self._session.connection.endpoint}/values"
        return {
            key: DataKey(source=f"{source}/{name}", shape=[], dtype="number", dtype_numpy="<f8")
            for key, name in self._names.items()
        }

    async def make_readings(self) -> dict[str, Reading]:
        """Ask for the flushed values; a lost or vetoed frame reads as NaN."""
        values = (await self._session.values(self._session.requested - 1)).values
        now = time.time()
        return {
            key: Reading(value=values.get(name, float("nan")), timestamp=now, alarm_severity=0)
            for key, name in self._names.items()
        }


class LastFrameLogic(DetectorDataLogic):
    """The hinted scalars of the frame just taken, in the events of step scans.

    :param session: of the detector.
    """

    datakey_suffix = "-last"

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys: list[str] = []

    async def prepare_single(self, datakey_name: str) -> LastFrameProvider:
        """Find the scalars among what prepare said."""
        names = {f"{datakey_name}_{dataset.name}": dataset.name for dataset in self._session.scalars}
        self._keys = list(names)
        return LastFrameProvider(self._session, names)

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return the scalars, in step scans."""
        return self._keys

    async def stop(self) -> None:
        """Forget the scalars: the next prepare may be a fly scan's."""
        self._keys = []


class SignalLogic(DetectorDataLogic):
    """A signal of the detector in the events of step scans, hinted.

    :param signal: whose name is the detector's with ``suffix`` behind.
    :param suffix: of the data key.
    """

    def __init__(self, signal: SignalR[float], suffix: str) -> None:
        self.datakey_suffix = suffix
        self._signal = signal
        self._keys: list[str] = []

    async def prepare_single(self, datakey_name: str) -> SignalDataProvider:
        """Read the signal in each event."""
        self._keys = [datakey_name]
        return SignalDataProvider(self._signal)

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return the signal's name, in step scans."""
        return self._keys

    async def stop(self) -> None:
        """Forget it: the next prepare may be a fly scan's."""
        self._keys = []


def data_key(detector: str, dataset: Dataset) -> str:
    """Return the data key of a dataset: the detector's name for the main one, with the dataset's behind for others."""
    return detector if PurePosixPath(dataset.path).name == MAIN else f"{detector}-{dataset.name}"


def file_uri(path: str) -> str:
    """Return the URI of a file, as ophyd-async writes them."""
    target = PurePosixPath(path)
    return PathInfo(directory_path=target.parent, filename=target.stem).directory_uri + target.name
