"""Closed forms of continuous batching beside a simulation of the scheduler, step by step.

The simulation follows vLLM's default scheduler: each step decodes every running sequence, and fills what room
prefill_chunk leaves with tokens of waiting prompts, first come first served. Steps take what `step_time` and
`mixed_step_time` say, interpolated, so that what is scored is the closed form alone. Drawn at random: models,
lengths, loads; answers differ in length by half either way, so that requests do not march in step. Writes
results/serving_load.csv.

    python -m experiments.serving_load [--cases 32]
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.common import RESULTS, write_csv
from scalesim.cost.batching import (
    UnderLoad,
    at_concurrency,
    at_request_rate,
    largest_request_rate,
    mixed_step_time,
)
from scalesim.cost.latency import step_time
from scalesim.cost.numbers import to_float
from scalesim.hardware import load_hardware
from scalesim.models import known_model
from scalesim.workload import Workload

MODELS = ("qwen3-1.7b", "llama-3-8b", "qwen2.5-32b")
REQUESTS = 600  # of a simulation at the least; those of the middle half count


def clock(shape: Any, job: Workload, hardware: Any) -> Callable[[int, int], float]:
    """Seconds of a step by decoding sequences and prompt tokens, interpolated on a grid."""
    running = np.array([0.25, 1, 2, 4, 8, 16, 32, 64, 128, 256])
    tokens = np.array([1, 64, 256, 512, 1024, 2048, 4096, 8192])

    def mixed(n: Any, t: Any) -> Any:
        return mixed_step_time(shape, to_float(job_of(n)), hardware, prompt_tokens=t)

    def job_of(n: Any) -> Workload:
        return Workload(
            context_length=job.context_length, generated_length=job.generated_length, batch_size=n
        )

    plain = jax.vmap(lambda n: step_time(shape, job_of(n), hardware))(running)
    grid = jax.vmap(lambda n: jax.vmap(lambda t: mixed(n, t))(1.0 * tokens))(running)
    table = np.concatenate([np.asarray(plain)[:, None], np.asarray(grid)], axis=1)
    columns = np.concatenate([[0.0], tokens])

    def seconds(n: int, t: int) -> float:
        by_running = [np.interp(t, columns, row) for row in table]
        return float(np.interp(n, running, by_running))

    return seconds


def simulated(
    job: Workload, seconds: Callable[[int, int], float], *, rate: float | None, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Mean TTFT and TPOT and requests a second: Poisson arrivals at a rate, or a fixed number at a time."""
    prompt, mean = int(job.prompt_length), float(job.generated_length or 1)
    most, room = int(job.batch_size), int(job.prefill_chunk)
    count = REQUESTS + 8 * most
    generated = np.maximum(2, np.round(mean * rng.uniform(0.5, 1.5, count))).astype(int)
    arrivals = np.cumsum(rng.exponential(1 / rate, count)) if rate else np.zeros(count)
    upcoming, waiting = deque(range(count)), deque[int]()
    left: dict[int, int] = {}  # prompt tokens
    made: dict[int, int] = {}  # tokens
    first, last, begun = np.zeros(count), np.zeros(count), arrivals.copy()
    now, computing = 0.0, deque[int]()
    while upcoming or waiting or left or made:
        while upcoming and (
            arrivals[upcoming[0]] <= now if rate else len(waiting) + len(left) + len(made) < most
        ):
            begun[upcoming[0]] = arrivals[upcoming[0]] if rate else now
            waiting.append(upcoming.popleft())
        while waiting and len(left) + len(made) < most:
            left[waiting[0]] = prompt
            computing.append(waiting.popleft())
        if not left and not made:
            now = float(arrivals[upcoming[0]])
            continue
        free, spent, done = room - len(made), 0, []
        for request in computing:
            take = min(free - spent, left[request])
            left[request] -= take
            spent += take
            if left[request] == 0:
                done.append(request)
            if spent == free:
                break
        now += seconds(len(made), spent)
        for request in list(made):
            made[request] += 1
            if made[request] == generated[request]:
                last[request] = now
                del made[request]
        for request in done:
            computing.popleft()
            del left[request]
            first[request] = now
            made[request] = 1
    kept = slice(count // 4, count * 3 // 4)
    per_token = (last - first)[kept] / (generated - 1)[kept]
    order = np.sort(last)[count // 4 : count * 3 // 4]
    served = (len(order) - 1) / (order[-1] - order[0]) if order[-1] > order[0] else float("nan")
    return float((first - begun)[kept].mean()), float(per_token.mean()), float(served)


def case(rng: np.random.Generator) -> dict[str, Any]:
    """One random workload, by a fixed number at a time and by a rate, simulated and in closed form."""
    name = str(rng.choice(MODELS))
    prompt, generated = (int(2 ** rng.uniform(*span)) for span in ((6, 13), (5, 9)))
    together, chunk = int(2 ** rng.uniform(0, 8)), int(rng.choice([2048, 8192]))
    shape, hardware = known_model(name).shape, load_hardware("h200")
    job = Workload(
        context_length=prompt + generated,
        generated_length=generated,
        batch_size=together,
        prefill_chunk=chunk,
    )
    seconds = clock(shape, job, hardware)
    line: dict[str, Any] = {
        "model": name, "prompt": prompt, "generated": generated, "concurrency": together, "chunk": chunk,
    }  # fmt: skip
    jitted = jax.jit(lambda w: at_concurrency(shape, w, hardware))
    found = jax.tree.map(float, jitted(to_float(job)))
    line |= beside("closed", found, simulated(job, seconds, rate=None, rng=rng))
    # Of the rate that is served at most, the share that is asked for.
    rate = float(rng.uniform(0.1, 0.9)) * largest_request_rate(shape, job, hardware).requests_per_s
    found = at_request_rate(shape, job, hardware, requests_per_s=rate)
    return line | beside("open", found, simulated(job, seconds, rate=rate, rng=rng)) | {"busy": found.busy}


def beside(what: str, found: UnderLoad, truth: tuple[float, float, float]) -> dict[str, float]:
    names = ("ttft_s", "tpot_s", "requests_per_s")
    out: dict[str, float] = {}
    for name, true in zip(names, truth, strict=True):
        out |= {f"{what}_{name}": true, f"{what}_{name}_ratio": getattr(found, name) / true}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(options.seed)
    lines = [case(rng) for _ in range(options.cases)]
    write_csv(RESULTS / "serving_load.csv", lines)
    for what in ("closed", "open"):
        for name in ("ttft_s", "tpot_s", "requests_per_s"):
            off = np.abs(np.array([line[f"{what}_{name}_ratio"] for line in lines]) - 1)
            mean, median, worst = (f"{f(off):7.1%}" for f in (np.mean, np.median, np.max))
            print(f"{what:<8}{name:<16} mean {mean}  median {median}  worst {worst}")


if __name__ == "__main__":
    main()
