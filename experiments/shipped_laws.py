"""Fit the laws that the package ships, and write them to scalesim/data.

`python -m experiments.shipped_laws` fits the joint head law to the measured points alone (law_points.json)
and to all the paper's evidence (law_paper.json). Their coefficients are those with E held at the 1.97 that
all the paper's curves share; the bootstrap, by head configuration, leaves E free, so that its uncertainty
is in every interval. law_default.json is the mixture of forms of `AttentionLaw` that `experiments.contrasts`
judges, fitted to the points and to all comparisons of heads, those of public runs among them.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.contrasts import comparisons, judged_forms
from scalesim.data import load_contrasts, paper_runs
from scalesim.design.evidence import paper_evidence, paper_points
from scalesim.fitting import FORMS, Fit, mixture, rollout, with_rollout
from scalesim.fitting.bootstrap import bootstrap
from scalesim.laws import HeadLaw

DATA = Path(ss.__file__).parent / "data"
HELD: dict[str, float | None] = {"k": None, "g": None}
RESAMPLES = 200


def fit_with_doubt(evidence: Any) -> Fit:
    """Fit the joint law with E held at 1.97, and attach the bootstrap of the fit with E free."""
    held = ss.fit(HeadLaw, evidence, fixed={"E": 1.97, **HELD})
    free = ss.fit(HeadLaw, evidence, fixed=HELD)
    spread = bootstrap(free, RESAMPLES, kind="cluster")
    return replace(held, bootstrap=spread, rollout=rollout(free))


def mixed() -> Fit:
    """Judge the forms and mix them; comparisons that do not ship are not told row by row."""
    table = comparisons()
    tell = np.isin(table.name, load_contrasts().name)
    return with_rollout(mixture(judged_forms(FORMS), paper_runs(), table, samples=RESAMPLES, tell=tell))


def main(names: list[str]) -> None:
    laws: dict[str, Any] = {
        "points": lambda: fit_with_doubt(paper_points()),
        "paper": lambda: fit_with_doubt(paper_evidence()),
        "default": mixed,
    }
    for name in names or list(laws):
        found = laws[name]()
        found.save(DATA / f"law_{name}.json")
        print(f"{name}: {found.message} rms {found.rms:.5f} nats over the points. {found.law}")


if __name__ == "__main__":
    main(sys.argv[1:])
