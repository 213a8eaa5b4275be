"""`scalesim train`: one small model, or a grid of them, to a run table."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scalesim.cli.common import bar, end_now, parse, print_json
from scalesim.cli.options import File, Flag, Folder, Whole
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput, Unreachable
from scalesim.files import check_writable, read_text

if TYPE_CHECKING:
    import jax

    from scalesim.training import Corpus, TrainConfig, TrainResult

__all__ = ["EXAMPLES", "Options", "run"]


EXAMPLES = (
    ("scalesim train --shape 4x128x4x2 --context 256 --tokens 2M", "one model, on the shipped text"),
    (
        "scalesim train --corpus texts/ --tokens 100M --export out/model",
        "on your text, for transformers to read",
    ),
    ("scalesim train grid.toml --workers 2", "a grid of models to one run table, for `scalesim fit`"),
    (
        "scalesim train --folder /shared/run --coordinator host0:1234 --processes 2 --process 0",
        "on two hosts; the other one with --process 1",
    ),
)


@dataclass(frozen=True)
class Model:
    """What is trained: one model, or a grid of them."""

    grid: Annotated[File, tyro.conf.Positional, tyro.conf.arg(metavar="[GRID.toml]")] = None
    """A TOML file of runs; without it one model is trained."""
    shape: str = "4x128x4x2"
    """Layers x width x query heads x KV heads, and x FFN width (else 8/3 of the width, a multiple of 8)."""
    head_dim: int = 32
    """Size of one head."""


@dataclass(frozen=True)
class Training:
    """On what, and how."""

    context: str = "256"
    """Tokens of a window; K is 1024."""
    tokens: str = "2M"
    """Tokens to train on."""
    batch_tokens: str = "2048"
    """Tokens a step."""
    learning_rate: float = 4e-3
    """The full learning rate."""
    schedule: Literal["wsd", "cosine"] = "wsd"
    """Hold the learning rate and let it fall at the end, or let it fall all the way."""
    accumulate: int = 1
    """Parts in which a batch is computed, one after the other."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and matrix products."""
    remat: Literal["none", "dots", "block"] = "none"
    """What the backward pass computes again rather than keeps."""
    seed: int = 0
    """Of the first values and of the order of the text."""
    corpus: str = "stdlib"
    """stdlib (the Python standard library's sources); text, JSON Lines or Parquet, packed by gzip or not; a
    folder of them; or token numbers, .npy or .bin."""
    documents: Literal["auto", "blank", "line", "whole"] = "auto"
    """What separates documents of plain text: blank lines, lines, or nothing (auto: blank lines if any)."""


