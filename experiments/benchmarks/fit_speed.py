"""Fitting Chinchilla's points: scalesim beside scipy and the packages of others, in one run.

    python -m experiments.benchmarks.fit_speed [--share 0.1] [--peers PYTHON]

Both of scipy's loops are those of the published refit (Besiroglu et al., arXiv 2404.10102): L-BFGS-B with
finite differences from a grid of 4,500 starts, and one BFGS start for each of 4,000 resamples. `--share` does
that share of them and scales the time up; 1 does all. `--peers` names an interpreter that has
simple-scaling-laws (and needs it not to be this one); where it is absent the table says so.

Processor seconds are the fair measure where other work shares the machine. Writes results/benchmark_fit.csv.

The points are the public digitisation of Hoffmann et al.'s Figure 4, looked for in SCALESIM_PUBLIC_RUNS or
the checkout's sibling shared/data.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import scalesim as ss
from experiments.common import RESULTS, write_csv
from experiments.public_data import public_runs
from scalesim.fitting.bootstrap import bootstrap, resample

TARGET = 1.018274017800599e-3
GRID = np.array(
    list(
        itertools.product(
            np.arange(0, 2.1, 0.5),
            np.arange(0, 2.1, 0.5),
            np.arange(-1, 1.1, 0.5),
            np.arange(0, 26, 5.0),
            np.arange(0, 26, 5.0),
        )
    )
)
"""The published starts: alpha, beta, log E, log A, log B."""


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a call's result, its wall and its processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def published_objective(runs: ss.RunTable, weight: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return the published objective of (alpha, beta, log E, log A, log B), in plain NumPy."""
    n, d, y = np.log(runs["n_params"]), np.log(runs["n_tokens"]), np.log(runs.loss)

    def objective(p: np.ndarray) -> float:
        alpha, beta, e, a, b = p
        parts = np.stack([a - alpha * n, b - beta * d, np.full_like(n, e)])
        top = parts.max(0)
        r = np.abs(top + np.log(np.exp(parts - top).sum(0)) - y)
        inner = np.minimum(r, 1e-3)
        return float(np.sum(weight * inner * (r - 0.5 * inner)))

    return objective


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--peers", default=os.environ.get("SCALESIM_PEERS_PYTHON"))
    options = parser.parse_args()
    path = public_runs() / "chinchilla" / "svg_extracted_data.csv"
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; share {options.share:g} of scipy's work")
    print(f"{'what':<58}{'wall s':>9}{'CPU s':>9}  found")
    runs = ss.load_runs(path, drop_largest=5)
    ours(runs)
    scipys(runs, options.share)
    fresh(path)
    peers(runs, options.peers)
    optimistix(runs, options.peers, options.share)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    load = {"what": f"load at the end, on {os.cpu_count()} cores", "wall_s": os.getloadavg()[0]}
    write_csv(RESULTS / "benchmark_fit.csv", [*ROWS, load])


ROWS: list[dict[str, Any]] = []


def line(what: str, wall: float, cpu: float, found: str) -> None:
    known = {} if cpu != cpu else {"cpu_s": cpu}
    ROWS.append({"what": what, "wall_s": wall, **known, "found": found})
    print(f"{what:<58}{wall:>9.3f}{cpu:>9.3f}  {found}", flush=True)


def ours(runs: ss.RunTable) -> None:
    found, wall, cpu = timed(lambda: ss.fit("chinchilla", runs))
    line("scalesim: first fit in a process, compiling", wall, cpu, gap(found.objective))
    times = [timed(lambda: ss.fit("chinchilla", runs)) for _ in range(20)]
    wall, cpu = np.median([t[1] for t in times]), np.median([t[2] for t in times])
    line("scalesim: warm fit, median of 20", float(wall), float(cpu), gap(found.objective))
    # Exponents are fitted through their logs, so the grid's zeros become 0.01.
    starts = dict(zip(("alpha", "beta", "E", "A", "B"), GRID.T, strict=True))
    starts = {k: np.exp(v) if k in "EAB" else np.maximum(v, 0.01) for k, v in starts.items()}
    ss.fit("chinchilla", runs, starts={k: v[:512] for k, v in starts.items()})
    grid, wall, cpu = timed(lambda: ss.fit("chinchilla", runs, starts=starts))
    reached = 100 * grid.optima[0].starts / len(GRID) if abs(grid.objective / TARGET - 1) < 1e-10 else 0.0
    line("scalesim: the published grid, 4,500 starts to convergence", wall, cpu, f"{reached:.1f}% reach it")
    bootstrap(found, 4000, seed=1)
    spread, wall, cpu = timed(lambda: bootstrap(found, 4000))
    errors = ", ".join(f"{k} {spread.standard_errors[k]:.4f}" for k in ("alpha", "beta", "E"))
    line("scalesim: 4,000 resamples, each seeded anew", wall, cpu, errors)


