"""Redesigns against every configuration and deployment; a hundred scenarios in one call.

    python -m experiments.benchmarks.redesign_check [--questions 100] [--seed 0]

A redesign looks at all head configurations relaxed and builds some 40 of them as whole sizes. Here every
configuration is built, at five widths and three sizes each, and costed on every deployment. Writes
results/redesign_check.csv.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from scalesim.redesigns.engine import Engine
from scalesim.redesigns.ensemble import ensemble
from scalesim.redesigns.main import _asked

__all__ = ["main"]

MODELS = (
    "llama-3.2-1b",
    "llama-3.1-8b",
    "qwen3-8b",
    "llama-3.1-70b",
    "qwen3-30b-a3b",
    "gemma-3-27b",
    "deepseek-v2-lite",
)
HARDWARE = ("h100-sxm", "h200-sxm", "b200", "mi300x", "a100")


def question(rng: np.random.Generator) -> dict[str, Any]:
    """Return a random question."""
    context = float(2.0 ** rng.integers(11, 21))
    generated = None if rng.random() < 0.5 else context * float(rng.uniform(0.05, 0.9))
    batch = float(2 ** rng.integers(0, 7))
    job = ss.Workload(
        context_length=context, batch_size=batch, generated_length=generated,
        kv_bits=float(rng.choice([8, 16])), weight_bits=float(rng.choice([8, 16])),
    )  # fmt: skip
    objective = str(rng.choice(["price", "tpot", "memory", "lifetime"]))
    return {
        "model": str(rng.choice(MODELS)),
        "plan": ss.TrainingPlan(n_tokens=float(10 ** rng.uniform(11.5, 13.3))),
        "job": job,
        "place": str(rng.choice(HARDWARE)),
        "objective": objective,
        "same": str(rng.choice(["flops", "tokens", "free"])),
        "loss": float(rng.choice([0.0, -0.005, 0.005])),
        "traffic": float(10 ** rng.uniform(9, 13)) if objective == "lifetime" else None,
    }


def check(asked: dict[str, Any], laws: Any) -> Row:
    """Return what the search and the exhaustive evaluation find for a question."""
    names = ("model", "plan", "job", "place", "objective", "same", "loss", "traffic")
    given: list[Any] = [*(asked[name] for name in names), None, ("own",)]
    _, one = _asked(*given)
    engine = Engine(one, laws)
    start = time.perf_counter()
    best = engine.best()
    seconds = time.perf_counter() - start
    r = engine.all_ranked["own"]
    real = np.flatnonzero(np.isfinite(r.scale))
    every = engine.built("own", r.scale[real], jax.tree.map(lambda v: v[real], r.heads), r.share[real])
    row: Row = {
        "model": asked["model"],
        "hardware": asked["place"],
        "context": float(one.workload.context_length),
        "objective": asked["objective"],
        "same": asked["same"],
        "configurations": len(real),
        "seconds": seconds,
    }
    if best is None or every is None:
        return {**row, "over_best": 0.0 if best is every is None else np.inf}
    return {**row, "over_best": best.figures["objective"] / every.figures["objective"] - 1}


def main(folder: Path = RESULTS) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with jax.enable_x64(True):
        laws = ensemble(ss.named_fit("default"))
        rows = [check(question(rng), laws) for _ in range(options.questions)]
    over = np.array([row["over_best"] for row in rows])
    good = f"{np.sum(over <= 0.005)} of {len(over)} within 0.5% of the best"
    print(f"{machine_load()}. {good}; worst {100 * over.max():.3f}%")
    jobs = [ss.Workload(context_length=2.0**k, batch_size=16) for k in range(13, 18)]
    places = ["h100-sxm", "h200-sxm", "b200", "mi300x", "a100"]
    start = time.perf_counter()
    found = ss.redesign(["llama-3.1-8b"], [3e12, 15e12, 1e12, 6e12], jobs, hardware=places)
    first = time.perf_counter() - start
    start = time.perf_counter()
    ss.redesign(["llama-3.1-8b"], [3e12, 15e12, 1e12, 6e12], jobs, hardware=places)
    print(f"{len(found)} scenarios in one call: {first:.1f} s, again {time.perf_counter() - start:.1f} s")
    write_csv(folder / "redesign_check.csv", rows)
    print_rows("The five farthest", sorted(rows, key=lambda row: -row["over_best"])[:5])
    return rows


if __name__ == "__main__":
    main()
