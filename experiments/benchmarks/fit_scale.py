"""What a fit costs as rows and resamples grow, and the memory it takes.

    python experiments/benchmarks/fit_scale.py [--most 100000]

Simulated Chinchilla runs. Each line is a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time

import numpy as np

from scalesim.data import RunTable
from scalesim.fitting import bootstrap, fit
from scalesim.laws import Chinchilla


def simulated(rows: int) -> RunTable:
    rng = np.random.default_rng(0)
    x = {"n_params": np.exp(rng.uniform(17, 23, rows)), "n_tokens": np.exp(rng.uniform(21, 26, rows))}
    loss = np.asarray(Chinchilla().loss(x), float)
    return RunTable(x, loss * np.exp(0.01 * rng.normal(size=rows)))


def measure(rows: int, resamples: int) -> None:
    runs = simulated(rows)
    found = fit("chinchilla", runs)
    if resamples:
        bootstrap(found, min(resamples, 4096), seed=1)
    cpu = time.process_time()
    if resamples:
        bootstrap(found, resamples)
    else:
        found = fit("chinchilla", runs)
    cpu = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    what = f"{resamples:,} resamples of {rows:,} rows" if resamples else f"one fit of {rows:,} rows"
    each = 1e6 * cpu / max(resamples, 1) / rows
    print(f"{what:<42}{cpu:>10.3f} CPU s{each:>12.4f} us a row and resample{peak:>10.0f} MB peak", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--one", type=int, nargs=2)
    options = parser.parse_args()
    if options.one:
        measure(*options.one)
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    sizes = [n for n in (100, 1_000, 10_000, 100_000) if n <= options.most]
    for rows, resamples in [(n, 0) for n in sizes] + [(240, n) for n in sizes] + [(10_000, 100)]:
        subprocess.run([sys.executable, __file__, "--one", str(rows), str(resamples)], check=True)


if __name__ == "__main__":
    main()