def gap(objective: float) -> str:
    return f"objective {objective:.16g}, off by {objective / TARGET - 1:.1e}"


def scipys(runs: ss.RunTable, share: float) -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    own = published_objective(runs, np.ones(len(runs)))
    some = GRID[rng.permutation(len(GRID))[: max(int(share * len(GRID)), 10)]]
    ends, wall, cpu = timed(lambda: [minimize(own, p, method="L-BFGS-B").fun for p in some])
    scale = len(GRID) / len(some)
    reached = 100 * np.mean(np.abs(np.array(ends) / TARGET - 1) < 1e-10)
    line(
        f"scipy: the published grid ({len(some)} starts, scaled)",
        wall * scale,
        cpu * scale,
        f"{reached:.1f}% reach it",
    )

    found = ss.fit("chinchilla", runs)
    count = max(int(share * 4000), 50)
    weights = resample(found, count, "pairs", 0)["weight"]
    law: Any = found.law
    first = np.array([law.alpha, law.beta, np.log(law.E), np.log(law.A), np.log(law.B)])

    def loop() -> np.ndarray:
        return np.array([minimize(published_objective(runs, w), first, method="BFGS").fun for w in weights])

    theirs, wall, cpu = timed(loop)
    scale = 4000 / count
    spread = bootstrap(found, count)
    worse = int(np.sum(spread.objective > theirs * (1 + 1e-9)))
    lost = 100 * np.mean(theirs > spread.objective * (1 + 1e-6))
    said = f"{lost:.1f}% end above ours; ours above scipy's in {worse} of {count}"
    line(f"scipy: 4,000 resamples, one BFGS start ({count}, scaled)", wall * scale, cpu * scale, said)


def fresh(path: Path) -> None:
    """Time whole processes: import, read, fit, print."""
    code = (
        "import sys, scalesim as ss\n"
        "from scalesim.compilation import use_compilation_cache\n"
        "use_compilation_cache() if len(sys.argv) > 2 else None\n"
        "print(ss.fit('chinchilla', ss.load_runs(sys.argv[1], drop_largest=5)).objective)"
    )
    with tempfile.TemporaryDirectory() as cache:
        env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
        kept = {**env, "JAX_COMPILATION_CACHE_DIR": cache}
        for what, args, environment in (
            ("scalesim: a fresh process, cold", [str(path)], env),
            ("scalesim: the same, filling a compilation cache", [str(path), "cache"], kept),
            ("scalesim: the same, from the compilation cache", [str(path), "cache"], kept),
        ):
            start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(
                [sys.executable, "-c", code, *args],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            )
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            line(what, wall, cpu, gap(float(done.stdout)))


_PEER = """
import sys, time, json
start = time.perf_counter()
try:
    import polars as pl
    from simple_scaling_laws import fit
except ImportError:
    print(json.dumps(None)); sys.exit()
table = json.load(open(sys.argv[1]))
frame = pl.DataFrame({"training_run_id": [str(i) for i in range(len(table["loss"]))],
                      "test_set_id": ["0"] * len(table["loss"]),
                      "model_size__n_params": table["n_params"], "dataset_size__n_tokens": table["n_tokens"],
                      "test_loss__ce": table["loss"]})
out = {}
for draws in (10, 4000):
    wall, cpu = time.perf_counter(), time.process_time()
    model = fit(frame, law="separable-power", n_draws=draws, seed=0)
    out[str(draws)] = [time.perf_counter() - wall, time.process_time() - cpu]
    if draws == 10:
        out["fresh"] = time.perf_counter() - start
    out["params"] = {k: float(v) for k, v in model.params("test_loss__ce").items()}
print(json.dumps(out))
"""


