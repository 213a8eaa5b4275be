"""`scalesim predict`: the loss of a model by a saved law."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scalesim.cli.common import pairs, parse, print_json
from scalesim.cli.options import Contexts, Entries, File, Flag
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput
from scalesim.faces import plain

if TYPE_CHECKING:
    from scalesim.fitting import Fit

__all__ = ["EXAMPLES", "Options", "run"]

_WHOLE = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size", "context_length")
_REPEATS = ("--n-params", "--n-tokens", "--context", "--set")


EXAMPLES = (
    (
        "scalesim predict law.json --n-params 7B --n-tokens 140B",
        "one model, by a law from `scalesim fit --save`",
    ),
    (
        "scalesim predict law.json --n-params 1B 7B 70B --n-tokens 15T --level 0.5",
        "three, with 50% intervals",
    ),
    (
        "scalesim predict default --n-params 1B --set n_head=16 n_kv_head=2 head_dim=128 d_model=2048",
        "by the shipped law, which looks at heads",
    ),
    (
        "scalesim predict default --contrasts pairs.csv",
        "what the shipped law says of your own head ablations",
    ),
)

_Several = Annotated[tuple[str, ...], tyro.conf.arg(metavar="COUNT ...", help_behavior_hint="")]


@dataclass(frozen=True, kw_only=True)
class Question:
    """The law, and the models whose loss is asked."""

    law: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LAW")]
    """A file from `scalesim fit --save`, or the name of a shipped law."""
    n_params: _Several = ()
    """Parameters, such as 1.3B, by the law's own convention. Several give a prediction each."""
    n_tokens: _Several = ()
    """Training tokens, such as 26B: one, or as many as n_params."""
    context: Contexts = ()
    """Context lengths; K is 1024."""
    set: Entries = ()
    """Any other field the law needs: n_head=8."""
    contrasts: File = None
    """Pairs of models, in the columns of scalesim/data/head_contrasts.csv: how their losses differ. "shipped"
    are the published ones that the package ships, own-long those of our own small models."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    level: float = 0.9
    """Of the intervals."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True, kw_only=True)
class Options(Question, Output):
    """The loss that a saved law predicts, with intervals if the law has a bootstrap."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "predict", args, _REPEATS, EXAMPLES)
    use_compilation_cache()
    from scalesim.fitting import named_fit, predict
    from scalesim.units import parse_context, parse_count

    fit = named_fit(options.law)
    if options.contrasts is not None:
        return _contrasts(fit, options)
    x: dict[str, Any] = {}
    for name, value in pairs(options.set, "set").items():
        x[name] = [float(parse_count(value, name))]
        if name in _WHOLE and not x[name][0].is_integer():
            raise InvalidInput(f"{name} must be a whole number, but is {value}.")
    own: dict[str, list[Any]] = {
        "n_params": [parse_count(v, "n_params") for v in options.n_params],
        "n_tokens": [parse_count(v, "n_tokens") for v in options.n_tokens],
        "context_length": [float(parse_context(v)) for v in options.context],
    }
    for name, values in own.items():
        if values and name in x:
            raise InvalidInput(f"{name} is given twice: by --set, and by its own option.")
    x |= {name: values for name, values in own.items() if values}
    heads, kv_heads = x.get("n_head", [1])[0], x.get("n_kv_head", [1])[0]
    if "n_head" in x and heads % kv_heads:
        raise InvalidInput(f"n_kv_head must divide n_head = {heads:g}, but is {kv_heads:g}.")
    unused = [name for name in x if name not in fit.law.fields]
    if unused:
        raise InvalidInput(
            f"{type(fit.law).__name__} does not look at {unused[0]}; it looks at {', '.join(fit.law.fields)}."
        )
    count = max([1, *map(len, x.values())])
    wrong = [name for name, values in x.items() if len(values) not in (1, count)]
    if wrong:
        raise InvalidInput(f"{wrong[0]} has {len(x[wrong[0]])} values; 1 or {count} would do.")
    found = predict(fit, x, level=options.level)
    lines = []
    for i in range(count):
        line: dict[str, Any] = {name: values[i % len(values)] for name, values in x.items()}
        line["loss"] = float(found.loss[i])
        if fit.bootstrap is not None:
            line["loss_interval"] = [float(found.low[i]), float(found.high[i])]
            line["run_interval"] = [float(found.run_low[i]), float(found.run_high[i])]
        line["extrapolation"] = {name: float(v[i]) for name, v in found.beyond.items()}
        line["extrapolation_error"] = float(found.extrapolation_error[i])
        lines.append(line)
    if options.json:
        report = {
            "law": type(fit.law).__name__,
            "level": options.level,
            "predictions": lines,
            "notes": list(found.notes),
        }
        print_json(plain(report))
    else:
        _print(lines, options.level)
        for note in found.notes:
            print(note)
    return 0


def _contrasts(fit: Fit, options: Options) -> int:
    """Predict comparisons on a corpus that the law has not seen."""
    from scalesim.data import load_contrasts
    from scalesim.fitting import predict_contrasts

    point = {"n_params": options.n_params, "n_tokens": options.n_tokens, "context": options.context}
    extra = next((name for name, value in (*point.items(), ("set", options.set)) if value), None)
    if extra:
        raise InvalidInput(f"{extra} and contrasts exclude each other: the file tells what the models are.")
    table = load_contrasts(None if options.contrasts == "shipped" else options.contrasts)
    found = predict_contrasts(fit, table, level=options.level)
    for note in (*table.notes, *found.notes):
        print(f"scalesim: {note}", file=sys.stderr)
    if options.json:
        report = {"law": type(fit.law).__name__, "level": options.level, "contrasts": found.to_json()}
        print_json(plain(report))
        return 0
    from rich.table import Table

    from scalesim.report.console import TableConsole

    shown = Table("comparison", "measured", "predicted", f"{options.level:.0%} interval", "source", box=None)
    for line in found.to_json():
        interval = f"{line['low']:+.2f} .. {line['high']:+.2f}"
        numbers = (f"{line['measured']:+.2f}", f"{line['percent']:+.2f}", interval)
        shown.add_row(line["name"], *numbers, line["source"].split(",")[0])
    TableConsole().print("100 log(loss of b / loss of a), in percent, on a corpus that the law has not seen:")
    TableConsole().print(shown)
    return 0


def _print(lines: list[dict[str, Any]], level: float) -> None:
    from rich.table import Table

    from scalesim.report.console import TableConsole

    results = ("loss", "loss_interval", "run_interval", "extrapolation", "extrapolation_error")
    fields = [k for k in lines[0] if k not in results]
    table = Table(*fields, "loss", f"law {level:.0%}", f"a run {level:.0%}", "beyond the data", box=None)
    for line in lines:
        pairs = [line.get(k) for k in ("loss_interval", "run_interval")]
        beyond = [f"{k} {v:.3g}x" for k, v in line["extrapolation"].items() if v > 1]
        table.add_row(
            *(f"{line[k]:g}" for k in fields),
            f"{line['loss']:.4f}",
            *("" if p is None else f"{p[0]:.4f} .. {p[1]:.4f}" for p in pairs),
            ", ".join(beyond),
        )
    TableConsole().print(table)
