"""Many small runs from one TOML file: skipped when finished, resumed when killed, gathered in one table."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalesim.errors import InvalidInput, Unreachable, choose

if TYPE_CHECKING:
    from scalesim.training.config import TrainConfig
    from scalesim.training.corpus import Corpus

__all__ = ["Grid", "GridProgress", "load_grid", "run_grid"]

_OWN = ("corpus", "folder", "pack", "defaults", "runs")


@dataclass(frozen=True)
class Grid:
    """A grid as read from its file.

    Attributes:
        runs: every run, in the order of the file; lists in a block are multiplied out.
        corpus: what to train on.
        folder: where runs, checkpoints and the table are kept.
        pack: train runs that differ in seed and learning rate alone side by side in one program (None: on an
            accelerator, which one small model does not fill; on a CPU processes side by side are faster).
    """

    runs: tuple[TrainConfig, ...]
    corpus: str
    folder: Path
    pack: bool | None = None

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
        InvalidInput: no such file, no TOML, an unknown field, or no runs.
    """
    path = Path(path)
    try:
        text = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInput(f"grid {str(path)!r} cannot be read: {error.strerror}.") from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"grid {str(path)!r} is no TOML: {error}.") from None
    for name in text:
        choose("field", name, _OWN)
    defaults = text.get("defaults", {})
    runs = [run for block in text.get("runs", []) for run in _multiplied({**defaults, **block})]
    if not runs:
        raise InvalidInput(f"grid {str(path)!r} has no [[runs]].")
    folder = Path(text.get("folder", path.with_suffix("")))
    pack = text.get("pack")
    if pack not in (None, True, False):
        raise InvalidInput(f"pack must be true or false, but is {pack!r}.")
    return Grid(tuple(dict.fromkeys(runs)), text.get("corpus", "stdlib"), folder, pack)


def _multiplied(block: Mapping[str, Any]) -> Iterator[TrainConfig]:
    names = list(block)
    values = [v if isinstance(v, list) else [v] for v in block.values()]
    for combination in itertools.product(*values):
        yield config_of(dict(zip(names, combination, strict=True)))


def config_of(fields: Mapping[str, Any]) -> TrainConfig:
    """Make one run of plain fields, each by its own name."""
    from scalesim.model import ModelOptions
    from scalesim.shape import Shape
    from scalesim.shape.shape import PLAIN_SIZES
    from scalesim.training.config import TrainConfig
    from scalesim.training.recipe import Recipe

    fields = dict(fields)
    if "heads" in fields:
        fields["n_head"], fields["n_kv_head"] = fields.pop("heads")
    kinds: dict[type, dict[str, Any]] = {
        Shape: {"vocab_size": 256},
        Recipe: {},
        ModelOptions: {},
        TrainConfig: {},
    }
    homes = {f.name: kind for kind in kinds for f in dataclasses.fields(kind)}
    for name in ("shape", "recipe", "options", "blocks", "order", "extras", "final_norm"):
        homes.pop(name)
    homes |= dict.fromkeys(PLAIN_SIZES, Shape)
    for name, value in fields.items():
        choose("field", name, homes)
        kinds[homes[name]][name] = value
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
        InvalidInput: the corpus does not suit a run.
        Unreachable: a worker died. What was finished is kept, and the rest goes on from its checkpoints when
            the grid is run again.
    """
    from scalesim.training.corpus import load_corpus
    from scalesim.training.loop import check_pack
    from scalesim.training.table import gather

    corpus = load_corpus(grid.corpus)
    for run in grid.runs:
        check_pack([run], corpus, None)
    ids = [run.run_id(corpus.hash) for run in grid.runs]
    todo = [(i, run) for i, run in zip(ids, grid.runs, strict=True) if not _row_path(grid, i).exists()]
    if todo:
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
            future = pool.submit(_one_pack, runs, names, grid.corpus, corpus.hash, str(grid.folder))
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
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()


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


def _rows(grid: Grid, ids: list[str]) -> Iterator[Mapping[str, Any]]:
    for i in ids:
        path = _row_path(grid, i)
        if path.exists():
            yield json.loads(path.read_text())


_reports: Any = None


def _begin_worker(places: Any, workers: int, reports: Any) -> None:
    """Give the process its own cores, before JAX counts them."""
    global _reports
    _reports = reports
    cores = sorted(os.sched_getaffinity(0))
    place = places.get()
    if workers > 1 and len(cores) >= workers:
        os.sched_setaffinity(0, set(cores[place::workers]))
    from scalesim.compilation import use_compilation_cache

    use_compilation_cache()


def _one_pack(
    runs: list[TrainConfig], names: list[str], source: str, corpus_hash: str, folder: str
) -> dict[str, Any]:
    """Train a pack of runs in a worker, and keep their rows; return the last."""
    import shutil

    from scalesim.training.corpus import load_corpus
    from scalesim.training.loop import Progress, train_pack
    from scalesim.training.table import row_of, write_json

    corpus = load_corpus(source)
    if corpus.hash != corpus_hash:
        raise InvalidInput(f"corpus {source!r} changed while the grid ran.")
    told, parent, pack = time.monotonic(), os.getppid(), "+".join(names)

    def tell(progress: Progress) -> None:
        nonlocal told
        if os.getppid() != parent:
            os._exit(1)  # the grid was killed: its checkpoints are for the next one to go on from
        if time.monotonic() - told > 1.0:
            _reports.put((pack, progress.step / progress.n_steps))
            told = time.monotonic()

    state = (
        Path(folder) / "unfinished" / (names[0] if len(names) == 1 else f"{names[0]}-and-{len(names) - 1}")
    )
    row: dict[str, Any] = {}
    for name, result in zip(names, train_pack(runs, corpus, state, progress=tell), strict=True):
        row = row_of(result)
        write_json(Path(folder) / "finished" / f"{name}.json", row)
    shutil.rmtree(state, ignore_errors=True)
    return row
