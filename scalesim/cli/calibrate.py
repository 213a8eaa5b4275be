"""`scalesim calibrate`: hardware adjusted to a few timings of one's own, or this machine measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scalesim.cli.common import bar, parse, print_json
from scalesim.cli.given import given_shape
from scalesim.cli.options import File, Flag, Text
from scalesim.compilation import use_compilation_cache
from scalesim.data.columns import listed
from scalesim.data.delimited import read_table
from scalesim.errors import InvalidInput, choose
from scalesim.files import check_writable

if TYPE_CHECKING:
    from scalesim.cost.calibration import Timing
    from scalesim.hardware import Hardware

__all__ = ["EXAMPLES", "Options", "read_timings", "run"]

_NEEDED = ("model", "context", "seconds")
_FAR = 20.0  # times faster or slower than predicted, which no engine is
_ALIASES = dict.fromkeys(("ms", "milliseconds", "time_ms", "latency_ms", "seconds (ms)"), "milliseconds")
_OPTIONAL = ("batch", "generated", "what", "tensor", "pipeline", "expert", "weight_bits", "kv_bits")


EXAMPLES = (
    (
        "scalesim calibrate timings.csv --hardware h100-sxm --out mine.json",
        "constants from your engine's times",
    ),
    ("scalesim cost llama-3-8b --hardware mine.json", "and a model's cost with them"),
    (
        "scalesim calibrate --kernels kernels.parquet --hardware h100-sxm",
        "how far off the shipped constants are",
    ),
    ("scalesim calibrate --measure --out here.json", "this machine's own kernels timed: a minute or two"),
)


@dataclass(frozen=True)
class Question:
    """What is measured, and where: one of timings, --kernels and --measure."""

    timings: Annotated[File, tyro.conf.Positional, tyro.conf.arg(metavar="[TIMINGS.csv]")] = None
    """CSV file of timings."""
    hardware: Text = None
    """Where they were taken: an accelerator of the catalogue (h100-sxm), or a JSON file with its figures."""
    kernels: File = None
    """Parquet or CSV file of measured kernels (columns as aiconfigurator publishes them, latency in
    milliseconds): says how far the constants are off, without fitting; with --out, adjusts them."""
    measure: Flag = False
    """Measure this machine, on JAX's default device."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """With --measure: the precision of the kernels; the other commands need its bits stated."""
    seconds: float = 60.0
    """With --measure: how long to time kernels, roughly."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    out: File = None
    """Write the hardware as a JSON file, for --hardware of the other commands."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True)
class Options(Question, Output):
    """Adjust hardware to a few timings of your own engine, or measure this machine; say what error is left.

    The timings are a CSV file with the columns model (a name, a config.json or sizes), context and seconds,
    and if need be batch, generated, what (tpot, ttft or generation), tensor, pipeline, expert, weight_bits,
    kv_bits. With --measure, the kernels of this machine are timed instead: a minute or two.
    """


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "calibrate", args, examples=EXAMPLES)
    ways = {"timings": options.timings, "--kernels": options.kernels, "--measure": options.measure or None}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        said = "none is" if not given else f"{' and '.join(given)} are"
        raise InvalidInput(f"One of a CSV file of timings, --kernels or --measure must be given, but {said}.")
    if options.measure and options.hardware is not None:
        raise InvalidInput(f"hardware is measured with --measure, but {options.hardware!r} is given.")
    if options.out is not None:
        check_writable(options.out, "out")
    use_compilation_cache()
    if options.kernels is not None:
        return _score(options, options.kernels)
    return _measure(options) if options.timings is None else _calibrate(options, options.timings)


def _measure(options: Options) -> int:
    from scalesim.measure import measure_hardware

    with bar("of the measurement") as show:
        found = measure_hardware(
            dtype=options.dtype,
            seconds=options.seconds,
            progress=lambda part, note: show(part, f"{part:.0%}", note),
        )
    return _tell(
        options,
        found.hardware,
        found.status,
        {"relative_errors_held_out": dict(found.hardware.efficiency.error)},
    )


def _calibrate(options: Options, timings: str) -> int:
    from scalesim.cost.calibration import calibrate
    from scalesim.hardware import load_hardware

    found = calibrate(read_timings(timings), load_hardware(options.hardware or "h100-sxm"))
    scale = float(found.hardware.efficiency.engine.scale)
    if not 1 / _FAR <= scale <= _FAR:
        ms = " They look to be in milliseconds: name the column `milliseconds`." if scale > _FAR else ""
        raise InvalidInput(
            f"The timings are {scale:.3g} times what {found.hardware.name} would take: seconds must be in "
            f"seconds, and hardware what they were taken on.{ms}"
        )
    errors = {
        "relative_error_before": found.error_before,
        "relative_error": found.error,
        "relative_error_left_out": found.error_left_out,
    }
    return _tell(options, found.hardware, f"{found.status} Before: {found.error_before:.1%}.", errors)


