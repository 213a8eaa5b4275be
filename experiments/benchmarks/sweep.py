"""How many designs a second are swept: products, streams, latency; beside NumPy; in two processes; memory.

    python -m experiments.benchmarks.sweep [--count N] [--repeats R]

Every line is measured in a process of its own (its peak memory is its own), the second of two runs there, so
that nothing compiles in it, and the best of some repeats. Beside the wall clock stands the processor time, by
which two idle cores would make 2 designs / CPU second: on a shared machine the wall clock measures the
neighbours. NumPy does the same work for `HeadLaw` on the same blocks with the same bars, on one core, and
computes the law itself, where our screen has it in a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import scalesim as ss
from experiments.common import RESULTS, machine_load, print_rows, write_csv
from scalesim.cost import FIGURE_2
from scalesim.design import Problem, Query
from scalesim.sweeps import Product, Stream, default_product
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.engine import SAMPLE
from scalesim.sweeps.keep import Kept, Margin
from scalesim.sweeps.screen import Bars, Question, exact, quick, screen
from scalesim.sweeps.table import tabulated

TARGET = 2.6
JOB = ss.Workload(context_length=131_072)
STREAM_BATCH = 1 << 20


def question_of(fit: str) -> Question:
    query = Query(workload=JOB, target_loss=TARGET)
    return Question(problem=Problem(law=ss.named_fit(fit).law), query=query)


def swept(designs: Any, objective: Any = FIGURE_2, fit: str = "default") -> dict[str, float]:
    found = ss.sweep(ss.named_fit(fit), designs, JOB, TARGET, objective=objective)
    return {"designs": found.designs, "seconds": found.seconds}


def stream_of(count: float) -> Stream:
    """A stream of shuffled designs; the eight batches it goes round are made beforehand."""
    space = default_product(1e8)
    rng = np.random.default_rng(0)
    tables = [space.sizes(rng.integers(0, space.count, STREAM_BATCH)).T.astype(np.int32) for _ in range(8)]
    batches = [dict(zip(SIZES, np.ascontiguousarray(table), strict=True)) for table in tables]

    def designs() -> Iterator[dict[str, np.ndarray]]:
        for i in range(max(int(count) // STREAM_BATCH, 1)):
            yield batches[i % len(batches)]

    return Stream(designs)


def settled_bars(space: Product, question: Question) -> Bars:
    """The bars that the sweep's own sample sets."""
    sample = space.sample(SAMPLE)
    rows = np.concatenate([sample, exact(question, sample[:, 1:])], axis=1)
    return Kept.empty(TARGET, 10, 0.3, 0.005).merged(rows).bars(Margin(4e-6, 4e-6))


def numpy_screen(question: Question, fields: dict[str, np.ndarray], bars: Bars) -> np.ndarray:
    """The screen's work in vectorised NumPy and float32, everything that an axis allows done once for it."""
    one = np.float32
    law: Any
    law, cost, context = question.problem.law, question.query.objective.function, one(JOB.context_length)
    n_layer, d_model, n_head, n_kv_head, d_ff = (fields[name] for name in SIZES)
    heads = one(2 * 64) * (n_head + n_kv_head)  # (H, 1)
    depth_width, ffn = n_layer * d_model, one(3) * n_layer * d_model * d_ff  # (1, B)
    n_params = depth_width * heads + ffn
    size = np.log(n_params * one(1 / 2e8))
    by_head = one(law.A) + one(law.C) * np.log1p(one(law.k) / n_head)
    excess = one(law.sharpness) * (one(np.log(law.m)) + one(law.g) * size - np.log(n_kv_head))
    loss = one(law.E) + np.exp(one(-law.b) * size) * by_head
    loss += one(law.F / law.sharpness) * np.logaddexp(excess, one(0))
    memory = one(2) * n_params + (one(4 * 64) * context * n_layer) * n_kv_head
    flops = context * (one(2) * n_params + (one(4 * 64) * context * n_layer) * n_head)
    objective = one(cost.memory_weight) * np.sqrt(memory)
    objective += one(1 - cost.memory_weight) * np.exp(one(cost.flops_exponent) * np.log(flops))
    passes = ((loss <= bars.target) & (objective <= bars.kth)) | (loss <= bars.least)
    last = bars.cells.shape[1] - 1
    cell = np.clip((loss - bars.low) * bars.scale, 0, last).astype(np.int32)
    for bar, values in zip(bars.cells, (memory, flops, objective), strict=True):
        passes |= values <= bar[cell]
    return passes