@dataclass(frozen=True)
class Devices:
    """Where it runs."""

    workers: Whole = None
    """Processes of a grid (default: one a core)."""
    tensor: int = 1
    """Devices that split each matrix; the others split the batch."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT", help_behavior_hint="")] = None
    """Several hosts: where process 0 listens (the command is started on each host)."""
    processes: Whole = None
    """Several hosts: how many."""
    process: Whole = None
    """Several hosts: which this one is, from 0."""


@dataclass(frozen=True)
class Output:
    """How it is shown."""

    folder: Folder = None
    """Checkpoints and results; a killed run goes on from there (default: out/train/ and the run's name)."""
    export: Folder = None
    """Write the trained model here, as transformers reads it."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else."""


@dataclass(frozen=True)
class Options(Model, Training, Devices, Output):
    """Train one small model, or a grid of them, to a run table that `scalesim fit` reads."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "train", args, examples=EXAMPLES)
    _check(options)
    use_compilation_cache()
    return _grid(options) if options.grid else _one(options)


_OF_A_GRID = ("grid", "workers", "json")
_HOSTS = ("coordinator", "processes", "process")


def _check(options: Options) -> None:
    """Refuse options that would do nothing."""
    plain = Options()
    given = [f.name for f in fields(Options) if getattr(options, f.name) != getattr(plain, f.name)]
    if options.grid is not None:
        other = [name for name in given if name not in _OF_A_GRID]
        if other:
            raise InvalidInput(
                f"--{other[0].replace('_', '-')} does nothing with a grid, whose file says it."
            )
        return
    if options.workers is not None:
        raise InvalidInput("--workers is of a grid's processes: it does nothing without a grid.")
    some = [name for name in _HOSTS if getattr(options, name) is not None]
    if some and len(some) < len(_HOSTS):
        missing = next(name for name in _HOSTS if name not in some)
        raise InvalidInput(
            f"several processes need --coordinator, --processes and --process, but --{missing} is missing."
        )
    if options.export is not None:
        check_writable(Path(options.export) / "config.json", "export")


def _grid(options: Options) -> int:
    from scalesim.training.grid import GridProgress, run_grid
    from scalesim.training.grid_file import load_grid

    assert options.grid is not None
    grid = load_grid(options.grid)
    print(f"scalesim: {len(grid.runs)} runs, kept in {grid.folder}", file=sys.stderr)
    with bar("runs") as show:

        def tell(p: GridProgress) -> None:
            loss = None if p.last is None else p.last["loss"]
            last = "" if p.last is None else f"{p.last['run_id']}: loss {loss:.4f}" if loss else "diverged"
            show(p.part, f"{p.finished} of {p.runs}", last)

        table = run_grid(grid, workers=options.workers, progress=tell)
    rows = _read(table)
    diverged = [r["run_id"] for r in rows if r["status"] != "finished"]
    if options.json:
        print_json({"table": str(table), "runs": len(rows), "diverged": diverged})
    else:
        print(f"{len(rows)} runs in {table}; `scalesim fit {table}` fits a law to them.")
        if diverged:
            print(f"Diverged: {', '.join(diverged)}.")
    return 1 if diverged else 0


def _read(table: Path) -> list[dict[str, str]]:
    import csv
    import io

    return list(csv.DictReader(io.StringIO(read_text(table, "run table"))))


def _one(options: Options) -> int:
    from scalesim.training import load_corpus
    from scalesim.training.table import check_own

    corpus = load_corpus(options.corpus, documents=options.documents)
    config = _config(options, max(corpus.vocab_size, 256))
    folder = Path(options.folder or f"out/train/{config.run_id(corpus.hash)}")
    check_own(folder / "runs.csv", [config.run_id(corpus.hash)])
    for note in (*corpus.notes, corpus):
        print(f"scalesim: {note}", file=sys.stderr)
    print(f"scalesim: {config.shape.n_params_total:,} parameters, {config.n_steps} steps", file=sys.stderr)
    trained = config.n_steps * config.batch_tokens
    if trained > 1.05 * config.n_tokens:
        said = f"{trained:,} tokens will be trained on, not {config.n_tokens:,}"
        print(f"scalesim: A step takes {config.batch_tokens:,}: {said}.", file=sys.stderr)
    mesh, leave = _mesh(options)
    try:
        code = _trained(options, config, corpus, folder, mesh)
    except (InvalidInput, Unreachable, KeyboardInterrupt) as error:
        if leave is None:
            raise
        end_now(error)
    if leave is not None:
        leave()
    return code


def _trained(
    options: Options, config: TrainConfig, corpus: Corpus, folder: Path, mesh: jax.sharding.Mesh | None
) -> int:
    from scalesim.interrupts import saying
    from scalesim.training import train
    from scalesim.training.table import finite, gather, row_of

    stays = f"What {folder} held stays there; the same command goes on from it."
    with bar("steps") as show, saying(stays):
        result = train(config, corpus, folder, progress=_teller(show), mesh=mesh)
    row = row_of(result)
    if not options.process:
        gather([row], folder / "runs.csv")
    if options.json:
        print_json({**finite(row), "message": result.message, "folder": str(folder)})
    if result.status != "finished":
        kept = [p for p in (folder / "checkpoints").glob("*") if p.is_dir() and p.name.isdigit()]
        where = f"The last good checkpoint is in {folder}." if kept else "No checkpoint was written before."
        raise Unreachable(f"{result.message} {where}")
    if options.export and not options.process:
        _export(result, options.export)
    if not options.json:
        print(
            f"{result.message} Validation loss {result.loss:.4f} nats a token, training "
            f"{result.train_loss:.4f}{_speed(result.tokens_per_second)}. "
            f"Table: {folder / 'runs.csv'}"
        )
    return 0


def _speed(rate: float) -> str:
    return f"; {rate:,.0f} tokens/s" if math.isfinite(rate) else ""


def _mesh(options: Options) -> tuple[jax.sharding.Mesh | None, Callable[[], None] | None]:
    """Return the devices to train on, and what leaves the other processes (None: there are none)."""
    import jax

    leave = None
    if options.coordinator is not None:
        from scalesim.sweeps import join

        leave = join(options.coordinator, options.processes, options.process)
    if jax.device_count() == 1:
        if options.tensor != 1:
            raise InvalidInput(f"tensor must be 1 on one device, but is {options.tensor}.")
        return None, leave
    from scalesim.training import make_mesh

    return make_mesh(model=options.tensor), leave


def _config(options: Options, vocab_size: int) -> TrainConfig:

    from scalesim.cli.given import given_shape
    from scalesim.model import ModelOptions
    from scalesim.training import Recipe, TrainConfig
    from scalesim.units import parse_context, parse_count

    given = given_shape(options.shape).shape
    d_ff = given.d_ff if isinstance(given.d_ff, int) else 8 * max(1, round(given.d_ff / 8))
    shape = given.replace(vocab_size=vocab_size, head_dim=options.head_dim, d_ff=d_ff)
    return TrainConfig(
        shape=shape,
        context_length=parse_context(options.context),
        n_tokens=int(parse_count(options.tokens, "tokens")),
        batch_tokens=int(parse_count(options.batch_tokens, "batch_tokens")),
        learning_rate=options.learning_rate,
        seed=options.seed,
        recipe=Recipe(schedule=options.schedule, accumulate=options.accumulate),
        options=ModelOptions(dtype=options.dtype, remat=options.remat),
    )


def _export(result: TrainResult, folder: str) -> None:
    from scalesim.interop import save_weights

    config = result.config
    save_weights(result.params, config.shape, folder, config.options, max_context=config.context_length)


def _teller(show: Callable[[float, str, str], None]) -> Callable[[Any], None]:
    from scalesim.measure.peak import measured_peak

    def tell(p: Any) -> None:
        loss = "".join(f"loss {x:.3f}, " for x in p.loss[:1]) or ""
        if len(p.loss) > 1:
            loss = f"losses {' '.join(f'{x:.3f}' for x in p.loss)}, "
        speed = ""
        if math.isfinite(p.tokens_per_second):  # none before the second step
            mfu = p.flops_per_second / measured_peak()
            speed = f"{p.tokens_per_second:,.0f} tokens/s, MFU {mfu:.0%}"
        show(p.step / p.n_steps, f"{p.step} of {p.n_steps}", f"{loss}{speed}".removesuffix(", "))

    return tell
