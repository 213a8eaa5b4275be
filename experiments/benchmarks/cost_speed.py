"""How many designs a second are costed: ours, with and without gradients, beside llm-analysis.

The same random shapes (Llama-like, n_head * head_dim = d_model, which llm-analysis needs) on an A100: memory,
prefill and decode latency. Ours in one compiled call over a batch, llm-analysis one by one, in its own
interpreter.

    python -m experiments.benchmarks.cost_speed [--peer PYTHON] [--designs N] [--repeats R]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.blocks import in_blocks
from scalesim.cost.latency import prefill_time, step_time
from scalesim.cost.memory import serving_memory
from scalesim.hardware import load_hardware
from scalesim.shape import Shape
from scalesim.workload import Workload

PEER = """
import json, logging, sys, time
logging.disable(logging.CRITICAL)
from llm_analysis.analysis import LLMAnalysis
from llm_analysis.config import ModelConfig, get_dtype_config_by_name, get_gpu_config_by_name
rows = json.load(sys.stdin)
gpu, dtype = get_gpu_config_by_name("a100-sxm-80gb"), get_dtype_config_by_name("w16a16e16")
done, failed, last = 0, 0, None
start = time.perf_counter()
for layers, d, heads, kv, ff, context, batch in rows:
    model = ModelConfig(name="m", num_layers=layers, n_head=heads, hidden_dim=d, vocab_size=50304,
                        num_key_value_heads=kv, ffn_embed_dim=ff, max_seq_len=2 * context, model_type="llama")
    try:
        last = LLMAnalysis(model, gpu, dtype, flops_efficiency=0.6, hbm_memory_efficiency=0.8).inference(
            batch_size_per_gpu=batch, seq_len=context, num_tokens_to_generate=1)
        done += 1
    except Exception as error:
        failed, why = failed + 1, str(error)
seconds = time.perf_counter() - start
print(json.dumps({"done": done, "failed": failed, "seconds": seconds}))
"""


def shapes(count: int, seed: int = 0) -> np.ndarray:
    """Rows of n_layer, d_model, n_head, n_kv_head, d_ff, context, batch."""
    rng = np.random.default_rng(seed)
    heads = rng.integers(1, 8, count) * 8
    kv = np.minimum(2 ** rng.integers(0, 4, count), heads)
    layers = rng.integers(8, 64, count)
    # A width that every FFN of the peer accepts: it wants d_ff to be a whole multiple of d_model.
    return np.stack(
        [
            layers,
            64 * heads,
            heads,
            kv,
            256 * heads,
            rng.integers(1, 32, count) * 1024,
            rng.integers(1, 9, count),
        ],
        axis=1,
    )


def as_batch(rows: np.ndarray) -> tuple[Shape, jax.Array, jax.Array]:
    layers, d, heads, kv, ff, context, batch = jnp.asarray(rows.T, jnp.float32)
    head_dim = jnp.full_like(d, 64.0)
    vocab = jnp.full_like(d, 50304.0)
    shape = Shape(
        n_layer=layers, d_model=d, n_head=heads, n_kv_head=kv, head_dim=head_dim, d_ff=ff, vocab_size=vocab
    )
    return shape, context, batch


def best_rate(f: Callable[..., Any], args: tuple[Any, ...], count: int, repeats: int) -> tuple[float, float]:
    """Designs a second in the fastest of `repeats` calls, and seconds of the first, compilation and all."""
    start = time.perf_counter()
    jax.block_until_ready(f(*args))
    first = time.perf_counter() - start
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(f(*args))
        seconds.append(time.perf_counter() - start)
    return count / min(seconds), first


def peer_rate(python: str, rows: np.ndarray) -> dict[str, float]:
    done = subprocess.run(
        [python, "-c", PEER], input=json.dumps(rows.tolist()), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", help="a Python with llm-analysis installed")
    parser.add_argument("--designs", type=int, default=300_000)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    hardware = load_hardware("a100")
    rows = shapes(options.designs)

    def cost(shape: Shape, context: jax.Array, batch_size: jax.Array) -> tuple[jax.Array, ...]:
        job = Workload(context_length=context, batch_size=batch_size)
        memory = serving_memory(shape, job).total
        return memory, prefill_time(shape, job, hardware), step_time(shape, job, hardware)

    def with_gradients(*design: Any) -> Any:
        # One pullback of the three together: the gradient of any objective of them costs the same.
        values, pullback = jax.vjp(cost, *design)
        return values, pullback(tuple(jnp.ones_like(value) for value in values))

    def blocked(*designs: Any) -> Any:
        return in_blocks(with_gradients, *designs)

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} before; {options.designs:,} designs a call")
    for name, f in (("memory, prefill, decode", cost), ("the same with gradients", blocked)):
        rate, first = best_rate(jax.jit(f), as_batch(rows), options.designs, options.repeats)
        print(f"scalesim      {name:<26} {rate:>14,.0f} designs/s  (first call {first:.1f} s)")
    if options.peer:
        got = peer_rate(options.peer, rows[:1000])
        rate = got["done"] / got["seconds"]
        note = f"  ({got['failed']:.0f} refused)" if got["failed"] else ""
        print(f"llm-analysis  {'inference()':<26} {rate:>14,.0f} designs/s{note}")
    print(f"load {os.getloadavg()[0]:.2f} after")


if __name__ == "__main__":
    main()
