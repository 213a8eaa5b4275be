"""Many small runs from one TOML file: skipped when finished, resumed when killed, gathered in one table."""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesim.errors import InvalidInput, Unreachable, choose
from scalesim.files import locked, read_json, read_toml, write_json
from scalesim.interrupts import Interrupted, raised
from scalesim.schema import (
    Check,
    anything,
    boolean,
    fields,
    items,
    mapping,
    maybe,
    number,
    one_of,
    text,
    whole,
)

if TYPE_CHECKING:
    from scalesim.training.config import TrainConfig
    from scalesim.training.corpus import Corpus
    from scalesim.training.sources import Documents

__all__ = ["Grid", "GridProgress", "load_grid", "run_grid"]

_PATIENCE = 8.0  # seconds in which an interrupted worker keeps its checkpoint


@dataclass(frozen=True)
class Grid:
    """A grid as read from its file.

    Attributes:
        runs: every run, in the order of the file; lists in a block are multiplied out.
        corpus: what to train on.
        folder: where runs, checkpoints and the table are kept.
        pack: train runs that differ in seed and learning rate alone side by side in one program (None: on an
            accelerator, which one small model does not fill; on a CPU processes side by side are faster).
        documents: what separates documents of the corpus, as `load_corpus` takes it.
    """

    runs: tuple[TrainConfig, ...]
    corpus: str
    folder: Path
    pack: bool | None = None
    documents: Documents = "auto"

    @property
    def table(self) -> Path:
        """The run table, CSV."""
        return self.folder / "runs.csv"


@dataclass(frozen=True)
class GridProgress:
    """How far a grid is: runs finished and in all, and the part of all FLOPs done."""

    finished: int
    runs: int
    part: float
    last: Mapping[str, Any] | None


def load_grid(path: str | Path) -> Grid:
    """Read a grid.

    A block `[[runs]]` holds fields of Shape, TrainConfig, Recipe and ModelOptions; a list stands for one run
    with each of its values, and several lists for all combinations. `heads` is a list of pairs
    [n_head, n_kv_head]. `[defaults]` holds what the blocks leave out.

    Raises:
        InvalidInput: no such file, no TOML, an unknown field, a value of another kind, no runs, or more than
            10,000.
    """
    path = Path(path)
    name = f"grid {str(path)!r}"
    text = read_toml(path, "grid")
    held = fields(_FILE, list(_FILE))(text, name)
    defaults, blocks = held.get("defaults", {}), held.get("runs", [])
    runs = [run for i, block in enumerate(blocks) for run in _multiplied({**defaults, **block}, f"runs[{i}]")]
    if not runs:
        raise InvalidInput(f"{name} has no [[runs]].")
    folder = Path(held.get("folder", path.with_suffix("")))
    return Grid(
        tuple(dict.fromkeys(runs)),
        held.get("corpus", "stdlib"),
        folder,
        held.get("pack"),
        held.get("documents", "auto"),
    )


def _multiplied(block: Mapping[str, Any], name: str) -> Iterator[TrainConfig]:
    names = list(block)
    values = [v if isinstance(v, list) else [v] for v in block.values()]
    count = math.prod(map(len, values))
    if count > _MOST_RUNS:
        raise InvalidInput(f"{name} stands for {count:,} runs; at most {_MOST_RUNS:,} would do.")
    for combination in itertools.product(*values):
        yield config_of(dict(zip(names, combination, strict=True)), name)


_MOST_RUNS = 10_000
_size, _part = whole(1, 1 << 24), number(0, 1)
_FIELDS: dict[str, Check] = {
    **dict.fromkeys(("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size"), _size),
    "heads": items(_size, 2, 2),
    **dict.fromkeys(("context_length", "n_tokens", "batch_tokens", "validation_tokens"), whole(1)),
    "seed": whole(0, (1 << 31) - 1),
    "learning_rate": number(above=0, high=1e6),
    **dict.fromkeys(("warmup", "decay", "end", "b1", "b2"), _part),
    "weight_decay": number(0, 1e6),
    "eps": number(above=0, high=1.0),
    "clip": number(above=0),
    **dict.fromkeys(("accumulate", "mup_width"), _size),
    "unroll": whole(0, 1 << 20),
    **dict.fromkeys(("rope_theta", "norm_eps", "logit_scale"), number(above=0)),
    "n_positions": whole(0, 1 << 24),
    "norms_per_layer": _size,
    "window": whole(1, 1 << 24),
    **dict.fromkeys(
        ("tied_embeddings", "gated_ffn", "qkv_bias", "output_bias", "ffn_bias", "norm_bias"), boolean
    ),
    **dict.fromkeys(("schedule", "dtype", "attention", "remat", "qk_norm"), text),
}
"""What a value of a run may be; which words there are is known to what they belong to."""

