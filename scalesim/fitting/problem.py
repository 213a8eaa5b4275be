"""A fit as a function of one vector: the rows of all evidence, and their total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.fitting.coordinates import Layout
from scalesim.fitting.evidence import Evidence, PointRows
from scalesim.laws.base import Law
from scalesim.numerics.least_squares import Rows, total
from scalesim.pytree import register

__all__ = ["FitProblem"]


@register
@dataclass(frozen=True)
class FitProblem:
    """Everything a solver needs. Arrays are leaves, structure is static: equal structures share programs.

    Attributes:
        pinned: a value for every leaf of the law; those of free slots are not used.
        centres: the mean log of each field that an amplitude scales with.
        points: the measured runs, or None.
        others: further evidence.
        prior: (mean, deviation) of each coordinate of `layout`, whose deviation is inf without a prior.
        layout: the law's structure.
    """

    pinned: tuple[Any, ...]
    centres: Mapping[str, Any]
    points: PointRows | None
    others: tuple[Evidence, ...]
    prior: tuple[Any, Any] | None
    layout: Layout = field(metadata={"static": True})

    @property
    def size(self) -> int:
        """How many numbers of evidence the objective is made of."""
        rows = 0 if self.points is None else self.points.loss.shape[-1]
        return max(rows + sum(np.size(leaf) for leaf in jax.tree.leaves(self.others)), 1)

    def law(self, z: Any) -> Law:
        """Return the law at a point z (p,)."""
        return self.layout.decode(z, self.pinned, self.centres)

    def rows(self, z: jax.Array, anneal: Any = 1.0) -> Rows:
        """Return the residuals of all evidence at z, in the order points, others, priors."""
        law = self.law(z)
        blocks = [self.points.rows(law, anneal)] if self.points is not None else []
        blocks += [evidence.rows(law, anneal) for evidence in self.others]
        if self.prior is not None:
            blocks.append(self._prior_rows(law))
        # Evidence may hold numbers of another precision than z, in which all is computed.
        return Rows(*(jnp.concatenate(parts).astype(z.dtype) for parts in zip(*blocks, strict=True)))

    def objective(self, z: jax.Array, anneal: Any = 1.0) -> jax.Array:
        """Return the sum of weight * rho over all rows; infinite where the law is not a number."""
        r = self.rows(z, anneal)
        return total(r._replace(delta=anneal * r.delta))

    def _prior_rows(self, law: Law) -> Rows:
        assert self.prior is not None
        mean, deviation = self.prior
        free = [
            jnp.atleast_1d(leaf)
            for slot, leaf in zip(self.layout.slots, jax.tree.leaves(law), strict=True)
            if slot.free
        ]
        residual = (jnp.concatenate(free) - mean) / deviation
        ones = jnp.ones_like(residual)
        return Rows(residual, ones, jnp.inf * ones, ones)
