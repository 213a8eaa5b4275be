"""The architect's question: given a model they would copy and where it serves, what to build instead."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import numpy as np

from scalesim.cost.measure import Measure, as_measure
from scalesim.data import ContrastTable
from scalesim.errors import InvalidInput, check_number, choose
from scalesim.fitting.named import named_fit
from scalesim.fitting.result import Fit
from scalesim.hardware import Hardware, load_hardware
from scalesim.models import known_model
from scalesim.redesigns import resizing
from scalesim.redesigns.answer import answer
from scalesim.redesigns.candidates import Question, lattice
from scalesim.redesigns.engine import Engine
from scalesim.redesigns.ensemble import Ensemble, ensemble, reweighted
from scalesim.redesigns.proportions import MIXERS, heads_of, is_latent, whole_inner
from scalesim.redesigns.result import MEASURES, Redesign
from scalesim.shape import Attention, LatentAttention, Shape
from scalesim.units import format_count
from scalesim.workload import ContextLengths, Traffic, TrainingPlan, Workload

__all__ = ["redesign"]

Spend = Literal["flops", "tokens", "free"]


@overload
def redesign(  # type: ignore[overload-overlap]
    model: str | Shape,
    training: TrainingPlan | float,
    serving: Workload,
    *,
    hardware: str | Hardware = ...,
    objective: str | Measure | None = ...,
    same: Spend = ...,
    loss: float = ...,
    equivalent_compute: float | None = ...,
    traffic: Traffic | float | None = ...,
    contexts: ContextLengths | None = ...,
    max_tpot: float | None = ...,
    max_ttft: float | None = ...,
    max_devices: int | None = ...,
    min_kv_heads: int = ...,
    mixers: Sequence[str] = ...,
    kv_bits: Sequence[float] = ...,
    law: Fit | None = ...,
    contrasts: ContrastTable | None = ...,
    detail: bool = ...,
    name: str | None = ...,
) -> Redesign: ...


@overload
def redesign(
    model: str | Shape | Sequence[str | Shape],
    training: TrainingPlan | float | Sequence[TrainingPlan | float],
    serving: Workload | Sequence[Workload],
    *,
    hardware: str | Hardware | Sequence[str | Hardware] = ...,
    objective: str | Measure | None = ...,
    same: Spend = ...,
    loss: float = ...,
    equivalent_compute: float | None = ...,
    traffic: Traffic | float | None = ...,
    contexts: ContextLengths | None = ...,
    max_tpot: float | None = ...,
    max_ttft: float | None = ...,
    max_devices: int | None = ...,
    min_kv_heads: int = ...,
    mixers: Sequence[str] = ...,
    kv_bits: Sequence[float] = ...,
    law: Fit | None = ...,
    contrasts: ContrastTable | None = ...,
    detail: bool = ...,
    name: str | None = ...,
) -> list[Redesign]: ...


def redesign(
    model: Any,
    training: Any,
    serving: Any,
    *,
    hardware: Any = "h100-sxm",
    objective: str | Measure | None = None,
    same: Spend = "flops",
    loss: float = 0.0,
    equivalent_compute: float | None = None,
    traffic: Traffic | float | None = None,
    contexts: ContextLengths | None = None,
    max_tpot: float | None = None,
    max_ttft: float | None = None,
    max_devices: int | None = None,
    min_kv_heads: int = 1,
    mixers: Sequence[str] = ("own",),
    kv_bits: Sequence[float] = (),
    law: Fit | None = None,
    contrasts: ContrastTable | None = None,
    detail: bool = False,
    name: str | None = None,
) -> Redesign | list[Redesign]:
    """Return what to build instead of a model, as good by the law, for the least cost where it serves.

    Loss is asked relatively. Each law of size and tokens (`scalesim.redesigns.ensemble.BASES`) with each form
    of the law of heads (`scalesim.laws.TokensAndHeads`) gives L(N, D, heads) over the model's own; a
    redesign's weighted mean must be at most 1 + `loss`. Free are the size, and with it the tokens that the
    budget buys, query and KV heads, and the size of a head; the ratios of depth and FFN to width, the pattern
    of layers, experts and vocabulary stay the model's own. Every head configuration is brought to the loss by
    the root of its size; the cheapest of them are built as whole sizes, and each is costed on every
    deployment (`serve_plan`), as the model itself is.

    Args:
        model: a known model's name, a shape, or a list of them.
        training: tokens of the model to be replaced, or its plan (`context_length` is that of training).
        serving: where it serves; batch_size sequences at a time in all. With a generated_length the mix of
            prompts and answers is priced, else answers at the full context.
        hardware: accelerators, by name or as they are.
        objective: "lifetime" (with traffic; the default then), "price" ($ a token served; the default
            without), "tpot", "ttft", "memory", "energy", or a `Measure`.
        same: what a redesign may spend on training: the model's FLOPs ("flops"), its tokens whatever they
            cost ("tokens"), or any part of its FLOPs ("free").
        loss: relative: 0.0 as good, -0.01 one per cent lower.
        equivalent_compute: instead of `loss`: as good as the model itself on so many times its compute.
        traffic: tokens served in the model's life; a number is divided as the workload is.
        contexts: a mixture of context lengths in place of the workload's.
        max_tpot, max_ttft, max_devices: limits on how it is served, seconds and accelerators.
        min_kv_heads: fewest KV heads of a redesign (where mixers has "latent", that has none and is free).
        mixers: what attention may become: "own", "latent", "shared" (keys and values of two layers), "linear"
            (gated delta nets in three layers of four).
        kv_bits: precisions in which a redesign may keep its cache beside the workload's; what they cost in
            loss is Kumar et al.'s law (arXiv 2411.04330, fitted up to 1.7B; `scalesim.laws.Precision`).
        law: a fit of heads; the shipped default.
        contrasts: comparisons of your own; samples of the laws count by how well they predict them.
        detail: add what other contexts, batches and precisions would change (`what_if`, `over_context`).
        name: what to call a model that is given as a shape.

    Returns:
        A `Redesign`, or a list where any of the first four is one: every combination, models outermost.

    Raises:
        InvalidInput: a model the law cannot see, tokens missing, or an option that is not known.
        Unreachable: nothing serves the model or a redesign within the limits; the message has the nearest.

    >>> found = redesign("llama-3.1-8b", 15e12, Workload(context_length=131072, batch_size=16, kv_bits=8))
    >>> found.best.heads[1] < 8, found.savings["price"].value > 0.4
    (True, True)
    """
    many = [isinstance(part, list | tuple) for part in (model, training, serving, hardware)]
    lists = [
        part if is_many else [part]
        for part, is_many in zip((model, training, serving, hardware), many, strict=True)
    ]
    with jax.enable_x64(True):
        laws = ensemble(law or named_fit("default"))
        if contrasts is not None:
            laws = reweighted(laws, contrasts)
        found = []
        for one, plan, job, place in itertools.product(*lists):
            called, asked = _asked(one, plan, job, place, objective, same, loss, traffic, contexts, mixers)
            asked = dataclasses.replace(asked, max_tpot=max_tpot, max_ttft=max_ttft, max_devices=max_devices)
            asked = dataclasses.replace(asked, min_kv_heads=_checked_kv_heads(min_kv_heads, asked.shape))
            asked = dataclasses.replace(asked, kv_bits=tuple(_checked_bits(bits) for bits in kv_bits))
            if equivalent_compute is not None:
                asked = dataclasses.replace(asked, loss=_loss_of(equivalent_compute, asked, laws))
            found.append(answer(name or called, asked, laws, detail))
    return found if any(many) else found[0]


def _asked(
    model: str | Shape,
    plan: TrainingPlan | float,
    job: Workload,
    place: str | Hardware,
    objective: str | Measure | None,
    same: str,
    loss: float,
    traffic: Traffic | float | None,
    contexts: ContextLengths | None,
    mixers: Sequence[str],
) -> tuple[str, Question]:
    """Return the model's name and the question, checked."""
    shape = known_model(model).shape if isinstance(model, str) else model
    name = known_model(model).name if isinstance(model, str) else _sizes(shape)
    _check_seen(name, shape)
    shape = whole_inner(shape)
    if not isinstance(plan, TrainingPlan):
        plan = TrainingPlan(n_tokens=float(plan))
    hardware = load_hardware(place) if isinstance(place, str) else place
    if isinstance(traffic, int | float):
        traffic = _divided(float(traffic), job)
    if objective is None:
        objective = "price" if traffic is None else "lifetime"
    if isinstance(objective, str):
        choose("objective", objective, [m for m in MEASURES if m not in ("devices", "training")])
        if objective == "lifetime" and traffic is None:
            raise InvalidInput("objective 'lifetime' needs traffic (tokens served in the model's life).")
        if objective in ("price", "lifetime"):
            hardware.need("price_typical")
        if objective == "energy":
            hardware.need("power_w")
    else:
        objective = as_measure(objective)
    choose("same", same, ("flops", "tokens", "free"))
    for kind in mixers:
        if kind == "window":
            raise InvalidInput(
                "mixers 'window' cannot be judged: no published comparison gives its loss, and retrieval "
                "falls (arXiv 2501.08313, Tables 3-4). 'linear' has some evidence."
            )
        choose("mixers", kind, MIXERS)
    if not -0.2 < loss < 0.2:
        raise InvalidInput(
            f"loss must be relative to the model's, within 0.2 of it, but is {loss:g}; -0.01 is 1% lower."
        )
    return name, Question(
        shape=shape, plan=plan, spend=same, workload=job, contexts=contexts, hardware=hardware,
        objective=objective, traffic=traffic, loss=float(loss), max_tpot=None, max_ttft=None,
        max_devices=None, mixers=tuple(dict.fromkeys(mixers)),
    )  # fmt: skip


