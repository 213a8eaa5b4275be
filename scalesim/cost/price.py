"""Dollars and joules: of a token, and of a model's whole life."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from scalesim.cost.latency import prefill_time, step_time
from scalesim.cost.parallel import ONE_DEVICE, Parallel
from scalesim.cost.training import Band, training_price
from scalesim.hardware import Hardware
from scalesim.pytree import register
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.workload import Traffic, TrainingPlan, Workload

__all__ = ["PerMillion", "lifetime_price", "token_energy", "token_price"]


@register
@dataclass(frozen=True)
class PerMillion:
    """A figure of a million tokens of each kind."""

    prompt: Num
    generated: Num


def _device_seconds(shape: Shape, workload: Workload, hardware: Hardware, parallel: Parallel) -> PerMillion:
    """Seconds of all devices together that a million tokens of each kind take while they do nothing else."""
    new = workload.prompt_length - workload.prefix_length
    prefill = prefill_time(shape, workload, hardware, parallel) / parallel.pipeline
    prompt = prefill / (workload.batch_size * 1.0 * new)
    generated = step_time(shape, workload, hardware, parallel) / workload.batch_size
    return PerMillion(*(1e6 * parallel.devices * seconds for seconds in (prompt, generated)))


def token_price(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    utilisation: Num = 1.0,
    price_per_hour: tuple[Num, Num, Num] | None = None,
) -> dict[str, Band]:
    """Return $ a million tokens, "prompt" and "generated" apart, each as a band over the hardware's price.

    devices price / (tokens a second utilisation), where the tokens of each kind have the devices for
    themselves while they are computed; continuous batching mixes them and the sums stay.

    Args:
        shape: the model.
        workload: batch_size sequences that fit.
        hardware: where; its prices unless `price_per_hour` (low, typical, high) states others.
        parallel: over how many accelerators.
        utilisation: share of the time that there is work.
        price_per_hour: $ an accelerator and hour.
    """
    low, typical, high = hardware.price if price_per_hour is None else price_per_hour
    seconds = _device_seconds(shape, workload, hardware, parallel)
    hours = jax.tree.map(lambda s: s / 3600.0 / utilisation, seconds)
    return {
        "prompt": Band(hours.prompt * low, hours.prompt * typical, hours.prompt * high),
        "generated": Band(hours.generated * low, hours.generated * typical, hours.generated * high),
    }


def token_energy(
    shape: Shape,
    workload: Workload,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    power_w: Num | None = None,
    overhead: Num = 1.0,
) -> PerMillion:
    """Return the joules of a million tokens of each kind.

    devices power overhead / tokens a second.

    Args:
        shape: the model.
        workload: batch_size sequences that fit.
        hardware: where.
        parallel: over how many accelerators.
        power_w: measured power of one accelerator under this load; the hardware's stated one if left out,
            which is a maximum: decode draws less.
        overhead: of host, network and cooling (the ratio of all power to the accelerators').
    """
    power = hardware.need("power_w") if power_w is None else power_w
    seconds = _device_seconds(shape, workload, hardware, parallel)
    return jax.tree.map(lambda s: s * power * overhead, seconds)


def lifetime_price(
    shape: Shape,
    plan: TrainingPlan,
    workload: Workload,
    traffic: Traffic,
    hardware: Hardware,
    parallel: Parallel = ONE_DEVICE,
    *,
    utilisation: Num = 1.0,
) -> dict[str, Band]:
    """Return the $ of a model's life: "training", "serving" and "total", each as a band.

    Training once, then the traffic at the price of its tokens.
    """
    training = training_price(shape, plan, hardware)
    tokens = token_price(shape, workload, hardware, parallel, utilisation=utilisation)
    million_prompt, million_generated = traffic.prompt_tokens / 1e6, traffic.generated_tokens / 1e6
    serving = jax.tree.map(
        lambda a, b: a * million_prompt + b * million_generated, tokens["prompt"], tokens["generated"]
    )
    total = jax.tree.map(lambda a, b: a + b, training, serving)
    return {"training": training, "serving": serving, "total": total}
