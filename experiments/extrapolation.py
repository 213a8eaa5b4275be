"""Small runs fitted, large ones predicted: which form of base law extrapolates, and do the intervals hold?

    python -m experiments.extrapolation

Writes results/extrapolation.csv (a row for each set, way of counting parameters, form and cut),
extrapolation_sets.csv (a row for each set) and extrapolation.png. The runs are not part of the project (see
public_data.py); a set that is not there is left out and said to be.

The rule by which intervals widen beyond the data, and the order of the forms, were chosen on the sets marked
"chosen on" alone; those marked "judged on" took no part in it. Beside it stands the plainer rule, widening by
the error of the largest runs left out times the log distance (`Largest`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, print_rows, write_csv
from experiments.public_data import public_runs
from scalesim.data.conventions import conventions
from scalesim.fitting import BASE_FORMS, Fit
from scalesim.fitting.rollout import Rollout, best_rollout
from scalesim.laws import PowerLaw
from scalesim.report.figure import BASELINE, BEST, FAINT, INK, figure, save

SHARES = (0.4, 0.55, 0.7, 0.85)
"""Of the runs, by training compute: what a cut keeps."""
RESAMPLES = 200
FORMS = dict(zip(("PowerOfSum", "Chinchilla", "Kaplan + E"), BASE_FORMS, strict=True))
ROLES = ("chosen on", "judged on")
RULES = ("", " without", " largest")
"""How intervals widen beyond the runs: ours, not at all, by `Largest`; what a column's name ends in."""
IN_SIZE = {"PowerLaw": PowerLaw(a=1e8, b=0.3, E=1.5)}
Row = dict[str, Any]


class Largest(Rollout):
    """The rule beside ours: the rms error of the largest cut, times the log distance."""

    def spread(self, x: Mapping[str, Any]) -> np.ndarray:
        """Return rms of the largest cut * d."""
        return (self.folds[-1].rms if self.folds else 0.0) * self.distance(x)


@dataclass(frozen=True)
class Set:
    """Public runs: how they are read, whether they took part in choosing, and the laws that they can tell."""

    name: str
    read: Callable[[Path], ss.RunTable]
    judged: bool
    family: str = ""
    laws: Any = None


def _of_context(length: int) -> Callable[[Path], ss.RunTable]:
    def read(folder: Path) -> ss.RunTable:
        runs = ss.load_runs(folder / "llama_context/llama_isoflop_2k_8k.csv")
        runs = runs.take((runs["context_length"] == length) & (runs.loss < 5))
        return _by_flops(replace(runs, group=None), runs["flops"])

    return read


def _by_flops(runs: ss.RunTable, flops: Any) -> ss.RunTable:
    """Add the count of parameters that FLOPs imply, FLOPs / (6 tokens), attention's among them."""
    return runs.with_columns(n_params_by_flops=flops / (6 * runs["n_tokens"]))


def _gemstones(folder: Path) -> ss.RunTable:
    """Return about two checkpoints an octave of each run, from 10B tokens on."""
    runs = ss.load_runs(folder / "gemstones/gemstones_hot.csv")
    kept = []
    for name in np.unique(runs.group):
        rows = np.flatnonzero(runs.group == name)
        tokens = runs["n_tokens"][rows]
        wanted = 1e10 * 2 ** (np.arange(12) / 2)
        kept += [rows[np.abs(tokens - w).argmin()] for w in wanted if w <= tokens.max() + 1e9]
    return runs.take(np.unique(kept))


def _ladder(loss: str) -> Callable[[Path], ss.RunTable]:
    def read(folder: Path) -> ss.RunTable:
        names = {"n_params": "n_params_nonembed_olmo", "n_tokens": "tokens", "loss": f"loss_{loss}"}
        path = folder / "olmo_ladder/ladder_le_1p3B.csv"
        runs = ss.load_runs(path, columns=names)
        per_token = ss.load_runs(path, columns={**names, "n_head": "flops_per_token_fwdbwd"})["n_head"]
        return _by_flops(runs, per_token * runs["n_tokens"])

    return read


def _steplaw(loss: str) -> Callable[[Path], ss.RunTable]:
    names = {"n_params": "n_params_nonembed", "n_tokens": "tokens", "loss": loss}
    return lambda folder: ss.load_runs(folder / "steplaw/steplaw_dense_best_per_ND.csv", columns=names)


