"""Laws in parameters and tokens, fitted to public runs and kept with their bootstrap: the studies' base laws.

    python -m experiments.base_laws

Writes scalesim/data/law_tokens-NAME.json. The measurements are not part of the project (see public_data.py);
the fits are, so the studies run without them. Losses of different sets are not comparable: tokenizer and
corpus differ. What carries over, if anything does, is how the loss moves with N and D.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import scalesim as ss
from experiments.public_data import public_runs
from scalesim.fitting import Fit, named_fit, with_bootstrap

__all__ = ["BASES", "Base", "base_fit"]

RESAMPLES = 200
DATA = Path(ss.__file__).parent / "data"


class Base(NamedTuple):
    """Where a base law comes from: the file of its runs, how they are read, and its source."""

    file: str
    read: dict[str, Any]
    source: str


BASES = {
    "chinchilla": Base(
        "chinchilla/svg_extracted_data.csv",
        {"drop_largest": 5},
        "points of arXiv 2203.15556, Figure 4, as read by arXiv 2404.10102; MassiveText",
    ),
    "llama3": Base(
        "isoflops/isoflops.csv",
        {"select": {"experiment": "llama_3__raw_loss"}},
        "IsoFLOP points of arXiv 2407.21783, Figure 2; validation loss on Llama 3's own mix",
    ),
}


def base_fit(name: str) -> Fit:
    """Return a base law with its bootstrap, as committed."""
    return named_fit(f"tokens-{name}")


def main() -> None:
    folder = public_runs()
    for name, base in BASES.items():
        runs = replace(ss.load_runs(folder / base.file, **base.read), source=base.source)
        found = with_bootstrap(ss.fit("chinchilla", runs), RESAMPLES)
        found.save(DATA / f"law_tokens-{name}.json")
        ranges = found.provenance["evidence"][0]["ranges"]
        print(f"{name}: {len(runs)} runs, {base.source}; {found.message}")
        print(f"  {found.law}")
        print(f"  rms {found.rms:.4f}; {found.resamples.intervals()}")
        print(f"  {ranges}")


if __name__ == "__main__":
    main()
