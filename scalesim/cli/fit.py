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
from scalesim.cli.fit_said import fit_json, print_fit, print_sizes, tell_outliers
from scalesim.cli.options import Entries, File, Flag, Text, Words
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput
from scalesim.files import check_writable
from scalesim.schema import whole

if TYPE_CHECKING:
    from scalesim.fitting import Fit

__all__ = ["EXAMPLES", "Options", "run"]

_REPEATS = ("--compare", "--budget", "--fix", "--bound", "--column", "--unit", "--select", "--group", "--own")

BEST = "best"
RESAMPLES = 200
"""Of a law whose sizes for budgets are asked for, where --bootstrap does not say how many."""


EXAMPLES = (
    (
        "scalesim fit runs.csv --law best --bootstrap 4000",
        "the base law that predicts best, and how sure it is",
    ),
    ("scalesim fit runs.csv --law chinchilla --save law.json --plot fit.png", "a law, kept, and its figure"),
    ("scalesim fit runs.csv --column n_tokens=tok_seen --unit n_tokens=1e9", "columns and units of your own"),
    ("scalesim fit runs.csv --isoflop --budget 1e24", "the size and the tokens for a budget, with intervals"),
    (
        "scalesim fit runs.csv --law head --fix E=1.97 --bound b=0.1:0.5",
        "coefficients held, or kept in a range",
    ),
    ("scalesim fit --contrasts pairs.csv --save mine.json", "your head ablations beside the published ones"),
)


@dataclass(frozen=True)
class Evidence:
    """What the law is fitted to."""

    runs: Annotated[File, tyro.conf.Positional, tyro.conf.arg(metavar="[FILE]")] = None
    """The table: .csv, .tsv, .parquet, .jsonl or .json, or the name paper, own or own-long (with
    --contrasts paper by default)."""
    contrasts: File = None
    """Pairs of models, in the columns of scalesim/data/head_contrasts.csv, as evidence beside the published
    ones and the runs."""
    column: Entries = ()
    """What the table calls a field: n_tokens=tok_seen."""
    unit: Entries = ()
    """What a field is counted in: n_tokens=1e9, n_params=millions, flops=PF-days, loss=bits or perplexity; 1
    says that the numbers are plain and right."""
    select: Entries = ()
    """Use only the rows with this value: experiment=misfitting."""
    drop_largest: int = 0
    """Leave out this many runs of the largest losses."""


@dataclass(frozen=True)
class Law:
    """Which law, and how it is fitted."""

    law: Text = None
    """chinchilla, powerofsum, kaplan, power, head, gemstones, ... (any of scalesim.laws; by default
    chinchilla, which sees sizes and tokens, and with --contrasts attention); or best: that of the base laws
    which predicts the largest runs best from the smaller ones. Heads that runs vary and the law does not see
    are said."""
    fix: Entries = ()
    """Coefficients held at a value: E=1.97."""
    bound: Entries = ()
    """Coefficients kept in a range: E=1.5:2.2."""
    own: Words = ()
    """Coefficients that each group of runs has for itself."""
    group: Words = ()
    """Columns that tell which runs belong together."""
    loss: Literal["huber", "squared"] = "huber"
    """How residuals count: Huber of log losses, or squares of losses in nats."""
    delta: float = 1e-3
    """The Huber threshold, as a fraction of the loss."""
    starts: int = 64
    """Starts to draw."""


@dataclass(frozen=True)
class Answer:
    """How sure, and what else is answered."""

    bootstrap: int = 0
    """Resamples for standard errors and intervals (0: from the curvature)."""
    kind: Literal["pairs", "cluster", "wild"] = "pairs"
    """Resample rows, whole groups, or signs of residuals."""
    seed: int = 0
    """Of the resamples."""
    resume: File = None
    """Keep finished resamples here, and go on from what it holds."""
    compare: Words = ()
    """Other laws to set beside this one, by their error on runs left out; each with every count of
    parameters that the table has."""
    isoflop: Flag = False
    """Also find the size that each budget wants, by three approaches; --plot then draws the profiles."""
    budget: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FLOPS ...", help_behavior_hint="")] = ()
    """FLOPs, such as 1e24, whose size and tokens to state, with intervals; --isoflop goes with it."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    save: File = None
    """Write the fitted law, for `scalesim predict` and `scalesim design --law`."""
    profile: Text = None
    """A coefficient whose profile the figure shows (E, if the law has it)."""
    plot: File = None
    """Draw the fit, its residuals and a profile."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True)
class Options(Evidence, Law, Answer, Output):
    """A loss law from a table of runs, with its uncertainty."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "fit", args, _REPEATS, EXAMPLES)
    _check(options)
    use_compilation_cache()
    from scalesim.data import load_runs
    from scalesim.fitting import BASE_FORMS, Huber, Squared, compare, fit
    from scalesim.fitting.setup import the_law
    from scalesim.fitting.unseen import unseen_heads

    if options.runs is None and options.contrasts is None:
        raise InvalidInput("fit needs a table of runs (a file, paper, own or own-long), or --contrasts FILE.")
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
            message = _with_columns(error, options.runs or "")
            also = unseen_heads(the_law(law), runs)
            raise (InvalidInput(f"{message} {also}") if also else message) from None
    if options.bootstrap or budgets:
        found = _with_bootstrap(found, options)
    sizes = _isoflop(found, runs, budgets) if options.isoflop or budgets else {}
    unseen = unseen_heads(found.law, runs, options.group if options.own else ())
    if unseen:
        print(f"scalesim: {unseen}", file=sys.stderr)
    tell_outliers(found)
    if options.plot:
        _plot(found, options)
    # The answer before the file: a disk that is full must not take it along.
    if options.json:
        print_json(fit_json(found, table, sizes, [unseen] if unseen else []))
    else:
        from scalesim.report.console import broken

        print_fit(found, table)
        for approach, answer in sizes.items():
            print(broken(f"{approach}: {answer['said']}"))
            for warning in answer.get("warnings", ()):
                print(broken(f"  {warning}"))
        print_sizes(sizes)
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
    from scalesim.fitting.closed_form import solvable

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
    if drawn is not None and drawn.below:
        print(f"scalesim: {drawn.below}", file=sys.stderr)
