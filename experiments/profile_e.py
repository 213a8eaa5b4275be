"""How much the irreducible loss matters: everything refitted with E held from 1.6 to 2.15, and free.

`python -m experiments.profile_e` (minutes). The seven drawn curves share E = 1.97; the points do not say so
themselves. For each E: the fit's error on the points and on a head configuration left out, its cells of
Table 4, and the answer to the demo's question (128K, 2.615) with its savings over Llama-3's GQA.

A last row holds m, the KV heads that a model wants, at a million: a law without saturation, in which E and
F log m are one constant. The solver's starts do not lead there. Where its objective is below the profile's,
E is not a floor that the evidence could tell.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.table4 import compare
from scalesim.data import paper_runs
from scalesim.design import PAPER, paper_evidence
from scalesim.design.evidence import NOISE
from scalesim.fitting import Fit, Points, Profile, Squared, leave_one_group_out, profile, with_coefficients
from scalesim.laws import HeadLaw, Law
from scalesim.report.figure import BASELINE, BEST, INK, figure, save

__all__ = ["main"]

VALUES = np.array([1.6, 1.7, 1.8, 1.85, 1.9, 1.94, 1.97, 2.0, 2.05, 2.1, 2.15])
PUBLISHED_E = 1.97
JOB = ss.Workload(context_length=131072)
COLOURS = {"points": BASELINE, "everything": BEST}
HELD: dict[str, float | None] = {"k": None, "g": None}


def evidence(name: str) -> Any:
    """Return the measured points alone, or everything."""
    return Points(paper_runs(), Squared(NOISE)) if name == "points" else paper_evidence()


def main(folder: Path = RESULTS) -> list[Row]:
    rows: list[Row] = []
    for name in COLOURS:
        free = ss.fit(HeadLaw, evidence(name), fixed=HELD, starts=32, polish=8)
        curve = profile(free, "E", VALUES)
        rows += [row_of(name, free, curve, i) for i in range(len(VALUES))]
        free_row = {
            "evidence": name,
            "E": free.coefficients["E"],
            "E_is": "free",
            "objective": free.objective,
        }
        free_row["configuration_left_out"] = leave_one_group_out(free).rms if name == "points" else None
        rows.append({**free_row, **consequences(free.law)})
        endless = ss.fit(HeadLaw, evidence(name), fixed={**HELD, "m": 1e6}, starts=32, polish=8)
        row = {"evidence": name, "E": endless.coefficients["E"], "E_is": "free, m held at 1e6"}
        rows.append({**row, "objective": endless.objective, **consequences(endless.law)})
    write_csv(folder / "profile_e.csv", rows)
    draw(folder / "profile_e.png", rows)
    shown = ["evidence", "E", "E_is", "objective", "rms", "configuration_left_out", "cells_exact"]
    shown += ["n_head", "n_kv_head", "n_params", "memory_saved_percent", "flops_saved_percent"]
    print_rows("Profile of E", rows, shown)
    return rows


def row_of(name: str, free: Fit, curve: Profile, i: int) -> Row:
    """Return one held value of E: the errors there and what follows from the law."""
    law = with_coefficients(free.law, {key: float(values[i]) for key, values in curve.coefficients.items()})
    row: dict[str, Any] = {"evidence": name, "E": float(curve.values[i]), "E_is": "held"}
    row["objective"] = float(curve.objective[i])
    if name == "points":
        fixed = ss.fit(HeadLaw, evidence(name), fixed={**HELD, "E": row["E"]}, starts=16, polish=4)
        row["configuration_left_out"] = leave_one_group_out(fixed).rms
    return {**row, **consequences(law)}


def consequences(law: Law) -> Row:
    """Return a law's rms over the points, its cells of Table 4, and its answer to the demo's question."""
    runs, cells = paper_runs(), compare(law)
    design = ss.search(law, JOB, 2.615, lattice=PAPER)
    return {
        "rms": float(np.sqrt(np.mean((np.asarray(law.loss(runs.columns)) - runs.loss) ** 2))),
        "cells_exact": int(cells.exact.sum()),
        "cells_beyond_an_octave": cells.beyond_an_octave,
        "largest_z_excess_percent": 100 * float(np.max(cells.excess)),
        "n_head": int(design.shape.n_head),
        "n_kv_head": int(design.shape.n_kv_head),
        "n_params": design.best.n_params,
        "memory_saved_percent": 100 * design.savings_at_equal_loss["memory"],
        "flops_saved_percent": 100 * design.savings_at_equal_loss["flops"],
    }


def draw(path: Path, rows: list[Row]) -> None:
    """Draw what changes with E: errors, cells, the design's size and its savings."""
    with figure(2, 2, (9.5, 6.8), sharex=True) as (canvas, axes):
        for name, colour in COLOURS.items():
            held = [row for row in rows if row["evidence"] == name and row["E_is"] == "held"]
            free = next(row for row in rows if row["evidence"] == name and row["E_is"] == "free")
            heads = "; ".join(sorted({f"{row['n_head']}, {row['n_kv_head']}" for row in held}))
            label = {"points": "points alone", "everything": "all evidence"}[name]

            _line(held, axes[0, 0], "rms", 1e3, colour, label=f"{label}: points")
            if name == "points":
                style = {"ls": "--", "label": f"{label}: a configuration left out"}
                _line(held, axes[0, 0], "configuration_left_out", 1e3, colour, **style)
            _line(held, axes[0, 1], "cells_exact", 1, colour, label=label)
            _line(held, axes[1, 0], "n_params", 1e-9, colour, label=f"{label}: heads ({heads})")
            _line(held, axes[1, 1], "memory_saved_percent", 1, colour, label=f"{label}: memory")
            _line(held, axes[1, 1], "flops_saved_percent", 1, colour, ls="--", label=f"{label}: FLOPs")
            for axis in axes.flat:
                axis.axvline(free["E"], color=colour, lw=0.8, ls=":")
        for axis in axes.flat:
            axis.axvline(PUBLISHED_E, color=INK, lw=0.8)
        axes[0, 0].set(ylabel="rms error (millinats)", ylim=(0, None))
        axes[0, 1].set(ylabel="cells of Table 4 exact, of 24", ylim=(0, 24))
        axes[1, 0].set(ylabel="parameters of the optimum (10⁹)", xlabel="E (nats)", ylim=(0, None))
        axes[1, 1].set(ylabel="saved at equal loss (%)", xlabel="E (nats)", ylim=(40, 70))
        for axis in axes.flat:
            axis.legend(fontsize=7.5, loc="lower left")
        title = "Profile over E: black line, the published 1.97; dotted, where it is free"
        canvas.suptitle(title, x=0.01, ha="left", weight="bold")
        save(canvas, path)


def _line(held: list[Row], axis: Any, column: str, factor: float, colour: str, **style: Any) -> None:
    known = [row for row in held if row.get(column) is not None]
    values = [factor * row[column] for row in known]
    axis.plot([row["E"] for row in known], values, color=colour, marker=".", **style)


if __name__ == "__main__":
    main()
