"""A law as the screen sees it: where size and heads tell the loss, a polynomial in log N for each heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.problem import Problem, Query, precisions
from scalesim.laws.base import Law, X
from scalesim.pytree import register, static
from scalesim.shape import Convention, count_params
from scalesim.sweeps.block import SIZES
from scalesim.types import Num

__all__ = ["LossTable", "tabulated"]

TERMS = 40
"""Terms of a polynomial, at most: with more, most laws are as quick themselves."""
TOLERANCE = 1e-7
"""How far a table may be from its law, nats: half a unit in float32's last place of a loss."""
CHECKED = 512
"""Sizes at which each polynomial is held against the law."""
BEYOND = 2.0
"""The sizes go on by this factor beyond those of the designs that the table is made for."""
MOST_HEADS = 1024
"""Pairs of heads in a table, at most, and the most heads of either kind."""


@register
@dataclass(frozen=True, kw_only=True)
class LossTable(Law):
    """The loss by size and heads: L = sum_j c_j(heads) T_j(t), t = log(N / middle) / half_width in [-1, 1].

    T_j are Chebyshev's polynomials. Of a design that the table does not hold (other heads, a size beyond its
    ends) it says minus infinity: the screen lets it through, to be evaluated exactly.

    Attributes:
        row: [heads + 2, kv heads + 2], which column of `terms` a pair of heads has; -1 for none.
        terms: [terms, pairs], c_j of each pair.
        middle, half_width: of the sizes, in parameters and in log.
        convention: how parameters are counted.
    """

    fields = ("n_params", "n_head", "n_kv_head")
    row: Num
    terms: Num
    middle: Num
    half_width: Num
    convention: Convention = static("paper")  # type: ignore[misc]

    def loss(self, x: X) -> Num:
        """Return the sum by Clenshaw's recurrence, which loses nothing to rounding."""
        t = jnp.log(x["n_params"] * (1 / self.middle)) / self.half_width
        heads = [jnp.asarray(x[name]).astype(jnp.int32) for name in ("n_head", "n_kv_head")]
        row = jnp.asarray(self.row).at[heads[0], heads[1]].get(mode="clip").astype(jnp.int32)
        known = (row >= 0) & (jnp.abs(t) <= 1)
        first, *others = [term.at[row].get(mode="clip") for term in jnp.asarray(self.terms)]
        one = two = jnp.zeros((), t.dtype)
        for term in reversed(others):
            one, two = 2 * t * one + (term - two), one
        return jnp.where(known, first + t * one - two, -jnp.inf)


def tabulated(problem: Problem, query: Query, sizes: np.ndarray) -> Problem | None:
    """Return the problem with a table in place of its law, or None where that will not do.

    It will where the law sees nothing but what size and heads tell within one question, and polynomials of
    at most `TERMS` terms follow it, as they do not across a kink. The coefficients come of the law in
    float64; each polynomial is held against it at `CHECKED` sizes. Between those nothing is known of a law
    in general, so whoever uses the table must still measure its error on designs.

    Args:
        problem, query: the question.
        sizes: [n, 5], designs whose heads and range of size the table is for.
    """
    law = problem.law
    if not (len(sizes) and np.isfinite(sizes).all() and sizes.min() >= 1):
        return None
    pairs = np.unique(sizes[:, [SIZES.index("n_head"), SIZES.index("n_kv_head")]], axis=0)
    if max(len(pairs), pairs.max()) > MOST_HEADS:
        return None
    with jax.enable_x64(True):
        shape = problem.family.shape(**dict(zip(SIZES, sizes.T.astype(float), strict=True)))
        n_params = np.asarray(count_params(shape, law.convention))
        low, high = np.log(n_params.min() / BEYOND), np.log(n_params.max() * BEYOND)
        middle, half = (low + high) / 2, (high - low) / 2
        angles = np.pi * (np.arange(TERMS) + 0.5) / TERMS
        check = np.linspace(-1.0, 1.0, CHECKED)
        n = np.exp(middle + half * np.concatenate([np.cos(angles), check]))[None, :]
        fields = _fields(problem, query, n, pairs)
        if not set(law.fields) <= set(fields):
            return None
        losses = np.asarray(_losses(law, {name: fields[name] for name in law.fields}))
    if not np.isfinite(losses).all():
        return None
    losses = np.broadcast_to(losses, (len(pairs), n.size))
    terms = 2 / TERMS * losses[:, :TERMS] @ np.cos(np.outer(angles, np.arange(TERMS)))
    terms[:, 0] /= 2
    left_out = np.cumsum(np.abs(terms).max(axis=0)[::-1])[::-1]
    needed = np.flatnonzero(left_out > TOLERANCE / 2)
    terms = terms[:, : needed[-1] + 1 if len(needed) else 1]
    off = np.abs(np.polynomial.chebyshev.chebval(check, terms.T) - losses[:, TERMS:])
    if off.max() > TOLERANCE:
        return None
    row = np.full(pairs.astype(int).max(axis=0) + 2, -1.0)
    row[tuple(pairs.astype(int).T)] = np.arange(len(pairs))
    table = LossTable(
        row=row, terms=terms.T.copy(), middle=np.exp(middle), half_width=half, convention=law.convention
    )
    return problem.under(table)


def _fields(problem: Problem, query: Query, n: np.ndarray, pairs: np.ndarray) -> dict[str, Any]:
    """Return what size and heads tell of a design, within one question."""
    plan, workload = query.plan, query.workload
    fields = {
        "n_params": n,
        "n_head": pairs[:, :1].astype(float),
        "n_kv_head": pairs[:, 1:].astype(float),
        "head_dim": float(problem.family.head_dim),
        "context_length": workload.context_length,
        **precisions(problem.law, workload),
    }
    if plan.n_tokens is not None:
        fields["n_tokens"] = plan.n_tokens
    elif problem.law.convention == "paper":  # by which a plan counts parameters
        fields["n_tokens"] = plan.tokens_per_param * n
    return fields


@jax.jit
def _losses(law: Law, fields: dict[str, Any]) -> Num:
    return law.loss(fields)
