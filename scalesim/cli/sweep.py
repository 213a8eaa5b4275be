"""`scalesim sweep`: very many designs, each evaluated."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from scalesim.cli.common import end_now, parse, print_json, stdout_kept
from scalesim.cli.options import Contexts, File, Flag, Folder, Whole
from scalesim.cli.question import Cost
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput, Unreachable
from scalesim.files import check_writable
from scalesim.interrupts import Interrupted, deferred

if TYPE_CHECKING:
    from scalesim.sweeps import Product, Sweep, SweepProgress

__all__ = ["EXAMPLES", "Options", "parse_range", "run"]

_REPEATS = ("--context", "--context-mix")
_AXES = ("n_layer", "d_model", "d_ff", "n_head", "n_kv_head")
_Range = Annotated[str | None, tyro.conf.arg(metavar="LOW:HIGH[:STEP]|A,B,...", help_behavior_hint="")]

EXAMPLES = (
    ("scalesim sweep --context 128K --target-loss 2.6 --count 1B", "a billion designs, each evaluated"),
    (
        "scalesim sweep --count 10B --checkpoint sweep.state",
        "and again after an interrupt: it goes on from there",
    ),
    (
        "scalesim sweep --n-layer 12:36 --d-model 1024:4096:64 --n-head 8,12,16 --n-kv-head 1,2",
        "ranges of your own",
    ),
    (
        "scalesim sweep --objective tpot --hardware h100-sxm --save-all designs",
        "every design kept, as Parquet",
    ),
    ("scalesim sweep --count 100B --coordinator host0:9911 --processes 4 --process 0", "on four hosts"),
)


@dataclass(frozen=True)
class Question:
    """What the model must do."""

    context: Contexts = ("128K",)
    """Context lengths in tokens; K is 1024. Every design is evaluated at each, with an answer each."""
    target_loss: float = 2.6
    """The loss to reach, nats a token."""
    law: str = "default"
    """The loss law: default (runs and ablations), paper, points (its runs alone), or a saved fit."""


@dataclass(frozen=True)
class Designs:
    """Which designs are evaluated."""

    count: str = "100M"
    """At least so many designs: the steps of widths that are not given are halved until there are."""
    n_layer: _Range = None
    """Layers (4 to 128)."""
    d_model: _Range = None
    """Widths (multiples of 64 or of a part of it, by --count)."""
    d_ff: _Range = None
    """FFN widths (likewise)."""
    n_head: _Range = None
    """Query heads (1 to 32; the evidence ends there)."""
    n_kv_head: _Range = None
    """KV heads (all); those that do not divide the query heads are left out."""
    aspect_slack: float = 1.1
    """d_model / n_layer stays within this factor of the family's (the law cannot see it); inf: no band."""
    ffn_slack: float = 1.1
    """d_ff / d_model likewise."""
    family: str = "figure"
    """Depth against width: figure (d_model = 128 n_layer), table, or a ratio."""


@dataclass(frozen=True)
class Answer:
    """What is kept."""

    top: int = 10
    """How many of the best designs to keep."""
    span: float = 0.3
    """The frontier holds losses within this of the target."""
    resolution: float = 0.005
    """One design of the frontier to each so many nats of loss."""


@dataclass(frozen=True)
class Running:
    """Interrupts, and several processes."""

    checkpoint: File = None
    """Keep the state of the sweep in this file, and go on from it if it is there."""
    every: float = 5.0
    """Seconds between checkpoints."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Sweep in several processes: where process 0 listens."""
    processes: Whole = None
    """How many processes there are; every one is started with the same options but --process."""
    process: Whole = None
    """Which of them this is, from 0. Process 0 prints the answer."""
    cluster: Flag = False
    """Sweep in the processes that a cluster started (Slurm, Open MPI, Kubernetes, TPU pods)."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    save_all: Folder = None
    """Write every design to this folder as Parquet (some 60 bytes a design)."""
    plot: File = None
    """Draw the frontiers, with the best marked."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True)
class Options(Question, Designs, Cost, Answer, Running, Output):
    """Evaluate every design of a product of ranges; keep the best and the frontier, in constant memory."""


def parse_range(text: str, field: str) -> range | list[int]:
    """Return a range as people write it: LOW:HIGH[:STEP], both ends within, or a list.

    >>> list(parse_range("64:256:64", "d_model")), parse_range("1,2,8", "n_head")
    ([64, 128, 192, 256], [1, 2, 8])
    """
    try:
        if ":" not in text:
            if re.fullmatch(r"\d{1,3}(,\d{3})+", text):
                raise InvalidInput(
                    f"{field} {text!r} may be one number or several sizes: {text.replace(',', '')} is the "
                    f"number, and '{text},' with a comma at its end the sizes."
                )
            return [int(part) for part in text.split(",") if part]
        low, high, step = ([int(part) for part in text.split(":")] + [1])[:3]
        if text.count(":") > 2 or step < 1:
            raise ValueError
    except ValueError as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"{field} {text!r} is not a range; 64:4096:64 or 8,12,16 would do.") from None
    if low > high:
        raise InvalidInput(f"{field} {text!r} is empty: {low} is above {high}. {high}:{low} would do.")
    from scalesim.shape.checks import MOST_SIZES

    if (high - low) // step >= MOST_SIZES:
        raise InvalidInput(
            f"{field} {text!r} is a range of more than {MOST_SIZES:,} sizes; a larger step would do."
        )
    return range(low, high + 1, step)


