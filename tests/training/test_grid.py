"""Grids: read, multiplied out, trained by workers, skipped when finished, resumed when killed."""

import csv
import dataclasses
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

import scalesim as ss
from scalesim.errors import InvalidInput, Unreachable
from scalesim.training.grid import run_grid
from scalesim.training.grid_file import load_grid
from scalesim.training.pattern import words_of

GRID = """
corpus = "{corpus}"
folder = "{folder}"

[defaults]
head_dim = 8
n_layer = 1
d_model = 16
d_ff = 32
n_tokens = {tokens}
batch_tokens = 256
validation_tokens = 2048

[[runs]]
heads = [[1, 1], [4, 2]]
context_length = [16, 32]
learning_rate = 0.01

[[runs]]
heads = [[4, 2]]
context_length = 16
seed = [0, 1]
learning_rate = 0.01
"""


def written(folder, tokens=2560, text=GRID):
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for i in range(200):
        (corpus / f"{i}.txt").write_text(f"document {i} says {i * i}\n" * 20)
    path = folder / "grid.toml"
    path.write_text(text.format(corpus=corpus, folder=folder / "out", tokens=tokens))
    return path


def test_lists_are_multiplied_out_and_no_run_is_listed_twice(tmp_path):
    grid = load_grid(written(tmp_path))
    seen = [(r.shape.n_head, r.shape.n_kv_head, r.context_length, r.seed) for r in grid.runs]
    assert seen == [(1, 1, 16, 0), (1, 1, 32, 0), (4, 2, 16, 0), (4, 2, 32, 0), (4, 2, 16, 1)]


def test_the_grid_of_our_own_runs_can_be_read():
    from pathlib import Path

    grids = Path(__file__).parents[2] / "experiments" / "grids"
    runs = load_grid(grids / "own_runs.toml").runs
    sizes = {(r.shape.n_layer, r.shape.d_model) for r in runs}
    assert len(sizes) == 4
    assert {r.context_length for r in runs} == {64, 128}
    assert len(load_grid(grids / "tune.toml").runs) > 10


def test_the_second_grid_holds_models_of_one_size_that_differ_in_heads():
    from pathlib import Path

    grids = Path(__file__).parents[2] / "experiments" / "grids"
    runs = load_grid(grids / "long_runs.toml").runs
    assert {r.context_length for r in runs} == {256, 1024, 2048, 4096}
    sizes = {}
    for run in runs:
        sizes.setdefault(run.shape.d_model, set()).add(ss.count_params(run.shape, "paper"))
        assert run.n_tokens >= 20 * run.shape.n_params_total
    assert len(sizes) == 4
    assert all(max(n) <= 1.005 * min(n) for n in sizes.values())
    assert max(max(n) for n in sizes.values()) > 15 * min(min(n) for n in sizes.values())
    mixed = load_grid(grids / "mixers.toml").runs
    for width in (40, 64):  # kinds of layers beside the plain attention of the same size
        kinds = {words_of(run.shape) for run in mixed if run.shape.d_model == width}
        assert kinds == {
            "window 128",
            "window 128, full",
            "full, shared",
            f"latent {16 if width == 40 else 32}",
        }
    for run in mixed:
        assert ss.count_params(run.shape, "paper") == pytest.approx(min(sizes[run.shape.d_model]), rel=5e-3)


@pytest.mark.slow
def test_a_grid_is_trained_once_and_its_table_fits(tmp_path):
    grid = dataclasses.replace(load_grid(written(tmp_path)), keep=True)
    seen = []
    table = run_grid(grid, workers=2, progress=seen.append)
    assert seen[-1].finished == 5
    kept = [np.load(path) for path in (tmp_path / "out" / "finished").glob("*.npz")]
    assert sorted(sum(x.size for x in tensors.values()) for tensors in kept) == sorted(
        run.shape.n_params_total for run in grid.runs
    )
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["context_length"]) for r in rows] == [16, 32, 16, 32, 16]
    assert {r["status"] for r in rows} == {"finished"}
    assert all(r["loss_by_position"].startswith("1:") for r in rows)
    runs = ss.load_runs(str(table))
    assert len(runs) == 5
    assert set(runs["context_length"].tolist()) == {16.0, 32.0}
    # Again: nothing is trained, and a lost table is made again.
    table.unlink()
    began = time.monotonic()
    run_grid(grid, workers=2, progress=lambda p: pytest.fail("a finished run was trained again"))
    assert time.monotonic() - began < 20
    assert table.exists()


