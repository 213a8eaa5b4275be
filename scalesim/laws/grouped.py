"""One law with some coefficients of its own for each group of runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput
from scalesim.laws.base import REGISTRY, Law, Num
from scalesim.pytree import register, static
from scalesim.shape import Convention

__all__ = ["GROUP", "Grouped"]

GROUP = "group"
"""The field by which a grouped law is given the index of the group, where no columns name it."""


@register
@dataclasses.dataclass(frozen=True)
class Grouped(Law):
    """A law some of whose coefficients differ from group to group, the others being shared.

    The leaves of `law` that differ are vectors, one entry a group. The paper's per-configuration law is
    `Grouped(PowerLaw(a=(G,), b=(G,), E=1.97), by=("n_head", "n_kv_head"), labels=((8, 8), ...))`.

    Attributes:
        law: the law, with coefficients of shape (G,) where they are a group's own.
        by: the fields whose values tell the group; empty if the index is given as x["group"].
        labels: each group's values of `by`, or its name.

    The loss at a configuration that is none of the groups is nan: check `index` first.

    >>> from scalesim.laws import PowerLaw
    >>> law = Grouped(PowerLaw(a=np.array([1e8, 4e8]), b=0.5, E=2.0), by=("n_head",), labels=((8,), (4,)))
    >>> float(law.loss({"n_params": 4e8, "n_head": 4}))
    3.0
    """

    law: Law
    by: tuple[str, ...] = static(())
    labels: tuple[Any, ...] = static(())

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the law can see: the base law's fields, and those that tell the group."""
        own = self.by or (GROUP,)
        return (*self.law.fields, *(name for name in own if name not in self.law.fields))

    @property
    def convention(self) -> Convention:  # type: ignore[override]
        """How the base law counts parameters."""
        return self.law.convention

    def index(self, **values: float) -> int:
        """Return the index of the group with these values of `by`.

        Raises:
            InvalidInput: there is no such group.
        """
        wanted = tuple(float(values[name]) for name in self.by)
        for i, label in enumerate(self.labels):
            if tuple(map(float, label)) == wanted:
                return i
        known = "; ".join(str(label) for label in self.labels)
        raise InvalidInput(f"({', '.join(self.by)}) = {wanted} is not a group of this law; it knows {known}.")

    def member(self, index: int) -> Law:
        """Return one group's law, free of the grouping."""
        return jax.tree.map(lambda leaf: leaf[index] if jnp.ndim(leaf) else leaf, self.law)

    def loss(self, x: Mapping[str, Num]) -> Num:
        """Return the loss at `x`, by the coefficients of the group that `x` belongs to."""
        if self.by:
            columns = np.array(self.labels, dtype=float).T
            same = [
                _outer_equal(jnp.asarray(x[n]), column) for n, column in zip(self.by, columns, strict=True)
            ]
            matches = jnp.stack(jnp.broadcast_arrays(*same)).all(axis=0)
            index = jnp.argmax(matches, axis=-1)
            found = matches.any(axis=-1)
        else:
            index = jnp.asarray(x[GROUP]).astype(int)
            found = (index >= 0) & (index < len(self.labels))
        own = jax.tree.map(lambda leaf: jnp.asarray(leaf)[index] if jnp.ndim(leaf) else leaf, self.law)
        return jnp.where(found, own.loss(x), jnp.nan)


def _outer_equal(values: Any, known: np.ndarray) -> jax.Array:
    return values[..., None] == known.reshape((1,) * values.ndim + (-1,))


REGISTRY["Grouped"] = Grouped
