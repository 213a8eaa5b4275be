"""Our second grid as one more source of the law: what it changes for studies that it is not of.

    python -m experiments.own_source              # some ten minutes on an idle machine

Every pair of models of one size (`ss.own_runs("long")`), a row a seed, with the noise that its seeds show,
joins the comparisons that the shipped law was fitted to. Each form is then fitted and judged as in
`experiments.contrasts`: with each published study left out, and with the paper's deepest models. Writes
own_source.csv: each form and their mixture, with these rows and without (contrasts_forms.csv).

The rule was written before the first result: the rows enter the law that ships unless that harms what it says of
others, that is, unless the log density of published studies left out falls by more than 1, or the error over
the paper's runs or over its deepest models, left out, grows by more than a twentieth.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.common import RESULTS, Row, print_rows, rms, write_csv
from experiments.contrasts import comparisons, home, masks
from experiments.long_runs_check import noise_at, ratios, read, seed_noise
from experiments.long_runs_prediction import BASE
from scalesim.data import paper_runs
from scalesim.data.contrasts import ContrastTable
from scalesim.fitting.forms import FORMS, LARGEST, Judged, judge, stack
from scalesim.fitting.mixtures import densities, left_out

__all__ = ["STUDY", "main", "own_contrasts"]

STUDY = "scalesim own-long"
FIELDS = ("n_params", "n_head", "n_kv_head", "head_dim", "n_layer", "d_model", "d_ff", "context_length")
SHOWN = ("out_equal_kv", "out_others", "out_long_text")


def own_contrasts(rows: list[dict[str, Any]]) -> ContrastTable:
    """Return 8:1 beside each other model of its size, context, text and seed, with the noise of a run."""
    setting = ("d_model", "context_length", "n_tokens", "seed")
    base = {tuple(r[n] for n in setting): r for r in rows if (r["n_head"], r["n_kv_head"]) == BASE}
    pairs = [
        (base[key], row)
        for row in rows
        for key in [tuple(row[n] for n in setting)]
        if key in base and row is not base[key]
    ]
    # Both runs of a pair have the noise of which seeds tell the ratio's.
    noise = seed_noise(ratios(rows))
    a, b = ({n: np.array([float(pair[i][n]) for pair in pairs]) for n in FIELDS} for i in (0, 1))
    losses = [np.array([pair[i]["loss"] for pair in pairs]) for i in (0, 1)]
    names = [f"own_{r['d_model']}_{r['context_length']}_{r['n_head']}:{r['n_kv_head']}" for _, r in pairs]
    corpora = [
        f"standard library, {r['n_tokens']} at {r['context_length']}, seed {r['seed']}" for _, r in pairs
    ]
    told = np.array([noise_at(noise, r["d_model"]) / 100 / np.sqrt(2) for _, r in pairs])
    about = np.array(names), np.full(len(pairs), STUDY), np.array(corpora)
    return ContrastTable(a, b, *losses, *about, noise=told)


def form_row(name: str, judged: Judged, table: ContrastTable) -> Row:
    """Return a form's figures over the published studies, and over these rows, left out."""
    published = table.study != STUDY
    out = judged.percent - 100 * table.log_ratio
    kinds = masks(table.take(published))
    return {
        "form": name,
        "home": home(judged.fitted.law),
        "largest_left_out": judged.largest,
        **{key: rms(out[published][kinds[key.removeprefix("out_")]]) for key in SHOWN},
        "log_density": sum(d for fold, d in judged.studies.items() if fold not in (LARGEST, STUDY)),
        "own_rms": rms(out[~published]),
        "own_log_density": judged.studies[STUDY],
        "own_in_90": float(np.mean(np.abs(out[~published]) <= 1.645 * judged.deviation[~published])),
        "effect": judged.fitted.spread.effect,
        "cache": judged.fitted.spread.cache,
    }


def mixture_row(judged: dict[str, Judged], table: ContrastTable, rows: list[Row]) -> Row:
    """Return the mixture's figures, its weights stacked without the study that is left out."""
    mean, low, high, _ = left_out(judged, table)
    measured, published = 100 * table.log_ratio, table.study != STUDY
    kinds, density = masks(table.take(published)), densities(judged)
    folds = list(next(iter(judged.values())).studies)
    total = {}
    for fold in dict.fromkeys(table.study):
        k = folds.index(str(fold))
        weights = stack(np.delete(density, k, axis=0))
        total[str(fold)] = float(np.log(weights @ np.exp(density[k] - density[k].max())) + density[k].max())
    inside = (low <= measured) & (measured <= high)
    whole = stack(density)
    return {
        "form": "mixture",
        "home": float(np.average([row["home"] for row in rows], weights=whole)),
        "largest_left_out": float(np.average([row["largest_left_out"] for row in rows], weights=whole)),
        **{key: rms((mean - measured)[published][kinds[key.removeprefix("out_")]]) for key in SHOWN},
        "log_density": sum(d for fold, d in total.items() if fold != STUDY),
        "own_rms": rms((mean - measured)[~published]),
        "own_log_density": total[STUDY],
        "own_in_90": float(inside[~published].mean()),
    }


def without() -> list[Row]:
    """Return the same figures of the law as it ships, which these rows did not enter."""
    with (RESULTS / "contrasts_forms.csv").open() as file:
        rows = {row["form"]: row for row in csv.DictReader(file)}
    names = ("home", "largest_left_out", *SHOWN, "log_density", "effect", "cache")
    return [
        {"form": name, **{n: float(rows[name][n]) for n in names if rows[name].get(n)}}
        for name in (*FORMS, "mixture")
    ]


def main(folder: Path = RESULTS) -> list[Row]:
    own = own_contrasts(read())
    table = comparisons().joined(own)
    judged, rows = {}, []
    for name, form in FORMS.items():
        judged[name] = judge(form, paper_runs(), table)
        rows.append(form_row(name, judged[name], table))
        print_rows(f"{name}, with {len(own)} rows of our own", rows[-1:])
        jax.clear_caches()
    rows.append(mixture_row(judged, table, rows))
    found = [{"own_rows": len(own), **row} for row in rows] + [{"own_rows": 0, **row} for row in without()]
    write_csv(folder / "own_source.csv", found)
    print_rows("Published studies left out, with our rows and without", found)
    return found


if __name__ == "__main__":
    main()
