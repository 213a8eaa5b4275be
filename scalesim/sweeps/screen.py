"""The two compiled kernels: a screen in float32 over every design, and the exact measures in float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost import ExpectedCost, HardwareAwareCost, Measure, Parts, reported_cost
from scalesim.design.problem import Problem, Query
from scalesim.pytree import register, static
from scalesim.shape import Shape
from scalesim.sweeps.block import SIZES
from scalesim.types import Num
from scalesim.workload import Workload

__all__ = ["MEASURES", "Bars", "Question", "QuickCost", "exact", "quick", "screen", "values_of"]


MEASURES = ("loss", "memory", "flops", "objective")
"""What is known of a design: nats a token, bytes, FLOPs, and the objective's own unit."""
CHUNK = 1024
"""Designs in one exact call. One size: a design's last bit must not depend on its neighbours."""


@register
@dataclass(frozen=True, kw_only=True)
class QuickCost:
    """The paper's Z by exp and log (and a square root where the exponent is 1/2): pow takes 20 times as long.

    It differs from `cost` by rounding alone.

    >>> from scalesim.cost import FIGURE_2
    >>> from scalesim.workload import Workload
    >>> shape = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=8, d_ff=16384 / 3)
    >>> round(float(QuickCost(cost=FIGURE_2, root=True)(shape, Workload(context_length=131072))))
    81430
    """

    name: ClassVar[str] = "Z"
    cost: HardwareAwareCost
    root: bool = static(False)

    def memory(self, shape: Shape, workload: Workload) -> Parts:
        """Return the inference memory in bytes."""
        return self.cost.memory(shape, workload)

    def flops(self, shape: Shape, workload: Workload) -> Parts:
        """Return the inference FLOPs."""
        return self.cost.flops(shape, workload)

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return Z."""
        c = self.cost
        memory = c.memory(shape, workload).total / c.memory_unit
        flops = c.flops(shape, workload).total / c.flops_unit
        by_memory = jnp.sqrt(memory) if self.root else jnp.exp(c.memory_exponent * jnp.log(memory))
        by_flops = jnp.exp(c.flops_exponent * jnp.log(flops))
        return c.memory_weight * by_memory + (1 - c.memory_weight) * by_flops


def quick(objective: Measure) -> Measure:
    """Return the objective with the paper's cost made quick, wherever it is; others as they are."""
    cost = objective.function
    if isinstance(cost, HardwareAwareCost):
        cost = QuickCost(cost=cost, root=cost.memory_exponent == 0.5)
    elif isinstance(cost, ExpectedCost):
        cost = dataclasses.replace(cost, cost=quick(cost.cost))
    return dataclasses.replace(objective, function=cost)


@register
@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked of every design: the law and family, and one query."""

    problem: Problem
    query: Query

    def cast(self, dtype: Any) -> Question:
        """Return the question with every number in one precision."""
        return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), self)


def values_of(question: Question, sizes: dict[str, Num]) -> tuple[Num, Num, Num, Num]:
    """Return loss, memory, FLOPs and objective of designs whose sizes broadcast together.

    Given bodies as (1, B) and heads as (H, 1), what depends on one of them alone is done once for it: XLA
    does not move a logarithm under a broadcast.
    """
    problem, query = question.problem, question.query
    shape = problem.family.shape(**sizes)
    reported = reported_cost(query.objective)
    values = (
        problem.loss_of(shape, query),
        reported.memory(shape, query.workload).total,
        reported.flops(shape, query.workload).total,
        query.cost(shape),
    )
    whole = jnp.broadcast_shapes(*(jnp.shape(size) for size in sizes.values()))
    loss, memory, flops, cost = (jnp.broadcast_to(value, whole) for value in values)
    return loss, memory, flops, cost


@register
@dataclass(frozen=True, kw_only=True)
class Bars:
    """What a design must pass to matter, with room for the screen's rounding.

    Attributes:
        target: the greatest loss that counts as reached.
        kth: objective of the k-th best so far.
        least: the least loss so far.
        low, scale: the cell of a loss is floor((loss - low) scale).
        cells: [3, cells + 1], for memory, FLOPs and objective: the least at this loss or a lower one; the
            last cell is for losses beyond the frontier, where nothing passes.
    """

    target: Num
    kth: Num
    least: Num
    low: Num
    scale: Num
    cells: Num


@jax.jit
def screen(question: Question, sizes: dict[str, Num], bars: Bars) -> tuple[Num, Num]:
    """Return whether any design passes a bar, and which do, in the designs' broadcast shape."""
    loss, *costs = values_of(question, sizes)
    passes = ((loss <= bars.target) & (costs[-1] <= bars.kth)) | (loss <= bars.least)
    last = bars.cells.shape[1] - 1
    # A loss that is not a number goes to the last cell, where nothing passes.
    cell = jnp.where(loss < bars.low + last / bars.scale, (loss - bars.low) * bars.scale, last)
    cell = jnp.clip(cell, 0, last).astype(jnp.int32)
    for bar, cost in zip(bars.cells, costs, strict=True):
        passes |= cost <= bar.at[cell].get(mode="promise_in_bounds")
    return passes.any(), passes


@jax.jit
def unreal(sizes: dict[str, Num]) -> tuple[Num, Num]:
    """Return whether any design is not real, and which: not whole, below 1, or n_kv_head not a divisor."""
    bad = jnp.zeros((), bool)
    for name in SIZES:
        bad |= ~(sizes[name] >= 1) | (sizes[name] != jnp.floor(sizes[name])) | (sizes[name] > 1 << 24)
    groups = sizes["n_head"] / sizes["n_kv_head"]
    bad |= groups != jnp.floor(groups)
    return bad.any(), bad


@partial(jax.jit)
def _columns(question: Question, sizes: Num) -> Num:
    columns = values_of(question, {name: sizes[:, i] for i, name in enumerate(SIZES)})
    return jnp.stack(columns, axis=1)


def exact(question: Question, sizes: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
    """Return the measures [n, 4] of designs given by their sizes [n, 5].

    In chunks of one length, so that a design has the same bits in whatever company it is evaluated.
    """
    n = len(sizes)
    found = np.empty((n, len(MEASURES)))
    with jax.enable_x64(dtype == np.float64):
        question = question.cast(dtype)
        for start in range(0, n, CHUNK):
            part = np.ones((CHUNK, len(SIZES)), dtype)
            part[: min(CHUNK, n - start)] = sizes[start : start + CHUNK]
            found[start : start + CHUNK] = np.asarray(_columns(question, part))[: n - start]
    return found
