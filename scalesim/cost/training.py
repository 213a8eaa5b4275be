"""What training costs: FLOPs with attention, memory by what holds it, time and money as a band."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from scalesim.cost.flops import forward_flops
from scalesim.cost.memory import held_params
from scalesim.cost.numbers import larger
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.hardware import Hardware
from scalesim.pytree import register
from scalesim.shape import MixtureOfExperts, Shape
from scalesim.types import Num
from scalesim.workload import TrainingPlan

__all__ = [
    "MFU",
    "Band",
    "TrainingMemory",
    "training_flops",
    "training_memory",
    "training_price",
    "training_seconds",
]


MFU: dict[str, tuple[float, float, float]] = {"dense": (0.25, 0.40, 0.50), "experts": (0.13, 0.18, 0.24)}
"""Observed model FLOPs utilisation by kind of model, low, typical and high.

Dense: 38-43% for Llama 3 405B on 8K-16K H100s (arXiv 2407.21783, Table 4), 46% for PaLM (arXiv 2204.02311,
Table 3), 41-56% for GPT of 22B-1T on A100s (arXiv 2205.05198, Table 5). All GPU hours of a run, restarts and
all, come to less: by their model cards 35% for Llama 3.1 405B (30.84 million H100 hours), 27% for 70B (7.0
million) and, outside this band, 15% for 8B (1.46 million).

Mixtures of experts, 6 FLOPs an active parameter and token: 15% for JetMoE-8B (2.2B active, 1.25T tokens in
30,000 H100 hours, arXiv 2404.07413); 18% for OLMoE-1B-7B (1.3B active, 5.1T tokens in about ten days of 256
H100s, arXiv 2409.02060); 20% of the FP8 peak for Llama 4 Behemoth (390 TFLOP/s a GPU on 32K GPUs, Meta's
announcement); 17% of the FP8 peak for DeepSeek-V3 (37B active, 14.8T tokens in 2.664 million H800 hours,
arXiv 2412.19437), which is 35% of the BF16 peak: state `compute` as it was trained."""


@register
@dataclass(frozen=True)
class Band:
    """A figure that is not known to a point: low, typical, high."""

    low: Num
    typical: Num
    high: Num


@register
@dataclass(frozen=True)
class TrainingMemory:
    """Bytes on one device while it trains."""

    weights: Num
    gradients: Num
    optimizer: Num
    activations: Num
    logits: Num

    @property
    def total(self) -> Num:
        """All of them."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_flops(shape: Shape, plan: TrainingPlan, *, hardware_flops: bool = False) -> Num:
    """Return the FLOPs of training: three forward passes a token (forward, and twice backward).

    Exact forward FLOPs, causal attention and logits included: for a dense model close to
    6 D N (1 + T / (6 d_model)) with N the active parameters.

    Args:
        shape: the model.
        plan: tokens, context and recomputation.
        hardware_flops: count what recomputation adds: a fourth forward pass for "full".

    >>> from scalesim.models import known_model
    >>> plan = TrainingPlan(n_tokens=15e12, context_length=8192)
    >>> f"{training_flops(known_model('llama-3.1-8b').shape, plan):.3g}"
    '7.72e+23'
    """
    sequence = forward_flops(shape, plan.context_length).total
    passes = 4.0 if hardware_flops and plan.recompute == "full" else 3.0
    return passes * sequence * (plan.tokens(shape) / plan.context_length)


def training_memory(shape: Shape, plan: TrainingPlan, parallel: Parallel = ONE_DEVICE) -> TrainingMemory:
    """Return the bytes on one device.

    Weights, gradients and optimiser states follow the parameters on the device; ZeRO divides them by
    `data`. Activations, a token and layer, with an attention that keeps no scores: the inputs of both blocks
    and of their norms (4 d_model), queries, keys, values and their result, and the FFN's inner values; with
    full recomputation d_model a layer, and one layer's all. A pipeline keeps as many micro-batches in flight
    as it has stages, which undoes its division of the layers. Logits: 4 bytes, and 4 for their gradient.

    Source of the parts: arXiv 1910.02054 (ZeRO), arXiv 2205.05198 (activations).
    """
    parallel.check(shape)
    stored = 1.0 * sum(held_params(shape, parallel))

    def held(stage: int) -> Num:
        return stored / plan.data if plan.zero >= stage else stored

    t = parallel.tensor
    tokens = 1.0 * plan.sequences * plan.context_length
    every: Num = 0.0
    widest: Num = 0.0
    for block in shape.blocks:
        inner = 0 if block.ffn is None else (3 if block.ffn.gated else 2) * block.ffn.inner
        inner = inner + (0 if block.mixer is None else block.mixer.moved)
        layer = 4 * shape.d_model + inner / t
        every, widest = every + block.count * layer, larger(widest, layer)
    kept = every if plan.recompute == "none" else shape.n_layer * shape.d_model + widest
    return TrainingMemory(
        plan.weight_bytes * held(3),
        plan.gradient_bytes * held(2),
        plan.optimizer_bytes * held(1),
        plan.activation_bytes * tokens * kept,
        8.0 * tokens * shape.vocab_size / t,
    )


def _utilisation(shape: Shape, stated: tuple[Num, Num, Num] | None) -> tuple[Num, Num, Num]:
    if stated is not None:
        return stated
    return MFU["experts" if any(isinstance(b.ffn, MixtureOfExperts) for b in shape.blocks) else "dense"]


def training_seconds(
    shape: Shape,
    plan: TrainingPlan,
    hardware: Hardware,
    devices: Num,
    *,
    mfu: tuple[Num, Num, Num] | None = None,
) -> Band:
    """Return the seconds of a training run, as a band: FLOPs / (devices peak MFU).

    MFU counts the FLOPs of the model, not those of recomputation. It cannot be predicted from the shape
    alone: the band is that observed in published runs of the kind, dense or with experts (`MFU`), or what
    `mfu` (low, typical, high) states.
    """
    ideal = training_flops(shape, plan) / (devices * hardware.peak_flops(plan.compute))
    low, typical, high = _utilisation(shape, mfu)
    return Band(ideal / high, ideal / typical, ideal / low)


def training_price(
    shape: Shape, plan: TrainingPlan, hardware: Hardware, *, mfu: tuple[Num, Num, Num] | None = None
) -> Band:
    """Return the $ of a training run, as a band over both the MFU and the hardware's price.

    Does not depend on the number of devices: twice as many take half as long.
    """
    low, typical, high = hardware.price
    hours = jax.tree.map(
        lambda seconds: seconds / 3600.0, training_seconds(shape, plan, hardware, 1.0, mfu=mfu)
    )
    return Band(hours.low * low, hours.typical * typical, hours.high * high)
