"""Tokens a second of training: ours beside PyTorch with SDPA and transformers' Llama, same shapes, one run.

    python -m experiments.benchmarks.train_speed --peers /path/to/python   # with torch and transformers

3.1M parameters, 2,048 tokens a step at contexts of 256, 1,024 and 2,048, float32, AdamW, all cores. Each
contender runs in a process of its own, in turn, `--rounds` times; the best step of all rounds counts: on a
busy machine the others measure the company. Ours is also run with one thing undone at a time, which is what
holds XLA's CPU backend back. Beside the rate on all cores stands that on one thread by processor time, which
company hardly moves.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.common import RESULTS, print_rows, write_csv

SIZES = {
    "n_layer": 6,
    "d_model": 208,
    "n_head": 8,
    "n_kv_head": 4,
    "head_dim": 32,
    "d_ff": 560,
    "vocab_size": 256,
}
TABLE = RESULTS / "benchmark_train.csv"
TOKENS, CONTEXTS, STEPS = 2048, (256, 1024, 2048), 12

OURS = """
import json, sys, time
import jax, numpy as np
from scalesim.model import ModelOptions
from scalesim.shape import Shape
from scalesim.training import Recipe
from scalesim.training.step import compiled_step, first_state
spec = json.loads(sys.argv[1])
clock = time.process_time if spec["one_thread"] else time.perf_counter
shape, runs = Shape(**spec["sizes"]), spec["runs"]
step = compiled_step(shape, Recipe(), ModelOptions(**spec["options"]), packed=runs > 1)
states = [first_state(shape, Recipe(), i) for i in range(runs)]
state = jax.tree.map(lambda *x: np.stack(x), *states) if runs > 1 else states[0]
sizes = (runs, spec["batch"], spec["context"] + 1)
sizes = sizes if runs > 1 else sizes[1:]
batch = np.random.default_rng(0).integers(0, shape.vocab_size, sizes).astype(np.int32)
rate = np.full(runs, 1e-3, np.float32) if runs > 1 else np.float32(1e-3)
times = []
for _ in range(spec["steps"] + 1):
    began = clock()
    state, loss = step(state, batch, rate, np.int32(1000))
    jax.block_until_ready((state, loss))
    times.append(clock() - began)
print(json.dumps(times))
"""

TORCH = """
import json, sys, time
import torch
import torch.nn.functional as F
spec = json.loads(sys.argv[1])
clock = time.perf_counter
if spec["one_thread"]:
    clock = time.process_time
    torch.set_num_threads(1)
s = spec["sizes"]
L, d, f, V = s["n_layer"], s["d_model"], s["d_ff"], s["vocab_size"]
H, K, h = s["n_head"], s["n_kv_head"], s["head_dim"]
B, T = spec["batch"], spec["context"]
angles = torch.arange(T)[:, None] / 10000 ** (torch.arange(0, h, 2) / h)[None]
cos, sin = angles.cos(), angles.sin()

def rope(x):
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

def linear(n, m):
    return torch.nn.Linear(n, m, bias=False)

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.o = linear(d, H * h), linear(H * h, d)
        self.k, self.v = linear(d, K * h), linear(d, K * h)
        self.gate, self.up, self.down = linear(d, f), linear(d, f), linear(f, d)
        self.n1, self.n2 = torch.nn.RMSNorm(d), torch.nn.RMSNorm(d)

    def forward(self, x):
        y = self.n1(x)
        q = rope(self.q(y).view(B, T, H, h).transpose(1, 2))
        k = rope(self.k(y).view(B, T, K, h).transpose(1, 2))
        v = self.v(y).view(B, T, K, h).transpose(1, 2)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(o.transpose(1, 2).reshape(B, T, H * h))
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(V, d)
        self.blocks = torch.nn.ModuleList([Block() for _ in range(L)])
        self.norm = torch.nn.RMSNorm(d)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.norm(x) @ self.embed.weight.T

if spec["peer"] == "transformers":
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(hidden_size=d, num_hidden_layers=L, num_attention_heads=H, num_key_value_heads=K,
        head_dim=h, intermediate_size=f, vocab_size=V, tie_word_embeddings=True, attn_implementation="sdpa")
    llama = LlamaForCausalLM(config)
    model, logits = llama, lambda t: llama(t, use_cache=False).logits
else:
    model = Model()
    logits = model
optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
tokens = torch.randint(0, V, (B, T + 1))
times = []
for _ in range(spec["steps"] + 1):
    began = clock()
    loss = F.cross_entropy(logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad()
    times.append(clock() - began)
print(json.dumps(times))
"""


def spec(context: int = CONTEXTS[0], **changes: object) -> dict[str, object]:
    plain = {"sizes": SIZES, "batch": TOKENS // context, "context": context, "steps": STEPS}
    return {**plain, "runs": 1, "options": {}, "peer": "", "one_thread": False, **changes}


def start(python: str, code: str, given: dict[str, object], core: int | None = None) -> subprocess.Popen[str]:
    command = [python, "-c", code, json.dumps(given)]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    if given["one_thread"]:
        env |= {"NPROC": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def times_of(process: subprocess.Popen[str]) -> list[float]:
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err[-2000:])
    return json.loads(out.splitlines()[-1])


def rate(python: str, code: str, **changes: object) -> dict[str, float]:
    """Return tokens a second of the best step, and the first step's seconds (compilation)."""
    given = spec(**changes)  # type: ignore[arg-type]
    times = times_of(start(python, code, given, 0 if given["one_thread"] else None))
    return {"tokens_per_second": TOKENS * int(str(given["runs"])) / min(times[1:]), "first_step_s": times[0]}


def side_by_side() -> dict[str, float]:
    """Two runs in two processes of one core each, as a grid trains them: the sum of both medians."""
    processes = [start(sys.executable, OURS, spec(), core) for core in (0, 1)]
    both = [times_of(p) for p in processes]
    rates = [TOKENS / sorted(t[1:])[len(t) // 2] for t in both]
    return {"tokens_per_second": sum(rates), "first_step_s": max(t[0] for t in both)}


Contender = tuple[str, int, bool]
"""Who, at which context, and whether on one thread."""


def contenders(peers: str | None, ablations: bool) -> dict[Contender, Callable[[], dict[str, float]]]:
    ours = sys.executable
    table: dict[Contender, Callable[[], dict[str, float]]] = {}
    for context in CONTEXTS:
        for one in (False, True):
            given = {"context": context, "one_thread": one}
            table["ours", context, one] = partial(rate, ours, OURS, **given)
            if peers:
                table[PYTORCH, context, one] = partial(rate, peers, TORCH, peer="torch", **given)
    if ablations:
        short = CONTEXTS[0]
        whole, looped = {"attention": "xla"}, {"unroll": 1}
        table["ours, a pack of 2 by vmap", short, False] = partial(rate, ours, OURS, runs=2)
        table["ours, 2 runs on a core each", short, False] = side_by_side
        table["ours, attention as whole matrices", short, False] = partial(rate, ours, OURS, options=whole)
        table["ours, a loop over the layers", short, False] = partial(rate, ours, OURS, options=looped)
        if peers:
            table["transformers, Llama", short, False] = partial(rate, peers, TORCH, peer="transformers")
    return table


PYTORCH = "PyTorch, SDPA"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=os.environ.get("SCALESIM_PEERS_PYTHON"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-ablations", dest="ablations", action="store_false")
    options = parser.parse_args()
    best: dict[Contender, dict[str, float]] = {}
    for _ in range(options.rounds):
        for who, measure in contenders(options.peers, options.ablations).items():
            found = measure()
            if who not in best or found["tokens_per_second"] > best[who]["tokens_per_second"]:
                best[who] = found
            print(f"{who}: {found['tokens_per_second']:,.0f} tokens/s", flush=True)
    rows: list[dict[str, object]] = []
    for (name, context, one), found in best.items():
        peer = best.get((PYTORCH, context, one), {}).get("tokens_per_second")
        rows.append(
            {
                "contender": name,
                "context_length": context,
                "clock": "processor, one thread" if one else "wall, all cores",
                "tokens_per_second": round(found["tokens_per_second"]),
                "of_pytorch": round(found["tokens_per_second"] / peer, 3) if peer else "",
                "first_step_s": round(found["first_step_s"], 2),
                "load": round(os.getloadavg()[0], 2),
            }
        )
    asked = {(str(r["contender"]), str(r["context_length"]), str(r["clock"])) for r in rows}
    if TABLE.exists():  # contenders that were not asked stay, with the load of their day
        with TABLE.open() as file:
            held = list(csv.DictReader(file))
        rows += [r for r in held if (r["contender"], r["context_length"], r["clock"]) not in asked]
    write_csv(TABLE, rows)
    print_rows("Tokens a second of training", rows)
    print(f"written to {TABLE}")


if __name__ == "__main__":
    main()
