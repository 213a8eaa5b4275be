"""The answer of a sweep: the best designs, the frontier, and how many designs were evaluated how fast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from scalesim.design.design import Candidate, plain_candidate
from scalesim.design.evidence import extrapolation, extrapolation_text, loss_intervals
from scalesim.design.problem import Problem, Query
from scalesim.errors import Unreachable
from scalesim.faces import Face, Shown
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.keep import COLUMNS, Kept
from scalesim.units import format_bytes, format_context, format_flops

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

__all__ = ["Sweep", "answer"]

AT_EDGE = 0.98
"""A ratio beyond this part of its slack (in log) counts as being at the edge of its band."""


@dataclass(frozen=True, repr=False, eq=False)
class Sweep(Shown):
    """The answer to one workload.

    Attributes:
        problem, query: the question: law and family; workload, target loss and objective.
        designs: evaluated, each at every workload of the sweep; all processes together.
        seconds: from the start to the end, compilation and checkpoints within, interruptions without.
        best: the least objective among the designs that reach the target loss, in float64.
        kept: the top k and the frontier's cells as arrays (see `top` and `frontier`).
        ratios: how far the best is from the family, as factors: "aspect" (d_model / n_layer) and "ffn"
            (d_ff / d_model). The law may be blind to both.
        extrapolation: how far each field is beyond the law's evidence, as value over nearest limit.
        loss_interval: 90% interval of the predicted loss, or None if the law came without its uncertainty.
        status: what to know about this answer, in a sentence or two.
    """

    problem: Problem
    query: Query
    designs: int
    seconds: float
    best: Candidate
    kept: Kept
    ratios: dict[str, float]
    extrapolation: dict[str, float]
    loss_interval: tuple[float, float] | None
    status: str

    def _face(self) -> Face:
        objective = self.query.objective
        columns = ("layers × width", "heads", "FFN width", "loss", "memory", "FLOPs", objective.label)
        rows = [
            (
                f"{row['n_layer']} × {row['d_model']}",
                f"{row['n_head']} : {row['n_kv_head']}",
                row["d_ff"],
                f"{row['loss']:.4f}",
                format_bytes(row["memory"]),
                format_flops(row["flops"]),
                objective.value_text(row["objective"]),
            )
            for row in self.top.iter_rows(named=True)
        ]
        context = format_context(float(self.query.workload.context_length))
        title = (
            f"Cheapest of {self.designs:,} designs for loss {float(self.query.target_loss):g} at {context} "
            f"context ({self.seconds:.1f} s)"
        )
        return Face(title, columns, rows, (self.status,), most=5)

    def to_polars(self) -> pl.DataFrame:
        """Return the best designs in order: see `top`."""
        return self.top

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values that JSON can hold, as `scalesim sweep --json` prints it."""
        from scalesim.report.sweep_report import sweep_json

        return sweep_json(self)

    def plot(self) -> Figure:
        """Return a figure of loss against memory, FLOPs and the objective: the frontiers, and the best."""
        from scalesim.report.sweep_report import draw_sweeps

        return draw_sweeps([self])

    @property
    def designs_per_second(self) -> float:
        """Designs evaluated a second."""
        return self.designs / self.seconds if self.seconds else 0.0

    @property
    def top(self) -> pl.DataFrame:
        """The best k designs in order: index, sizes, loss (nats), memory (bytes), FLOPs, objective."""
        return as_table(self.kept.top)

    def frontier(self, measure: str = "objective") -> pl.DataFrame:
        """Return the designs that no other betters in both loss and `measure`, by loss.

        Args:
            measure: "memory" (bytes), "flops" or "objective".

        Returns:
            The columns of `top`. At most one design to a cell of loss (the sweep's `resolution`).
        """
        from scalesim.errors import choose
        from scalesim.sweeps.keep import FRONTIERS

        return as_table(self.kept.frontier(choose("measure", measure, FRONTIERS)))


def as_table(rows: np.ndarray) -> pl.DataFrame:
    """Return kept rows as a table; places that were never filled are left out."""
    import polars as pl

    rows = rows[np.isfinite(rows).all(axis=1)]
    whole = ("index", *SIZES)
    return pl.DataFrame(
        {name: rows[:, i].astype(np.int64 if name in whole else float) for i, name in enumerate(COLUMNS)}
    )


def answer(
    fit: Any,
    problem: Problem,
    query: Query,
    kept: Kept,
    designs: int,
    seconds: float,
    slacks: dict[str, float],
) -> Sweep:
    """Return the answer to one workload of a finished sweep.

    Raises:
        Unreachable: no design reaches the target loss; the message gives the least loss of any.
    """
    if not np.isfinite(kept.top[0]).all():
        least = dict(zip(COLUMNS, kept.least[0].tolist(), strict=True))
        if not np.isfinite(least["loss"]):
            raise Unreachable(f"none of the {designs} designs has a finite loss and cost under this law.")
        where = f"{least['n_layer']:g}x{least['d_model']:g}x{least['n_head']:g}x{least['n_kv_head']:g}"
        raise Unreachable(
            f"target_loss {kept.target:g} is out of reach of the {designs} designs swept: the least loss "
            f"among them is {least['loss']:.4g} ({where}). A target above that, or larger ranges, would do."
        )
    sizes = dict(zip(COLUMNS, kept.top[0].tolist(), strict=True))
    family = problem.family
    shape = family.shape(**{name: round(sizes[name]) for name in SIZES})
    # The kept figures, to the last bit: the candidate's are another program's.
    best = plain_candidate(problem, query, shape, True)
    best = replace(best, loss=sizes["loss"], objective=sizes["objective"])
    context = float(query.workload.context_length)
    with jax.enable_x64(True):
        aspect = float(family.aspect(12.0 * shape.n_layer * float(shape.d_model) ** 2))
    ratios = {
        "aspect": shape.d_model / shape.n_layer / aspect,
        "ffn": shape.d_ff / shape.d_model / family.ffn_ratio,
    }
    outside = extrapolation(fit, best, context, kept.target)
    status = extrapolation_text(fit, outside, "context_length" in problem.law.fields)
    return Sweep(
        problem=problem,
        query=query,
        designs=designs,
        seconds=seconds,
        best=best,
        kept=kept,
        ratios=ratios,
        extrapolation=outside,
        loss_interval=loss_intervals(fit, problem, [(best, query)])[0],
        status=status + _blind(problem, ratios, slacks),
    )


def _blind(problem: Problem, ratios: dict[str, float], slacks: dict[str, float]) -> str:
    """Say where the best stands at the edge of a band that the law cannot see across."""
    seen = {"aspect": {"n_layer"}, "ffn": {"d_ff"}}
    named = {"aspect": "d_model / n_layer", "ffn": "d_ff / d_model"}
    text = ""
    for name, slack in slacks.items():
        blind = not seen[name] & set(problem.law.fields)
        if blind and np.isfinite(slack) and abs(np.log(ratios[name])) >= AT_EDGE * np.log(slack) > 0:
            text += (
                f" {named[name]} is {ratios[name]:.3g} times the family's, at the edge of its band "
                f"({slack:g}): the law cannot see it, so that part of the gain is not evidence."
            )
    return text
