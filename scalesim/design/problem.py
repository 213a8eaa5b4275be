"""The design problem: the least cost over heads and size, at a loss.

The loss constraint is eliminated. At given heads the law falls with N, so the target loss has one root
N*(n_head, n_kv_head); the family then gives depth and width, and the cost of that shape is a smooth
function of the heads alone. Its derivatives are exact, by the implicit function theorem (`newton_root`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.measure import PLAN, AtMost, Measure, as_measure
from scalesim.cost.paper import FIGURE_2
from scalesim.errors import InvalidInput, check_number
from scalesim.families import FIGURE, HeadRule, ShapeFamily
from scalesim.laws.base import Law, fields_of
from scalesim.laws.grouped import Grouped
from scalesim.numerics.roots import newton_root
from scalesim.pytree import noted, register, static
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.workload import TrainingPlan, Workload

__all__ = [
    "MAX_PARAMS",
    "MIN_PARAMS",
    "NOTHING_FREE",
    "FreeVariables",
    "Priced",
    "Problem",
    "Query",
    "law_of",
    "over_queries",
    "precisions",
    "stack_queries",
]


MIN_PARAMS = 1e5
MAX_PARAMS = 1e13
"""The sizes among which the root is sought. A target outside the loss at these two is out of reach."""


@register
@dataclass(frozen=True, kw_only=True)
class Query:
    """One question, or a batch: fields broadcast together.

    Attributes:
        workload: where the model serves, and in what precisions.
        target_loss: the loss to reach, nats a token.
        objective: the measure to minimise; a function or callable pytree is made one (`as_measure`).
        constraints: what a design must not exceed besides.
        plan: how it is trained: tokens for laws and measures that see them.
        tolerance: log excess of a loss or a limit that counts as none.
    """

    workload: Workload
    target_loss: Num
    objective: Any = FIGURE_2
    constraints: tuple[AtMost, ...] = ()
    plan: TrainingPlan = PLAN
    tolerance: Num = 1e-9

    def __post_init__(self) -> None:
        check_number("tolerance", self.tolerance, zero=True)
        object.__setattr__(self, "objective", as_measure(self.objective))
        measures = [as_measure(c.measure) for c in self.constraints]
        if any(m is not c.measure for m, c in zip(measures, self.constraints, strict=True)):
            renewed = map(lambda c, m: dataclasses.replace(c, measure=m), self.constraints, measures)
            object.__setattr__(self, "constraints", tuple(renewed))

    def with_measures_of(self, other: Query) -> Query:
        """Return the question with another's objective and constraints, which are checked already."""
        same: Query = object.__new__(type(self))
        own = {"objective": other.objective, "constraints": other.constraints}
        vars(same).update(vars(self) | own)
        return same

    def cost(self, shape: Shape) -> Num:
        """Return the objective of a shape."""
        return self.objective(shape, self.workload, self.plan)

    def excesses(self, shape: Shape) -> list[Num]:
        """Return by how much, in log, each constraint is exceeded."""
        return [c.excess(shape, self.workload, self.plan) for c in self.constraints]

    def measure(self, measure: Measure, shape: Shape) -> Num:
        """Return another measure of a shape, as this question sees it."""
        return measure(shape, self.workload, self.plan)


def stack_queries(queries: list[Query]) -> Query:
    """Stack queries of one structure into a batch: every leaf gets a leading axis."""
    return jax.tree.map(lambda *leaves: np.array(leaves, float), *queries)


def over_queries(function: Callable[..., Any], queries: Query, *others: Any) -> Any:
    """Return a function of each of a batch of queries, and of what else has their leading axis.

    One alone is asked without that axis: its program is smaller, and sooner traced and compiled.
    """
    if len(queries.target_loss) > 1:
        return jax.vmap(function)(queries, *others)
    found = function(*jax.tree.map(lambda leaf: leaf[0], (queries, *others)))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], found)


@register
@dataclass(frozen=True, kw_only=True)
class FreeVariables:
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

    def applied(self, query: Query) -> Query:
        """Return the question as this design sees it: KV precision in its workload, tokens in its plan."""
        if self.kv_bits is not None:
            workload = dataclasses.replace(query.workload, kv_bits=self.kv_bits)
            query = dataclasses.replace(query, workload=workload)
        if self.tokens_per_param is not None:
            plan = dataclasses.replace(query.plan, n_tokens=None, tokens_per_param=self.tokens_per_param)
            query = dataclasses.replace(query, plan=plan)
        return query


NOTHING_FREE = FreeVariables()
"""Nothing but size and heads is chosen."""


def law_of(law: Any) -> Law:
    """Return the law itself, of a law or of a fit that holds one.

    Raises:
        InvalidInput: neither, or a law that knows only groups of its own.
    """
    found = law if isinstance(law, Law) else getattr(law, "law", None)
    if not isinstance(found, Law):
        raise InvalidInput(f"law must be a Law or a fit that holds one, but is {type(law).__name__}.")
    if isinstance(found, Grouped):
        raise InvalidInput(
            "law must be smooth in the heads, but is a Grouped one, which knows only its own groups. A joint "
            "law such as HeadLaw would do; scalesim.design.exhaustive takes a grouped law over its groups."
        )
    return noted(found)


