"""Score tensor parallelism on published timings that no constant was fitted to.

Seventeen timings of one sequence on one to eight A100s (gpt-fast, BF16, compiled decoding, cards limited to
330 W), and one of vLLM of January 2025 on four H100s, by the constants that ship and the engines "vllm-2024"
and "vllm-2026": nothing is fitted. What two, four and eight devices gain over the fewest that hold the model
stands beside them. Writes results/hardware_parallel.csv.

    python -m experiments.hardware_parallel
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import jax
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, write_csv

ROWS = Path(__file__).with_name("published_parallel.csv")
"""Milliseconds a token of one sequence: READMEs of meta-pytorch/gpt-fast @ 258ae2e (a prompt of 5 tokens, 200
are generated), and vllm-project/vllm issue 12101: (493.3 s / 100 - 0.13534 s) / 257.06 tokens."""
ENGINES = ("vllm-2024", "vllm-2026")


def timings() -> list[dict[str, Any]]:
    """Published and predicted milliseconds a token."""
    out = []
    with ROWS.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            shape, parallel = ss.known_model(row["model"]).shape, ss.Parallel(tensor=int(row["tensor"]))
            job = ss.Workload(context_length=int(row["context"]), batch_size=1)
            line: dict[str, Any] = {**row, "tensor": int(row["tensor"]), "tpot_ms": float(row["tpot_ms"])}
            for engine in ENGINES:
                hardware = ss.with_engine(ss.load_hardware(row["hardware"]), engine)
                cost = ss.serving_cost(shape, job, hardware, parallel)
                line[engine] = 1e3 * float(cost.serving.tpot_s)
            out.append(line)
    return out


def show(lines: list[dict[str, Any]], engine: str) -> None:
    """Print errors, and those of what several devices gain over the fewest that hold the model."""
    off = np.array([line[engine] / line["tpot_ms"] - 1 for line in lines])
    away = np.abs(off)
    print(f"{engine}: mean error {away.mean():.1%}, median {np.median(away):.1%}, bias {off.mean():+.1%}")
    gains = []
    for model in dict.fromkeys(line["model"] for line in lines):
        first, *rest = [line for line in lines if line["model"] == model]
        for line in rest:
            gain = first["tpot_ms"] / line["tpot_ms"]
            gains.append(first[engine] / line[engine] / gain - 1)
    if gains:
        print(
            f"    what more devices gain: mean error {np.abs(gains).mean():.1%}, bias {np.mean(gains):+.1%}"
        )


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    lines = timings()
    for line in lines:
        print(*(f"{v:.3g}" if isinstance(v, float) else v for v in line.values()))
    for engine in ENGINES:
        for one in ("gpt-fast", "vllm"):
            show([line for line in lines if line["served_by"] == one], f"{engine}")
    write_csv(RESULTS / "hardware_parallel.csv", lines)


if __name__ == "__main__":
    main()
