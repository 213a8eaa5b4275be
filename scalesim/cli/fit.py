"""`scalesim fit`: a law from runs, with its uncertainty."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scalesim.cli.common import pairs, parse, print_json
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput
from scalesim.faces import plain
from scalesim.files import check_writable
from scalesim.schema import whole

if TYPE_CHECKING:
    from scalesim.fitting import Comparison, Fit

__all__ = ["Options", "run"]

_REPEATS = ("--compare", "--budget", "--fix", "--bound", "--column", "--unit", "--select", "--group", "--own")

BEST = "best"
RESAMPLES = 200
"""Of a law whose sizes for budgets are asked for, where --bootstrap does not say how many."""


@dataclass(frozen=True)
class Options:
    """A loss law from a table of runs, with its uncertainty."""

    runs: tyro.conf.Positional[str | None] = None
    """The table: .csv, .tsv, .parquet, .jsonl or .json, or the name paper or own (with --contrasts paper by
    default)."""
    law: str | None = None
    """chinchilla, powerofsum, kaplan, power, head, gemstones, ... (any of scalesim.laws; by default
    chinchilla, which sees sizes and tokens, and with --contrasts attention); or best: that of the base laws
    which predicts the largest runs best from the smaller ones. Heads that runs vary and the law does not see
    are said."""
    contrasts: Annotated[str | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """Pairs of models, in the columns of scalesim/data/head_contrasts.csv, as evidence beside the published
    ones and the runs."""
    drop_largest: int = 0
    """Leave out this many runs of the largest losses."""
    loss: Literal["huber", "squared"] = "huber"
    """How residuals count: Huber of log losses, or squares of losses in nats."""
    delta: float = 1e-3
    """The Huber threshold, as a fraction of the loss."""
    bootstrap: int = 0
    """Resamples for standard errors and intervals (0: from the curvature)."""
    kind: Literal["pairs", "cluster", "wild"] = "pairs"
    """Resample rows, whole groups, or signs of residuals."""
    seed: int = 0
    """Of the resamples."""
    resume: Annotated[str | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Keep finished resamples here, and go on from what it holds."""
    compare: tuple[str, ...] = ()
    """Other laws to set beside this one, by their error on runs left out; each with every count of
    parameters that the table has."""
    fix: tuple[str, ...] = ()
    """Coefficients held at a value: E=1.97."""
    bound: tuple[str, ...] = ()
    """Coefficients kept in a range: E=1.5:2.2."""
    own: tuple[str, ...] = ()
    """Coefficients that each group of runs has for itself."""
    group: tuple[str, ...] = ()
    """Columns that tell which runs belong together."""
    column: tuple[str, ...] = ()
    """What the table calls a field: n_tokens=tok_seen."""
    unit: tuple[str, ...] = ()
    """What a field is counted in: n_tokens=1e9, n_params=millions, flops=PF-days, loss=bits or perplexity; 1
    says that the numbers are plain and right."""
    select: tuple[str, ...] = ()
    """Use only the rows with this value: experiment=misfitting."""
    starts: int = 64
    """Starts to draw."""
    isoflop: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also find the size that each budget wants, by three approaches; --plot then draws the profiles."""
    budget: tuple[str, ...] = ()
    """FLOPs, such as 1e24, whose size and tokens to state, with intervals; --isoflop goes with it."""
    profile: str | None = None
    """A coefficient whose profile the figure shows (E, if the law has it)."""
    save: Annotated[str | None, tyro.conf.arg(metavar="LAW.json")] = None
    """Write the fitted law, for `scalesim predict` and `scalesim design --law`."""
    plot: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Draw the fit, its residuals and a profile."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on standard output, and nothing else."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "fit", args, _REPEATS)
    _check(options)
    use_compilation_cache()
    from scalesim.data import load_runs
    from scalesim.fitting import BASE_FORMS, Huber, Squared, compare, fit
    from scalesim.fitting.setup import the_law
    from scalesim.fitting.unseen import unseen_heads

    if options.runs is None and options.contrasts is None:
        raise InvalidInput("fit needs a table of runs (a file, paper or own), or --contrasts FILE.")
    runs = load_runs(
        options.runs or "paper",
        columns=pairs(options.column, "column") or None,
        units=pairs(options.unit, "unit") or None,
        group=list(options.group) or None,
        select=pairs(options.select, "select") or None,
        drop_largest=options.drop_largest,
    )
    for note in runs.notes:
        print(f"scalesim: {note}", file=sys.stderr)
    how: dict[str, Any] = {
        "noise": Huber(options.delta) if options.loss == "huber" else Squared(),
        "fixed": {k: _number(v, "fix") for k, v in pairs(options.fix, "fix").items()},
        "bounds": {k: _range(v) for k, v in pairs(options.bound, "bound").items()},
        "per_group": options.own,
        "starts": options.starts,
    }
    budgets = [_number(text, "budget") for text in options.budget]
    law = options.law or ("chinchilla" if options.contrasts is None else "attention")
    best, table = law.lower() == BEST, None
    if best or options.compare:
        table = compare([*(BASE_FORMS if best else (law,)), *options.compare], runs, **how)
    if table is not None and best:
        found = table.picked.fit
    elif options.contrasts is not None:
        found = _contrasted(law, runs, options, how)
    else:
        try:
            found = fit(law, runs, **how)
        except InvalidInput as error:
            told = _with_columns(error, options.runs or "")
            also = unseen_heads(the_law(law), runs)
            raise (InvalidInput(f"{told} {also}") if also else told) from None
    if options.bootstrap or budgets:
        found = _with_bootstrap(found, options)
    sizes = _isoflop(found, runs, budgets) if options.isoflop or budgets else {}
    unseen = unseen_heads(found.law, runs, options.group if options.own else ())
    if unseen:
        print(f"scalesim: {unseen}", file=sys.stderr)
    _tell_outliers(found)
    if options.plot:
        _plot(found, options)
    # The answer before the file: a disk that is full must not take it along.
    if options.json:
        print_json(_json(found, table, sizes, [unseen] if unseen else []))
    else:
        _print(found, table)
        for approach, answer in sizes.items():
            print(f"{approach}: {answer['said']}")
            for warning in answer.get("warnings", ()):
                print(f"  {warning}")
        _print_sizes(sizes)
    if options.save:
        found.save(options.save)
    return 0 if found.status in ("converged", "few_starts_agree") else 1


def _contrasted(law: str, runs: Any, options: Options, how: dict[str, Any]) -> Fit:
    """Fit a law to runs and to comparisons: the published ones and the user's."""
    from scalesim.data import load_contrasts
    from scalesim.fitting import fit_with_contrasts

    if options.compare or options.own:
        raise InvalidInput("contrasts go with neither compare nor own; leave these out.")
    table = load_contrasts(options.contrasts)
    for note in table.notes:
        print(f"scalesim: {note}", file=sys.stderr)
    given = {name: how[name] for name in ("fixed", "bounds", "starts")}
    return fit_with_contrasts(law, runs, load_contrasts().joined(table), **given)


