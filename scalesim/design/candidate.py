"""A shape with what it costs and loses, as reports hold it: plain Python numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.cost.paper import FIGURE_2, Parts
from scalesim.design.problem import Freed, Problem, Query
from scalesim.shape import Convention, Shape, count_params

__all__ = ["Candidate", "candidate_of", "candidate_table", "freed_candidate", "plain_shape", "reported_cost"]

Num = Any


@dataclass(frozen=True)
class Candidate:
    """A shape with its size, predicted loss and costs.

    Attributes:
        shape: sizes as Python numbers; integers if the shape is real.
        n_params: the paper's count, attention and FFN matrices (what the loss law sees).
        n_params_non_embedding, n_params_total: by those conventions.
        loss: predicted, nats a token.
        objective: the cost that was minimised.
        memory: bytes, in its two parts.
        flops: FLOPs, in its two parts (per token or whole sequence as the objective says).
        n_tokens: training tokens.
        kv_bits: bits of a cached value.
    """

    shape: Shape
    n_params: float
    n_params_non_embedding: float
    n_params_total: float
    loss: float
    objective: float
    memory: Parts
    flops: Parts
    n_tokens: float
    kv_bits: float

    def savings_over(self, other: Candidate) -> dict[str, float]:
        """Return 1 - self/other for memory, FLOPs and the objective."""
        return {
            "memory": 1 - self.memory.total / other.memory.total,
            "flops": 1 - self.flops.total / other.flops.total,
            "objective": 1 - self.objective / other.objective,
        }


def freed_candidate(problem: Problem, query: Query, shape: Shape, freed: Freed) -> Candidate:
    """Return `candidate_of` a shape whose tokens or KV precision were chosen too."""
    if freed.tokens_per_param is not None:
        problem = dataclasses.replace(problem, tokens_per_param=freed.tokens_per_param)
    return candidate_of(problem, freed.asked(query), shape)


def plain_shape(shapes: Shape, real: bool, place: tuple[int, ...] = ()) -> Shape:
    """Return a shape (of several, the one at `place`) in Python numbers, whole where sizes are."""

    def number(leaf: Num) -> int | float:
        value = float(np.asarray(leaf)[place])
        return round(value) if real or value.is_integer() else value

    return jax.tree.map(number, shapes)


def _count(shape: Shape, convention: Convention) -> float:
    """Return a parameter count, rid of the rounding error of a fractional FFN width."""
    return round(float(count_params(shape, convention)), 3)


def reported_cost(objective: Any) -> Any:
    """Return the cost whose memory and FLOPs are reported: the objective, or Figure 2's if it has none."""
    return objective if hasattr(objective, "memory") else FIGURE_2


def candidate_of(problem: Problem, query: Query, shape: Shape) -> Candidate:
    """Return a shape with its sizes, its loss and its costs as a query reckons them."""
    reported = reported_cost(query.objective)
    return Candidate(
        shape=shape,
        n_params=_count(shape, "paper"),
        n_params_non_embedding=_count(shape, "non_embedding"),
        n_params_total=_count(shape, "total"),
        loss=float(problem.loss_of(shape, query.workload)),
        objective=float(query.objective(shape, query.workload)),
        memory=jax.tree.map(float, reported.memory(shape, query.workload)),
        flops=jax.tree.map(float, reported.flops(shape, query.workload)),
        n_tokens=float(problem.tokens_per_param * _count(shape, "paper")),
        kv_bits=float(query.workload.kv_bits),
    )


def candidate_table(
    query: Query, heads: Any, shape: Shape, cost: Any, n_params: Any
) -> tuple[tuple[float, ...], ...]:
    """Return designs as `Design.candidates` holds them: those that reach the loss, by objective."""
    reported = reported_cost(query.objective)
    memory = reported.memory(shape, query.workload).total
    flops = reported.flops(shape, query.workload).total
    columns = np.stack([*heads, n_params, cost, memory, flops], axis=1)
    reached = columns[np.isfinite(cost)]
    return tuple(map(tuple, reached[np.argsort(reached[:, 3])].tolist()))