def precisions(law: Law, workload: Workload) -> dict[str, Num]:
    """Return the workload's precisions, as far as a law sees them."""
    names = ("weight_bits", "activation_bits", "kv_bits")
    return {name: getattr(workload, name) for name in names if name in law.fields}


@register
@dataclass(frozen=True, kw_only=True)
class Priced:
    """Designs with their cost, and by how much they miss what is asked; elementwise.

    Attributes:
        shape: relaxed, or whole numbers held as floats.
        free: what else was chosen.
        value: the objective, whether the design does what is asked or not.
        excess: by how much, in log, the worst constraint is exceeded (-inf without constraints; inf where
            the heads are not real).
        loss_excess: log(loss / target), or inf where no size has the target loss.
        cost: the objective; infinite where the target loss or a constraint is not met.
    """

    shape: Shape
    free: FreeVariables
    value: Num
    excess: Num
    loss_excess: Num
    cost: Num

    @property
    def violation(self) -> Num:
        """By how much the design misses what was asked; a thousandth of loss counts as a hundredth."""
        return jnp.maximum(jnp.maximum(self.excess, 10.0 * self.loss_excess), 0.0)

    def at(self, index: Num) -> Priced:
        """Return one of a batch of designs; leaves that all share are broadcast."""
        count = jnp.shape(self.cost)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, count)[index], self)


