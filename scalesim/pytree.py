"""Dataclasses as pytrees: fields that are leaves, part of the type, or names; and that types differ."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from scalesim.caching import definition

__all__ = ["fields_of", "label", "noted", "register", "static"]

_T = TypeVar("_T", bound=type)
_V = TypeVar("_V")
_now: dict[type, tuple[type, str]] = {}  # a user's classes, and what defined them when they were last asked


def static(default: Any = dataclasses.MISSING) -> Any:
    """Declare a dataclass field that is part of a pytree's structure: hashable, never traced."""
    return dataclasses.field(default=default, metadata={"static": True})


def label(default: Any) -> Any:
    """Declare a dataclass field that says where a value comes from and is no part of what is computed.

    It stays with the value and is left out of the pytree's structure: two accelerators that differ in their
    names alone share every program. So no program may read it, and none may return it: an output has the
    labels that the program was traced with.
    """
    return dataclasses.field(default=default, metadata={"label": True})


def fields_of(cls: type, kind: str) -> tuple[str, ...]:
    """Return the names of a dataclass's fields of a kind: "static", "label" or "leaf".

    >>> from scalesim.efficiency import Efficiency
    >>> fields_of(Efficiency, "label"), fields_of(Efficiency, "leaf")
    (('source', 'error', 'spread', 'status'), ('gemm', 'decode', 'prefill', 'engine'))
    """
    kinds = ("static", "label")
    found = {f.name: next((k for k in kinds if f.metadata.get(k)), "leaf") for f in dataclasses.fields(cls)}
    return tuple(name for name, of in found.items() if of == kind)


class _Structure:
    """What a value of a class with labels is, beside its leaves: equal whatever its labels say."""

    __slots__ = ("fixed", "labels")

    def __init__(self, fixed: tuple[Any, ...], labels: tuple[Any, ...]) -> None:
        self.fixed, self.labels = fixed, labels

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self.fixed == other.fixed

    def __hash__(self) -> int:
        return hash(self.fixed)

    def __repr__(self) -> str:
        return repr(self.fixed)


def register(cls: _T) -> _T:
    """Register a dataclass as a pytree whose leaves are its fields, but for those declared `static`.

    The structure of a value holds the class itself beside the static fields, so `jax.jit` never takes a
    program of one class for another's. (`jax.tree_util.register_dataclass` leaves the class to the tree
    definition, which in jax 0.10 compares equal for two dataclasses with as many fields: a law defined again
    in a notebook cell was then fitted with the program of the first one.) Unflattening fills the fields and
    calls nothing: transformations put whatever they like in place of the leaves, and values are checked
    where a person makes them, in `__post_init__`.

    >>> import jax
    >>> from dataclasses import dataclass
    >>> @register
    ... @dataclass(frozen=True)
    ... class Box:
    ...     size: float
    ...     name: str = static("box")
    >>> jax.tree.map(lambda leaf: 2 * leaf, Box(1.5))
    Box(size=3.0, name='box')
    """
    import jax  # not before a class is registered: the command line's own pages do without

    metas, labels = fields_of(cls, "static"), fields_of(cls, "label")
    leaves = tuple(f.name for f in dataclasses.fields(cls) if f.name not in (*metas, *labels))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in leaves)

    def flatten(value: Any) -> tuple[tuple[Any, ...], Any]:
        fixed = (_now.get(cls, cls), *[getattr(value, n) for n in metas])
        children = tuple([getattr(value, name) for name in leaves])
        if labels:
            return children, _Structure(fixed, tuple([getattr(value, n) for n in labels]))
        return children, fixed

    def flatten_with_keys(value: Any) -> tuple[tuple[tuple[Any, Any], ...], Any]:
        children, structure = flatten(value)
        return tuple(zip(keys, children, strict=True)), structure

    def unflatten(structure: Any, children: Any) -> Any:
        value: Any = object.__new__(cls)
        # Past the dataclass's freezing, and quickly: a thousand answers are forty thousand of these.
        held = value.__dict__
        held.update(zip(leaves, children, strict=True))
        if labels:
            held.update(zip(labels, structure.labels, strict=True))
            structure = structure.fixed
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