_block = mapping(anything)
_FILE: dict[str, Check] = {
    "corpus": text,
    "folder": text,
    "pack": maybe(boolean),
    "documents": one_of("auto", "blank", "line", "whole"),
    "defaults": _block,
    "runs": items(_block),
}


def config_of(values: Mapping[str, Any], name: str = "run") -> TrainConfig:
    """Make one run of plain values, each by its own name."""
    from scalesim.model import ModelOptions
    from scalesim.shape import Shape
    from scalesim.shape.shape import PLAIN_SIZES
    from scalesim.training.config import TrainConfig
    from scalesim.training.recipe import Recipe

    kinds: dict[type, dict[str, Any]] = {
        Shape: {"vocab_size": 256},
        Recipe: {},
        ModelOptions: {},
        TrainConfig: {},
    }
    homes: dict[str, Any] = {f.name: kind for kind in kinds for f in dataclasses.fields(kind)}
    for hidden in ("shape", "recipe", "options", "blocks", "order", "extras", "final_norm"):
        homes.pop(hidden, None)
    homes |= dict.fromkeys(PLAIN_SIZES, Shape)
    homes["heads"] = None
    for field, value in values.items():
        choose("field", field, homes)
        value = _FIELDS.get(field, anything)(value, f"{name}.{field}")
        if field == "heads":
            kinds[Shape]["n_head"], kinds[Shape]["n_kv_head"] = value
        else:
            kinds[homes[field]][field] = value
    missing = [n for n in ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff") if n not in kinds[Shape]]
    missing += [n for n in ("context_length", "n_tokens") if n not in kinds[TrainConfig]]
    if missing:
        raise InvalidInput(f"A run of the grid lacks {', '.join(missing)}.")
    return TrainConfig(
        shape=Shape(**kinds[Shape]),
        recipe=Recipe(**kinds[Recipe]),
        options=ModelOptions(**kinds[ModelOptions]),
        **kinds[TrainConfig],
    )


def run_grid(
    grid: Grid,
    *,
    workers: int | None = None,
    progress: Callable[[GridProgress], None] | None = None,
) -> Path:
    """Train all runs of a grid that are not finished yet; return the table's path.

    Args:
        grid: what to train.
        workers: processes, each with its share of the CPU's cores (None: one a core; on an accelerator one
            in all). Small models do not fill two cores: two side by side train faster than in turn.
        progress: called when a run ends, and about once a second.

    Raises:
        InvalidInput: the corpus does not suit a run, or the folder holds a run table of another's.
        Unreachable: a worker died, or another process has the folder. What was finished is kept, and the
            rest goes on from its checkpoints when the grid is run again.
        Interrupted: by Ctrl-C or SIGTERM; workers keep a checkpoint and end within seconds.
    """
    from scalesim.training.corpus import load_corpus
    from scalesim.training.loop import check_pack
    from scalesim.training.table import check_own, gather

    if workers is not None:
        whole(1, 256)(workers, "workers")
    corpus = load_corpus(grid.corpus, documents=grid.documents)
    for run in grid.runs:
        check_pack([run], corpus, None)
    ids = [run.run_id(corpus.hash) for run in grid.runs]
    check_own(grid.table)
    with locked(grid.folder):
        done = {i for i in ids if _row(grid, i) is not None}
        todo = [(i, run) for i, run in zip(ids, grid.runs, strict=True) if i not in done]
        if todo:
            with raised():
                _work(grid, todo, corpus, workers or _default_workers(), progress)
        gather(_rows(grid, ids), grid.table)
    return grid.table


def _work(
    grid: Grid,
    todo: list[tuple[str, TrainConfig]],
    corpus: Corpus,
    workers: int,
    progress: Callable[[GridProgress], None] | None,
) -> None:
    from scalesim.training.table import gather

    packs = _packs(grid, todo)
    flops = {"+".join(ids): sum(run.flops for run in runs) for ids, runs in packs}
    ids = [run.run_id(corpus.hash) for run in grid.runs]
    context = multiprocessing.get_context("spawn")
    reports = context.Queue()
    places = context.Queue()
    for place in range(workers):
        places.put(place)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin_worker, initargs=(places, workers, reports)
    )
    futures: dict[Future[Any], str] = {}
    try:
        for names, runs in packs:
            future = pool.submit(
                _one_pack, runs, names, grid.corpus, grid.documents, corpus.hash, str(grid.folder)
            )
            futures[future] = "+".join(names)
        reached: dict[str, float] = {}
        left = set(futures)
        while left:
            done, left = wait(left, timeout=1.0)
            while not reports.empty():
                i, part = reports.get()
                reached[i] = part
            last = None
            for future in done:
                last = future.result()
                reached[futures[future]] = 1.0
            if done:
                gather(_rows(grid, ids), grid.table)
            if progress:
                part = sum(flops[i] * p for i, p in reached.items()) / sum(flops.values())
                waiting = sum(futures[future].count("+") + 1 for future in left)
                progress(GridProgress(len(grid.runs) - waiting, len(grid.runs), part, last))
    except BrokenProcessPool:
        raise Unreachable(
            "A process of the grid died (killed, or out of memory). Finished runs are kept; run the grid "
            "again, and the others go on from their checkpoints."
        ) from None
    except Interrupted:
        count = sum(1 for i in ids if _row(grid, i) is not None)
        raise Interrupted(
            f"{count} of {len(ids)} runs are finished, the others' checkpoints are in {grid.folder}; the "
            "same command goes on from there."
        ) from None
    finally:
        _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers: first let them keep their checkpoints, then by force."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    until = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    for process in processes:
        process.kill()