def on_blocks(
    kernel: Callable[..., Any], blocks: int, fit: str = "default", table: bool = True, dtype: Any = np.float32
) -> dict[str, float]:
    """Time a kernel on blocks of the product whose fields are ready; nothing else is counted."""
    space = default_product(1e9)
    question = question_of(fit)
    bars = settled_bars(space, question)
    fast = question
    if kernel is not numpy_screen:
        query, problem = question.query, question.problem
        by_table = tabulated(problem, query, space.sample(SAMPLE)[:, 1:]) if table else problem
        assert by_table is not None
        query = dataclasses.replace(query, objective=quick(query.objective))
        fast = Question(problem=by_table, query=query).cast(dtype)
    chosen = [space.block(number) for number in np.linspace(0, space.n_blocks - 2, blocks).astype(int)]
    if dtype is np.float64:
        bars = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), bars)
    done, passed, seconds, spent = 0, 0, 0.0, 0.0
    with jax.enable_x64(dtype is np.float64):
        for i, block in enumerate([chosen[0], *chosen]):
            assert block is not None
            fields = {name: values.astype(dtype) for name, values in block.fields.items()}
            start, cpu = time.perf_counter(), time.process_time()
            answer = kernel(fast, fields, bars)
            passes = np.asarray(answer if kernel is numpy_screen else answer[1])
            if i:  # the first compiles
                seconds += time.perf_counter() - start
                spent += time.process_time() - cpu
                done, passed = done + block.count, passed + int(passes.sum())
    return {"designs": float(done), "seconds": seconds, "passed": float(passed), "cpu_s": spent}


def saved(count: float) -> dict[str, float]:
    """A sweep that keeps every design as Parquet; the bytes of one are counted."""
    with tempfile.TemporaryDirectory() as folder:
        found = ss.sweep(ss.named_fit("default"), default_product(count), JOB, TARGET, save_all=folder)
        kept = sum(path.stat().st_size for path in Path(folder).glob("*.parquet"))
    return {"designs": found.designs, "seconds": found.seconds, "bytes_a_design": kept / found.designs}


def machine(function: Callable[[jax.Array], jax.Array], values: int = 1 << 22) -> dict[str, float]:
    """What this machine makes of one function of float32 values, as XLA compiles it: a value for a design."""
    x, apply = jax.device_put(np.linspace(0.5, 2.0, values, dtype=np.float32)), jax.jit(function)
    apply(x).block_until_ready()
    start, times = time.perf_counter(), 1 << 29 >> (values.bit_length() - 1)
    for _ in range(times):
        apply(x).block_until_ready()
    return {"designs": float(values * times), "seconds": time.perf_counter() - start}


def memory_only() -> dict[str, float]:
    """What the imports, the law and a compiled kernel take before any sweep of size."""
    return swept(default_product(1, max_layer=24))


def cases(count: float) -> dict[str, Callable[[], dict[str, float]]]:
    latency = ss.TimePerToken(hardware=ss.load_hardware("h100-sxm"))
    return {
        "product": lambda: swept(default_product(count)),
        "product, a tenth": lambda: swept(default_product(count / 10)),
        "product, next to nothing": memory_only,
        "product, HeadLaw": lambda: swept(default_product(count), fit="paper"),
        "stream": lambda: swept(stream_of(count / 5)),
        "stream, HeadLaw": lambda: swept(stream_of(count / 5), fit="paper"),
        "product, law + roofline latency": lambda: swept(default_product(count / 5), latency),
        "stream, law + roofline latency": lambda: swept(stream_of(count / 20), latency),
        "product, all kept as Parquet": lambda: saved(count / 100),
        "machine: an exponential": lambda: machine(jax.numpy.exp),
        "machine: a logarithm": lambda: machine(jax.numpy.log),
        "machine: reading 4 bytes of memory": lambda: machine(jax.numpy.max, 1 << 26),
        "screen alone, float32": lambda: on_blocks(screen, 40),
        "screen alone, float32, no table": lambda: on_blocks(screen, 10, table=False),
        "screen alone, float64, no table": lambda: on_blocks(screen, 10, table=False, dtype=np.float64),
        "screen alone, float32, HeadLaw": lambda: on_blocks(screen, 40, "paper"),
        "screen alone, float32, HeadLaw, no table": lambda: on_blocks(screen, 40, "paper", table=False),
        "NumPy, the screen's work, HeadLaw": lambda: on_blocks(numpy_screen, 10, "paper"),
    }


