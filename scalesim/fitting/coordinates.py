"""The coordinates in which a law is fitted: logs of what is positive, centred amplitudes, pinned values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.laws.base import Coefficient, Law

__all__ = ["Layout", "Slot", "coefficients", "per_coordinate", "slots_of", "with_coefficients"]


@dataclass(frozen=True)
class Slot:
    """One coefficient (leaf) of a law: its dotted name, how it is declared, and what was asked for it.

    `size` is 0 for a number, else the number of groups that have a value of their own.
    """

    name: str
    spec: Coefficient
    size: int = 0
    free: bool = True
    bounds: tuple[float, float] | None = None
    prior: tuple[float, float] | None = None

    @property
    def width(self) -> int:
        """Coordinates that this slot takes."""
        return max(self.size, 1) if self.free else 0


def _declared(law: Any, prefix: str = "") -> list[tuple[str, Coefficient]]:
    found = []
    for f in dataclasses.fields(law):
        value = getattr(law, f.name)
        if "coefficient" in f.metadata:
            spec = f.metadata["coefficient"]
            if spec.scales is not None and spec.scales[0].startswith("@"):
                field = getattr(law, spec.scales[0][1:])
                spec = dataclasses.replace(spec, scales=(field, spec.scales[1]))
            found.append((prefix + f.name, spec))
        elif isinstance(value, Law):
            # A grouping adds no level of its own: its coefficients keep their names.
            inner = prefix if type(law).__name__ == "Grouped" else f"{prefix}{f.name}."
            found += _declared(value, inner)
    return found


def slots_of(law: Law) -> tuple[Slot, ...]:
    """Return a law's coefficients in the order of its pytree leaves, each with its shortest unique name.

    >>> from scalesim.laws import Chinchilla
    >>> [slot.name for slot in slots_of(Chinchilla())]
    ['A', 'B', 'E', 'alpha', 'beta']
    """
    declared = _declared(law)
    leaves = jax.tree.leaves(law)
    if len(declared) != len(leaves):
        raise InvalidInput(
            f"{type(law).__name__} has {len(leaves)} pytree leaves but declares {len(declared)} "
            "coefficients; declare each by `coefficient(...)` and the class by `register_law`."
        )
    return tuple(
        Slot(name, spec, 0 if np.ndim(leaf) == 0 else len(leaf))
        for (name, spec), leaf in zip(declared, leaves, strict=True)
    )


def coefficients(law: Law) -> dict[str, Any]:
    """Return a law's coefficients by name: floats, or lists where each group has its own.

    >>> from scalesim.laws import PowerLaw
    >>> coefficients(PowerLaw(a=1e8, b=0.3, E=2.0))
    {'a': 100000000.0, 'b': 0.3, 'E': 2.0}
    """
    values = [np.asarray(leaf, dtype=float).tolist() for leaf in jax.tree.leaves(law)]
    return dict(zip([slot.name for slot in slots_of(law)], values, strict=True))


def per_coordinate(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by coefficient with each group's own apart, along the last axis: "a[0]", "a[1]", ...

    >>> per_coordinate({"a": [1.0, 2.0], "E": 1.9})
    {'a[0]': 1.0, 'a[1]': 2.0, 'E': 1.9}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list):
            found.update({f"{name}[{i}]": part for i, part in enumerate(value)})
        else:
            found[name] = value
    return found


def with_coefficients(law: Law, values: Mapping[str, Any]) -> Law:
    """Return the law with some coefficients replaced, by name.

    Raises:
        InvalidInput: the law has no such coefficient.
    """
    slots = slots_of(law)
    by_name = {slot.name: i for i, slot in enumerate(slots)}
    leaves, tree = jax.tree.flatten(law)
    for name, value in values.items():
        leaves[resolve(name, by_name)] = value
    return jax.tree.unflatten(tree, leaves)


def resolve(name: str, known: Mapping[str, Any]) -> Any:
    """Look a coefficient up by its name, or by the end of it where that is unique."""
    if name in known:
        return known[name]
    ends = [full for full in known if full.endswith("." + name)]
    if len(ends) == 1:
        return known[ends[0]]
    why = f"could be {' or '.join(ends)}" if ends else "is not a coefficient"
    raise InvalidInput(f"{name!r} {why} of this law; its coefficients are {', '.join(known)}.")


@dataclass(frozen=True)
class Layout:
    """The static half of a fit: the law's structure and its slots. Hashable, so it keys compiled programs.

    A point of the fit is a vector z (p,) of the free slots' coordinates, one after another:
    log of a positive coefficient; log A - alpha log(centre) of one that multiplies field^-alpha, and
    b (log a - log(centre)) of one inside (a / field)^b, which are the logs of the terms' sizes in the
    middle of the data; a logit between bounds; and otherwise the coefficient itself.
    """

    tree: Any
    slots: tuple[Slot, ...]

    @property
    def size(self) -> int:
        """Coordinates of a point."""
        return sum(slot.width for slot in self.slots)

    @property
    def n_coefficients(self) -> int:
        """Free coefficients, each group's own counted."""
        return self.size

    def plain(self) -> bool:
        """Tell whether every coefficient is a number, none a vector over groups."""
        return not any(slot.size for slot in self.slots)

    def free_names(self) -> list[str]:
        """Return a name for each coordinate; a group's own has the group's index in brackets."""
        names = []
        for slot in self.slots:
            if slot.free:
                names += [f"{slot.name}[{i}]" for i in range(slot.size)] if slot.size else [slot.name]
        return names

    def linear(self) -> list[int]:
        """Return the coordinates in which the loss is affine after exponentiation."""
        found: list[int] = []
        at = 0
        for slot in self.slots:
            if slot.free and slot.spec.linear and slot.bounds is None:
                found += range(at, at + slot.width)
            at += slot.width
        return found

    def decode(self, z: Any, pinned: tuple, centres: Mapping[str, Any]) -> Law:
        """Return the law at the point `z`; coefficients that are not free come from `pinned`."""
        raw: dict[str, Any] = {}
        at = 0
        for slot, value in zip(self.slots, pinned, strict=True):
            if slot.free:
                raw[slot.name] = z[at : at + slot.width] if slot.size else z[at]
                at += slot.width
            else:
                raw[slot.name] = value
        leaves = []
        for slot in self.slots:
            value = raw[slot.name]
            if slot.free:
                value = _decode(slot, value, *self._scale(slot, centres, lambda s: _plain(s, raw[s.name])))
            leaves.append(value)
        return jax.tree.unflatten(self.tree, leaves)

    def encode(self, law: Law, centres: Mapping[str, Any]) -> np.ndarray:
        """Return the point (p,) of a law: the inverse of `decode`."""
        values = dict(zip((s.name for s in self.slots), jax.tree.leaves(law), strict=True))
        return self.encode_many({k: np.asarray(v, float)[None] for k, v in values.items()}, centres)[0]

    def encode_many(self, values: Mapping[str, Any], centres: Mapping[str, Any]) -> np.ndarray:
        """Return the points (K, p) of coefficients by name, each (K,) or, by group, (K, groups).

        Raises:
            InvalidInput: a coefficient is outside its range.
        """
        columns = {}
        for slot in self.slots:
            value = np.asarray(values[slot.name], float)
            columns[slot.name] = value[:, None] if value.ndim == 1 else value
        parts = []
        for slot in self.slots:
            if slot.free:
                exponent, centre = self._scale(slot, centres, lambda s: columns[s.name])
                part = _encode(slot, columns[slot.name], exponent, centre)
                parts.append(np.broadcast_to(part, (len(part), slot.width)))
        return np.concatenate(parts, axis=1) if parts else np.zeros((1, 0))

    def _scale(self, slot: Slot, centres: Mapping[str, Any], value_of: Any) -> tuple[Any, Any]:
        """Return the exponent and the centre of the power that `slot` scales, or (None, None)."""
        if slot.spec.scales is None or slot.bounds is not None:
            return None, None
        field, exponent_name = slot.spec.scales
        if field not in centres:
            return None, None
        prefix = slot.name.rpartition(".")[0]
        full = f"{prefix}.{exponent_name}" if prefix else exponent_name
        other = next(s for s in self.slots if s.name == full)
        exponent = value_of(other)
        if other.size and not slot.size:
            exponent = exponent.mean(-1, keepdims=exponent.ndim == 2)
        return exponent, centres[field]


