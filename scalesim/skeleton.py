"""The structure of a program's result as JSON, and results made again of it and their leaves."""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.pytree import fields_of

__all__ = ["NotKept", "filled", "skeleton_of"]

_PACKAGE = __name__.partition(".")[0]
_PLAIN = (str, bool, int, float, type(None))


class NotKept(Exception):
    """A result that cannot be described in JSON."""


def skeleton_of(value: Any) -> Any:
    """Return a result's structure as JSON: "*" for a leaf, in the order of `jax.tree.leaves`."""
    import jax

    if value is None:
        return None
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return [type(value).__name__, [skeleton_of(part) for part in value]]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ["named", _name_of(type(value)), [skeleton_of(part) for part in value]]
    if isinstance(value, dict):
        return ["dict", {name: skeleton_of(value[name]) for name in sorted(value)}]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _of_dataclass(value)
    if not jax.tree.leaves(value) == [value]:
        raise NotKept
    return "*"


def _of_dataclass(value: Any) -> Any:
    cls = type(value)
    if fields_of(cls, "label"):
        raise NotKept  # no program returns what has a name of its own
    parts, held = {}, {}
    for field in dataclasses.fields(cls):
        of = getattr(value, field.name)
        if field.metadata.get("static", False):
            held[field.name] = _plain(of)
        else:
            parts[field.name] = skeleton_of(of)
    return ["dataclass", _name_of(cls), parts, held]


def _name_of(cls: type) -> str:
    if cls.__module__.partition(".")[0] != _PACKAGE or "<locals>" in cls.__qualname__:
        raise NotKept
    return f"{cls.__module__}:{cls.__qualname__}"


def _of_name(where: str) -> Any:
    module, _, name = where.partition(":")
    if module.partition(".")[0] != _PACKAGE:
        raise InvalidInput(f"a kept program names a class outside this package: {where}.")
    return functools.reduce(getattr, name.split("."), importlib.import_module(module))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return ["tuple", [_plain(part) for part in value]]
    if not isinstance(value, _PLAIN):
        raise NotKept
    return value


def filled(skeleton: Any, leaves: Any) -> Any:
    """Return a result of this structure with its leaves."""
    return _fill(skeleton, iter(leaves))


def _fill(skeleton: Any, leaves: Any) -> Any:
    if skeleton is None:
        return None
    if skeleton == "*":
        return next(leaves)
    kind, *rest = skeleton
    if kind in ("tuple", "list"):
        parts = [_fill(part, leaves) for part in rest[0]]
        return tuple(parts) if kind == "tuple" else parts
    if kind == "dict":
        return {name: _fill(part, leaves) for name, part in rest[0].items()}
    if kind == "named":
        return _of_name(rest[0])(*(_fill(part, leaves) for part in rest[1]))
    where, parts, held = rest
    cls = _of_name(where)
    made: Any = object.__new__(cls)
    for field, part in parts.items():
        object.__setattr__(made, field, _fill(part, leaves))
    for field, value in held.items():
        object.__setattr__(made, field, _unplain(value))
    return made


def _unplain(value: Any) -> Any:
    return tuple(map(_unplain, value[1])) if isinstance(value, list) else value
