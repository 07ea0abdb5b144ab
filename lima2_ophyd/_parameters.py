"""Soft signals for the parameters of a plan, made from the structs that define them, without a connection."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, cast

import msgspec
import numpy as np
from msgspec import inspect as mi
from ophyd_async.core import Array1D, Device, SignalRW, StrictEnum, soft_signal_rw

from lima2_receivers.errors import PlanError

S = TypeVar("S", bound=msgspec.Struct)
Convert = Callable[[Any], object]
"""From a signal's value to what the struct takes."""

# Attributes that ophyd-async keeps for bluesky's own methods; such a field gets an underscore behind its name.
_TAKEN = frozenset(dir(Device)) | {"trigger", "prepare", "read", "describe", "set", "stop", "pause", "stage", "kickoff"}


class Parameters(Device):
    """One soft signal for each field of a struct.

    Numbers, texts and choices become signals of their type, fields that are structs become a group of their own,
    tuples of numbers arrays, anything else a text signal that holds JSON. Where a number may be None, NaN means
    None; so do an empty text, an empty array, and a group whose fields without a default are empty texts.

    :param kind: frozen struct with the parameters.
    :param leave_out: fields that get no signal.
    :param name: of the device.
    """

    def __init__(self, kind: type[msgspec.Struct], *, leave_out: frozenset[str] = frozenset(), name: str = "") -> None:
        self._kind = kind
        self._leaves: dict[str, tuple[SignalRW[Any], Convert]] = {}
        self._groups: dict[str, tuple[Parameters, bool]] = {}
        info = mi.type_info(kind)
        if not isinstance(info, mi.StructType):
            raise TypeError(f"parameters: got {kind!r}, expected a msgspec.Struct class")
        for field in info.fields:
            if field.name not in leave_out:
                self._add(field)
        super().__init__(name)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return the signal or group of a field: they are made from the struct, so that no type is known."""

    def signals(self) -> Iterator[SignalRW[Any]]:
        """Iterate over all signals, those of groups included."""
        for signal, _ in self._leaves.values():
            yield signal
        for group, _ in self._groups.values():
            yield from group.signals()

    def required(self) -> list[str]:
        """Return the fields that have no default in the struct."""
        return [field.name for field in msgspec.structs.fields(self._kind) if field.required]

    async def values(self) -> dict[str, object]:
        """Return the values as plain types, by field.

        :raises PlanError: a text signal that must hold JSON does not.
        """
        found: dict[str, object] = {}
        for name, (signal, convert) in self._leaves.items():
            try:
                found[name] = convert(await signal.get_value())
            except msgspec.MsgspecError as error:
                raise PlanError(f"{signal.name}: expected JSON: {error}") from error
        for name, (group, optional) in self._groups.items():
            values = await group.values()
            found[name] = None if optional and not any(values[field] for field in group.required()) else values
        return found

    async def gather(self, kind: type[S], where: str, **more: object) -> S:
        """Return the struct with the values that the signals have now.

        :param kind: the struct.
        :param where: its place in the plan, for the error.
        :param more: values of fields that have no signal.
        :raises PlanError: a value is out of range; the message has its path.
        """
        try:
            return msgspec.convert({**await self.values(), **more}, kind)
        except msgspec.ValidationError as error:
            raise PlanError(f"{where}: {error}") from error

    def _add(self, field: mi.Field) -> None:
        kind, optional, unit = _unwrap(field.type)
        attribute = f"{field.name}_" if field.name in _TAKEN else field.name
        if isinstance(kind, mi.StructType):
            default = _default(field)
            group = Parameters(kind.cls)
            if default is not None:
                group.set_defaults(default)
            self._groups[field.name] = (group, optional)
            setattr(self, attribute, group)
            return
        signal, convert = _leaf(kind, _default(field), optional, unit)
        self._leaves[field.name] = (signal, convert)
        setattr(self, attribute, signal)

    def set_defaults(self, value: msgspec.Struct) -> None:
        """Make the signals anew, with the values of an instance as their initial ones."""
        info = mi.type_info(type(value))
        if isinstance(info, mi.StructType):
            for field in info.fields:
                self._add(msgspec.structs.replace(field, default=getattr(value, field.name)))


def _default(field: mi.Field) -> Any:
    if field.default is not msgspec.UNSET and field.default is not msgspec.NODEFAULT:
        return field.default
    return None if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def _unwrap(kind: mi.Type) -> tuple[mi.Type, bool, str]:
    """Return the type below its metadata, whether it may be None, and its unit."""
    unit = ""
    optional = False
    while True:
        if isinstance(kind, mi.Metadata):
            unit = str((kind.extra or {}).get("unit", "") or (kind.extra_json_schema or {}).get("unit", ""))
            kind = kind.type
            continue
        if isinstance(kind, mi.UnionType):
            inner = [one for one in kind.types if not isinstance(one, mi.NoneType)]
            if len(inner) == 1 and len(inner) < len(kind.types):
                kind, optional = inner[0], True
                continue
        return kind, optional, unit


def _leaf(kind: mi.Type, default: Any, optional: bool, unit: str) -> tuple[SignalRW[Any], Convert]:
    match kind:
        case mi.BoolType() if not optional:
            return soft_signal_rw(bool, default), _same
        case mi.IntType() if not optional:
            return soft_signal_rw(int, default, units=unit or None), _same
        case mi.FloatType():
            first = math.nan if default is None and optional else default
            return soft_signal_rw(float, first, units=unit or None), _number_or_none if optional else _same
        case mi.StrType():
            return soft_signal_rw(str, default or ""), _text_or_none if optional else _same
        case mi.EnumType() | mi.LiteralType() if not optional and (choices := _choices(kind)):
            enum = cast("type[StrictEnum]", StrictEnum("Choice", {_member(choice): choice for choice in choices}))
            first = default.value if isinstance(default, Enum) else default
            return soft_signal_rw(enum, None if first is None else enum(first)), str
        case mi.TupleType() | mi.VarTupleType() | mi.ListType() if (array := _array(kind)) is not None:
            return soft_signal_rw(array, np.asarray(() if default is None else default)), (
                _array_or_none if optional else _list
            )
        case _:
            text = msgspec.json.encode(default).decode()
            return soft_signal_rw(str, text), msgspec.json.decode


def _choices(kind: mi.EnumType | mi.LiteralType) -> list[str]:
    values = [one.value for one in kind.cls] if isinstance(kind, mi.EnumType) else list(kind.values)
    return [str(value) for value in values] if all(isinstance(value, str) for value in values) else []


def _member(choice: str) -> str:
    name = re.sub(r"\W", "_", choice).upper()
    return name if name[:1].isalpha() else f"V_{name}"


def _array(kind: mi.TupleType | mi.VarTupleType | mi.ListType) -> Any:
    items = kind.item_types if isinstance(kind, mi.TupleType) else (kind.item_type,)
    inner = [_unwrap(item)[0] for item in items]
    if all(isinstance(item, mi.IntType) for item in inner):
        return Array1D[np.int64]
    if all(isinstance(item, mi.FloatType | mi.IntType) for item in inner):
        return Array1D[np.float64]
    return None


def _same(value: object) -> object:
    return value


def _number_or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text_or_none(value: str) -> str | None:
    return value or None


def _list(value: np.ndarray) -> list[float]:
    return value.tolist()


def _array_or_none(value: np.ndarray) -> list[float] | None:
    return value.tolist() or None
