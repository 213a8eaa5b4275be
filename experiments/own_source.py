"""Our second grid as one more source of the law: what that would change for studies that it is not of.

    python -m experiments.own_source --write      # own_contrasts.csv, from the runs that are kept
    python -m experiments.own_source              # some five minutes

Every pair of models of one size (`ss.load_runs("own-long")`), a row a seed, with the noise that its seeds
show, is a comparison (`ss.load_contrasts("own-long")`). Here the forms of the shipped law are fitted to them
as well, and judged as in `experiments.contrasts`: with each published study left out, and with the paper's
deepest models. Writes own_source.csv: those figures beside the shipped law's (contrasts_forms.csv).

The rule was written before the first result: the rows enter the law that ships unless that harms what it
says of others, that is, unless the log density of published studies left out falls by more than 1, or the
error over the paper's runs or over its deepest models, left out, grows by more than a twentieth.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from experiments.common import RESULTS, Row, print_rows, write_csv
from experiments.contrasts import OWN_STUDY, comparisons, form_row, judged_forms, mixture_row
from experiments.long_runs_check import DATA, beside_base, noise_at, ratios, read, seed_noise
from scalesim.data import load_contrasts, paper_runs
from scalesim.fitting.forms import FORMS
from scalesim.fitting.mixtures import mixture

__all__ = ["main", "own_contrasts"]

BOTH = ("context_length", "n_layer", "d_model", "head_dim", "n_tokens")
EACH = ("n_head", "n_kv_head", "n_params", "loss")
SHOWN = ("home", "largest_left_out", "out_equal_kv", "out_others", "out_long_text", "out_own")
NAMES = ("form", *SHOWN, "out_covered_own", "log_density")


def own_contrasts(runs: list[dict[str, Any]]) -> list[Row]:
    """Return 8:1 beside each other model of its size, context, text and seed, with the noise of a run."""
    # Both runs of a pair have the noise of which seeds tell the ratio's.
    noise = seed_noise(ratios(runs))
    rows: list[Row] = []
    for first, run in beside_base(runs):
        width, context, tokens, seed = (run[n] for n in ("d_model", "context_length", "n_tokens", "seed"))
        heads = f"{run['n_head']}:{run['n_kv_head']}"
        rows.append(
            {
                "id": f"own_{width}_{context}_{tokens / 1e6:.0f}M_{heads}_{seed}",
                "source": f"{OWN_STUDY}, experiments/grids/long_runs.toml",
                "corpus": f"standard library by byte, {tokens} at {context}, seed {seed}",
                **{name: run[name] for name in BOTH},
                **{f"{name}_a": first[name] for name in EACH},
                **{f"{name}_b": run[name] for name in EACH},
                "noise": round(noise_at(noise, width, context) / 100 / 2**0.5, 5),
                "equal_params": 1,
            }
        )
    return rows


def without_them() -> list[Row]:
    """Return the figures of the law that ships, which has not seen these rows."""
    with (RESULTS / "contrasts_forms.csv").open() as file:
        rows = {row["form"]: row for row in csv.DictReader(file)}
    return [rows[name] for name in (*FORMS, "mixture")]


def main(folder: Path = RESULTS) -> list[Row]:
    own = load_contrasts("own-long")
    table = comparisons().joined(own)
    judged = judged_forms(FORMS, table)
    rows: list[Row] = [form_row(name, form, table) for name, form in judged.items()]
    rows.append(mixture_row(mixture(judged, paper_runs(), table), judged, table))
    found: list[Row] = [
        {"own_rows": count, **{name: row.get(name) for name in NAMES}}
        for count, some in ((0, without_them()), (len(own), rows))
        for row in some
    ]
    write_csv(folder / "own_source.csv", found)
    print_rows("Published studies left out, without our rows and with them", found)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table of comparisons")
    if parser.parse_args().write:
        write_csv(DATA / "own_contrasts.csv", own_contrasts(read()))
    else:
        main()
