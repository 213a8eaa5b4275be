"""Fit the laws that the package ships, and write them to scalesim/data.

`python -m experiments.shipped_laws` fits the joint head law to the measured points alone (law_points.json)
and to all the evidence (law_default.json), with E held at the 1.97 that all the paper's curves share.
"""

from __future__ import annotations

from pathlib import Path

import scalesim as ss
from scalesim.data import paper_runs
from scalesim.fit import Fit, Points, Squared
from scalesim.laws import HeadLaw
from scalesim.search import paper_evidence
from scalesim.search.evidence import NOISE

DATA = Path(ss.__file__).parent / "data"
HELD: dict[str, float | None] = {"E": 1.97, "k": None, "g": None}


def fit_points() -> Fit:
    """Fit the joint law to the 46 measured points alone."""
    return ss.fit(HeadLaw, Points(paper_runs(), Squared(NOISE)), fixed=HELD)


def fit_everything() -> Fit:
    """Fit the joint law to points, curves, head laws and Table 4."""
    return ss.fit(HeadLaw, paper_evidence(), fixed=HELD)


def main() -> None:
    for name, make in {"points": fit_points, "default": fit_everything}.items():
        found = make()
        found.save(DATA / f"law_{name}.json")
        print(f"{name}: {found.message} rms {found.rms:.5f} nats over the points. {found.law}")


if __name__ == "__main__":
    main()
