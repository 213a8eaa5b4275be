"""Which joint law? The forms that the package has, fitted to the 46 measured points alone, and to everything.

`python -m experiments.law_forms` (minutes) holds E at 1.97 throughout. A form is judged by what it predicts
of runs that it has not seen: a head configuration left out, and every 16-layer model left out. Its choices in
Table 4 come from the points alone; then the forms that did best are refitted with curves, head laws and
Table 4 as evidence too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.table4 import compare
from scalesim.data import paper_runs
from scalesim.design import paper_evidence
from scalesim.design.evidence import NOISE
from scalesim.fitting import Fit, Points, Squared, leave_one_group_out
from scalesim.laws import (
    AdditiveHeadLaw,
    HeadLaw,
    ScalingHeadLaw,
    SeparableHeadLaw,
    SquashedHeadLaw,
)
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, save

__all__ = ["main"]

Fixed = dict[str, float | None]

E: Fixed = {"E": 1.97}
HEAD: Any = HeadLaw  # its coefficients have starting values of their own
FORMS: dict[str, tuple[Any, Fixed]] = {
    "separable": (SeparableHeadLaw, E),
    "scaling": (ScalingHeadLaw, E),
    "additive": (AdditiveHeadLaw, E),
    "squashed": (SquashedHeadLaw, E),
    "head, k and g held, sharpness 1": (HEAD(sharpness=1.0), {**E, "k": None, "g": None}),
    "head, k and g held (shipped)": (HEAD(), {**E, "k": None, "g": None}),
    "head, g held": (HEAD(), {**E, "g": None}),
    "head": (HEAD(), E),
}
REFITTED = [name for name in FORMS if name.startswith("head")]


def main(folder: Path = RESULTS) -> list[Row]:
    rows: list[Row] = []
    for name, (law, fixed) in FORMS.items():
        found = ss.fit(law, Points(paper_runs(), Squared(NOISE)), fixed=fixed)
        rows.append({"form": name, "evidence": "points", **held_out(found), **judged(found)})
    for name in REFITTED:
        law, fixed = FORMS[name]
        found = ss.fit(law, paper_evidence(), fixed=fixed, starts=32, polish=8)
        rows.append({"form": name, "evidence": "everything", **judged(found)})
    write_csv(folder / "law_forms.csv", rows)
    draw(folder / "law_forms.png", rows)
    shown = ["form", "evidence", "coefficients", "rms", "configuration_left_out", "largest_left_out"]
    print_rows("Joint laws, rms in nats", rows, [*shown, "cells_exact", "largest_z_excess_percent", "status"])
    return rows


def held_out(found: Fit) -> Row:
    """Return the rms error on runs that were left out of the fit."""
    by_configuration = leave_one_group_out(found)
    return {
        "configuration_left_out": by_configuration.rms,
        "configuration_left_out_worst": by_configuration.worst,
        "largest_left_out": leave_one_group_out(found, by="n_layer").by_fold()["16"],
    }


def judged(found: Fit) -> Row:
    """Return how a fit does on its points and on Table 4, and its coefficients."""
    cells = compare(found.law)
    return {
        "coefficients": len(found.standard_errors),
        "rms": found.rms,
        "cells_exact": int(cells.exact.sum()),
        "cells_beyond_an_octave": cells.beyond_an_octave,
        "largest_z_excess_percent": 100 * float(np.max(cells.excess)),
        "status": found.status,
        **found.coefficients,
    }


def draw(path: Path, rows: list[Row]) -> None:
    """Draw each form's errors, and the cells of Table 4 that it gives exactly."""
    points = [row for row in rows if row["evidence"] == "points"]
    all_of_it = {row["form"]: row for row in rows if row["evidence"] == "everything"}
    at = np.arange(len(points))
    with figure(1, 2, (11.0, 4.6), sharey=True, width_ratios=(1.5, 1)) as (canvas, axes):
        columns: dict[str, tuple[str, Any]] = {
            "all the points": ("rms", FAINT),
            "16-layer models left out": ("largest_left_out", BEST),
            "a configuration left out": ("configuration_left_out", BASELINE),
        }
        for label, (column, colour) in columns.items():
            values = [1e3 * row[column] for row in points]
            style = {"mec": INK, "mew": 0.6, "ms": 8, "ls": "none"}
            axes[0].plot(values, at, "o", color=colour, label=label, **style)
        for y, row in zip(at, points, strict=True):
            ends = [1e3 * row[column] for column, _ in columns.values()]
            axes[0].plot([min(ends), max(ends)], [y, y], color=INK, lw=0.8, zorder=1)
        names = [f"{row['form']}: {row['coefficients']} free" for row in points]
        axes[0].set_yticks(at, names)
        axes[0].set(xlabel="rms error (millinats)", ylim=(len(points) - 0.5, -0.5))
        axes[0].set_xlim(left=0)
        axes[0].legend(fontsize=8)
        axes[0].set_title("joint laws fitted to the points alone")
        axes[1].barh(
            at - 0.17, [row["cells_exact"] for row in points], 0.32, color=BASELINE, label="points alone"
        )
        both = [
            (y, all_of_it[row["form"]]) for y, row in zip(at, points, strict=True) if row["form"] in all_of_it
        ]
        exact = [row["cells_exact"] for _, row in both]
        axes[1].barh([y + 0.17 for y, _ in both], exact, 0.32, color=BEST, label="all evidence")
        axes[1].set(xlabel="cells of Table 4 exact, of 24", xlim=(0, 24))
        axes[1].legend(fontsize=8, loc="upper right")
        axes[1].set_title("Table 4")
        for axis in axes:
            axis.grid(False, axis="y")
        save(canvas, path)


if __name__ == "__main__":
    main()