def one(name: str, count: float) -> None:
    """Measure one case, twice in this process so that the second finds everything compiled."""
    case = cases(count)[name]
    first = case()
    start = time.process_time()
    load = os.getloadavg()[0]
    second = case()
    spent = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {"cpu_s": spent, **second, "first_seconds": first["seconds"], "peak_mb": peak, "load": load}
        )
    )


def in_processes(n: int, count: float, cache: str) -> dict[str, Any]:
    """Sweep by the command line in n processes on this machine, all cores shared."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    program = "import sys; from scalesim.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "sweep", "--count", str(int(count)), "--json"]
    load, before = os.getloadavg()[0], resource.getrusage(resource.RUSAGE_CHILDREN)
    workers = []
    for i in range(n):
        joined = ["--coordinator", address, "--processes", str(n), "--process", str(i)] if n > 1 else []
        workers.append(
            subprocess.Popen(
                [*command, *joined],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
            )
        )
    printed = [worker.communicate()[0] for worker in workers]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = json.loads(printed[0])
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {"designs": answer["designs"], "seconds": answer["seconds"], "cpu_s": spent, "load": load}
    return {**row, "answer": json.dumps([answer["best"], answer["top"], answer["frontier"]])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=float, default=1e9)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", default=None)
    options = parser.parse_args()
    if options.one is not None:
        one(options.one, options.count)
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        for name in cases(options.count):
            command = [sys.executable, "-m", "experiments.benchmarks.sweep", "--one", name]
            command += ["--count", str(options.count)]
            found = [
                json.loads(
                    subprocess.run(
                        command, capture_output=True, text=True, check=True, env=environment
                    ).stdout
                )
                for _ in range(options.repeats)
            ]
            rows.append({"what": name, **min(found, key=lambda row: row["seconds"])})
        alike: dict[int, dict[str, Any]] = {}
        for n in [1, 2] * (options.repeats + 1):  # in turn, so that both meet the same neighbours
            found_n = in_processes(n, 3 * options.count, cache)  # long, so that starting does not count
            if n not in alike or found_n["seconds"] < alike[n]["seconds"]:
                alike[n] = found_n
        same = alike[1].pop("answer") == alike[2].pop("answer")
        rows += [{"what": f"command line, processes: {n}", **alike[n]} for n in (1, 2)]
        rows[-1]["same_answer"] = same
    for row in rows:
        row["rate"] = row["designs"] / row["seconds"]
        row["rate_on_two_idle_cores"] = 2 * row["designs"] / row["cpu_s"]
    screened = next(row for row in rows if row["what"] == "screen alone, float32, HeadLaw")
    # Seconds of one exponential and one logarithm, the least that a power of a design's size costs.
    two = ("machine: an exponential", "machine: a logarithm")
    exp_and_log = sum(1 / row["rate"] for row in rows if row["what"] in two)
    for row in rows:
        if row["what"].startswith("NumPy"):
            row["ours_over_this"] = screened["rate"] / row["rate"]
            row["ours_over_this_a_cpu_second"] = (
                screened["rate_on_two_idle_cores"] / row["rate_on_two_idle_cores"]
            )
        row["share_of_exp_and_log"] = row["rate"] * exp_and_log
    print(machine_load())
    print_rows("Sweeps", rows)
    write_csv(RESULTS / "sweep_speed.csv", rows)


if __name__ == "__main__":
    main()