def _checked_kv_heads(least: int, shape: Shape) -> int:
    check_number("min_kv_heads", least)
    if least != int(least) or least < 1:
        raise InvalidInput(f"min_kv_heads must be a whole number, but is {least:g}.")
    if least > 1 and is_latent(shape):
        raise InvalidInput("min_kv_heads is of grouped-query attention; this model's is latent.")
    most = max(n_kv_head for _, n_kv_head, _ in lattice(shape))
    if least > most:
        raise InvalidInput(f"min_kv_heads is {least:g}, but no redesign of this model has more than {most}.")
    return int(least)


def _checked_bits(bits: float) -> float:
    if not 2 <= bits <= 32:
        raise InvalidInput(f"kv_bits must be between 2 and 32, but one is {bits:g}.")
    return float(bits)


def _loss_of(factor: float, asked: Question, laws: Ensemble) -> float:
    """Return the relative loss of the model itself on `factor` times its training compute."""
    if not 0.1 <= factor <= 10:
        raise InvalidInput(f"equivalent_compute must be between 0.1 and 10 times its own, but is {factor:g}.")
    engine = Engine(asked, laws)
    grown = {**engine.x, **{n: engine.x[n] * factor**0.5 for n in ("n_params", "n_tokens")}}
    relative = np.asarray(resizing.losses(laws.every, grown)) / engine.own_losses
    return float((laws.weights * laws.split(relative)[0]).sum() - 1)


def _sizes(shape: Shape) -> str:
    return f"{format_count(float(shape.n_params_total))} of {shape.n_layer} x {shape.d_model}"


def _check_seen(name: str, shape: Shape) -> None:
    """Raise InvalidInput where the law cannot see a model's attention."""
    seen = [b for b in shape.blocks if isinstance(b.mixer, Attention | LatentAttention)]
    if not seen:
        kinds = sorted({type(b.mixer).__name__ for b in shape.blocks if b.mixer is not None}) or ["none"]
        raise InvalidInput(
            f"{name} has no attention that the law could see (its mixers: {', '.join(kinds)}). A model with "
            "grouped-query or latent attention in some of its layers would do; `scalesim cost` costs any."
        )
    heads_of(shape)


def _divided(tokens: float, job: Workload) -> Traffic:
    """Return traffic of so many tokens, divided between prompts and answers as the workload is."""
    if job.generated_length is None:
        return Traffic(prompt_tokens=0.0, generated_tokens=tokens)
    new = float(job.prompt_length - job.prefix_length)
    part = new / (new + float(job.generated_length))
    return Traffic(prompt_tokens=tokens * part, generated_tokens=tokens * (1 - part))