@pytest.mark.slow
def test_seeds_and_learning_rates_are_packed_into_one_program(tmp_path):
    text = GRID.replace("[defaults]", "[defaults]\nvocab_size = 256").replace(
        "seed = [0, 1]", "seed = [0, 1, 2]"
    )
    apart = load_grid(written(tmp_path, text=text))
    with run_grid(apart, workers=2).open() as file:
        alone = {row["run_id"]: float(row["loss"]) for row in csv.DictReader(file)}
    together = dataclasses.replace(apart, pack=True, folder=tmp_path / "packed")
    seen = []
    with run_grid(together, workers=1, progress=seen.append).open() as file:
        packed = {row["run_id"]: float(row["loss"]) for row in csv.DictReader(file)}
    assert seen[-1].finished == 6
    assert packed.keys() == alone.keys()
    for name, loss in alone.items():
        assert packed[name] == pytest.approx(loss, rel=1e-3)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_a_sentence_and_the_rest_goes_on(tmp_path):
    grid = load_grid(written(tmp_path, tokens=256_000))

    def kill():
        while not list((tmp_path / "out" / "unfinished").glob("*/checkpoints")):
            time.sleep(0.1)
        worker = next(p for p in multiprocessing.active_children() if p.pid)
        os.kill(worker.pid, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(Unreachable, match="run the grid again"):
        run_grid(grid, workers=2)
    table = run_grid(grid, workers=2)
    assert len(table.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[runs]]\nwidth = 3\n", "field 'width' is not known"),
        ("hosts = 2\n", "field 'hosts' is not known"),
        ("corpus = 'stdlib'\n", r"no \[\[runs\]\]"),
        (
            "pack = 3\n[[runs]]\nn_layer=1\nd_model=8\nheads=[[4,1]]\nd_ff=8\n"
            "context_length=8\nn_tokens=9\nbatch_tokens=8\n",
            "pack must be",
        ),
        ("corpus = \n", "is no TOML"),
        ("[[runs]]\nseed = []\n", r"runs\[0\].seed is an empty list"),
        ("[[runs]]\nn_layer = 1\n", "lacks d_model"),
        (
            "[[runs]]\nn_layer=1\nd_model=8\nheads=[[4,1]]\nd_ff=8\ncontext_length=8\nn_tokens=9\n"
            "layers='full, wide'\n",
            "layers must be words",
        ),
        (
            "[[runs]]\nn_layer=1\nd_model=8\nheads=[[4,3]]\nd_ff=8\ncontext_length=8\nn_tokens=9\n",
            "n_kv_head must divide",
        ),
    ],
)
def test_a_grid_that_will_not_do_is_named(tmp_path, text, says):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=says):
        load_grid(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_grid(tmp_path / "absent.toml")


def test_a_corpus_shorter_than_a_context_is_refused_before_anything_is_trained(tmp_path):
    path = written(
        tmp_path,
        text=GRID.replace("context_length = 16\n", "context_length = 262144\nbatch_tokens = 262144\n"),
    )
    with pytest.raises(InvalidInput, match="context_length 262144 needs 262145 tokens"):
        run_grid(load_grid(path))
    assert not (tmp_path / "out").exists()


def test_json_of_rows_is_plain(tmp_path):
    from scalesim.training.table import finite, gather

    assert finite({"loss": float("nan"), "n": 1}) == {"loss": None, "n": 1}
    assert gather([], tmp_path / "none.csv") == 0
    assert not (tmp_path / "none.csv").exists()