def _gadre(folder: Path) -> ss.RunTable:
    """Return the best of the head counts of each shape; all have 20 tokens a parameter, so size tells all."""
    runs = ss.load_runs(folder / "gadre_heads/grid_heads.csv")
    labels = [f"{g}:{t:g}" for g, t in zip(runs.group, runs["n_tokens"], strict=True)]
    best = [
        min(np.flatnonzero(np.array(labels) == g), key=lambda i: runs.loss[i]) for g in sorted(set(labels))
    ]
    runs = replace(runs.take(np.array(best)), group=None)
    vocabulary = 50432
    return runs.with_columns(n_params_nonembed=runs["n_params"] - 2 * vocabulary * runs["d_model"])


def _isoflops(experiment: str) -> Callable[[Path], ss.RunTable]:
    return lambda folder: replace(
        ss.load_runs(folder / "isoflops/isoflops.csv", select={"experiment": experiment}), group=None
    )


def _oellm(folder: Path) -> ss.RunTable:
    runs = ss.load_runs(_table(folder / "../evidence/oellm_best_hp.csv"))
    # Two optima are artefacts of smoothing (learning rates of 2.5e-5 and 1.2e-2).
    odd = (runs["n_params"] > 1.7e9) & np.isin(runs["n_tokens"], (1.2e11, 2e11))
    return runs.take(~odd)


def _marin(folder: Path) -> ss.RunTable:
    """Return the best mixture of experts of each budget: a law in compute alone, which stands as n_params."""
    table = _table(folder / "../evidence/marin_moe_isoflop_v16.csv")
    return ss.RunTable({"n_params": table["flops"]}, table["paloma_macro_loss"], source="Marin MoE IsoFLOPs")


def _table(path: Path) -> dict[str, np.ndarray]:
    import polars as pl

    frame = pl.read_csv(path, comment_prefix="#")
    return {name: frame[name].to_numpy() for name in frame.columns}


SETS = (
    Set(
        "Chinchilla",
        lambda folder: ss.load_runs(folder / "chinchilla/svg_extracted_data.csv", drop_largest=5),
        False,
    ),
    Set("Chinchilla, read again", _isoflops("ml_scalefit__massivetext__chinchilla"), False),
    Set("Gemstones", _gemstones, False),
    Set("Llama IsoFLOP, T 2048", _of_context(2048), False),
    Set("Llama IsoFLOP, T 8192", _of_context(8192), False),
    Set("OLMo ladder, C4", _ladder("c4_en"), False, "OLMo ladder"),
    Set("OLMo ladder, Pile", _ladder("pile"), False, "OLMo ladder"),
    Set("OLMo ladder, Wikitext", _ladder("wikitext_103"), False, "OLMo ladder"),
    Set("OLMo ladder, Stack", _ladder("dolma_stack"), False, "OLMo ladder"),
    Set("Llama 3", _isoflops("llama_3__raw_loss"), True),
    Set("Step Law", _steplaw("loss"), True, "Step Law"),
    Set("Step Law, smoothed", _steplaw("smooth_loss"), True, "Step Law"),
    Set("OpenEuroLLM", _oellm, True),
    Set("Gadre", _gadre, True, laws=IN_SIZE),
    Set("Marin MoE", _marin, True, laws=IN_SIZE),
)


def cuts(runs: ss.RunTable, least: int) -> Iterator[np.ndarray]:
    """Yield which runs each cut keeps: those of least compute, at least `least`."""
    size = runs["n_params"] * (runs["n_tokens"] if "n_tokens" in runs.columns else 1.0)
    seen: list[int] = []
    for share in SHARES:
        kept = size <= np.quantile(size, share, method="lower") * 1.02
        if kept.sum() >= least and not kept.all() and int(kept.sum()) not in seen:
            seen.append(int(kept.sum()))
            yield kept


def cases(which: Set, runs: ss.RunTable) -> list[Row]:
    """Fit each form under each count of parameters to the small runs of each cut, and predict the others."""
    found = []
    for form, law in (which.laws or FORMS).items():
        for convention, table in conventions(runs).items():
            # One more run than coefficients, and two to leave out of the fits of fewer still.
            least = len(ss.coefficients(law)) + (3 if len(runs) > 6 else 1)
            for at, kept in enumerate(cuts(table, least)):
                fitted = ss.fit(law, table.take(kept))
                kind: Any = "pairs" if table.group is None else "cluster"
                fitted = ss.with_bootstrap(fitted, RESAMPLES, kind=kind)
                found.append(
                    {
                        "set": which.name,
                        "role": "judged on" if which.judged else "chosen on",
                        "n_params is": convention,
                        "form": form,
                        "cut": at,
                        **outcome(fitted, table, kept),
                    }
                )
    return found


