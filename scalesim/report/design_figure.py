"""Loss against memory, FLOPs and the objective: the candidates, the baseline and the optimum."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.objectives import reported_cost
from scalesim.design.design import Candidate, Design
from scalesim.design.lattice import PAPER
from scalesim.design.problem import Problem, Query
from scalesim.families import HeadRule
from scalesim.programs import kept_jit
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, axis_of, figure, plain_log_axis
from scalesim.units import format_context

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_designs"]

GIB, PETA = 2.0**30, 1e15
POINTS = 120
"""Sizes along each line."""


@partial(kept_jit, static_argnums=5)
def _curves(
    problem: Problem, query: Query, n_head: Any, n_kv_head: Any, log_n: Any, rule: HeadRule | None
) -> tuple[Any, Any]:
    """Return the losses (K, P) of K head configurations at P sizes, and their costs (3, K, P).

    Where there is a rule for heads, its own are one configuration more.
    """
    if rule is not None:
        tied = problem.tied_heads(rule, jnp.exp(log_n))
        n_head, n_kv_head = (jnp.vstack(pair) for pair in zip((n_head, n_kv_head), tied, strict=True))
    log_n = log_n[None]
    shape = problem.family.at(jnp.exp(log_n), n_head, n_kv_head)
    reported = reported_cost(query.objective)
    costs = (
        reported.memory(shape, query.workload).total / GIB,
        reported.flops(shape, query.workload).total / PETA,
        query.cost(shape),
    )
    return problem.loss_at(log_n, n_head, n_kv_head, query), jnp.stack(jnp.broadcast_arrays(*costs))


def draw_designs(answers: Sequence[Sequence[Design]]) -> Figure:
    """Draw three panels to each answer (the designs of several lattices for one question).

    Every grey line is one of the paper's 21 head configurations growing in size; the coloured lines are
    the baseline's rule and the optimum's heads. Lower and further left is better.

    >>> import scalesim as ss
    >>> design = ss.search(ss.named_fit("default"), ss.Workload(context_length=131072), 2.615)
    >>> [axis.get_xlabel() for axis in draw_designs([[design]]).axes]
    ['memory (GiB)', 'FLOPs (10¹⁵)', 'Z']
    """
    size = (11.0, 3.7 * len(answers))
    with (
        jax.enable_x64(True),
        figure(len(answers), 3, size, squeeze=False, sharey="row") as (canvas, axes),
    ):
        for row, answer in zip(axes, answers, strict=True):
            first = answer[0]
            title = f"{format_context(first.context_length)} context, loss {first.target_loss:g}"
            if len(answers) > 1:  # each has its own heads, and the legend is everybody's
                found = "; ".join(_heads(design.best) for design in answer)
                title += f": {found} (baseline: {_heads(first.baseline)})"
            _draw_row(row, answer, alone=len(answers) == 1)
            row[0].set_title(title)
            row[0].set_ylabel("predicted loss (nats a token)")
            labels = ("memory (GiB)", "FLOPs (10¹⁵)", axis_of(first.query.objective)[1])
            for axis, label in zip(row, labels, strict=True):
                axis.set_xlabel(label)
        handles, labels = axes[0][0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return canvas


def _draw_row(row: Any, answer: Sequence[Design], alone: bool) -> None:
    first = answer[0]

    def named(what: str, candidate: Candidate) -> str:
        return f"{what}: {_heads(candidate)}" if alone else what

    unit = axis_of(first.query.objective)[0]
    sizes = [first.best.n_params, first.baseline.n_params]
    log_n = np.linspace(np.log(min(sizes) / 6), np.log(max(sizes) * 4), POINTS)
    heads = [(float(h), float(k)) for h, k in PAPER.heads]
    heads += [(float(d.shape.n_head), float(d.shape.n_kv_head)) for d in answer]
    n_head, n_kv_head = (np.repeat(column[:, None], POINTS, 1) for column in np.array(heads).T)
    query = jax.tree.map(lambda leaf: np.asarray(leaf, float), first.query)
    losses, costs = jax.device_get(_curves(first.problem, query, n_head, n_kv_head, log_n, first.rule))

    def line(i: int, **style: Any) -> None:
        for axis, cost, per in zip(row, costs, (1.0, 1.0, unit), strict=True):
            axis.plot(cost[i] / per, losses[i], **style)

    for i in range(len(PAPER.heads)):
        label = "the paper's 21 head configurations" if i == 0 else None
        line(i, color=FAINT, lw=0.8, zorder=1, label=label)
    if first.rule is not None:
        line(len(heads), color=BASELINE, lw=1.6, zorder=2, label=f"rule {first.rule.name}")
    for axis, value in zip(row, _values(first.baseline, unit), strict=True):
        label = named("baseline", first.baseline)
        axis.plot(value, first.baseline.loss, "s", color=BASELINE, ms=8, mec="white", zorder=4, label=label)
    for i, (design, marker, size) in enumerate(zip(answer, "*do^", (14, 7, 6, 6), strict=False)):
        line(len(PAPER.heads) + i, color=BEST, lw=1.6, zorder=3)
        label = named(f"best, {design.lattice.name}", design.best)
        style = {"color": BEST, "mec": "white", "ms": size, "ls": "none", "zorder": 5}
        for axis, value in zip(row, _values(design.best, unit), strict=True):
            axis.plot(value, design.best.loss, marker, label=label, **style)
    _finish_row(row, first, unit)


def _values(candidate: Candidate, unit: float) -> tuple[float, float, float]:
    return candidate.memory.total / GIB, candidate.flops.total / PETA, candidate.objective / unit


def _finish_row(row: Any, design: Design, unit: float) -> None:
    """Mark the target loss and what is saved, and show the neighbourhood of the two designs."""
    target = design.target_loss
    row[0].set_ylim(min(target, design.baseline.loss) - 0.1, max(target, design.baseline.loss) + 0.25)
    pairs = zip(row, _values(design.baseline, unit), _values(design.best, unit), strict=True)
    for axis, old, new in pairs:
        plain_log_axis(axis, min(old, new) / 4, max(old, new) * 4)
        axis.axhline(target, color=INK, lw=0.7, ls=":", zorder=1)
        axis.annotate(
            f"{100 * (new / old - 1):+.0f}%",
            (np.sqrt(old * new), target),
            xytext=(0, 12),
            textcoords="offset points",
            ha="center",
            color=BEST,
            weight="bold",
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8},
            zorder=6,
        )


def _heads(candidate: Candidate) -> str:
    return f"{candidate.shape.n_head:g} query, {candidate.shape.n_kv_head:g} KV heads"
