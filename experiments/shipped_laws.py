"""Fit the laws that the package ships, and write them to scalesim/data.

`python -m experiments.shipped_laws` fits the joint head law to the measured points alone (law_points.json)
and to all the evidence (law_default.json). The coefficients are those with E held at the 1.97 that all the
paper's curves share; the bootstrap, by head configuration, leaves E free, so that the doubt about it is in
every interval.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import scalesim as ss
from scalesim.design.evidence import paper_evidence, paper_points
from scalesim.fitting import Fit
from scalesim.fitting.bootstrap import bootstrap
from scalesim.laws import HeadLaw

DATA = Path(ss.__file__).parent / "data"
HELD: dict[str, float | None] = {"k": None, "g": None}
RESAMPLES = 200


def fit_with_doubt(evidence: Any) -> Fit:
    """Fit the joint law with E held at 1.97, and attach the bootstrap of the fit with E free."""
    held = ss.fit(HeadLaw, evidence, fixed={"E": 1.97, **HELD})
    free = ss.fit(HeadLaw, evidence, fixed=HELD)
    return replace(held, bootstrap=bootstrap(free, RESAMPLES, kind="cluster"))


def main() -> None:
    evidence = {"points": paper_points(), "default": paper_evidence()}
    for name, pieces in evidence.items():
        found = fit_with_doubt(pieces)
        found.save(DATA / f"law_{name}.json")
        print(f"{name}: {found.message} rms {found.rms:.5f} nats over the points. {found.law}")
        print(f"  standard errors with E free: {found.resamples.standard_errors}")


if __name__ == "__main__":
    main()