_OPTIMISTIX = """
import sys, time, json
try:
    import jax, jax.numpy as jnp, numpy as np, optimistix as optx
except ImportError:
    print(json.dumps(None)); sys.exit()
jax.config.update("jax_enable_x64", True)
table = json.load(open(sys.argv[1]))
n, d, y = (jnp.log(jnp.asarray(table[k])) for k in ("n_params", "n_tokens", "loss"))
n0, d0 = n.mean(), d.mean()

def residuals(p, _):
    alpha, beta, e, a, b = p
    r = jax.nn.logsumexp(jnp.stack([a - alpha * (n - n0), b - beta * (d - d0), e + 0 * n]), axis=0) - y
    size = jnp.abs(r)
    h = jnp.minimum(size, 1e-3) * (size - 0.5 * jnp.minimum(size, 1e-3))
    return jnp.where(size <= 1e-3, r, jnp.sign(r) * jnp.sqrt(2 * jnp.maximum(h, 1e-30)))

solver = optx.LevenbergMarquardt(rtol=1e-12, atol=1e-12)

@jax.jit
@jax.vmap
def solve(p):
    s = optx.least_squares(residuals, solver, p, max_steps=1000, throw=False)
    return 0.5 * jnp.sum(residuals(s.value, None) ** 2)

grid = np.asarray(table["grid"])
starts = jnp.asarray(np.stack([grid[:, 0], grid[:, 1], grid[:, 2], grid[:, 3] - grid[:, 0] * float(n0),
                               grid[:, 4] - grid[:, 1] * float(d0)], axis=1))
first = time.perf_counter(); jax.block_until_ready(solve(starts)); first = time.perf_counter() - first
wall, cpu = time.perf_counter(), time.process_time()
ends = np.asarray(solve(starts))
print(json.dumps({"first": first, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                  "reached": float(np.mean(np.abs(ends / 1.018274017800599e-3 - 1) < 1e-10))}))
"""


def peers(runs: ss.RunTable, python: str | None) -> None:
    """Time simple-scaling-laws, which fits by least squares."""
    table = {k: runs[k].tolist() for k in ("n_params", "n_tokens", "loss")}
    out = _asked(_PEER, table, python, "simple-scaling-laws")
    if out is None:
        return
    found = ", ".join(f"{k} {v:.4g}" for k, v in out["params"].items())
    line(
        "simple-scaling-laws: fresh process, 10 draws",
        out["fresh"],
        float("nan"),
        "least squares: another objective",
    )
    wall, cpu = out["4000"]
    line("simple-scaling-laws: 4,000 draws", wall, cpu, found)


def optimistix(runs: ss.RunTable, python: str | None, share: float) -> None:
    """Time optimistix's Levenberg-Marquardt on the pseudo-residuals, from the same grid."""
    some = GRID[np.random.default_rng(0).permutation(len(GRID))[: max(int(share * len(GRID)), 10)]]
    table = {k: runs[k].tolist() for k in ("n_params", "n_tokens", "loss")} | {"grid": some.tolist()}
    out = _asked(_OPTIMISTIX, table, python, "optimistix")
    if out is not None:
        scale = len(GRID) / len(some)
        what = f"optimistix LM: the published grid ({len(some)} starts, scaled)"
        said = f"{100 * out['reached']:.1f}% reach it; {out['first'] - out['wall']:.1f} s to compile"
        line(what, out["wall"] * scale, out["cpu"] * scale, said)


def _asked(code: str, table: dict[str, Any], python: str | None, name: str) -> dict[str, Any] | None:
    """Run a peer's script in its interpreter on a table; say so and return None where it is absent."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(table, file)
        file.flush()
        command = [python or sys.executable, "-c", code, file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    out = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None
    if out is None:
        why = (done.stderr.strip().splitlines() or ["not installed"])[-1]
        print(f"{name}: absent ({why}); --peers names an interpreter that has it", flush=True)
    return out


if __name__ == "__main__":
    main()
