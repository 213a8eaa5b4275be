"""One layer's attention on a processor: ours by blocks, JAX's whole matrices, PyTorch's SDPA; one core.

    python -m experiments.benchmarks.attention_speed --peers /path/to/python   # with torch

Milliseconds of processor time, forward, and forward and backward, the best of some calls; contenders run in
turn, each in a process of its own on one core. Writes results/attention_speed.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from experiments.common import RESULTS, Row, machine_load, print_rows, write_csv

__all__ = ["main"]

# Sequences x tokens, query heads : KV heads of so many values.
SHAPES = [
    (8, 256, 8, 1, 16), (8, 256, 8, 4, 32), (2, 1024, 8, 1, 16), (2, 1024, 8, 2, 32),
    (1, 2048, 8, 1, 16), (1, 2048, 8, 4, 32), (1, 2048, 4, 4, 8), (1, 4096, 8, 2, 64),
]  # fmt: skip

CALLS = 8

BEGIN = """
import json, os, sys, time
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
B, T, H, K, h, kind, calls = json.loads(sys.argv[1])
def best(f):
    f()
    times = []
    for _ in range(calls):
        began = time.process_time()
        f()
        times.append(time.process_time() - began)
    return 1e3 * min(times)
"""

OURS = """
import jax, jax.numpy as jnp
from scalesim.model import ModelOptions
from scalesim.model.attention import EVERYWHERE, attend
keys = jax.random.split(jax.random.key(0), 3)
args = [jax.random.normal(key, (B, T, n, h)) for key, n in zip(keys, (H, K, K))]
def forward(q, k, v):
    return attend(q, k, v, EVERYWHERE, ModelOptions(attention=kind))
both = jax.jit(jax.grad(lambda *x: (forward(*x) ** 2).sum(), argnums=(0, 1, 2)))
forward = jax.jit(forward)
print(json.dumps([best(lambda f=f: jax.block_until_ready(f(*args))) for f in (forward, both)]))
"""

TORCH = """
import torch
torch.set_num_threads(1)
q, k, v = (torch.randn(B, n, T, h, requires_grad=True) for n in (H, K, K))
def forward():
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
def alone():
    with torch.no_grad():
        forward()
print(json.dumps([best(alone), best(lambda: (forward() ** 2).sum().backward())]))
"""


def timed(python: str, code: str, given: list[object]) -> list[float]:
    """Return milliseconds forward, and forward and backward, as a process of its own measures them."""
    command = [python, "-c", BEGIN + code, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(ms) for ms in json.loads(done.stdout)]


def main(folder: Path = RESULTS, peers: str | None = None) -> list[Row]:
    rows: list[Row] = []
    for shape in SHAPES:
        batch, tokens, n_head, n_kv_head, head_dim = shape
        contenders = {"blocked": (sys.executable, OURS), "xla": (sys.executable, OURS)}
        if peers is not None:
            contenders["torch"] = (peers, TORCH)
        found = {name: timed(*how, [*shape, name, CALLS]) for name, how in contenders.items()}
        times = {
            f"{name}_{what}_ms": each[i]
            for i, what in enumerate(("forward", "both"))
            for name, each in found.items()
        }
        heads = f"{n_head}:{n_kv_head} of {head_dim}"
        rows.append({"sequences": batch, "tokens": tokens, "heads": heads, **times})
    print_rows(f"One layer's attention, one core ({machine_load()})", rows)
    write_csv(folder / "attention_speed.csv", rows)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--peers", help="a Python that has torch")
    main(peers=parser.parse_args().peers)