def _check(options: Options) -> None:
    """Refuse options that would do nothing, and files that cannot be written, before the work."""
    plain = Options(runs=options.runs)
    resampled = bool(options.bootstrap or options.budget)
    needs = {"kind": "bootstrap", "seed": "bootstrap", "resume": "bootstrap", "profile": "plot"}
    for name, needed in needs.items():
        given = resampled if needed == "bootstrap" else options.plot is not None
        if getattr(options, name) != getattr(plain, name) and not given:
            raise InvalidInput(f"--{name} does nothing without --{needed}.")
    if options.loss == "squared" and options.delta != plain.delta:
        raise InvalidInput("--delta is the threshold of --loss huber: it does nothing with --loss squared.")
    whole(0, 1_000_000)(options.bootstrap, "bootstrap")
    whole(1, 100_000)(options.starts, "starts")
    whole(0, 1 << 32)(options.seed, "seed")
    for name, path in (("save", options.save), ("resume", options.resume), ("plot", options.plot)):
        if path is not None:
            check_writable(path, name)


def _with_columns(error: InvalidInput, source: str) -> InvalidInput:
    """Return an error about a field that the table lacks, with the file's columns and the option."""
    from scalesim.data.columns import listed
    from scalesim.data.tables import read_columns

    if "run table" not in str(error) or not os.path.exists(source):
        return error
    columns = listed(read_columns(source)[0])
    return InvalidInput(f"{error} --column FIELD=NAME says which of the file's columns it is: {columns}.")


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