def outcome(fitted: Fit, table: ss.RunTable, kept: np.ndarray) -> Row:
    """Return the errors on the runs that were not kept, and whether the intervals held them."""
    large = table.take(~kept)
    x = {name: large[name] for name in fitted.law.fields}
    rolled = fitted.rollout
    assert rolled is not None
    largest = Largest(**{f.name: getattr(rolled, f.name) for f in fields(rolled)})
    compute = large["n_params"] * (6 * large["n_tokens"] if "n_tokens" in large.columns else 1.0)
    found: Row = {}
    for rule, known in zip(RULES, (rolled, None, largest), strict=True):
        said = ss.predict(replace(fitted, rollout=known), x)
        held = (said.run_low <= large.loss) & (large.loss <= said.run_high)
        own = {
            "run coverage": float(np.mean(held)),
            "run width %": 100 * float(np.mean((said.run_high - said.run_low) / said.loss)),
            **in_law(said, large.loss, compute),
        }
        found |= {f"{name}{rule}": value for name, value in own.items()}
    error = np.abs(said.loss / large.loss - 1)
    return {
        "kept": int(kept.sum()),
        "held_out": len(large),
        "beyond": float(np.exp(rolled.distance(x).max())),
        "mean_error_percent": 100 * float(np.mean(error)),
        "rollout": rolled,
        "rollout_nats": rolled.nats,
        "growth_percent": 100 * rolled.growth,
        **found,
        "status": fitted.status,
    }


def in_law(said: ss.Prediction, loss: np.ndarray, compute: np.ndarray) -> Row:
    """Return how often the law's interval holds the mean of an octave of compute's runs, and its width, %.

    Single runs scatter; their mean over an octave is what the law is about, as nearly as runs can tell. Two
    means are told apart, held or not (1 or 0): that of all the large runs, and that of the last octave.
    """
    octave = np.round(np.log2(compute))

    def holds(rows: np.ndarray) -> float:
        return float(np.mean(said.low[rows]) <= np.mean(loss[rows]) <= np.mean(said.high[rows]))

    by_octave = [holds(octave == one) for one in np.unique(octave)]
    return {
        "law coverage": float(np.mean(by_octave)),
        "law width %": 100 * float(np.mean((said.high - said.low) / said.loss)),
        "mean held": holds(np.ones(len(loss), bool)),
        "last held": by_octave[-1],
    }


def cut_by_cut(rows: list[Row]) -> dict[int, list[Row]]:
    """Return the rows of each cut."""
    return {cut: [row for row in rows if row["cut"] == cut] for cut in sorted({row["cut"] for row in rows})}


def picked_rows(rows: list[Row]) -> list[Row]:
    """Return, for each cut, the form and the count that the tool takes without looking."""
    return [own[best_rollout([row["rollout"] for row in own])] for own in cut_by_cut(rows).values()]


def summary(which: Set, rows: list[Row]) -> Row:
    """Return a set's line: errors by form, of the pick and of the best in hindsight; coverage."""
    by_cut, picked = cut_by_cut(rows), picked_rows(rows)
    best = [min(own, key=lambda row: row["mean_error_percent"]) for own in by_cut.values()]

    def mean(of: list[Row], name: str) -> float:
        return float(np.mean([row[name] for row in of])) if of else float("nan")

    errors = {form: mean([r for r in rows if r["form"] == form], "mean_error_percent") for form in FORMS}
    if which.laws:
        errors = {"PowerLaw": mean(rows, "mean_error_percent")}
    return {
        "set": which.name,
        "role": rows[0]["role"],
        "cuts": len(by_cut),
        "beyond": max(row["beyond"] for row in rows),
        **{f"{form} error %": value for form, value in errors.items()},
        "picked error %": mean(picked, "mean_error_percent"),
        "best error %": mean(best, "mean_error_percent"),
        "picked": " / ".join(dict.fromkeys(row["form"] for row in picked)),
        "picked count": " / ".join(dict.fromkeys(row["n_params is"] for row in picked)),
        **{
            f"{what}{name}": mean(of, name)
            for what, of in (("", rows), ("picked ", picked))
            for name in rows[0]
            if name.startswith(("run ", "law ", "mean held", "last "))
        },
    }


