"""The design problem: the least cost over heads and size, at a loss.

The loss constraint is eliminated. At given heads the law falls with N, so the target loss has one root
N*(n_head, n_kv_head); the family then gives depth and width, and the cost of that shape is a smooth
function of the heads alone. Its derivatives are exact, by the implicit function theorem (`newton_root`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from scalesim.cost.paper import FIGURE_2
from scalesim.design.constraints import AtMost, worst_excess
from scalesim.families import FIGURE, ShapeFamily
from scalesim.laws.base import Law, fields_of
from scalesim.numerics.roots import newton_root
from scalesim.pytree import register, static
from scalesim.shape import Shape, count_params
from scalesim.workload import Workload

__all__ = ["MAX_PARAMS", "MIN_PARAMS", "TIED", "Freed", "Problem", "Query", "Sized", "bits_seen"]

Num = Any

MIN_PARAMS = 1e5
MAX_PARAMS = 1e13
"""The sizes among which the root is sought. A target outside the loss at these two is out of reach."""


@register
@dataclass(frozen=True, kw_only=True)
class Query:
    """One question, or a batch: fields broadcast together.

    Attributes:
        workload: where the model serves.
        target_loss: the loss to reach, nats a token.
        objective: (shape, workload) -> cost, a pytree whose leaves may be batched too.
        constraints: what a design must not exceed besides.
    """

    workload: Workload
    target_loss: Num
    objective: Any = FIGURE_2
    constraints: tuple[AtMost, ...] = ()


@register
@dataclass(frozen=True, kw_only=True)
class Freed:
    """What a design chooses besides its size and heads; None leaves it to the family and to the question.

    Attributes:
        aspect: d_model / n_layer.
        ffn_ratio: d_ff / d_model.
        head_dim: size of one head.
        tokens_per_param: training tokens for each of the paper's parameters.
        kv_bits: bits of a cached key or value.
    """

    aspect: Num | None = None
    ffn_ratio: Num | None = None
    head_dim: Num | None = None
    tokens_per_param: Num | None = None
    kv_bits: Num | None = None

    def asked(self, query: Query) -> Query:
        """Return the question as this design sees it: its KV precision and training in workload and measures.

        A measure (objective or constraint) is told by its fields: `bytes_per_kv` and `tokens_per_param`, its
        own or those of dataclasses within it, are set to the design's. The workload's kv_bits are too.
        """
        if self.kv_bits is None and self.tokens_per_param is None:
            return query
        workload = query.workload
        if self.kv_bits is not None:
            workload = dataclasses.replace(workload, kv_bits=self.kv_bits)
        return dataclasses.replace(
            query,
            workload=workload,
            objective=self._measure(query.objective),
            constraints=tuple(
                dataclasses.replace(c, measure=self._measure(c.measure)) for c in query.constraints
            ),
        )

    def _measure(self, measure: Any) -> Any:
        if isinstance(measure, tuple):
            return tuple(self._measure(part) for part in measure)
        if not dataclasses.is_dataclass(measure):
            return measure
        told: dict[str, Any] = {}
        for field in dataclasses.fields(measure):
            value = getattr(measure, field.name)
            if field.name == "tokens_per_param" and self.tokens_per_param is not None:
                told[field.name] = self.tokens_per_param
            elif field.name == "bytes_per_kv" and self.kv_bits is not None:
                told[field.name] = self.kv_bits / 8
            elif isinstance(value, tuple) or dataclasses.is_dataclass(value):
                told[field.name] = self._measure(value)
        return dataclasses.replace(measure, **told) if told else measure  # type: ignore[type-var]


TIED = Freed()
"""Nothing but size and heads is chosen."""


def bits_seen(law: Law, workload: Workload) -> dict[str, Num]:
    """Return the workload's precisions, as far as a law sees them."""
    names = ("weight_bits", "activation_bits", "kv_bits")
    return {name: getattr(workload, name) for name in names if name in law.fields}


@register
@dataclass(frozen=True, kw_only=True)
class Sized:
    """A head configuration brought to the target loss: its size, its relaxed shape and the cost.

    `cost` is infinite where no size reaches the loss with these heads, or a constraint is exceeded;
    `excess` is by how much the worst one is, log(measure / limit), -inf without constraints.
    """

    log_n_params: Num
    shape: Shape
    cost: Num
    excess: Num


