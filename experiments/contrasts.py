"""Every public comparison of heads against the law, form by form, home and away.

`python -m experiments.contrasts` (some twelve minutes) fits each form of head law to the paper's 46 runs and
to the comparisons, leaves every study out in turn and then the largest runs, and writes contrasts.csv (each
comparison: measured, predicted, the interval when its study was left out) and contrasts_forms.csv (errors
and coverage of each form, "no effect of heads" among them). `shipped_laws` ships what this judges.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from experiments.common import RESULTS, Row, print_rows, rms, write_csv
from experiments.gadre import gadre_contrasts
from scalesim.data import paper_runs
from scalesim.data.contrasts import ContrastTable, load_contrasts
from scalesim.fitting import Fit
from scalesim.fitting.contrast_prediction import predict_contrasts
from scalesim.fitting.contrasts import parts
from scalesim.fitting.forms import FORMS, LARGEST, OWN, Form, Judged, form_of, judge, stack
from scalesim.fitting.mixed_setup import MixedSetup
from scalesim.fitting.mixtures import left_out, mixture
from scalesim.fitting.named import named_fit
from scalesim.laws import AdditiveHeadLaw, AttentionLaw, HeadLaw, Law, SeparableHeadLaw, SquashedHeadLaw
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, save

__all__ = ["comparisons", "judged_forms", "main"]

_NOTHING = dict.fromkeys(("C", "F", "H", "c", "f", "u", "w", "r"), 0.0) | OWN
_E = {"E": (1.9, 0.08)}
OTHERS: dict[str, Form] = {
    "numbers of heads, no growth": form_of(0.0, 0.0, growth=False),
    "no effect of heads": Form(AttentionLaw, {**_NOTHING, "k": 3.0, "m": 1.0, "h": 40.0}, _E, {}),
    "the paper's form": Form(HeadLaw, {"k": None, "g": None}, _E, {}),
    "additive": Form(AdditiveHeadLaw, {}, {**_E, "p": (0.5, 0.3), "q": (0.5, 0.3)}, {}),
    "separable": Form(SeparableHeadLaw, {}, _E, {}),
    "squashed": Form(SquashedHeadLaw, {}, {**_E, "k": (3.0, 2.0), "m": (2.0, 1.5)}, {}),
}
"""Forms that are judged beside those of the mixture."""
OWN_STUDY = "scalesim own-long"


def comparisons() -> ContrastTable:
    """Return the published comparisons that ship, and those of public runs, which do not."""
    return load_contrasts().joined(gadre_contrasts())


def judged_forms(forms: dict[str, Form], table: ContrastTable | None = None) -> dict[str, Judged]:
    """Judge forms on the paper's runs and comparisons, all by default."""
    judged, table = {}, comparisons() if table is None else table
    for name, form in forms.items():
        judged[name] = judge(form, paper_runs(), table)
        jax.clear_caches()  # a form compiles some thirty programs that no other form uses
    return judged


def main(folder: Path = RESULTS) -> list[Row]:
    return report(judged_forms(FORMS | OTHERS), folder)


def report(judged: dict[str, Judged], folder: Path) -> list[Row]:
    """Write the tables and the figure of judged forms."""
    table = comparisons()
    mixed = mixture({name: judged[name] for name in FORMS}, paper_runs(), table)
    weights = stack(np.array([list(judged[name].studies.values()) for name in FORMS]).T)
    rows: list[Row] = [form_row(name, j, table) for name, j in judged.items()]
    rows = [
        {**row, "weight": weight} for row, weight in zip(rows, [*weights, *[0.0] * len(OTHERS)], strict=True)
    ]
    rows += [mixture_row(mixed, judged, table), size_row(mixed, table)]
    write_csv(folder / "contrasts_forms.csv", rows)
    lines = each_row(mixed, judged, table)
    write_csv(folder / "contrasts.csv", lines)
    draw(folder / "contrasts.png", lines)
    shown = ["form", "weight", "home", "largest_left_out", "out_equal_kv", "out_others", "out_long_text"]
    print_rows(
        "Forms: home in nats, comparisons in % of loss, rms", rows, [*shown, "out_covered", "log_density"]
    )
    return rows


def masks(table: ContrastTable) -> dict[str, np.ndarray]:
    """Return which rows are which: the published that ship, those of equal size, those with heads added."""
    public, own = (np.char.startswith(table.name.astype(str), name) for name in ("gadre", "own_"))
    shipped = ~public & ~own
    same_head = table.a["head_dim"] == table.b["head_dim"]
    size = np.abs(np.log(table.b["n_params"] / table.a["n_params"]))
    few = table.b["n_head"] * table.b["head_dim"] < 0.25 * table.a["n_head"] * table.a["head_dim"]
    equal = shipped & same_head & (size < 0.025) & ~few
    found = {
        "shipped": shipped,
        "equal_kv": equal,
        "others": shipped & same_head & ~equal & ~few,
        "head_shape": shipped & (~same_head | few),
        "long_text": shipped & ~np.char.startswith(table.name.astype(str), "shazeer"),
        "public_head_dim": public,
        "own": own,
    }
    return {name: mask for name, mask in found.items() if mask.any()}


def errors(law: Law, table: ContrastTable) -> np.ndarray:
    """Return predicted less measured, percent of loss (rows,)."""
    return 100 * (sum(parts(law, table)) - table.log_ratio)