def _packs(grid: Grid, todo: list[tuple[str, TrainConfig]]) -> list[tuple[list[str], list[TrainConfig]]]:
    """Gather runs that one program can train, in the order of their first."""
    import jax

    pack = jax.default_backend() != "cpu" if grid.pack is None else grid.pack
    found: dict[Any, tuple[list[str], list[TrainConfig]]] = {}
    for i, run in todo:
        key = dataclasses.replace(run, seed=0, learning_rate=1.0) if pack else i
        names, runs = found.setdefault(key, ([], []))
        names.append(i)
        runs.append(run)
    return list(found.values())


def _default_workers() -> int:
    import jax

    return len(os.sched_getaffinity(0)) if jax.default_backend() == "cpu" else 1


def _row_path(grid: Grid, run_id: str) -> Path:
    return grid.folder / "finished" / f"{run_id}.json"


def _row(grid: Grid, run_id: str) -> Mapping[str, Any] | None:
    """Return a finished run's row; one that is damaged is trained again."""
    path = _row_path(grid, run_id)
    if not path.exists():
        return None
    try:
        row = read_json(path, "finished run", missing=True)
    except InvalidInput:
        return None
    return row if isinstance(row, dict) and row.get("run_id") == run_id else None


def _rows(grid: Grid, ids: list[str]) -> Iterator[Mapping[str, Any]]:
    return (row for i in ids if (row := _row(grid, i)) is not None)


_reports: Any = None


def _begin_worker(places: Any, workers: int, reports: Any) -> None:
    """Give the process its own cores, before JAX counts them."""
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the grid ends its workers itself
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    cores = sorted(os.sched_getaffinity(0))
    place = places.get()
    if workers > 1 and len(cores) >= workers:
        os.sched_setaffinity(0, set(cores[place::workers]))
    from scalesim.compilation import use_compilation_cache

    use_compilation_cache()


def _end_with(parent: int) -> None:
    """End this process when the grid's is gone, whatever it does: an idle worker would wait for ever."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # its checkpoints are for the next one to go on from


def _one_pack(
    runs: list[TrainConfig],
    names: list[str],
    source: str,
    documents: Documents,
    corpus_hash: str,
    folder: str,
) -> dict[str, Any]:
    """Train a pack of runs in a worker, and keep their rows; return the last."""
    import shutil

    from scalesim.training.corpus import load_corpus
    from scalesim.training.loop import Progress, train_pack
    from scalesim.training.table import finite, row_of

    corpus = load_corpus(source, documents=documents)
    if corpus.hash != corpus_hash:
        raise InvalidInput(f"corpus {source!r} changed while the grid ran.")
    shown, pack = time.monotonic(), "+".join(names)

    def tell(progress: Progress) -> None:
        nonlocal shown
        if time.monotonic() - shown > 1.0:
            _reports.put((pack, progress.step / progress.n_steps))
            shown = time.monotonic()

    state = (
        Path(folder) / "unfinished" / (names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}")
    )
    row: dict[str, Any] = {}
    try:
        trained = train_pack(runs, corpus, state, progress=tell)
    except Interrupted:
        os._exit(130)
    for name, result in zip(names, trained, strict=True):
        row = row_of(result)
        write_json(Path(folder) / "finished" / f"{name}.json", finite(row), "finished run")
    shutil.rmtree(state, ignore_errors=True)
    return row