@register
@dataclass(frozen=True, kw_only=True)
class Problem:
    """What every query shares: the law, the family, and how long a model is trained.

    Attributes:
        law: loss law; it may see `n_params`, the heads, tokens, context and the family's sizes.
        family: depth and width by size, which the law cannot tell apart.
        tokens_per_param: training tokens for each of the paper's parameters (20: Chinchilla).
    """

    law: Law
    family: ShapeFamily = static(FIGURE)
    tokens_per_param: Num = 20.0

    def loss_of(self, shape: Shape, workload: Workload, freed: Freed = TIED) -> Num:
        """Return the loss of a shape, fully trained and served in the workload's precisions."""
        per_param = self.tokens_per_param if freed.tokens_per_param is None else freed.tokens_per_param
        tokens = per_param * count_params(shape, "paper")
        return self.law(shape, tokens, workload.context_length, **bits_seen(self.law, workload))

    def loss_at(
        self,
        log_n_params: Num,
        n_head: Num | None,
        n_kv_head: Num,
        context_length: Num,
        freed: Freed = TIED,
        **bits: Num,
    ) -> Num:
        """Return the loss of the family's shape of exp(`log_n_params`) parameters, fully trained."""
        n_params = jnp.exp(log_n_params)
        per_param = self.tokens_per_param if freed.tokens_per_param is None else freed.tokens_per_param
        fields = {"n_tokens": per_param * n_params, "context_length": context_length, **bits}
        if n_head is not None:
            fields |= {"n_head": n_head, "n_kv_head": n_kv_head}
        if self.law.convention == "paper":
            fields["n_params"] = n_params
        if not set(self.law.fields) <= set(fields):
            shape = self.relaxed_shape(log_n_params, n_head, n_kv_head, freed=freed)
            fields = fields_of(self.law, shape, fields["n_tokens"], context_length, **bits)
        return self.law.loss(fields)

    def size_for_loss(
        self,
        query: Query,
        n_head: Num | None,
        n_kv_head: Num,
        start: Num | None = None,
        steps: int = 40,
        freed: Freed = TIED,
    ) -> Num:
        """Return log N* with loss(N*; n_head, n_kv_head) = target, elementwise.

        Newton from the small side climbs a falling convex law without overshooting. `start`, where a
        nearby root is known, saves most of the steps. The result is clipped to the range of sizes.
        """
        context, bits = query.workload.context_length, bits_seen(self.law, query.workload)
        given = (n_head, n_kv_head, query.target_loss, context, *bits.values(), *jax.tree.leaves(freed))
        shape = jnp.broadcast_shapes(*(jnp.shape(value) for value in given if value is not None))
        start = jnp.full(shape, jnp.log(1e6)) if start is None else start
        low, high = jnp.log(MIN_PARAMS), jnp.log(MAX_PARAMS)

        def excess(u: jax.Array) -> jax.Array:
            return self.loss_at(u, n_head, n_kv_head, context, freed, **bits) - query.target_loss

        return newton_root(excess, start, steps=steps, bounds=(low, high))

    def reachable(self, query: Query, n_head: Num | None, n_kv_head: Num) -> Num:
        """Return whether some size between the two limits has exactly the target loss."""
        context, bits = query.workload.context_length, bits_seen(self.law, query.workload)
        best = self.loss_at(jnp.log(MAX_PARAMS), n_head, n_kv_head, context, **bits)
        worst = self.loss_at(jnp.log(MIN_PARAMS), n_head, n_kv_head, context, **bits)
        return (best < query.target_loss) & (query.target_loss < worst)

    def relaxed_shape(
        self,
        log_n_params: Num,
        n_head: Num | None,
        n_kv_head: Num,
        depth_slack: float = 0.0,
        freed: Freed = TIED,
    ) -> Shape:
        """Return the family's shape of a size, shallower by `depth_slack` layers (at most by half)."""
        n_params = jnp.exp(log_n_params)
        ratios = {"aspect": freed.aspect, "ffn_ratio": freed.ffn_ratio, "head_dim": freed.head_dim}
        shape = self.family.at(n_params, n_head, n_kv_head, **ratios)
        if not depth_slack:
            return shape
        n_layer = jnp.maximum(shape.n_layer - depth_slack, shape.n_layer / 2)
        return self.family.at_depth(n_params, n_layer, n_head, n_kv_head)

    def sized(
        self,
        query: Query,
        n_head: Num | None,
        n_kv_head: Num,
        depth_slack: float = 0.0,
        tolerance: float = 1e-9,
        freed: Freed = TIED,
    ) -> Sized:
        """Return each head configuration at the size that reaches the target loss, and its cost."""
        query = freed.asked(query)
        log_n = self.size_for_loss(query, n_head, n_kv_head, freed=freed)
        shape = self.relaxed_shape(log_n, n_head, n_kv_head, depth_slack, freed)
        if freed is TIED:
            possible = self.reachable(query, n_head, n_kv_head)
        else:  # a law in more fields need not fall all the way to the largest size: the root itself tells
            possible = jnp.abs(self.loss_of(shape, query.workload, freed) / query.target_loss - 1) < 1e-7
        return self.priced(query, log_n, shape, possible, tolerance)

    def priced(
        self, query: Query, log_n_params: Num, shape: Shape, possible: Num, tolerance: float = 1e-9
    ) -> Sized:
        """Return shapes with their cost, infinite where not `possible` or a constraint is exceeded."""
        cost = query.objective(shape, query.workload)
        excess = worst_excess(query.constraints, shape, query.workload, log_n_params)
        allowed = possible & (excess <= tolerance)
        return Sized(
            log_n_params=log_n_params, shape=shape, cost=jnp.where(allowed, cost, jnp.inf), excess=excess
        )