def home(law: Law) -> float:
    """Return the rms error over the paper's runs, nats."""
    runs = paper_runs()
    with jax.enable_x64(True):
        return rms(np.asarray(law.loss({name: runs[name] for name in law.fields})) - runs.loss)


def of_others(density: dict[str, float]) -> float:
    """Return the log density of the comparisons that are not ours."""
    return sum(value for study, value in density.items() if study not in (LARGEST, OWN_STUDY))


def form_row(name: str, judged: Judged, table: ContrastTable) -> dict[str, Any]:
    """Return a form's figures: fitted to all, and with each study left out."""
    within, rows = errors(judged.fitted.law, table), masks(table)
    out = judged.percent - 100 * table.log_ratio
    covered = np.abs(out) <= 1.645 * judged.deviation
    return {
        "form": name,
        "weight": 0.0,
        "home": home(judged.fitted.law),
        "largest_left_out": judged.largest,
        **{key: rms(within[mask]) for key, mask in rows.items()},
        "out_given": rms(out[rows["shipped"]]),
        **{f"out_{key}": rms(out[mask]) for key, mask in rows.items() if key != "shipped"},
        "out_covered": float(covered[rows["shipped"]].mean()),
        "out_covered_public": float(covered[rows["public_head_dim"]].mean()),
        **({"out_covered_own": float(covered[rows["own"]].mean())} if "own" in rows else {}),
        "log_density": of_others(judged.studies),
        **{f"log_density_{study}": value for study, value in judged.studies.items()},
        **dataclasses.asdict(judged.fitted.spread),
    }


def mixture_row(mixed: Fit, judged: dict[str, Judged], table: ContrastTable) -> dict[str, Any]:
    """Return the mixture's figures, weights taken anew without the study where it is left out."""
    rows, within = masks(table), errors(mixed.law, table)
    mean, low, high, dense = left_out({name: judged[name] for name in FORMS}, table)
    measured = 100 * table.log_ratio
    out, covered = mean - measured, (low <= measured) & (measured <= high)
    runs, made_from = paper_runs(), cast(MixedSetup, mixed.setup)
    deepest = runs["n_layer"] == runs["n_layer"].max()
    unseen = made_from.predicted_without(deepest[None])[0]
    return {
        "form": "mixture",
        "weight": 1.0,
        "home": home(mixed.law),
        "largest_left_out": rms((unseen - runs.loss)[deepest]),
        **{key: rms(within[mask]) for key, mask in rows.items()},
        "out_given": rms(out[rows["shipped"]]),
        **{f"out_{key}": rms(out[mask]) for key, mask in rows.items() if key != "shipped"},
        "out_covered": float(covered[rows["shipped"]].mean()),
        "out_covered_public": float(covered[rows["public_head_dim"]].mean()),
        **({"out_covered_own": float(covered[rows["own"]].mean())} if "own" in rows else {}),
        "log_density": of_others(dense),
    }


def size_row(mixed: Fit, table: ContrastTable) -> dict[str, Any]:
    """Return the figures of the mixture with no effect of heads: what the sizes alone make by it."""
    size, rows = parts(mixed.law, table)[0], masks(table)
    off = 100 * (size - table.log_ratio)
    return {
        "form": "the mixture's sizes alone",
        "weight": 0.0,
        **{key: rms(off[mask]) for key, mask in rows.items()},
    }


def each_row(mixed: Fit, judged: dict[str, Judged], table: ContrastTable) -> list[dict[str, Any]]:
    """Return each shipped comparison: measured, predicted, and predicted with its study left out."""
    found = predict_contrasts(mixed, table)
    mean, low, high, _ = left_out({name: judged[name] for name in FORMS}, table)
    paper = predict_contrasts(named_fit("paper"), table)
    shipped = masks(table)["shipped"]
    return [
        {
            "id": table.name[i],
            "source": table.source[i],
            "measured_percent": found.measured[i],
            "percent": found.percent[i],
            "low": found.low[i],
            "high": found.high[i],
            "left_out_percent": mean[i],
            "left_out_low": low[i],
            "left_out_high": high[i],
            "paper_law_percent": paper.percent[i],
            "no_effect_percent": judged["no effect of heads"].percent[i],
        }
        for i in np.flatnonzero(shipped)
    ]


def draw(path: Path, lines: list[dict[str, Any]]) -> None:
    """Draw every comparison, the interval of the law that had not seen its study, and the paper's law."""
    order = list(range(len(lines)))
    with figure(1, 1, (9.5, 7.5)) as (canvas, axis):
        for y, line in zip(order, lines, strict=True):
            axis.plot([line["left_out_low"], line["left_out_high"]], [y, y], color=FAINT, lw=6, zorder=1)
        for key, style, label in (
            ("measured_percent", {"marker": "D", "color": INK}, "measured"),
            ("left_out_percent", {"marker": "o", "color": BEST}, "the law, study left out (90% interval)"),
            ("paper_law_percent", {"marker": "x", "color": BASELINE}, "the paper's law"),
        ):
            axis.plot([line[key] for line in lines], order, ls="none", ms=5, label=label, **style)
        axis.axvline(0, color=INK, lw=0.6)
        axis.set_yticks(order, [str(line["id"]) for line in lines], fontsize=8)
        axis.set(xlabel="loss of b against a, % (negative: b is better)", ylim=(len(lines) - 0.5, -0.5))
        axis.legend(fontsize=8)
        axis.grid(False, axis="y")
        save(canvas, path)


if __name__ == "__main__":
    main()