@register
@dataclass(frozen=True, kw_only=True)
class Problem:
    """What every query shares: the law and the family.

    Attributes:
        law: loss law; it may see `n_params`, the heads, tokens, context and the family's sizes.
        family: depth and width by size, which the law cannot tell apart.
    """

    law: Law
    family: ShapeFamily = static(FIGURE)

    def under(self, law: Law) -> Problem:
        """Return the problem under another law."""
        return Problem(law=law, family=self.family)

    def loss_of(self, shape: Shape, query: Query) -> Num:
        """Return the loss of a shape, trained by the plan and served in the workload's precisions."""
        workload = query.workload
        tokens = query.plan.tokens(shape)
        others = precisions(self.law, workload)
        return self._loss(fields_of(self.law, shape, tokens, workload.context_length, **others))

    def loss_at(
        self,
        log_n_params: Num,
        n_head: Num | None,
        n_kv_head: Num,
        query: Query,
        free: FreeVariables = NOTHING_FREE,
    ) -> Num:
        """Return the loss of the family's shape of exp(`log_n_params`) parameters, trained by the plan."""
        n_params, plan, workload = jnp.exp(log_n_params), query.plan, query.workload
        tokens = plan.tokens_per_param * n_params if plan.n_tokens is None else plan.n_tokens
        head_dim = self.family.head_dim if free.head_dim is None else free.head_dim
        others = precisions(self.law, workload)
        fields = {"n_tokens": tokens, "context_length": workload.context_length, **others}
        fields["head_dim"] = head_dim
        if n_head is not None:
            fields |= {"n_head": n_head, "n_kv_head": n_kv_head}
        if self.law.convention == "paper":
            fields["n_params"] = n_params
        if not set(self.law.fields) <= set(fields):
            shape = self.relaxed_shape(log_n_params, n_head, n_kv_head, free=free)
            fields = fields_of(self.law, shape, tokens, workload.context_length, **others)
        return self._loss(fields)

    def _loss(self, fields: dict[str, Num]) -> Num:
        """Return the law's loss; within a program it is traced once for all places of one form."""
        traced = {name: value for name, value in fields.items() if isinstance(value, jax.core.Tracer)}
        if not traced:
            return self.law.loss(fields)
        plain = {name: value for name, value in fields.items() if isinstance(value, int | float)}
        others = {name: value for name, value in fields.items() if name not in plain}
        return self._shared_loss(self.law, others, tuple(plain.items()))

    @cached_property
    def _shared_loss(self) -> Callable[..., Num]:
        # One for each problem, not one for all: JAX takes some classes of laws for each other.
        return jax.jit(lambda law, fields, plain: law.loss({**fields, **dict(plain)}), static_argnums=2)

    def size_for_loss(
        self,
        query: Query,
        n_head: Num | None,
        n_kv_head: Num,
        free: FreeVariables = NOTHING_FREE,
        start: Num | None = None,
        steps: int = 40,
    ) -> Num:
        """Return log N* with loss(N*; n_head, n_kv_head) = target, elementwise.

        Newton from the small side climbs a falling convex law without overshooting. `start`, where a
        nearby root is known, saves most of the steps. The result is clipped to the range of sizes.
        """
        seen = (query.workload.context_length, *precisions(self.law, query.workload).values())
        given = (n_head, n_kv_head, query.target_loss, *seen, *jax.tree.leaves(free))
        given = (*given, query.plan.n_tokens, query.plan.tokens_per_param)
        shape = jnp.broadcast_shapes(*(jnp.shape(value) for value in given if value is not None))
        start = jnp.full(shape, jnp.log(1e6)) if start is None else start

        def excess(u: jax.Array) -> jax.Array:
            return self.loss_at(u, n_head, n_kv_head, query, free) - query.target_loss

        return newton_root(excess, start, steps=steps, bounds=(jnp.log(MIN_PARAMS), jnp.log(MAX_PARAMS)))

    def reachable(self, query: Query, n_head: Num | None, n_kv_head: Num) -> Num:
        """Return whether some size between the two limits has exactly the target loss."""
        best = self.loss_at(jnp.log(MAX_PARAMS), n_head, n_kv_head, query)
        worst = self.loss_at(jnp.log(MIN_PARAMS), n_head, n_kv_head, query)
        return (best < query.target_loss) & (query.target_loss < worst)

    def relaxed_shape(
        self,
        log_n_params: Num,
        n_head: Num | None,
        n_kv_head: Num,
        depth_slack: float = 0.0,
        free: FreeVariables = NOTHING_FREE,
    ) -> Shape:
        """Return the family's shape of a size, shallower by `depth_slack` layers (at most by half)."""
        n_params = jnp.exp(log_n_params)
        ratios = {"aspect": free.aspect, "ffn_ratio": free.ffn_ratio, "head_dim": free.head_dim}
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
        free: FreeVariables = NOTHING_FREE,
    ) -> Priced:
        """Return each head configuration at the size that reaches the target loss, and its cost."""
        return self.priced(query, *self.located(query, n_head, n_kv_head, depth_slack, free))

    def located(
        self,
        query: Query,
        n_head: Num | None,
        n_kv_head: Num,
        depth_slack: float = 0.0,
        free: FreeVariables = NOTHING_FREE,
    ) -> tuple[Shape, FreeVariables, Num]:
        """Return the shapes of `sized`, what is free of them, and the log excess of their loss: 0, or inf."""
        asked = free.applied(query)
        log_n = self.size_for_loss(asked, n_head, n_kv_head, free)
        shape = self.relaxed_shape(log_n, n_head, n_kv_head, depth_slack, free)
        if free is NOTHING_FREE:
            possible = self.reachable(asked, n_head, n_kv_head)
        else:  # a law in more fields need not fall all the way to the largest size: the root itself tells
            possible = jnp.abs(self.loss_of(shape, asked) / asked.target_loss - 1) < 1e-7
        return shape, free, jnp.where(possible, 0.0, jnp.inf)

    def priced(
        self,
        query: Query,
        shape: Shape,
        free: FreeVariables = NOTHING_FREE,
        loss_excess: Num | None = None,
        possible: Num = True,
    ) -> Priced:
        """Return shapes with their cost, and by how much they miss the loss or a constraint.

        Args:
            query: the question, as asked of all designs.
            shape, free: the designs.
            loss_excess: log(loss / target) where that is known; by default the law is asked.
            possible: whether a design is one at all.
        """
        asked = free.applied(query)
        if loss_excess is None:
            loss_excess = jnp.log(self.loss_of(shape, asked) / asked.target_loss)
        value = asked.cost(shape)
        like = jnp.zeros(jnp.broadcast_shapes(*map(jnp.shape, (possible, shape.d_ff, loss_excess, value))))
        worst = like - jnp.inf
        for excess in asked.excesses(shape):
            worst = jnp.maximum(worst, excess)
        worst, loss_excess, value = jnp.where(possible, worst, jnp.inf), loss_excess + like, value + like
        met = (worst <= query.tolerance) & (loss_excess <= query.tolerance)
        cost = jnp.where(met, value, jnp.inf)
        return Priced(shape=shape, free=free, value=value, excess=worst, loss_excess=loss_excess, cost=cost)

    def tied_heads(self, rule: HeadRule, n_params: Num) -> tuple[Num, Num]:
        """Return a rule's heads at a size: the fixed point of n_head = d_model(N, n_head) / head_dim."""

        def once(_: int, n_head: Num) -> Num:
            return self.family.at(n_params, n_head, rule.kv(n_head)).d_model / self.family.head_dim

        n_head = jax.lax.fori_loop(0, 30, once, jnp.full_like(n_params, 8.0))
        return n_head, rule.kv(n_head)

    def ruled(self, query: Query, rule: HeadRule) -> Shape:
        """Return the family's relaxed shape that follows a rule for heads and has one query's target loss.

        Where the target is out of the rule's reach the size is at its limit.
        """

        def excess(log_n: Num) -> Num:
            heads = self.tied_heads(rule, jnp.exp(log_n))
            return self.loss_at(log_n, *heads, query) - query.target_loss

        bounds = (jnp.log(MIN_PARAMS), jnp.log(MAX_PARAMS))
        n_params = jnp.exp(newton_root(excess, jnp.log(jnp.asarray(1e6)), bounds=bounds))
        return self.family.at(n_params, *self.tied_heads(rule, n_params))
