"""The runs of a grid trained: skipped when finished, resumed when killed, gathered in one table."""

from __future__ import annotations

import dataclasses
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

from scalesim.errors import InvalidInput, Unreachable
from scalesim.files import locked, read_json, write_json, write_whole
from scalesim.interrupts import Interrupted, raised
from scalesim.schema import whole
from scalesim.training.grid_file import Grid

if TYPE_CHECKING:
    from scalesim.training.config import TrainConfig
    from scalesim.training.corpus import Corpus
    from scalesim.training.sources import Documents

__all__ = ["GridProgress", "run_grid"]

_PATIENCE = 8.0  # seconds in which an interrupted worker keeps its checkpoint


@dataclass(frozen=True)
class GridProgress:
    """How far a grid is: runs finished and in all, and the part of all FLOPs done."""

    finished: int
    runs: int
    part: float
    last: Mapping[str, Any] | None


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
        Interrupted: by Ctrl-C, SIGTERM or SIGHUP; workers keep a checkpoint and end within seconds.
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
    _keep_tracker()
    reports = context.Queue()
    places = context.Queue()
    for place in range(workers):
        places.put(place)
    pool = ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_begin_worker,
        initargs=(places, workers, reports, os.getpid()),
    )
    futures: dict[Future[Any], str] = {}
    try:
        for names, runs in packs:
            future = pool.submit(
                _one_pack, runs, names, grid.corpus, grid.documents, corpus.hash, str(grid.folder), grid.keep
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


def _keep_tracker() -> None:
    """Begin Python's tracker of queues such that the end of a terminal, which we outlive, does not end it."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        return
    from multiprocessing import resource_tracker

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        resource_tracker.ensure_running()
    finally:
        signal.signal(signal.SIGHUP, before)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers: first let them keep their checkpoints, then by force."""
    processes, manager = (
        list((pool._processes or {}).values()),
        getattr(pool, "_executor_manager_thread", None),
    )
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    until = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
    for process in processes:
        process.kill()
    if manager is not None:
        manager.join(_PATIENCE)  # Python's own end would write to a pipe that it has closed meanwhile


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


def _begin_worker(places: Any, workers: int, reports: Any, parent: int) -> None:
    """Give the process its own cores, before JAX counts them."""
    global _reports
    _reports = reports
    for name in {"SIGINT", "SIGHUP"} & set(dir(signal)):  # a terminal's; the grid ends its workers itself
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    cores = sorted(os.sched_getaffinity(0))
    place = places.get()
    if workers > 1 and len(cores) >= workers:
        os.sched_setaffinity(0, set(cores[place::workers]))
    from scalesim.compilation import use_compilation_cache

    use_compilation_cache()


def _end_with(parent: int) -> None:
    """End this process when the grid's is gone, whatever it does: an idle worker would wait for ever.

    The grid says its own number: it may be gone before a worker that begins can ask for its parent's.
    """
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
    keep: bool,
) -> dict[str, Any]:
    """Train a pack of runs in a worker, and keep their rows (and tensors); return the last row."""
    import io
    import shutil

    import numpy as np

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
        if keep:
            tensors = io.BytesIO()
            held: dict[str, Any] = {k: np.asarray(v) for k, v in result.params.items()}
            np.savez(tensors, **held)
            write_whole(Path(folder) / "finished" / f"{name}.npz", tensors.getvalue(), "trained tensors")
        write_json(Path(folder) / "finished" / f"{name}.json", finite(row), "finished run")
    shutil.rmtree(state, ignore_errors=True)
    return row
