"""What `scalesim fit` says of a law: tables for people, JSON for programs, and the rows far from it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scalesim.faces import plain

if TYPE_CHECKING:
    from scalesim.fitting import Comparison, Fit

__all__ = ["fit_json", "outliers", "print_fit", "print_sizes", "tell_outliers"]


def outliers(found: Fit) -> list[dict[str, float]]:
    """Return the rows that the law misses by far more than all others: runs that diverged, as a rule.

    A row is one where |log residual| is above 0.1 and above 10 times the median's normal equivalent.
    """
    import numpy as np

    setup = found.setup
    if setup is None or getattr(setup, "runs", None) is None or len(setup.runs) < 8:
        return []
    losses = setup.runs.loss
    predicted = losses + found.residuals()
    with np.errstate(all="ignore"):
        missed = np.abs(np.log(predicted / losses))
    spread = 1.4826 * float(np.median(missed))
    rows = np.flatnonzero((missed > 0.1) & (missed > 10 * spread))
    if len(rows) > 0.2 * len(losses):
        return []
    return [{"row": int(i), "loss": float(losses[i]), "law": float(predicted[i])} for i in rows]


def tell_outliers(found: Fit) -> None:
    """Name the outliers on standard error."""
    rows = outliers(found)
    if rows:
        shown = ", ".join(
            f"row {r['row']}: {r['loss']:.4g} where the law says {r['law']:.4g}" for r in rows[:5]
        )
        print(
            f"scalesim: {len(rows)} rows are far from the law, as of runs that diverged ({shown}"
            f"{', ...' if len(rows) > 5 else ''}).",
            file=sys.stderr,
        )


def fit_json(
    found: Fit, table: Comparison | None, sizes: dict[str, Any], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a fit, laws compared with it, sizes for budgets and notes, as `--json` prints them."""
    from scalesim.fitting.diagnosis import identification

    report = {**found.to_dict(), "outliers": outliers(found)}
    report["notes"] = [*getattr(found.setup.runs, "notes", ()), *notes]
    if report["bootstrap"] is not None:
        for bulky in ("samples", "objectives"):
            del report["bootstrap"][bulky]
    if table is not None:
        compared = table.to_dict()
        report["comparison"], report["picked"] = compared["scores"], compared["picked"]
        report["held_out"], report["rollout"] = table.held_out_by, table.rollout_by
        report["comparison_notes"] = compared["notes"]
    report["identification"] = list(identification(found))
    if sizes:
        report["isoflop"] = sizes
    return plain(report)


def print_fit(found: Fit, table: Comparison | None) -> None:
    """Print coefficients with their uncertainty, what the data tell and do not, and laws compared."""
    from rich.table import Table

    from scalesim.fitting.diagnosis import identification
    from scalesim.report.console import TableConsole

    console = TableConsole()
    shown = Table("coefficient", "value", "standard error", "90% interval", box=None, header_style="bold")
    intervals, errors = found.intervals, found.standard_errors
    for name, value in found.coefficients.items():
        each = value if isinstance(value, list) else [value]
        for i, v in enumerate(each):
            label = f"{name}[{i}]" if isinstance(value, list) else name
            error, interval = _of(errors, name, label, i), _of_interval(intervals, name, label, i)
            shown.add_row(
                label,
                f"{v:.6g}",
                "held" if error is None else f"{error:.2g}",
                "" if interval is None else f"{interval[0]:.4g} .. {interval[1]:.4g}",
            )
    console.print(shown)
    console.print(f"objective {found.objective:.10g}, rms {found.rms:.4g} nats. {found.message}")
    if found.bootstrap is not None:
        console.print(f"Errors from {len(found.bootstrap)} resamples ({found.bootstrap.kind}).")
    else:
        console.print("Errors from the curvature, which are rough; --bootstrap 1000 measures them.")
    for sentence in identification(found):
        console.print(sentence)
    beyond = found.rollout
    if beyond is not None and beyond.folds:
        console.print(
            f"Fits of the smaller runs miss the larger by {beyond.nats:.4f} nats rms ({len(beyond.folds)} "
            f"cuts); a prediction d logs beyond the data carries {beyond.growth:.2%} sqrt(d) of its loss."
        )
    if table is not None:
        _print_comparison(console, table)


def _print_comparison(console: Any, table: Comparison) -> None:
    from rich.table import Table

    several = any(score.convention for score in table.scores)
    heads = ("law", *(["n_params is"] if several else []), "k", "rms", "held out", "rollout", "AIC")
    lines = Table(*heads, "worse by (90%)", box=None)
    for s in table.scores:
        low, _, high = s.worse_by
        worse = "" if not any(s.worse_by) else f"{low:+.0%} .. {high:+.0%}"
        numbers = (f"{v:.4f}" for v in (s.rms, s.held_out, s.rollout))
        convention = [s.convention] if several else []
        lines.add_row(s.name, *convention, str(s.n_coefficients), *numbers, f"{s.aic:.1f}", worse)
    console.print(f"\nHeld out: {table.held_out_by}. Rollout: {table.rollout_by}. Errors in nats, rms.")
    console.print(lines)
    picked = table.picked
    of = f" with {picked.convention}" if picked.convention else ""
    console.print(f"To extrapolate: {picked.name}{of}, by the rollout.")
    for note in table.notes:
        console.print(note)


def _of(errors: dict[str, Any], name: str, label: str, i: int) -> float | None:
    value = errors.get(label, errors.get(name))
    value = value[i] if isinstance(value, list) else value
    return None if value is None or value == 0 else value


def _of_interval(intervals: dict[str, Any], name: str, label: str, i: int) -> list[float] | None:
    value = intervals.get(label, intervals.get(name))
    if value is None:
        return None
    low, high = value
    pair = [low[i], high[i]] if isinstance(low, list) else [low, high]
    return None if pair[0] == pair[1] else pair


def print_sizes(sizes: dict[str, Any]) -> None:
    """Print what each approach wants of each budget."""
    from rich.table import Table

    from scalesim.report.console import TableConsole
    from scalesim.units import format_count

    lines = [(name, line) for name, answer in sizes.items() for line in answer.get("budgets", ())]
    if not lines:
        return
    shown = Table("FLOPs", "approach", "n_params", "90%", "n_tokens", "90%", "beyond", box=None)
    for name, line in sorted(lines, key=lambda pair: pair[1]["flops"]):
        ranged = []
        for k in ("n_params", "n_tokens"):
            low, high = line[f"{k}_interval"]
            ranged += [format_count(line[k]), f"{format_count(low, 2)} .. {format_count(high, 2)}"]
        beyond = f"{line['extrapolation']:.3g}x" if line["extrapolation"] > 1 else ""
        shown.add_row(f"{line['flops']:.3g}", name.removeprefix("approach "), *ranged, beyond)
    TableConsole().print(shown)