class _Reporter:
    """Progress on standard error: one line that is written over for a person, a line every 5 s otherwise."""

    def __init__(self) -> None:
        self.watched, self.last = sys.stderr.isatty(), time.monotonic()

    def __call__(self, now: SweepProgress) -> None:
        if not self.watched and time.monotonic() - self.last < 5:
            return
        from scalesim.units import format_count

        self.last = time.monotonic()
        total = "" if now.total is None else f" of {format_count(now.total)} ({now.designs / now.total:.0%})"
        left = "" if now.seconds_left is None else f", {now.seconds_left:.0f} s left"
        line = f"{format_count(now.designs)}{total} designs, {format_count(now.rate)} a second{left}"
        print(f"\r{line}\x1b[K" if self.watched else f"scalesim: {line}", end="" if self.watched else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def end(self) -> None:
        """Leave the line behind."""
        if self.watched:
            print(file=sys.stderr)


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "sweep", args, _REPEATS, EXAMPLES)
    _check(options)
    product = _product(options)
    with stdout_kept():
        answers = _swept(options, product)
    if not options.process:
        _report(answers, options)
    return 0


class _Stop:
    """Progress that ends a sweep between two rounds when it was interrupted: its checkpoint is then whole."""

    def __init__(self, options: Options, reporter: _Reporter) -> None:
        self.options, self.reporter, self.held = options, reporter, ExitStack()
        self.stopping: Callable[[], bool] | None = None

    def __call__(self, now: SweepProgress) -> None:
        if self.stopping is None:  # compiled: until here there was nothing to keep
            self.stopping = self.held.enter_context(deferred())
        if not self.options.process:
            self.reporter(now)
        if self.stopping():
            self.reporter.end()
            kept = self.options.checkpoint
            raise Interrupted("" if kept is None else f"The same command goes on from {kept}.")


def _check(options: Options) -> None:
    """Refuse files that cannot be written, before the work."""
    for name in ("checkpoint", "plot"):
        path = getattr(options, name)
        if path is not None:
            check_writable(path, name)
    if options.save_all is not None:
        if os.path.exists(options.save_all) and not os.path.isdir(options.save_all):
            raise InvalidInput(f"save-all {options.save_all!r} is a file; a folder would do.")
        check_writable(os.path.join(options.save_all, "part"), "save-all")


def _swept(options: Options, product: Product) -> list[Sweep]:
    use_compilation_cache()
    from scalesim.cli.question import objective_of, plan_of, workloads_of
    from scalesim.fitting import named_fit
    from scalesim.sweeps import join, sweep

    objective = objective_of(options)  # the cost's options are the same
    law = named_fit(options.law)
    workloads = workloads_of(options)
    leave = _join(options, join)
    reporter = _Reporter()
    stop = _Stop(options, reporter)
    try:
        answers = sweep(
            law,
            product,
            workloads,
            options.target_loss,
            objective=objective,
            plan=plan_of(options),
            top=options.top,
            span=options.span,
            resolution=options.resolution,
            checkpoint=_own_file(options),
            every=options.every,
            save_all=options.save_all,
            progress=stop,
        )
    except (InvalidInput, Unreachable, KeyboardInterrupt) as error:
        if leave is None:
            raise
        end_now(error)
    finally:
        stop.held.close()
    reporter.end()
    if leave is not None:
        leave()
    return answers


def _own_file(options: Options) -> str | None:
    """Return this process's checkpoint: every process has its own, so that none needs another's disk."""
    if options.checkpoint is None or not options.process:
        return options.checkpoint
    return f"{options.checkpoint}.{options.process}"


def _join(options: Options, join: Any) -> Any:
    given = (options.coordinator, options.processes, options.process)
    if options.cluster:
        return join(*given)
    if given == (None, None, None):
        return None
    if None in given:
        names = [n for n, v in zip(("coordinator", "processes", "process"), given, strict=True) if v is None]
        raise InvalidInput(
            f"several processes need --coordinator, --processes and --process, but --{names[0]} is missing."
        )
    return join(*given)


def _product(options: Options) -> Product:
    from scalesim.families import named_family
    from scalesim.sweeps import default_product
    from scalesim.units import parse_count

    axes = {name: parse_range(text, name) for name in _AXES if (text := getattr(options, name)) is not None}
    return default_product(
        1 if {"d_model", "d_ff"} <= axes.keys() else parse_count(options.count),
        family=named_family(options.family),
        axes=axes,
        aspect_slack=options.aspect_slack,
        ffn_slack=options.ffn_slack,
    )


def _report(answers: list[Sweep], options: Options) -> None:
    from scalesim.report.figure import save
    from scalesim.report.sweep_report import draw_sweeps, print_sweep, sweep_json

    if options.plot is not None:
        save(draw_sweeps(answers), options.plot)
    if options.json:
        found = [sweep_json(answer) for answer in answers]
        if len(found) == 1:
            print_json(found[0])
            return
        shared = {name: found[0][name] for name in ("designs", "seconds", "designs_per_second")}
        print_json({**shared, "answers": found})
        return
    for answer in answers:
        print_sweep(answer)
    if options.plot is not None:
        print(f"Figure: {options.plot}")
