"""How time and memory grow: questions, resamples, rows, configurations and designs.

    python -m experiments.benchmarks.growth [--most 0.1]

Each line is a process of its own, so that its peak of memory is its own; the work is done twice there and
the second time counts, so that nothing compiles in it. `--most` does that share of the largest sizes. The
exponent is that of the last two sizes: time ~ n^exponent. Writes results/growth.csv.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv
from scalesim.data import RunTable
from scalesim.laws import Chinchilla

JOB = ss.Workload(context_length=131_072)


def simulated(rows: int) -> RunTable:
    """Return Chinchilla runs with 1% of noise."""
    rng = np.random.default_rng(0)
    x = {"n_params": np.exp(rng.uniform(17, 23, rows)), "n_tokens": np.exp(rng.uniform(21, 26, rows))}
    loss = np.asarray(Chinchilla().loss(x), float)
    return RunTable(x, loss * np.exp(0.01 * rng.normal(size=rows)))


def questions(n: int) -> Callable[[], Any]:
    """A search of so many losses in one call."""
    law = ss.named_fit("default")
    return lambda: ss.search(law, JOB, np.linspace(2.55, 2.75, n))


def configurations(n: int) -> Callable[[], Any]:
    """A search of one loss over so many head configurations."""
    pairs = ((q, kv) for q in itertools.count(1) for kv in range(1, q + 1) if q % kv == 0)
    lattice = ss.Lattice("many", tuple(itertools.islice(pairs, n)), real=True)
    law = ss.named_fit("default")
    return lambda: ss.search(law, JOB, 2.6, lattice=lattice)


def rows(n: int) -> Callable[[], Any]:
    """A fit of so many runs."""
    runs = simulated(n)
    return lambda: ss.fit("chinchilla", runs)


def resamples(n: int) -> Callable[[], Any]:
    """So many refits of 240 runs."""
    fit = ss.fit("chinchilla", simulated(240))
    return lambda: ss.bootstrap(fit, n)


def designs(n: int) -> Callable[[], Any]:
    """A sweep of so many designs."""
    law = ss.named_fit("default")
    return lambda: ss.sweep(law, float(n), JOB, 2.6)


SIZES: dict[Callable[[int], Callable[[], Any]], tuple[int, ...]] = {
    questions: (1, 10, 100, 1_000, 10_000),
    configurations: (10, 100, 1_000, 10_000),
    rows: (100, 1_000, 10_000, 100_000, 1_000_000),
    resamples: (100, 1_000, 10_000, 100_000),
    designs: (10**6, 10**7, 10**8, 10**9, round(10**9.5)),
}
"""What grows, and how far."""


def measured(kind: str, n: int) -> Row:
    """Return the seconds and the peak of memory of one size."""
    work = globals()[kind](n)
    work()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"what": kind, "n": n, "seconds": wall, "cpu_s": cpu, "peak_mib": peak}


def main(arguments: list[str] | None = None, folder: Path = RESULTS) -> list[Row]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=float, default=1.0)
    parser.add_argument("--one", nargs=2)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measured(options.one[0], int(options.one[1]))))
        return []
    found: list[Row] = []
    for work, sizes in SIZES.items():
        last: Row = {}
        for n in (size for size in sizes if size <= options.most * sizes[-1]):
            command = [sys.executable, "-m", __spec__.name, "--one", work.__name__, str(n)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            if last:
                row["exponent"] = math.log(row["cpu_s"] / last["cpu_s"]) / math.log(n / last["n"])
            last = row
            found.append({**row, "load": machine_load()})
            print(
                f"{n:>13,} {work.__name__}: {row['cpu_s']:.3g} CPU s, {row['peak_mib']:.0f} MiB", flush=True
            )
    write_csv(folder / "growth.csv", found)
    print_rows(f"How time and memory grow ({machine_load()})", found)
    return found


if __name__ == "__main__":
    main()
