"""What a user waits for: whole commands from an empty cache and from a warm one, and questions in a process.

    python -m experiments.benchmarks.commands [--repeats 5] [--points CSV]

Every line is a process of its own, from Python's start to its exit: first with empty caches (`cold`), then as
often as asked with what that kept (`warm`, the median). Beside the wall clock stands processor time, which is
the fair measure where other work shares the machine. `--points` names the table of Hoffmann et al.'s Figure 4
(looked for in SCALESIM_PUBLIC_RUNS, as the tests do); without it the fit is of the paper's own runs. Writes
results/command_times.csv.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from experiments.public_data import public_runs

COMMANDS = (
    "design",
    "design --objective tpot --fits",
    "design --free all",
    "design --uncertainty",
    "design --sensitivity",
    "design --frontier loss memory",
    "design --plot FIGURE",
    "cost llama-3.1-8b",
    "compare llama-3-8b llama-3.1-8b qwen3-8b",
    "redesign llama-3.1-8b --tokens 15T --context 128K --batch 16 --hardware h100-sxm --kv-bits 8",
    "fit POINTS --law chinchilla --bootstrap 4000",
)


def waited(words: list[str], folder: str) -> tuple[float, float]:
    """Return the wall and the processor seconds of one command whose caches are in a folder."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
    command = [sys.executable, "-m", "scalesim", *words]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=folder)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command_row(command: str, points: str, repeats: int) -> Row:
    """Return one command's times."""
    with tempfile.TemporaryDirectory() as folder:
        words = [{"POINTS": points, "FIGURE": "figure.png"}.get(word, word) for word in command.split()]
        cold = waited(words, folder)
        warm = [waited(words, folder) for _ in range(repeats)]
    wall, cpu = (statistics.median(values) for values in zip(*warm, strict=True))
    return {
        "command": command,
        "cold_s": cold[0],
        "cold_cpu_s": cold[1],
        "warm_s": wall,
        "warm_cpu_s": cpu,
        "load": os.getloadavg()[0],
    }


def points_there() -> str:
    """Return the table of Figure 4's points, or the name of the paper's own runs."""
    try:
        table = public_runs() / "chinchilla" / "svg_extracted_data.csv"
    except FileNotFoundError:
        return "paper"
    return str(table) if table.exists() else "paper"


def question_rows(repeats: int) -> list[Row]:
    """Return the times of 1 to 1,000 losses in one `ss.search`: the first call, and the median of others."""
    law, job = ss.named_fit("default"), ss.Workload(context_length=131072)
    rows: list[Row] = []
    for count in (1, 10, 100, 1000):
        losses = np.linspace(2.55, 2.75, count)
        times = []
        for _ in range(repeats + 1):
            wall, cpu = time.perf_counter(), time.process_time()
            ss.search(law, job, losses)
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        wall, cpu = (statistics.median(values) for values in zip(*times[1:], strict=True))
        first = {"cold_s": times[0][0], "cold_cpu_s": times[0][1]}
        rows.append({"command": f"ss.search, {count:,} losses", **first, "warm_s": wall, "warm_cpu_s": cpu})
    return rows


def main(arguments: list[str] | None = None, folder: Path = RESULTS) -> list[Row]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--points")
    options = parser.parse_args(arguments)
    points = options.points or points_there()
    rows: list[Row] = []
    for command in COMMANDS:
        rows.append(command_row(command, points, options.repeats))
        print(f"{command}: cold {rows[-1]['cold_s']:.1f} s, warm {rows[-1]['warm_s']:.2f} s", flush=True)
    rows += question_rows(options.repeats)
    write_csv(folder / "command_times.csv", rows)
    print_rows(f"What a user waits for ({machine_load()})", rows)
    return rows


if __name__ == "__main__":
    main()
