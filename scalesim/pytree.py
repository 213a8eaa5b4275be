"""Dataclasses as pytrees: which fields are leaves, which are part of the type, and that types differ."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax

from scalesim.caching import definition

__all__ = ["noted", "register", "static"]

_T = TypeVar("_T", bound=type)
_V = TypeVar("_V")
_now: dict[type, tuple[type, str]] = {}  # a user's classes, and what defined them when they were last asked


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declare a dataclass field that is part of a pytree's structure: hashable, never traced."""
    return dataclasses.field(default=default, metadata={"static": True})


def register(cls: _T) -> _T:
    """Register a dataclass as a pytree whose leaves are its fields, but for those declared `static`.

    The structure of a value holds the class itself beside the static fields, so `jax.jit` never takes a
    program of one class for another's. (`jax.tree_util.register_dataclass` leaves the class to the tree
    definition, which in jax 0.10 compares equal for two dataclasses with as many fields: a law defined again
    in a notebook cell was then fitted with the program of the first one.) Unflattening fills the fields and
    calls nothing: transformations put whatever they like in place of the leaves, and values are checked
    where a person makes them, in `__post_init__`.

    >>> from dataclasses import dataclass
    >>> @register
    ... @dataclass(frozen=True)
    ... class Box:
    ...     size: float
    ...     name: str = static("box")
    >>> jax.tree.map(lambda leaf: 2 * leaf, Box(1.5))
    Box(size=3.0, name='box')
    """
    fields = dataclasses.fields(cls)
    metas = tuple(f.name for f in fields if f.metadata.get("static", False))
    leaves = tuple(f.name for f in fields if f.name not in metas)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in leaves)

    def flatten(value: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        kind = _now.get(cls, cls)
        return tuple(getattr(value, name) for name in leaves), (kind, *(getattr(value, n) for n in metas))

    def flatten_with_keys(value: Any) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        children, structure = flatten(value)
        return tuple(zip(keys, children, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], children: Any) -> Any:
        value: Any = object.__new__(cls)
        # Past the dataclass's freezing, and quickly: a thousand answers are forty thousand of these.
        held = value.__dict__
        held.update(zip(leaves, children, strict=True))
        held.update(zip(metas, structure[1:], strict=True))
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


def noted(value: _V) -> _V:
    """Return a value, having looked at what its classes are defined by now: asked where a question begins.

    A class whose methods read a global, or what a function has captured, becomes another law when that
    changes, though it is the same class: its structure then differs, and so do the programs.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        cls = type(value)
        found = definition(cls)
        if found is not None:
            _now[cls] = cls, found
        for field in dataclasses.fields(value):
            noted(getattr(value, field.name, None))
    elif isinstance(value, tuple | list):
        for part in value:
            noted(part)
    return value