def averaged(sets: list[Row]) -> list[Row]:
    """Return the mean over sets of each role; sets of one family of runs count as one."""
    families = {which.name: which.family or which.name for which in SETS}
    lines = []
    for role in ROLES:
        own = [row for row in sets if row["role"] == role and row["set"] != "Marin MoE"]
        names = [name for name, value in sets[0].items() if isinstance(value, float) and name != "beyond"]
        line: Row = {"set": f"mean, {role}", "role": role}
        for name in names:
            by_family: dict[str, list[float]] = {}
            for row in own:
                # Errors of the three forms are averaged over the sets that have all three.
                comparable = "error" not in name or next(iter(FORMS)) + " error %" in row
                if comparable and np.isfinite(row.get(name, np.nan)):
                    by_family.setdefault(families[row["set"]], []).append(row[name])
            if by_family:
                line[name] = float(np.mean([np.mean(values) for values in by_family.values()]))
        lines.append(line)
    return lines


def draw(path: Path, sets: list[Row]) -> None:
    """Draw each set's errors by form, and the coverage of its intervals with and without the widening."""
    at = np.arange(len(sets))
    names = [f"{row['set']}{'' if row['role'] == 'chosen on' else ' *'}" for row in sets]
    with figure(1, 2, (11.0, 5.6), sharey=True) as (canvas, axes):
        marks = {"PowerOfSum": ("o", BEST), "Chinchilla": ("s", BASELINE), "Kaplan + E": ("^", FAINT)}
        for form, (mark, colour) in marks.items():
            errors = [row.get(f"{form} error %", np.nan) for row in sets]
            axes[0].plot(errors, at, mark, color=colour, ms=7, mec=INK, mew=0.5, label=form)
        axes[0].plot(
            [row["picked error %"] for row in sets], at, "|", color=INK, ms=16, mew=2, label="picked blind"
        )
        axes[0].set(
            xlabel="mean error on the large runs, %", xscale="log", title="small runs predict large ones"
        )
        axes[0].legend(fontsize=8)
        axes[0].set_yticks(at, names)
        axes[0].set_ylim(len(sets) - 0.5, -0.5)
        before = [100 * row["picked run coverage without"] for row in sets]
        after = [100 * row["picked run coverage"] for row in sets]
        for y, (one, other) in enumerate(zip(before, after, strict=True)):
            axes[1].plot([one, other], [y, y], color=FAINT, lw=1.2, zorder=1)
        axes[1].plot(before, at, "o", color=BASELINE, ms=6, label="the bootstrap alone")
        axes[1].plot(after, at, "o", color=BEST, ms=7, label="and the rollout's growth")
        axes[1].axvline(90, color=INK, lw=0.8, ls="--")
        axes[1].set(
            xlabel="large runs inside the 90% interval, %", xlim=(0, 103), title="* judged on, not chosen on"
        )
        axes[1].legend(fontsize=8, loc="lower left")
        for axis in axes:
            axis.grid(False, axis="y")
        save(canvas, path)


def main() -> None:
    folder = public_runs()
    rows: list[Row] = []
    sets: list[Row] = []
    picks: list[Row] = []
    for which in SETS:
        try:
            runs = which.read(folder)
        except (ss.InvalidInput, FileNotFoundError) as error:
            print(f"{which.name}: absent ({error})")
            continue
        own = cases(which, runs)
        rows += own
        sets.append(summary(which, own))
        picks += picked_rows(own)
        print(which.name, len(runs), "runs:", {k: v for k, v in sets[-1].items() if "error" in k}, flush=True)
    write_csv(RESULTS / "extrapolation.csv", [{k: v for k, v in r.items() if k != "rollout"} for r in rows])
    lines = sets + averaged(sets)
    write_csv(RESULTS / "extrapolation_sets.csv", lines)
    errors = [*(f"{form} error %" for form in FORMS), "picked error %", "best error %", "picked"]
    print_rows("Mean error on the large runs, %", lines, ["set", "role", "cuts", "beyond", *errors])
    for name in ("run coverage", "run width %", "law coverage", "law width %", "mean held", "last held"):
        columns = [f"{of}{name}{rule}" for of in ("picked ", "") for rule in RULES]
        print_rows(f"90% intervals: {name}", lines, ["set", "role", *columns])
    for what, own in (("picks", picks), ("all forms and counts", rows)):
        for name in ("mean held", "last held"):
            for rule in RULES:
                held = [sum(row[name + rule] for row in own if row["role"] == role) for role in ROLES]
                print(f"{what}, {name}{rule}: {dict(zip(ROLES, held, strict=True))}")
        print(
            f"of {dict(zip(ROLES, [sum(row['role'] == role for row in own) for role in ROLES], strict=True))}"
        )
    draw(RESULTS / "extrapolation.png", sets)


if __name__ == "__main__":
    main()