def _plain(slot: Slot, raw: Any) -> Any:
    return _decode(slot, raw, None, None) if slot.free else raw


def _decode(slot: Slot, z: Any, exponent: Any, centre: Any) -> Any:
    xp = np if isinstance(z, np.ndarray | np.floating) else jnp
    if slot.bounds is not None:
        low, high = _ends(slot)
        inner = low + (high - low) / (1 + xp.exp(-z))
        return xp.exp(inner) if slot.spec.positive else inner
    if not slot.spec.positive:
        return z
    if exponent is None:
        return xp.exp(z)
    return xp.exp(z / exponent + centre) if slot.spec.inside else xp.exp(z + exponent * centre)


def _encode(slot: Slot, value: np.ndarray, exponent: Any, centre: Any) -> np.ndarray:
    if slot.spec.positive and not np.all(value > 0):
        raise InvalidInput(f"{slot.name} must be above 0, but is {value.min()}.")
    if slot.bounds is not None:
        low, high = _ends(slot)
        part = ((np.log(value) if slot.spec.positive else value) - low) / (high - low)
        part = np.clip(part, 0.02, 0.98)  # a start on a bound would never leave it
        return np.log(part / (1 - part))
    if not slot.spec.positive:
        return value
    z = np.log(value)
    if exponent is None:
        return z
    return exponent * (z - centre) if slot.spec.inside else z - exponent * centre


def _ends(slot: Slot) -> tuple[float, float]:
    assert slot.bounds is not None
    low, high = slot.bounds
    return (math.log(low), math.log(high)) if slot.spec.positive else (low, high)
