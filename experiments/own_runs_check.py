"""The loop closed at small scale: our own runs predict the largest size; a design is searched and trained.

    python -m experiments.own_runs_check              # from the shipped table; trains four models (minutes)
    python -m experiments.own_runs_check --no-train   # the prediction alone

Four steps. (1) Laws are compared on the three smaller sizes alone: fitted to two, scored on the third.
(2) The best predicts the largest size, which took no part in the choice. (3) Fitted to all runs, it is
searched at 16 times the trained context for the cheapest design that reaches the baseline's predicted loss.
(4) Design and baseline are trained with seeds that no run had, and everything predicted is measured: loss,
parameters and KV bytes (real arrays), FLOPs (XLA's count), prefill and decode time. The times are predicted
from this machine's own kernels (`ss.measure_hardware`), measured in the same process.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, machine_load, print_rows, write_csv
from experiments.own_runs_figure import plot
from experiments.own_runs_measured import compared
from experiments.own_runs_prediction import fitted, prediction
from scalesim.cost import HardwareAwareCost
from scalesim.design.lattice import buildable
from scalesim.families import ShapeFamily
from scalesim.laws import Grouped
from scalesim.shape import Shape, count_params
from scalesim.training import Recipe, TrainConfig, load_corpus
from scalesim.training.grid import run_grid
from scalesim.training.grid_file import Grid

CONTEXT, TOKENS, BATCH = 128, 1_048_576, 1024
SEEDS = (10, 11)
SERVED = 2048  # 16 times the trained context, as 128K is of the paper's 8K: losses are taken to rank alike
OUT = Path("out/own_runs_check")


def own_family(runs: ss.RunTable) -> ShapeFamily:
    """Return the aspect ratios of our own sizes, at one size each."""
    knots = {}
    for depth, width in sorted({(a, b) for a, b in zip(runs["n_layer"], runs["d_model"], strict=True)}):
        same = (runs["n_layer"] == depth) & (runs["d_model"] == width)
        knots[float(np.log(np.median(runs["n_params"][same])))] = float(width / depth)
    return ShapeFamily("our own runs", tuple(knots), tuple(knots.values()), head_dim=8, vocab_size=256)


def searched(runs: ss.RunTable, law: str) -> tuple[Any, Shape]:
    """Return the cheapest design for the loss of the third size with 16:4 heads, and that size."""
    fit = fitted(law, runs)
    assert isinstance(fit.law, Grouped)
    member = fit.law.member(fit.law.index(context_length=float(CONTEXT)))
    baseline = Shape(
        n_layer=4,
        d_model=88,
        n_head=16,
        n_kv_head=4,
        head_dim=8,
        d_ff=232,
        vocab_size=256,
        tied_embeddings=True,
    )
    target = float(
        member.loss({"n_params": count_params(baseline, "paper"), "n_head": 16.0, "n_kv_head": 4.0})
    )
    best = ss.search(
        member,
        ss.Workload(context_length=SERVED),
        target,
        objective=HardwareAwareCost(),
        family=own_family(runs),
        lattice=buildable(16, tile=8),
        baseline=baseline,
    )
    return best, baseline


def real(shape: Shape) -> Shape:
    """Return a design with whole numbers for sizes."""
    names = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
    whole: dict[str, Any] = {n: round(float(getattr(shape, n))) for n in names}
    return replace(shape, **whole)


def trained(shapes: dict[str, Shape], rates: dict[str, float]) -> dict[str, list[float]]:
    """Train each shape with the held-out seeds; finished runs are read, not trained again."""
    corpus = load_corpus()
    configs = {
        (name, seed): TrainConfig(
            shape=shape,
            context_length=CONTEXT,
            n_tokens=TOKENS,
            batch_tokens=BATCH,
            learning_rate=rates[name],
            seed=seed,
            recipe=Recipe(),
        )
        for name, shape in shapes.items()
        for seed in SEEDS
    }
    table = run_grid(Grid(tuple(configs.values()), "stdlib", OUT), progress=_say)
    with table.open() as file:
        found = {row["run_id"]: float(row["loss"]) for row in csv.DictReader(file)}
    return {name: [found[configs[name, seed].run_id(corpus.hash)] for seed in SEEDS] for name in shapes}


def _say(progress: Any) -> None:
    if progress.last is not None:
        print(f"{progress.finished} of {progress.runs}: loss {progress.last['loss']:.4f}", flush=True)


def learning_rate(runs_csv: Path, n_params: float) -> float:
    """Return the learning rate between those tuned for the sizes, linear in logs."""
    with runs_csv.open() as file:
        rows = list(csv.DictReader(file))
    pairs = sorted({(float(r["d_model"]), float(r["learning_rate"])) for r in rows})
    widths = {d: [float(r["n_params"]) for r in rows if float(r["d_model"]) == d] for d, _ in pairs}
    x = [np.log(np.median(widths[d])) for d, _ in pairs]
    return float(np.exp(np.interp(np.log(n_params), x, [np.log(rate) for _, rate in pairs])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-train", action="store_true")
    options = parser.parse_args()
    runs = ss.load_runs("own")
    rows, summary = prediction(runs)
    print_rows("The largest size, predicted from the others", rows)
    print(summary)
    write_csv(RESULTS / "own_runs_prediction.csv", rows)
    checked: list[dict[str, Any]] = []
    if not options.no_train:
        best, baseline = searched(runs, summary["law"] if summary["law"] != "power" else "separablehead")
        design = real(best.shape)
        print(f"design {design}\nbaseline {baseline}\n{best.status}")
        table = Path(ss.__file__).parent / "own_runs.csv"
        rates = {
            name: learning_rate(table, float(count_params(shape, "non_embedding")))
            for name, shape in (("design", design), ("baseline", baseline))
        }
        losses = trained({"design": design, "baseline": baseline}, rates)
        predicted = {"design": float(best.best.loss), "baseline": float(best.target_loss)}
        machine = ss.measure_hardware()
        print(machine.status)
        shapes = {"design": design, "baseline": baseline}
        checked = compared(shapes, losses, predicted, CONTEXT, machine.hardware)
        print_rows("Design over baseline", checked)
        print(f"losses {losses}, predicted {predicted}")
        write_csv(RESULTS / "own_runs_check.csv", checked)
    plot(rows, summary, checked)
    print(f"load {machine_load()}")


if __name__ == "__main__":
    main()
