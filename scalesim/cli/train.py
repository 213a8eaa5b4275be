"""`scalesim train`: one small model, or a grid of them, to a run table."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scalesim.cli.common import bar, parse, print_json
from scalesim.compilation import use_compilation_cache
from scalesim.errors import InvalidInput, Unreachable

if TYPE_CHECKING:
    import jax

    from scalesim.training import TrainConfig, TrainResult

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    """Train one small model, or a grid of them, to a run table that `scalesim fit` reads."""

    grid: tyro.conf.Positional[str | None] = None
    """A TOML file of runs; without it one model is trained."""
    shape: str = "4x128x4x2"
    """Layers x width x query heads x KV heads, and x FFN width (else 8/3 of the width, a multiple of 8)."""
    head_dim: int = 32
    """Size of one head."""
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
    """stdlib (the Python standard library's sources), a text file, a folder, or a .npy array of tokens."""
    folder: str | None = None
    """Checkpoints and results; a killed run goes on from there (default: out/train/ and the run's name)."""
    export: str | None = None
    """Write the trained model here, as transformers reads it."""
    workers: int | None = None
    """Processes of a grid (default: one a core)."""
    tensor: int = 1
    """Devices that split each matrix; the others split the batch."""
    coordinator: str | None = None
    """Several hosts: address:port of the first (started on each host)."""
    processes: int = 1
    """Several hosts: how many."""
    process: int = 0
    """Several hosts: which this one is."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object on standard output, and nothing else."""


def run(args: list[str]) -> int:
    """Run the command."""
    options = parse(Options, "train", args)
    use_compilation_cache()
    return _grid(options) if options.grid else _one(options)


def _grid(options: Options) -> int:
    from scalesim.training.grid import GridProgress, load_grid, run_grid

    assert options.grid is not None
    grid = load_grid(options.grid)
    print(f"scalesim: {len(grid.runs)} runs, kept in {grid.folder}", file=sys.stderr)
    with bar("runs") as show:

        def tell(p: GridProgress) -> None:
            last = "" if p.last is None else f"{p.last['run_id']}: loss {p.last['loss']:.4f}"
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

    with table.open() as file:
        return list(csv.DictReader(file))


def _one(options: Options) -> int:
    from scalesim.training import load_corpus, train
    from scalesim.training.table import gather, row_of

    mesh = _mesh(options)
    corpus = load_corpus(options.corpus)
    config = _config(options, max(corpus.vocab_size, 256))
    folder = Path(options.folder or f"out/train/{config.run_id(corpus.hash)}")
    print(f"scalesim: {corpus}", file=sys.stderr)
    print(f"scalesim: {config.shape.n_params_total:,} parameters, {config.n_steps} steps", file=sys.stderr)
    with bar("steps") as show:
        tell = _teller(show)
        result = train(config, corpus, folder, progress=tell, mesh=mesh)
    row = row_of(result)
    if options.process == 0:
        gather([row], folder / "runs.csv")
        if options.export:
            _export(result, options.export)
    if options.json:
        print_json({**_finite(row), "message": result.message, "folder": str(folder)})
    else:
        print(
            f"{result.message} Validation loss {result.loss:.4f} nats a token, training "
            f"{result.train_loss:.4f}; {result.tokens_per_second:,.0f} tokens/s. "
            f"Table: {folder / 'runs.csv'}"
        )
    if result.status != "finished":
        raise Unreachable(f"{result.message} The last good checkpoint is in {folder}.")
    return 0


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    import math

    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _mesh(options: Options) -> jax.sharding.Mesh | None:
    import jax

    if options.coordinator:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    if jax.device_count() == 1:
        if options.tensor != 1:
            raise InvalidInput(f"tensor must be 1 on one device, but is {options.tensor}.")
        return None
    from scalesim.training import make_mesh

    return make_mesh(model=options.tensor)


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
        loss = " ".join(f"{x:.3f}" for x in p.loss)
        mfu = p.flops_per_second / measured_peak()
        show(
            p.step / p.n_steps,
            f"{p.step} of {p.n_steps}",
            f"loss {loss}, {p.tokens_per_second:,.0f} tokens/s, MFU {mfu:.0%}",
        )

    return tell
