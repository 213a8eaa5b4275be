"""The best design everywhere: one answer to each context length and target loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.measure import PLAN, AtMost
from scalesim.cost.paper import FIGURE_2
from scalesim.design.lattice import PAPER, Lattice, exhaustive
from scalesim.design.problem import Problem, Query, law_of, stack_queries
from scalesim.errors import InvalidInput, Unreachable
from scalesim.faces import Face, Shown
from scalesim.families import FIGURE, ShapeFamily
from scalesim.fitting.predict import evidence_ranges
from scalesim.fitting.result import Fit
from scalesim.laws.base import Law
from scalesim.programs import kept_jit
from scalesim.shape import count_params
from scalesim.units import format_context, format_count
from scalesim.workload import TrainingPlan, Workload

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

__all__ = ["DesignMap", "Region", "design_map"]

NOWHERE = -1
"""The index where no design reaches the loss within the constraints."""


@dataclass(frozen=True)
class Region:
    """Where one head configuration is the cheapest.

    Attributes:
        n_head, n_kv_head: the configuration.
        share: of the map (of its log contexts and losses).
        contexts, losses: the least and greatest at which it is chosen.
        n_params: least and greatest size it is chosen at.
    """

    n_head: int
    n_kv_head: int
    share: float
    contexts: tuple[float, float]
    losses: tuple[float, float]
    n_params: tuple[float, float]


@dataclass(frozen=True, eq=False, repr=False)
class DesignMap(Shown):
    """The cheapest configuration of a lattice at each target loss and context length.

    Attributes:
        problem, query, lattice: the question, whose context and loss vary.
        contexts: tokens, (C,), rising.
        losses: nats, (L,), rising.
        index: of the lattice's configuration, (L, C); -1 where none reaches the loss.
        n_params, cost: the chosen design's, (L, C); nan where there is none.
        agreement: share of the fit's resamples that choose the same, (L, C), or None without a bootstrap.
        evidence: least and greatest value of each field that the law was fitted to.
    """

    problem: Problem
    query: Query
    lattice: Lattice
    contexts: np.ndarray
    losses: np.ndarray
    index: np.ndarray
    n_params: np.ndarray
    cost: np.ndarray
    agreement: np.ndarray | None
    evidence: dict[str, tuple[float, float]]

    def _face(self) -> Face:
        rows = [
            (
                f"{r.n_head} : {r.n_kv_head}",
                f"{100 * r.share:.0f}%",
                " to ".join(format_context(end) for end in r.contexts),
                " to ".join(f"{end:.3f}" for end in r.losses),
                " to ".join(format_count(end) for end in r.n_params),
            )
            for r in self.regions
        ]
        columns = ("heads", "share of the map", "context", "loss", "parameters")
        return Face(f"Cheapest heads of the {self.lattice.name} lattice", columns, rows)

    def to_polars(self) -> pl.DataFrame:
        """Return a row for each context and loss: the heads, the size and the cost of the best."""
        import polars as pl

        loss, context = np.meshgrid(self.losses, self.contexts, indexing="ij")
        heads = np.asarray(self.lattice.heads)[self.index]
        none = self.index == NOWHERE
        columns = {
            "context_length": context,
            "target_loss": loss,
            "n_head": np.where(none, 0, heads[..., 0]),
            "n_kv_head": np.where(none, 0, heads[..., 1]),
            "n_params": self.n_params,
            "objective": self.cost,
        }
        return pl.DataFrame({name: np.ravel(values) for name, values in columns.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the map as plain values that JSON can hold."""
        from scalesim.report.frontier_table import map_json

        return map_json(self)

    def plot(self) -> Figure:
        """Return the map as a figure: the best heads over context and loss."""
        from scalesim.report.map_figure import draw_map

        return draw_map(self)

    @property
    def regions(self) -> list[Region]:
        """Each configuration that is chosen anywhere, the largest region first."""
        found = []
        for i in np.unique(self.index[self.index != NOWHERE]):
            here = self.index == i
            at_loss, at_context = here.any(1), here.any(0)
            found.append(
                Region(
                    n_head=self.lattice.heads[i][0],
                    n_kv_head=self.lattice.heads[i][1],
                    share=float(here.mean()),
                    contexts=_span(self.contexts[at_context]),
                    losses=_span(self.losses[at_loss]),
                    n_params=_span(self.n_params[here]),
                )
            )
        return sorted(found, key=lambda region: -region.share)


