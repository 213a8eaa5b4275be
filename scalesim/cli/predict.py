"""`scalesim predict`: the loss of a model by a saved law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from scalesim.cli.common import parse, print_json
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput
from scalesim.faces import plain

__all__ = ["Options", "run"]

_REPEATS = ("--n-params", "--n-tokens", "--context", "--set")


@dataclass(frozen=True)
class Options:
    """The loss that a saved law predicts, with intervals if the law has a bootstrap."""

    law: tyro.conf.Positional[str]
    """A file from `scalesim fit --save`, or the name of a shipped law."""
    n_params: tuple[str, ...] = ()
    """Parameters, such as 1.3B, by the law's own convention. Several give a prediction each."""
    n_tokens: tuple[str, ...] = ()
    """Training tokens, such as 26B: one, or as many as n_params."""
    context: tuple[str, ...] = ()
    """Context lengths; K is 1024."""
    set: tuple[str, ...] = ()
    """Any other field the law needs: n_head=8."""
    level: float = 0.9
    """Of the intervals."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on standard output, and nothing else."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "predict", args, _REPEATS)
    use_compilation_cache()
    from scalesim.fitting import named_fit, predict
    from scalesim.units import parse_context, parse_count

    fit = named_fit(options.law)
    x: dict[str, Any] = {}
    for entry in options.set:
        name, equals, value = entry.partition("=")
        if not equals:
            raise InvalidInput(f"set {entry!r} is not NAME=VALUE.")
        x[name] = [float(parse_count(value, name))]
    if options.n_params:
        x["n_params"] = [parse_count(v, "n_params") for v in options.n_params]
    if options.n_tokens:
        x["n_tokens"] = [parse_count(v, "n_tokens") for v in options.n_tokens]
    if options.context:
        x["context_length"] = [float(parse_context(v)) for v in options.context]
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
        lines.append(line)
    if options.json:
        report = {"law": type(fit.law).__name__, "level": options.level, "predictions": lines}
        print_json(plain(report))
    else:
        _print(lines, options.level)
    return 0


def _print(lines: list[dict[str, Any]], level: float) -> None:
    from rich.console import Console
    from rich.table import Table

    fields = [k for k in lines[0] if k not in ("loss", "loss_interval", "run_interval", "extrapolation")]
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
    Console().print(table)