def _score(options: Options, kernels: str) -> int:
    from scalesim.cost.kernel_score import adjust_kernels, score_kernels
    from scalesim.hardware import load_hardware, save_hardware

    hardware = load_hardware(options.hardware or "h100-sxm")
    score = score_kernels(kernels, hardware)
    out = {**score.to_dict(), "hardware": hardware.name, "constants": hardware.efficiency.status}
    text = [
        f"{score.rows} kernels on {hardware.name} ({hardware.efficiency.status} constants): mean error "
        f"{score.mean_error:.1%}, median {score.median_error:.1%}, bias {score.bias:+.1%}; "
        f"{score.interval_holds:.0%} inside the 90% interval."
    ]
    if score.left_out:
        text.append(f"{score.left_out} kernels are in formats that {hardware.name} has no units for.")
    text += [f"  {name:<32}{part.rows:>7} rows  {part.mean_error:.1%}" for name, part in score.parts]
    if options.out is not None:
        adjusted, said = adjust_kernels(kernels, hardware)
        save_hardware(adjusted, options.out)
        out["adjusted"] = said
        text.append(said)
    if options.json:
        print_json(out)
    else:
        _print(text)
    return 0


def _print(lines: list[str]) -> None:
    from scalesim.report.console import broken

    print("\n".join(map(broken, lines)))


def _tell(options: Options, hardware: Hardware, status: str, errors: dict[str, Any]) -> int:
    from scalesim.hardware import save_hardware

    if options.out is not None:
        save_hardware(hardware, options.out)
    if options.json:
        print_json({**errors, "status": status, "hardware": hardware.to_dict()})
    else:
        constants = hardware.to_dict()["efficiency"]["engine"]
        _print([status, *(f"  {name:<12} {value:.4g}" for name, value in constants.items())])
    return 0


def read_timings(path: str) -> list[Timing]:
    """Return the timings of a CSV file.

    Raises:
        InvalidInput: the file cannot be read, a column is missing or not known, or a row is wrong.
    """
    columns, notes = read_table(path, "timings")
    for note in notes:
        print(f"scalesim: {note}", file=sys.stderr)
    columns = {_ALIASES.get(name.strip().lower(), name.strip()): cells for name, cells in columns.items()}
    milliseconds = "milliseconds" in columns and "seconds" not in columns
    if milliseconds:
        columns["seconds"] = columns.pop("milliseconds")
    for name in _NEEDED:
        if name not in columns:
            raise InvalidInput(f"timings {path!r} has no column {name!r}; it has {listed(columns)}.")
    for name in columns:
        choose("column", name, _NEEDED + _OPTIONAL)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    timings = []
    for line, row in enumerate(rows, start=1):
        try:
            timing = _timing(row)
            timings.append(replace(timing, seconds=timing.seconds / 1e3) if milliseconds else timing)
        except InvalidInput as error:
            raise InvalidInput(f"timings {path!r}, row {line}: {error}") from None
    return timings


def _timing(row: Mapping[str, str]) -> Timing:
    from scalesim.cost.calibration import Timing
    from scalesim.cost.parallel import Parallel
    from scalesim.units import parse_context
    from scalesim.workload import Workload

    def number(name: str, default: float | None = None) -> float:
        text = row.get(name) or ""
        if not text and default is not None:
            return default
        try:
            return float(text)
        except ValueError:
            raise InvalidInput(f"{name} must be a number, but is {text!r}.") from None

    generated = row.get("generated") or None
    workload = Workload(
        context_length=parse_context(row["context"] or "", "context"),
        batch_size=number("batch", 1.0),
        generated_length=None if generated is None else parse_context(generated, "generated"),
        weight_bits=number("weight_bits", 16.0),
        kv_bits=number("kv_bits", 16.0),
    )
    split = {}
    for name in ("tensor", "pipeline", "expert"):
        degree = number(name, 1.0)
        split[name] = int(degree) if degree.is_integer() else degree
    default = "generation" if generated else "tpot"
    return Timing(
        shape=given_shape(row["model"] or "").shape,
        workload=workload,
        seconds=number("seconds"),
        what=row.get("what") or default,
        parallel=Parallel(**split),
    )
