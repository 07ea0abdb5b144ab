"""Detectors and pipelines by name, found through entry points, so that a user's own package can add one."""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib.metadata import EntryPoints, entry_points
from typing import Generic, TypeVar

import msgspec

from lima2_processing.pipeline import PipelinePlugin

from .config import Config
from .control import DetectorPlugin, Transport
from .errors import ConfigError, PlanError
from .plan import PipelineChoice, decode_params
from .topology import Dispatch

T = TypeVar("T", DetectorPlugin, PipelinePlugin)


@lru_cache(maxsize=16)
def _entries_of(group: str, places: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of a group; it takes a while, since the metadata of all that is installed is read."""
    del places  # that it is looked for in
    return entry_points(group=group)


class Registry(Generic[T]):
    """The plugins of one entry-point group, imported when they are asked for.

    :param group: the entry-point group.
    :param kind: what its entries must be.
    """

    def __init__(self, group: str, kind: type[T]) -> None:
        self._group = group
        self._kind = kind

    @property
    def _entries(self) -> EntryPoints:
        return _entries_of(self._group, tuple(sys.path))

    def names(self) -> list[str]:
        """Return the names of all that are installed, sorted."""
        return sorted({entry.name for entry in self._entries})

    def get(self, name: str) -> T:
        """Import and return a plugin.

        :raises ConfigError: no plugin of that name is installed, or it is not what the group asks for.
        """
        found = [entry for entry in self._entries if entry.name == name]
        if not found:
            raise ConfigError(f"no {self._group} plugin {name!r}: installed are {', '.join(self.names()) or 'none'}")
        try:
            plugin = found[0].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"{self._group} plugin {name!r} ({found[0].value}) can't be imported: {error}") from error
        if not isinstance(plugin, self._kind):
            raise ConfigError(f"{found[0].value}: got {type(plugin).__name__}, expected {self._kind.__name__}")
        return plugin


DETECTORS = Registry("lima2.detectors", DetectorPlugin)
PIPELINES = Registry("lima2.pipelines", PipelinePlugin)


def decode_pipeline(choice: PipelineChoice) -> msgspec.Struct:
    """Return the parameters of the pipeline that a plan chooses, decoded strictly.

    :raises PlanError: there is no such pipeline, or a parameter is misspelt or out of range.
    """
    names = PIPELINES.names()
    if choice.name not in names:
        raise PlanError(f"pipeline.name: got {choice.name!r}, expected one of {', '.join(names)}")
    return decode_params(choice.params, PIPELINES.get(choice.name).params, "pipeline.params")


def check_streams(config: Config) -> None:
    """See that receivers don't share a data endpoint, unless the detector serves it and they connect to it.

    :raises ConfigError: they do, or there is an ingest for a detector that sends no messages.
    """
    if config.ingest is not None:
        plugin = DETECTORS.get(config.detector.plugin)
        if plugin.transport not in (Transport.ZMQ_BIND, Transport.ZMQ_CONNECT):
            raise ConfigError(
                f"ingest: it takes messages, the data of the detector plugin {plugin.name} comes by {plugin.transport}"
            )
        return
    if DETECTORS.get(config.detector.plugin).transport is Transport.ZMQ_CONNECT:
        return
    seen: dict[str, int] = {}
    for rank, receiver in enumerate(config.receivers):
        if (first := seen.setdefault(receiver.data, rank)) != rank:
            raise ConfigError(f"receivers[{rank}].data: {receiver.data} is used by receivers[{first}].data already")


def dispatch_of(config: Config) -> Dispatch:
    """Return how frames spread over the receivers of a configuration. Where there is one, all go there in turn.

    With an ingest, any frame goes to any receiver.

    :raises ConfigError: its detector can't do what it says.
    """
    allowed = DETECTORS.get(config.detector.plugin).dispatches
    if config.dispatch is not None and config.dispatch not in allowed:
        raise ConfigError(
            f"dispatch: got {config.dispatch}, the detector plugin {config.detector.plugin} has {', '.join(allowed)}"
        )
    if config.ingest is not None and (
        Dispatch.DYNAMIC not in allowed or config.dispatch not in (None, Dispatch.DYNAMIC)
    ):
        raise ConfigError(
            f"ingest: it needs dynamic dispatch, got {config.dispatch or 'none'}; the detector plugin "
            f"{config.detector.plugin} has {', '.join(allowed)}"
        )
    if len(config.receivers) == 1:
        return Dispatch.ROUND_ROBIN
    return Dispatch.DYNAMIC if config.ingest is not None else config.dispatch or allowed[0]
