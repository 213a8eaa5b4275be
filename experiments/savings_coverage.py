"""Does the interval on savings hold? Simulated runs, refitted, resampled and searched anew.

    python -m experiments.savings_coverage [--sets 150] [--resamples 200]

A known law (the shipped joint head law) is measured at the paper's 46 points - the same sizes and heads -
with noise; the law is refitted as in `scalesim design --runs`, resampled by head configuration, and the
README's question is searched anew: at 128K and a loss of 2.615, the cheapest of the buildable designs, and
what it saves of Z, memory and FLOPs over Llama-3's rule at equal loss. The truth is what the very design
chosen (its heads, brought to the target loss) saves under the known law. Two kinds of noise: 4 millinats in
every run (what the best forms leave), and the same variance with half of it shared by the runs of one head
configuration, as the form of a law that is not quite right leaves.

Writes results/savings_coverage.csv and .png.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, print_rows, write_csv
from scalesim.data import RunTable, paper_runs
from scalesim.design import distribution
from scalesim.design.evidence import NOISE
from scalesim.fitting import Squared, bootstrap, fit
from scalesim.laws import HeadLaw
from scalesim.report.figure import BASELINE, BEST, INK, figure, save

__all__ = ["main"]

HELD: dict[str, float | None] = {"k": None, "g": None}
NOISES = ("independent", "half shared by configuration")
MEASURES = ("objective", "memory", "flops")
JOB, TARGET = ss.Workload(context_length=131072.0), 2.615


def simulated(law: Any, kind: str, rng: np.random.Generator) -> RunTable:
    """Return the paper's points with losses of a law and noise."""
    runs = paper_runs()
    exact = np.asarray(law.loss({name: runs[name] for name in law.fields}))
    noise = rng.normal(size=len(exact))
    if kind != "independent":
        heads = np.stack([runs["n_head"], runs["n_kv_head"]], 1)
        _, group = np.unique(heads, axis=0, return_inverse=True)
        shared = rng.normal(size=group.max() + 1)[group]
        noise = np.sqrt(0.5) * (noise + shared)
    return dataclasses.replace(runs, loss=exact + NOISE * noise)


def answer(found: Any, truth: Any) -> tuple[Any, dict[str, float], dict[str, float]] | None:
    """Return what a fit says of the savings, what the truth says of the same design, and of its own best."""
    try:
        design = ss.search(found, JOB, TARGET)
    except ss.Unreachable:
        return None
    said = distribution(found, design)
    # One law, the truth, in place of the bootstrap: the same heads brought to the target under it.
    one = dataclasses.replace(
        found.bootstrap,
        coefficients={k: np.array([float(v)]) for k, v in _leaves(truth).items()},
        objective=np.zeros(1),
    )
    under = distribution(dataclasses.replace(found, bootstrap=one), design)
    return (
        said,
        {m: float(under.savings[m][0]) for m in MEASURES},
        {"regret": float(under.regret[said.chosen])},
    )


def _leaves(law: Any) -> dict[str, Any]:
    from scalesim.fitting import coefficients

    return coefficients(law)


def main(folder: Path = RESULTS, sets: int = 150, resamples: int = 200) -> list[Row]:
    truth = ss.named_fit("paper").law
    rows: list[Row] = []
    drawn: dict[str, np.ndarray] = {}
    for kind in NOISES:
        rng = np.random.default_rng(0)
        lines = []
        for _ in range(sets):
            found = fit(HeadLaw, simulated(truth, kind, rng), noise=Squared(NOISE), fixed=HELD)
            spread = bootstrap(found, resamples, kind="cluster", seed=int(rng.integers(2**31)))
            result = answer(dataclasses.replace(found, bootstrap=spread), truth)
            if result is None:
                continue
            said, true, lost = result
            lines.append(
                [v for m in MEASURES for v in (*said.interval(said.savings[m]), true[m])] + [lost["regret"]]
            )
        table = np.array(lines)
        drawn[kind] = table
        for i, measure in enumerate(MEASURES):
            low, high, true_value = table[:, 3 * i : 3 * i + 3].T
            covered = (low <= true_value) & (true_value <= high)
            rows.append(
                {
                    "noise": kind,
                    "savings_of": measure,
                    "sets": len(table),
                    "resamples": resamples,
                    "asked": 0.9,
                    "covered": float(covered.mean()),
                    "standard_error": float(np.sqrt(0.09 / len(table))),
                    "truth_below": float(np.mean(true_value < low)),
                    "truth_above": float(np.mean(true_value > high)),
                    "median_width": float(np.median(high - low)),
                    "median_true_savings": float(np.median(true_value)),
                    "median_true_regret": float(np.median(table[:, -1])),
                }
            )
    write_csv(folder / "savings_coverage.csv", rows)
    print_rows("Coverage of the 90% interval on savings", rows)
    draw(folder / "savings_coverage.png", drawn)
    return rows


def draw(path: Path, drawn: dict[str, np.ndarray]) -> None:
    """Draw each set's interval on the objective's savings less the truth, in order of its middle."""
    with figure(1, len(drawn), (9.5, 4.2), sharey=True) as (canvas, axes):
        for axis, (kind, table) in zip(axes, drawn.items(), strict=True):
            low, high, true = 100 * table[:, :3].T
            order = np.argsort(low + high - 2 * true)
            low, high = (low - true)[order], (high - true)[order]
            held = (low <= 0) & (high >= 0)
            place = np.arange(len(low))
            for inside, colour, label in ((True, BEST, "covers"), (False, BASELINE, "misses")):
                some = held == inside
                axis.vlines(
                    place[some],
                    low[some],
                    high[some],
                    color=colour,
                    lw=1.2,
                    label=f"{label} the truth: {100 * some.mean():.1f}%",
                )
            axis.axhline(0.0, color=INK, lw=0.8)
            axis.set(title=f"noise {kind}", xlabel="simulated set, by its interval's middle")
            axis.legend(fontsize=8, loc="upper left")
        axes[0].set_ylabel("90% interval of the savings of Z\nless the truth (percentage points)")
        save(canvas, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sets", type=int, default=150)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    main(sets=options.sets, resamples=options.resamples)
