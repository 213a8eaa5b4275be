"""The searched design and its baseline, measured: parameters, KV bytes, FLOPs, and prefill and decode time.

The machine that predicts the times is measured by its kernels and by whole models that are neither of them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.cache import kv_cache_bytes
from scalesim.cost.flops import forward_flops
from scalesim.hardware import Hardware
from scalesim.measure import time_models
from scalesim.model import ModelOptions, empty_cache, forward, init_params
from scalesim.shape import Shape, count_params

LONG = (128, 2048, 8192)
NAMES = {"ttft": "prefill_s", "tpot": "decode_s"}

Quantities = dict[str, float]


def measured(shape: Shape, trained_at: int, machine: Hardware) -> tuple[Quantities, Quantities]:
    """Return a shape's parameters, KV bytes, FLOPs and times: measured, and predicted."""
    params = init_params(shape, jax.random.key(0))
    flops_options = ModelOptions(attention="xla", unroll=shape.n_layer)
    text = jnp.zeros((1, trained_at), jnp.int32)
    compiled = jax.jit(lambda p, t: forward(p, t, shape, flops_options)).lower(params, text).compile()
    found: Quantities = {
        "n_params": sum(v.size for v in params.values()),
        "flops": dict(compiled.cost_analysis() or {})["flops"],
    }
    expected: Quantities = {
        "n_params": count_params(shape, "total"),
        "flops": forward_flops(shape, trained_at, causal=False).total,
    }
    for length in LONG:
        cache = empty_cache(shape, length, 1)
        found[f"kv_bytes_{length}"] = sum(x.nbytes for x in jax.tree.leaves(cache))
        expected[f"kv_bytes_{length}"] = kv_cache_bytes(shape, length, kv_bits=32)
    for timing in time_models((shape,), LONG, "float32"):
        name = f"{NAMES[timing.what]}_{timing.workload.context_length}"
        found[name], expected[name] = timing.seconds, float(timing.predict(machine))
    return found, expected


def compared(
    shapes: dict[str, Shape],
    losses: dict[str, list[float]],
    predicted: dict[str, float],
    trained_at: int,
    machine: Hardware,
) -> list[dict[str, Any]]:
    """Return design and baseline, measured and predicted, quantity by quantity."""
    found: dict[str, Quantities] = {}
    expected: dict[str, Quantities] = {}
    for name, shape in shapes.items():
        found[name], expected[name] = measured(shape, trained_at, machine)
        found[name]["loss"], expected[name]["loss"] = float(np.mean(losses[name])), predicted[name]
    quantities = ["loss", "n_params", "flops"]
    quantities += [f"{kind}_{n}" for kind in ("kv_bytes", *NAMES.values()) for n in LONG]
    return [
        {
            "quantity": quantity,
            **{name: found[name][quantity] for name in shapes},
            **{f"{name}_predicted": expected[name][quantity] for name in shapes},
            "ratio_measured": found["design"][quantity] / found["baseline"][quantity],
            "ratio_predicted": expected["design"][quantity] / expected["baseline"][quantity],
        }
        for quantity in quantities
    ]