def _tell_outliers(found: Fit) -> None:
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


def _with_bootstrap(found: Fit, options: Options) -> Fit:
    from scalesim.fitting.bootstrap import with_bootstrap
    from scalesim.interrupts import saying

    count, done = options.bootstrap or RESAMPLES, 0

    def kept() -> str:
        if options.resume is None:
            return "No resamples are kept: --resume FILE.npz would keep them."
        return (
            f"{done} of {count} resamples are kept in {options.resume}; the same command goes on from there."
        )

    with _progress("resamples", count) as show, saying(kept):

        def progress(n: int) -> None:
            nonlocal done
            done = n
            show(n)

        found = with_bootstrap(
            found,
            count,
            kind=options.kind,
            seed=options.seed,
            path=options.resume,
            progress=progress,
        )
    spread = found.bootstrap
    if spread is not None and len(spread) < count:
        print(
            f"scalesim: {len(spread)} of {count} resamples are used: the others had no finite fit.",
            file=sys.stderr,
        )
    return found


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error, if a person watches."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{option} {text!r} is not a number.") from None


def _range(text: str) -> tuple[float, float]:
    low, colon, high = text.partition(":")
    if not colon:
        raise InvalidInput(f"bound {text!r} is not LOW:HIGH.")
    return _number(low, "bound"), _number(high, "bound")


def _isoflop(found: Fit, runs: Any, budgets: list[float]) -> dict[str, dict[str, Any]]:
    """Return what each approach says, and the bias of the second on this grid under the fitted law."""
    from scalesim.fitting import approach_two_bias, isoflop
    from scalesim.fitting.isoflop import solvable

    answers: dict[str, dict[str, Any]] = {}
    lawful = solvable(found.law)
    approaches: tuple[Literal[1, 2, 3], ...] = (1, 2, 3) if lawful else (1, 2)
    for approach in approaches:
        try:
            answer = isoflop(runs, approach, fit=found if approach == 3 else None)
        except InvalidInput as error:
            answers[f"approach {approach}"] = {"said": str(error)}
            continue
        said = f"n_params = {answer.scale:.4g} C^{answer.exponent:.4f}"
        if approach < 3:
            said += f", through {len(answer.budgets)} optima"
        entry = {"exponent": answer.exponent, "scale": answer.scale, "warnings": list(answer.warnings)}
        if approach == 2 and lawful:
            with contextlib.suppress(InvalidInput):  # under this law no budget may have an inner minimum
                bias = approach_two_bias(runs, found.law)
                said += f"; on this grid it is off by {bias['exponent_bias']:+.4f} if the fitted law is true"
                entry["bias"] = bias
        if budgets:
            sized = answer.at(budgets)
            entry["budgets"] = [
                {
                    "flops": sized.flops[i],
                    "n_params": sized.n_params[i],
                    "n_params_interval": [sized.n_params_low[i], sized.n_params_high[i]],
                    "n_tokens": sized.n_tokens[i],
                    "n_tokens_interval": [sized.n_tokens_low[i], sized.n_tokens_high[i]],
                    "extrapolation": sized.beyond[i],
                }
                for i in range(len(budgets))
            ]
        answers[f"approach {approach}"] = {"said": said, **entry}
    return answers


def _print_sizes(sizes: dict[str, Any]) -> None:
    """Print what each approach wants of each budget."""
    from rich.console import Console
    from rich.table import Table

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
    Console().print(shown)


def _plot(found: Fit, options: Options) -> None:
    from scalesim.fitting import isoflop, profile
    from scalesim.report.fit_figures import plot_fit, plot_isoflop

    if options.isoflop or options.budget:
        plot_isoflop(isoflop(found.setup.runs), options.plot or "")
        return
    name = options.profile or ("E" if "E" in found.coefficients else None)
    held = {s.name for s in found.setup.layout.slots if not s.free or s.size}
    drawn = profile(found, name) if name and name not in held else None
    plot_fit(found, options.plot or "", drawn)


def _json(found: Fit, table: Comparison | None, sizes: dict[str, Any], notes: list[str]) -> dict[str, Any]:
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


def _print(found: Fit, table: Comparison | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from scalesim.fitting.diagnosis import identification

    console = Console()
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