def _span(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def design_map(
    law: Law | Fit,
    workload: Workload,
    contexts: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    *,
    objective: Any = FIGURE_2,
    family: ShapeFamily = FIGURE,
    lattice: Lattice = PAPER,
    constraints: Sequence[AtMost] = (),
    plan: TrainingPlan = PLAN,
    resamples: int = 0,
) -> DesignMap:
    """Return the cheapest configuration at every context length and target loss of a grid.

    The whole lattice is evaluated at each point: nothing is approximated but by the grid.

    Args:
        law: a `Law`, or a fit that holds one.
        workload: all but its context length.
        contexts: tokens, rising.
        losses: nats a token, rising.
        objective, family, constraints, plan: as for `search`.
        lattice: the configurations; the paper's 21 by default, which make a map that can be read.
        resamples: how many of the fit's resamples to ask the same, for `agreement` (0: none).

    Raises:
        InvalidInput: contexts or losses that do not rise, or are not positive; resamples of a fit without
            any.
        Unreachable: no point of the grid has a design.

    >>> import scalesim as ss
    >>> fit, job = ss.named_fit("default"), ss.Workload(context_length=8192)
    >>> found = design_map(fit, job, [8192, 131072], [2.6, 2.8])
    >>> found.lattice.heads[found.index[0, 1]]
    (16, 1)
    """
    axes = {"contexts": np.asarray(contexts, float), "losses": np.asarray(losses, float)}
    for name, values in axes.items():
        rising = values.ndim == 1 and len(values) > 1 and (np.diff(values) > 0).all() and values[0] > 0
        if not (rising and np.isfinite(values).all()):
            raise InvalidInput(f"{name} must be at least two positive rising numbers, but are {values!r}.")
    if resamples and getattr(law, "bootstrap", None) is None:
        raise InvalidInput("resamples needs a fit with a bootstrap; `with_bootstrap(fit)` would give it one.")
    one = Query(
        workload=workload,
        target_loss=0.0,
        objective=objective,
        constraints=tuple(constraints),
        plan=plan,
    )
    with jax.enable_x64(True):
        problem = Problem(law=law_of(law), family=family)
        chosen = _chosen(problem, one, lattice, axes["contexts"], axes["losses"])
        agreement = _agreement(law, problem, one, lattice, axes, chosen[0], resamples) if resamples else None
    index, n_params, cost = chosen
    if (index == NOWHERE).all():
        raise Unreachable(
            f"no design of the {lattice.name} lattice reaches a loss of {axes['losses'][0]:g} to "
            f"{axes['losses'][-1]:g} within the constraints. Higher losses, or wider limits, would do."
        )
    return DesignMap(
        problem=problem,
        query=one,
        lattice=lattice,
        **axes,
        index=index,
        n_params=n_params,
        cost=cost,
        agreement=agreement,
        evidence=evidence_ranges(law),
    )


def _row(query: Query, contexts: np.ndarray) -> Query:
    """Return a batch: one query to each context."""
    batch = stack_queries([query] * len(contexts))
    return dataclasses.replace(batch, workload=dataclasses.replace(batch.workload, context_length=contexts))


def _chosen(
    problem: Problem, query: Query, lattice: Lattice, contexts: np.ndarray, losses: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return index, size and cost of the best at each loss and context, a row of contexts at a time."""
    row, rows = _row(query, contexts), []
    for loss in losses:
        asked = dataclasses.replace(row, target_loss=np.full(len(contexts), loss))
        found = exhaustive(problem, asked, lattice)
        rows.append(
            jax.device_get((found.index, count_params(found.design.shape, "paper"), found.design.cost))
        )
    index, n_params, cost = map(np.stack, zip(*rows, strict=True))
    none = ~np.isfinite(cost)
    return (
        np.where(none, NOWHERE, index),
        np.where(none, np.nan, n_params),
        np.where(none, np.nan, cost),
    )


@partial(kept_jit, static_argnums=2)
def _under(problem: Problem, row: Query, lattice: Lattice, laws: Any) -> Any:
    """Return the index of the best at each query of a row under each law, (R, C)."""

    def one(law: Any) -> Any:
        found = exhaustive(problem.under(law), row, lattice)
        return jnp.where(jnp.isfinite(found.design.cost), found.index, NOWHERE)

    return jax.lax.map(one, laws)


def _agreement(
    fit: Any,
    problem: Problem,
    query: Query,
    lattice: Lattice,
    axes: dict[str, np.ndarray],
    index: np.ndarray,
    resamples: int,
) -> np.ndarray:
    """Return the share of the resamples' laws that choose what the fit's law does, (L, C)."""
    laws = jax.tree.map(jnp.asarray, fit.bootstrap.laws(problem.law, resamples))
    row, shares = _row(query, axes["contexts"]), []
    for loss, mine in zip(axes["losses"], index, strict=True):
        asked = dataclasses.replace(row, target_loss=np.full(len(axes["contexts"]), loss))
        shares.append((np.asarray(_under(problem, asked, lattice, laws)) == mine).mean(axis=0))
    return np.stack(shares)
