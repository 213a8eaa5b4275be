"""The cheapest way to serve a model: over how many accelerators, in how many replicas, of what batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.capacity import RESERVE, usable_bytes
from scalesim.cost.latency import prefill_time, step_time
from scalesim.cost.memory import serving_memory
from scalesim.cost.numbers import to_float
from scalesim.cost.parallel import Parallel
from scalesim.errors import InvalidInput, Unreachable, choose
from scalesim.faces import Face, Shown
from scalesim.hardware import Hardware
from scalesim.programs import always, kept_jit
from scalesim.shape import MixtureOfExperts, Shape
from scalesim.types import Num
from scalesim.units import format_bytes
from scalesim.workload import ContextLengths, Workload

__all__ = ["OBJECTIVES", "Deployment", "Served", "deployments", "divides", "serve_plan", "served", "value_of"]

BATCH = 1024
"""Pairs of a shape and a deployment that one call of the compiled program costs."""

OBJECTIVES = ("price", "tpot", "ttft", "memory", "energy", "devices")
"""What a deployment may be the cheapest in; all are to be small."""


@dataclass(frozen=True)
class Deployment:
    """How so many sequences are served: `replicas` of `parallel`, each with its share of the sequences.

    Attributes:
        parallel: how one replica is split over accelerators.
        replicas: copies of the model.
        batch_size: sequences that each replica serves at a time.
    """

    parallel: Parallel
    replicas: int
    batch_size: float

    @property
    def devices(self) -> int:
        """Accelerators of all replicas."""
        return int(self.replicas * self.parallel.devices)

    def __str__(self) -> str:
        p = self.parallel
        parts = [f"{kind} {n}" for kind, n in dataclasses.asdict(p).items() if n > 1]
        each = f"{p.devices} ({', '.join(parts)})" if parts else "1"
        return f"{self.replicas} x {each}" if self.replicas > 1 else each


@dataclass(frozen=True, repr=False)
class Served(Shown):
    """A workload served in a stated way, with its figures.

    Attributes:
        deployment: how.
        tpot_s: seconds between two tokens of a sequence; over a mixture of contexts, the mean.
        ttft_s: seconds to the first token of one prompt alone; the mean.
        prompt_usd, generated_usd: $ a million tokens of each kind; nan without a price.
        price_usd: $ a million tokens of the workload's mix of both (generated ones alone, where it states no
            generated_length); nan without a price.
        memory_bytes: weights and caches of all replicas together, at the longest context.
        device_bytes: what one accelerator holds at the longest context, activations included.
        joules: of a million tokens of the mix; nan where the hardware states no power.
        throughput_tokens_per_s: generated tokens a second of all replicas, decoding alone.
    """

    deployment: Deployment
    tpot_s: float
    ttft_s: float
    prompt_usd: float
    generated_usd: float
    price_usd: float
    memory_bytes: float
    device_bytes: float
    joules: float
    throughput_tokens_per_s: float

    @property
    def devices(self) -> int:
        """Accelerators in all."""
        return self.deployment.devices

    def _face(self) -> Face:
        rows = [
            ("accelerators", str(self.deployment)),
            ("batch a replica", self.deployment.batch_size),
            ("time per token", f"{1e3 * self.tpot_s:.2f} ms"),
            ("time to first token", f"{self.ttft_s:.3g} s"),
            ("$ a million tokens", self.price_usd),
            ("memory of all", format_bytes(self.memory_bytes)),
            ("tokens a second", self.throughput_tokens_per_s),
        ]
        return Face(f"Served on {self.devices} accelerators", ("figure", "value"), rows)


def _powers(most: float) -> list[int]:
    return [2**i for i in range(int(np.log2(max(most, 1))) + 1)]


def deployments(
    shape: Shape, concurrency: float, hardware: Hardware, *, most_devices: int = 64
) -> list[Deployment]:
    """Return the ways to serve `concurrency` sequences that are looked at.

    Powers of two: tensor parallelism within the fast domain (at most 16), pipelines of up to 4 stages, expert
    parallelism where there are experts, and replicas down to one sequence each; a replica has at most
    `most_devices`. Whether a shape divides so is `divides`' to say, and whether it fits in memory `served`'s.
    """
    domain = int(hardware.scaleup_size or 8)
    experts = [int(b.ffn.n_expert) for b in shape.blocks if isinstance(b.ffn, MixtureOfExperts)]
    most = min([most_devices, *experts]) if experts else 1
    over = [e for e in _powers(most) if not any(n % e for n in experts)]
    alone = hardware.interconnect_gbs is None
    near = [1] if alone else _powers(min(domain, 16))
    stages = [1] if alone else [1, 2, 4]
    found = []
    for tensor, pipeline, expert in itertools.product(near, stages, [1] if alone else over):
        one = tensor * pipeline * expert
        beyond = one > domain and hardware.scaleout_gbs is None
        if one > most_devices or beyond or (pipeline > 1 and tensor < near[-1] and tensor < 8):
            continue
        for replicas in _powers(concurrency):
            batch = concurrency / replicas
            if batch >= pipeline * expert or replicas == 1:
                found.append(
                    Deployment(Parallel(tensor=tensor, pipeline=pipeline, expert=expert), replicas, batch)
                )
    return found


def divides(parallel: Any, n_head: Num, n_kv_head: Num, d_ff: Num, n_layer: Num) -> Any:
    """Say whether sizes split as `Parallel` has it: elementwise, on NumPy arrays."""
    t = parallel.tensor
    kv = (n_kv_head % t == 0) | (t % n_kv_head == 0)
    return (n_head % t == 0) & kv & (d_ff % t == 0) & (parallel.pipeline <= n_layer)


@partial(kept_jit, heavy=always)
def _figures(
    shapes: Shape,
    parallel: Parallel,
    batch: Num,
    workload: Workload,
    contexts: ContextLengths,
    hardware: Hardware,
) -> dict[str, Num]:
    """Return the figures of each pair of a shape and a way to serve it, over a mixture of contexts."""

    def at(shape: Shape, parallel: Parallel, batch: Num, scale: Num) -> dict[str, Num]:
        length = workload.context_length * scale
        generated = workload.generated_length
        generated = None if generated is None else generated * scale
        job = dataclasses.replace(
            workload, context_length=length, batch_size=batch, generated_length=generated,
            prefix_length=workload.prefix_length * scale,
        )  # fmt: skip
        use = serving_memory(shape, job, parallel)
        new = job.prompt_length - job.prefix_length
        step = step_time(shape, job, hardware, parallel)
        together = jnp.stack([batch, jnp.ones_like(batch)])  # all prompts at once, and one alone
        prefill, alone = jax.vmap(
            lambda n: prefill_time(shape, dataclasses.replace(job, batch_size=n), hardware, parallel)
        )(together)
        return {
            "tpot": step,
            "ttft": alone,
            "generated": parallel.devices * step / batch,
            "prompt": parallel.devices * prefill / parallel.pipeline / (batch * new),
            "held": (use.weights + use.kv_cache) * parallel.devices,
            "device": use.total,
            "prompts": new,
            "answers": 1.0 if generated is None else generated,
        }

    scales = contexts.lengths / workload.context_length
    each = jax.vmap(jax.vmap(at, (None, None, None, 0)), (0, 0, 0, None))(shapes, parallel, batch, scales)
    share = contexts.weights[None, :]
    mean = {name: (value * share).sum(-1) for name, value in each.items()}
    # A token of a mixture comes from a request as likely as requests have tokens.
    prompt = (each["prompt"] * each["prompts"] * share).sum(-1) / (each["prompts"] * share).sum(-1)
    generated = (each["generated"] * each["answers"] * share).sum(-1) / (each["answers"] * share).sum(-1)
    part = (
        jnp.zeros(())
        if workload.generated_length is None
        else mean["prompts"] / (mean["prompts"] + mean["answers"])
    )
    return {
        "tpot": mean["tpot"],
        "ttft": mean["ttft"],
        "prompt": prompt,
        "generated": generated,
        "token": part * prompt + (1 - part) * generated,
        "held": each["held"].max(-1),
        "device": each["device"].max(-1),
        "part": jnp.broadcast_to(part, prompt.shape),
    }


def served(
    shapes: Shape,
    ways: Sequence[Deployment],
    which: np.ndarray,
    workload: Workload,
    hardware: Hardware,
    contexts: ContextLengths | None = None,
) -> dict[str, np.ndarray]:
    """Return the figures of pairs of a shape and a way to serve it, as arrays.

    Args:
        shapes: leaves of (n,) each.
        ways: deployments; pair i is served by ways[which[i]].
        which: (n,).
        workload: its batch_size is not used: that of the deployment is.
        hardware: where.
        contexts: a mixture of context lengths, in place of the workload's own; prompts, answers and prefixes
            keep their share of it.

    Returns:
        seconds tpot, ttft; device-seconds a token prompt, generated, token (the mix), of which `part` are
        prompts'; bytes held (all replicas) and device; `fits`, whether one accelerator holds its part.
    """
    n = len(which)
    table = {
        name: np.array([float(getattr(w.parallel, name)) for w in ways])
        for name in ("tensor", "pipeline", "expert")
    }
    batch, replicas = (
        np.array([float(getattr(w, name)) for w in ways])[which] for name in ("batch_size", "replicas")
    )
    contexts = contexts or ContextLengths(np.array([float(workload.context_length)]), np.ones(1))
    contexts = ContextLengths(*(np.asarray(v, float) for v in (contexts.lengths, contexts.weights)))
    place = to_float(dataclasses.replace(hardware, name="", source=""))
    job = to_float(dataclasses.replace(workload, batch_size=1.0))
    job = dataclasses.replace(job, prefix_length=1.0 * workload.prefix_length)
    spread = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf, float), (n,)), shapes)
    parts = []
    for start in range(0, n, BATCH):
        index = np.minimum(np.arange(start, start + BATCH), n - 1)  # the last, again, to fill the batch
        degrees = Parallel(**{name: values[which[index]] for name, values in table.items()})
        one = jax.tree.map(lambda leaf, index=index: leaf[index], spread)
        found = jax.device_get(_figures(one, degrees, batch[index], job, contexts, place))
        parts.append({name: value[: n - start] for name, value in found.items()})
    figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    figures["held"] = figures["held"] * replicas
    figures["devices"] = np.array([float(w.devices) for w in ways])[which]
    figures["fits"] = figures["device"] <= float(usable_bytes(hardware, RESERVE))
    return figures


def value_of(objective: str, figures: dict[str, np.ndarray], hardware: Hardware) -> np.ndarray:
    """Return an objective of `OBJECTIVES` from the figures of `served`."""
    if objective == "price":
        return figures["token"] * float(hardware.need("price_typical")) / 3600 * 1e6
    if objective == "energy":
        return figures["token"] * float(hardware.need("power_w")) * 1e6
    return figures[{"memory": "held"}.get(objective, objective)]


def as_served(way: Deployment, figures: dict[str, Any], hardware: Hardware) -> Served:
    """Return one pair's figures with the hardware's price and power."""
    dollars = float("nan") if hardware.price_typical is None else float(hardware.price_typical) / 3600 * 1e6
    watts = float("nan") if hardware.power_w is None else float(hardware.power_w) * 1e6
    f = {name: float(value) for name, value in figures.items()}
    return Served(
        way, f["tpot"], f["ttft"], f["prompt"] * dollars, f["generated"] * dollars, f["token"] * dollars,
        f["held"], f["device"], f["token"] * watts, way.replicas * way.batch_size / f["tpot"],
    )  # fmt: skip


def serve_plan(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    *,
    objective: str = "price",
    contexts: ContextLengths | None = None,
    max_tpot: float | None = None,
    max_ttft: float | None = None,
    max_devices: int | None = None,
) -> Served:
    """Return the cheapest way to serve the workload's batch_size sequences at a time.

    Every deployment of `deployments` that divides the shape, fits in memory and keeps the limits is costed.

    Args:
        shape: the model.
        workload: batch_size is the concurrency of all replicas together.
        hardware: accelerators of one kind.
        objective: of `OBJECTIVES`.
        contexts: a mixture of context lengths; memory must hold a whole batch of the longest.
        max_tpot, max_ttft: seconds at most, on the mean of the mixture.
        max_devices: accelerators at most, of all replicas.

    Raises:
        InvalidInput: an objective that is not known, or for which the hardware states nothing.
        Unreachable: no deployment fits in memory or keeps the limits; the message says the nearest.

    >>> from scalesim.hardware import load_hardware
    >>> from scalesim.models import known_model
    >>> job = Workload(context_length=32768, batch_size=16)
    >>> found = serve_plan(known_model("llama-3.1-70b").shape, job, load_hardware("h100-sxm"))
    >>> found.devices >= 3 and found.tpot_s < 0.1
    True
    """
    choose("objective", objective, OBJECTIVES)
    ways = possible_ways(shape, workload, hardware)
    with jax.enable_x64(True):
        figures = served(shape, ways, np.arange(len(ways)), workload, hardware, contexts)
        value = value_of(objective, figures, hardware)
    place = best_place(value, figures, hardware, max_tpot, max_ttft, max_devices)
    return as_served(ways[place], {k: v[place] for k, v in figures.items()}, hardware)


def possible_ways(shape: Shape, workload: Workload, hardware: Hardware) -> list[Deployment]:
    """Return the deployments whose degrees divide a whole shape."""

    def splits(parallel: Parallel) -> bool:
        try:
            parallel.check(shape)
        except InvalidInput:
            return False
        return True

    return [way for way in deployments(shape, float(workload.batch_size), hardware) if splits(way.parallel)]


def best_place(
    value: np.ndarray,
    figures: dict[str, np.ndarray],
    hardware: Hardware,
    max_tpot: float | None,
    max_ttft: float | None,
    max_devices: int | None,
) -> int:
    """Return which pair has the least value within memory and limits; of equal ones, that of fewer devices.

    Raises:
        Unreachable: none is within them.
    """
    allowed = within(figures, max_tpot, max_ttft, max_devices)
    if not allowed.any():
        raise Unreachable(why_none(figures, hardware, max_tpot, max_ttft, max_devices))
    least = np.where(allowed, value, np.inf)
    same = least <= least.min() * (1 + 1e-9)
    return int(np.where(same, figures["devices"], np.inf).argmin())


def within(
    figures: dict[str, np.ndarray], max_tpot: float | None, max_ttft: float | None, max_devices: int | None
) -> np.ndarray:
    """Say which pairs fit in memory and keep the limits."""
    allowed = figures["fits"].copy()
    for name, limit in (("tpot", max_tpot), ("ttft", max_ttft), ("devices", max_devices)):
        if limit is not None:
            allowed &= figures[name] <= limit * (1 + 1e-12)
    return allowed


def why_none(
    figures: dict[str, np.ndarray],
    hardware: Hardware,
    max_tpot: float | None,
    max_ttft: float | None,
    max_devices: int | None,
) -> str:
    """Say why no deployment will do, with the nearest that can be had."""
    fits = figures["fits"]
    if not fits.any():
        usable = float(usable_bytes(hardware, RESERVE))
        return (
            f"No deployment looked at holds it: at least {format_bytes(float(figures['device'].min()))} an "
            f"accelerator are needed, and {hardware.name} has {format_bytes(usable)} usable. A shorter "
            "context, fewer sequences, fewer kv_bits or weight_bits, or hardware with more memory would do."
        )
    said = []
    for name, limit, unit in (
        ("tpot", max_tpot, " s"),
        ("ttft", max_ttft, " s"),
        ("devices", max_devices, ""),
    ):
        if limit is not None:
            least = float(figures[name][fits].min())
            said.append(f"{name} is at least {least:.4g}{unit} (asked: {limit:g}{unit})")
    return f"No deployment keeps the limits: {'; '.join(said)}, each by itself. Higher limits would do."
