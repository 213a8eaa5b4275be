"""How much five measured kernels tell of a card: adjusted constants on the rows that were not looked at.

Every measured card in turn is priced by what the others lend it; five of its rows, drawn at random, adjust
those constants (`scalesim calibrate --kernels`), and 400 other rows score: before, after, and by the card's
own constants, which is the best that the forms can do. The same from the card's own constants: five rows
must not spoil what is right. Writes results/few_kernels.csv.

    python -m experiments.few_kernels [--draws 24] [--rows 5]
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import numpy as np

from experiments.common import RESULTS, write_csv
from experiments.hardware_constants import CARDS, left_out, tables
from scalesim.borrowing import distance, measured_cards
from scalesim.cost.adjusting import OWN, adjuster
from scalesim.cost.fitting import kernel_errors, part
from scalesim.cost.kernel_forms import kernel_seconds, machine_of
from scalesim.cost.kernel_score import constants_of, noise_of
from scalesim.efficiency import shipped_constants
from scalesim.hardware import load_hardware

SEED = 13  # of the draws; how far constants move was chosen with others
KINDS = (("gemm", "bf16"), ("gemm", "fp8"), ("decode", "bf16"), ("prefill", "bf16"))


def scored(card: str, kind: str, format: str, table: Any, draws: int, rows: int) -> dict[str, Any]:
    """One line: errors on rows that were not looked at, from lent and from own constants."""
    cards = dict(measured_cards())
    machine = machine_of(load_hardware(CARDS[card]), kind, format)
    order = np.random.default_rng(0).permutation(len(table["seconds"]))
    test, pool = part(table, order[:400]), order[400:]

    def error(constants: Any) -> float:
        return float(kernel_errors(kind, test, machine, constants).mean())

    line: dict[str, Any] = {"card": card, "kind": kind, "format": format}
    borrowed = left_out(card, cards, shipped_constants()["reach"])
    away = min(distance(cards[card][0], one, kind) for name, (one, _) in cards.items() if name != card)
    for name, efficiency, doublings in (("lent", borrowed, away), ("own", cards[card][1], OWN)):
        start = constants_of(efficiency, kind, format)
        rng, after, adjust = np.random.default_rng(SEED), [], adjuster(kind, machine, start, doublings)
        for _ in range(draws):
            few = part(table, rng.choice(pool, rows, replace=False))
            predicted = np.asarray(kernel_seconds(kind, few, machine, start))
            after.append(error(adjust(few, noise_of(efficiency, kind, format, predicted))[0]))
        line |= {f"{name}_before": error(start), f"{name}_after": float(np.mean(after))}
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=24)
    parser.add_argument("--rows", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    lines = []
    for card in CARDS:
        for kind, format, table in tables(card):
            if (kind, format) in KINDS:
                if card == "a100" and kind != "gemm":
                    table = part(table, np.flatnonzero(table["head_dim"] <= 256))
                lines.append(scored(card, kind, format, table, options.draws, options.rows))
                text = ", ".join(f"{k} {v:.3f}" for k, v in lines[-1].items() if isinstance(v, float))
                print(card, kind, format, text, flush=True)
    for kinds in ("gemm", "decode", "prefill", "gemm decode prefill"):
        few = [one for one in lines if one["kind"] in kinds.split()]
        before, after, best = (
            float(np.mean([one[name] for one in few])) for name in ("lent_before", "lent_after", "own_before")
        )
        way = (before - after) / (before - best)
        print(f"{kinds}: from {before:.1%} to {after:.1%} of at best {best:.1%}: {way:.0%} of the way")
    write_csv(RESULTS / "few_kernels.csv", lines)


if __name__ == "__main__":
    main()
