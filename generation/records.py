"""Frozen dataclasses <-> JSON, checked against their own annotations.

A file from somebody else says anything. What is built here has the types that its class declares,
or a sentence says where the file is wrong.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

DEEPEST = 24
"""Levels that free-form parts may be nested."""

LARGEST_INTEGER = 2**64
"""Seeds go up to here."""

LARGEST = 1e15
"""No measurement is larger, and curves can still be drawn of what is smaller."""

_DECIMAL = re.compile(r"-?\d{1,12}(\.\d{1,24})?", re.ASCII)


class Sparse:
    """A dataclass that leaves what is None out of its JSON."""


def plain(value: Any) -> Any:
    """As JSON has it: dataclasses as objects, NaN as null, decimals as text."""
    if is_dataclass(value) and not isinstance(value, type):
        given = [(f.name, getattr(value, f.name)) for f in fields(value)]
        leave = isinstance(value, Sparse)
        return {name: plain(v) for name, v in given if v is not None or not leave}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (bool, str, int)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None


def parse(text: str) -> Any:
    """The JSON value. Raises ValueError for NaN, Infinity, too deep nesting and what is no JSON."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def build(kind: Any, value: Any, where: str = "") -> Any:
    """`value` as the annotation `kind` has it; fields with a default may be missing.

    Known annotations: dataclasses, tuples of one kind, mappings from texts, Literal, unions with
    None, str, bool, int, float (null is NaN), Decimal (from decimal text), Path and Any (plain
    JSON).
    Raises ValueError naming the place: "scores[3].seed is a list, not an integer".
    """
    if is_dataclass(kind):
        return _record(kind, value, where)
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (one for one in get_args(kind) if one is not types.NoneType)
        return build(kind, value, where)
    if get_origin(kind) is Literal:
        if not isinstance(value, str) or value not in get_args(kind):
            known = ", ".join(repr(one) for one in get_args(kind))
            raise ValueError(f"{where} is {shown(value)}, not one of {known}")
        return value
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        _expect(isinstance(value, list), value, where, "a list")
        return tuple(build(item, one, f"{where}[{i}]") for i, one in enumerate(value))
    if get_origin(kind) in (dict, Mapping):
        item = get_args(kind)[1]
        _expect(isinstance(value, dict), value, where, "an object")
        return {name: build(item, one, f"{where}.{_name(name)}") for name, one in value.items()}
    if kind is Any:
        _plain(value, where)
        return value
    return _simple(kind, value, where)


def _record(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), value, where or "it", "an object")
    hints = _hints(kind)
    dot = f"{where}." if where else ""
    for name in value:
        if name not in hints:
            raise ValueError(f"{dot}{_name(name)} is not known")
    for name, (_, needed) in hints.items():
        if needed and name not in value:
            raise ValueError(f"{dot}{name} is missing")
    return kind(**{name: build(hints[name][0], one, dot + name) for name, one in value.items()})


@cache
def _hints(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Field -> its annotation, and whether it must be given."""
    hints = get_type_hints(kind)
    return {
        f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(kind)
    }


def _simple(kind: Any, value: Any, where: str) -> Any:
    if kind is str:
        _expect(isinstance(value, str), value, where, "a text")
        return value
    if kind is bool:
        _expect(isinstance(value, bool), value, where, "true or false")
        return value
    if kind is int:
        _expect(isinstance(value, int) and not isinstance(value, bool), value, where, "an integer")
        _expect(abs(value) <= LARGEST_INTEGER, value, where, "a usable number")
        return value
    if kind is float:
        if value is None:
            return math.nan
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        _expect(number, value, where, "a number")
        _expect(abs(value) <= LARGEST, value, where, "a usable number")
        return float(value)
    if kind is Path:
        _expect(isinstance(value, str) and "\0" not in value, value, where, "a path")
        return Path(value)
    if kind is Decimal:
        fits = isinstance(value, str) and _DECIMAL.fullmatch(value)
        _expect(bool(fits), value, where, "a decimal number as text")
        return Decimal(value)
    raise TypeError(f"no rule for {kind}")


def _plain(value: Any, where: str) -> None:
    """Refuse nesting and numbers that no program of ours wrote."""
    stack = [(value, 0)]
    while stack:
        one, depth = stack.pop()
        if depth > DEEPEST:
            raise ValueError(f"{where} is nested too deeply")
        if isinstance(one, (dict, list)):
            stack += [
                (part, depth + 1) for part in (one.values() if isinstance(one, dict) else one)
            ]
        elif isinstance(one, int):
            _expect(abs(one) <= LARGEST_INTEGER, one, where, "a usable number")
        elif isinstance(one, float):
            _expect(abs(one) <= LARGEST, one, where, "a usable number")


def _expect(fits: bool, value: Any, where: str, wanted: str) -> None:
    if not fits:
        raise ValueError(f"{where} is {shown(value)}, not {wanted}")


def shown(value: Any) -> str:
    """A value for a sentence, short."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "a number without end"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else text[:37] + "..."


def _name(key: str) -> str:
    return json.dumps(key[:40])[1:-1]


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
