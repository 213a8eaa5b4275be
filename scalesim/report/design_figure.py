"""Loss against memory, FLOPs and the objective: the candidates, the baseline and the optimum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.baseline import tied_heads
from scalesim.design.candidate import Candidate, reported_cost
from scalesim.design.design import Design
from scalesim.design.lattice import PAPER
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, plain_log_axis, save
from scalesim.units import format_context

__all__ = ["draw_designs"]

GIB, PETA = 2.0**30, 1e15


def _values(candidate: Candidate) -> tuple[float, float, float]:
    return candidate.memory.total / GIB, candidate.flops.total / PETA, candidate.objective


def _curve(design: Design, heads: tuple[Any, Any], log_n: jax.Array) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the loss and the three costs of a head configuration at each size."""
    problem, workload, objective = design.problem, design.query.workload, design.query.objective
    reported = reported_cost(objective)
    shape = problem.family.at(jnp.exp(log_n), *heads)
    costs = [
        reported.memory(shape, workload).total / GIB,
        reported.flops(shape, workload).total / PETA,
        objective(shape, workload),
    ]
    loss = problem.loss_at(log_n, *heads, workload.context_length)
    return np.asarray(loss), [np.asarray(cost) for cost in costs]


def draw_designs(path: str | Path, answers: Sequence[Sequence[Design]], objective_label: str = "Z") -> None:
    """Draw three panels to each answer (the designs of several lattices for one question), and save them.

    Every grey line is one of the paper's 21 head configurations growing in size; the coloured lines are
    the baseline's rule and the optimum's heads. Lower and further left is better.
    """
    with (
        jax.enable_x64(True),
        figure(len(answers), 3, (11.0, 3.7 * len(answers)), squeeze=False, sharey="row") as (canvas, axes),
    ):
        for row, answer in zip(axes, answers, strict=True):
            _draw_row(row, answer)
            first = answer[0]
            title = f"{format_context(first.context_length)} context, loss {first.target_loss:g}"
            row[0].set_title(title)
            row[0].set_ylabel("predicted loss (nats a token)")
        for axis, label in zip(axes[-1], ("memory (GiB)", "FLOPs (10¹⁵)", objective_label), strict=True):
            axis.set_xlabel(label)
        handles, labels = axes[0][0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
        save(canvas, path)


def _draw_row(row: Any, answer: Sequence[Design]) -> None:
    first = answer[0]
    sizes = [first.best.n_params, first.baseline.n_params]
    log_n = jnp.linspace(np.log(min(sizes) / 6), np.log(max(sizes) * 4), 120)

    def line(heads: tuple[Any, Any], **style: Any) -> None:
        loss, costs = _curve(first, heads, log_n)
        for axis, cost in zip(row, costs, strict=True):
            axis.plot(cost, loss, **style)

    for i, (n_head, n_kv_head) in enumerate(PAPER.heads):
        label = "the paper's 21 head configurations" if i == 0 else None
        line((float(n_head), float(n_kv_head)), color=FAINT, lw=0.8, zorder=1, label=label)
    if first.rule is not None:
        heads = tied_heads(first.problem, first.rule, jnp.exp(log_n))
        line(heads, color=BASELINE, lw=1.6, zorder=2, label=f"rule {first.rule.name}")
    for axis, value in zip(row, _values(first.baseline), strict=True):
        label = f"baseline: {_heads(first.baseline)}"
        axis.plot(value, first.baseline.loss, "s", color=BASELINE, ms=8, mec="white", zorder=4, label=label)
    for design, marker, size in zip(answer, "*do^", (14, 7, 6, 6), strict=False):
        shape, label = design.best.shape, f"best, {design.lattice.name}: {_heads(design.best)}"
        line((float(shape.n_head), float(shape.n_kv_head)), color=BEST, lw=1.6, zorder=3)
        style = {"color": BEST, "mec": "white", "ms": size, "ls": "none", "zorder": 5}
        for axis, value in zip(row, _values(design.best), strict=True):
            axis.plot(value, design.best.loss, marker, label=label, **style)
    _finish_row(row, first)


def _finish_row(row: Any, design: Design) -> None:
    """Mark the target loss and what is saved, and show the neighbourhood of the two designs."""
    target = design.target_loss
    row[0].set_ylim(min(target, design.baseline.loss) - 0.1, max(target, design.baseline.loss) + 0.25)
    for axis, old, new in zip(row, _values(design.baseline), _values(design.best), strict=True):
        plain_log_axis(axis, min(old, new) / 4, max(old, new) * 4)
        axis.axhline(target, color=INK, lw=0.7, ls=":", zorder=1)
        axis.annotate(
            f"{100 * (new / old - 1):+.0f}%",
            (np.sqrt(old * new), target),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            color=BEST,
            weight="bold",
        )


def _heads(candidate: Candidate) -> str:
    return f"{candidate.shape.n_head:g} query, {candidate.shape.n_kv_head:g} KV heads"
