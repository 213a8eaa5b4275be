"""The compiled part of a redesign: sizes at which heads keep a loss, and what laws say of whole shapes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.training import training_flops
from scalesim.laws import TokensAndHeads
from scalesim.numerics.roots import newton_root
from scalesim.programs import always, kept_jit
from scalesim.pytree import register
from scalesim.redesigns.proportions import Heads, Proportions, visited
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.workload import TrainingPlan

__all__ = [
    "FEWEST",
    "LARGEST",
    "SMALLEST",
    "Laws",
    "compute_factors",
    "in_batches",
    "judged",
    "losses",
    "relaxed",
    "scales",
    "whole",
]

FEWEST = 20.0
"""Tokens a parameter below which no redesign goes: the evidence on heads is at 20."""
SMALLEST, LARGEST = np.log(0.1), np.log(4.0)
"""Bounds of the log scale of depth and width, over the model's own."""
_BATCH = 256


@register
@dataclass(frozen=True)
class Laws:
    """Laws for a batch, (B, M): their leaves, what each counts, and the own model's loss under each."""

    law: TokensAndHeads
    weights: Num
    own: Num


def _relative(laws: Laws, effect: Num, heads: Heads, n_params: Num, n_tokens: Num) -> tuple[Num, Num]:
    """Return each member's loss over that of the model itself, (M,), and their weighted mean."""
    x = {"n_params": n_params, "n_tokens": n_tokens, "n_head": heads.n_head, "n_kv_head": heads.n_kv_head}
    each = laws.law.loss({**x, "head_dim": heads.head_dim}) * jnp.exp(effect) / laws.own
    return each, (each * laws.weights).sum(-1)


def _trained(shape: Shape, spend: Num, tokens: Num, trained_at: Num) -> tuple[Num, Num, Num]:
    """Return visited parameters, tokens and FLOPs: a budget of `spend`, or fixed `tokens` (0: none)."""
    n_params = visited(shape)
    a_token = training_flops(shape, TrainingPlan(n_tokens=jnp.ones(()), context_length=trained_at))
    n_tokens = jnp.where(tokens > 0, tokens, jnp.maximum(spend / a_token, FEWEST * n_params))
    return n_params, n_tokens, n_tokens * a_token


@partial(kept_jit, heavy=always)
def scales(
    props: Proportions,
    laws: Laws,
    heads: Heads,
    effect: Num,
    spend: Num,
    tokens: Num,
    trained_at: Num,
    goal: Num,
) -> Num:
    """Return the log scale at which the mean relative loss is `goal`, (B,)."""

    def excess(u: jax.Array) -> jax.Array:
        def one(u: Num, laws: Laws, heads: Heads, effect: Num, spend: Num) -> Num:
            shape = props.relaxed(jnp.exp(u), heads)
            n_params, n_tokens, _ = _trained(shape, spend, tokens, trained_at)
            return _relative(laws, effect, heads, n_params, n_tokens)[1] - goal

        return jax.vmap(one)(u, laws, heads, effect, spend)

    start = jnp.full(effect.shape, -0.5)
    return newton_root(excess, start, bounds=(SMALLEST, LARGEST), steps=30)


@partial(kept_jit, heavy=always)
def whole(props: Proportions, u: Num, heads: Heads, offset: Num) -> Shape:
    """Return whole shapes of these log scales, (B,), each `offset` tiles from the nearest width."""
    return jax.vmap(lambda u, h, o: props.whole(jnp.exp(u), h, o))(u, heads, offset)


@partial(kept_jit, heavy=always)
def relaxed(
    props: Proportions, u: Num, heads: Heads, spend: Num, tokens: Num, trained_at: Num
) -> tuple[Shape, Num]:
    """Return relaxed shapes and the FLOPs of their training, (B,)."""

    def one(u: Num, heads: Heads, spend: Num) -> tuple[Shape, Num]:
        shape = props.relaxed(jnp.exp(u), heads)
        return shape, _trained(shape, spend, tokens, trained_at)[2]

    return jax.vmap(one)(u, heads, spend)


@partial(kept_jit, heavy=always)
def judged(
    shape: Shape, laws: Laws, heads: Heads, effect: Num, spend: Num, tokens: Num, trained_at: Num
) -> dict[str, Num]:
    """Return what laws and training say of whole shapes, (B, ...)."""

    def one(shape: Shape, laws: Laws, heads: Heads, effect: Num, spend: Num) -> dict[str, Num]:
        n_params, n_tokens, flops = _trained(shape, spend, tokens, trained_at)
        each, mean = _relative(laws, effect, heads, n_params, n_tokens)
        return {"each": each, "loss": mean, "n_params": n_params, "n_tokens": n_tokens, "flops": flops}

    return jax.vmap(one)(shape, laws, heads, effect, spend)


def in_batches(
    function: Any, shared: tuple[Any, ...], batched: tuple[Any, ...], after: tuple[Any, ...] = ()
) -> Any:
    """Call a compiled function on batches of one size; leaves of `batched` are (n, ...)."""
    n = len(jax.tree.leaves(batched)[0])
    parts = []
    for start in range(0, n, _BATCH):
        index = np.minimum(np.arange(start, start + _BATCH), n - 1)
        some = jax.tree.map(lambda leaf, index=index: np.asarray(leaf, float)[index], batched)
        found = jax.device_get(function(*shared, *some, *after))
        parts.append(jax.tree.map(lambda leaf, start=start: leaf[: n - start], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@kept_jit
def losses(laws: TokensAndHeads, x: dict[str, Num]) -> Num:
    """Return the loss of one model under each law, (M,)."""
    return laws.loss(x)


@partial(kept_jit, heavy=always)
def compute_factors(laws: TokensAndHeads, loss: Num, x: dict[str, Num]) -> Num:
    """Return the log factor of training compute at which each law has a loss, (M,)."""

    def excess(u: jax.Array) -> jax.Array:
        grown = {**x, "n_params": x["n_params"] * jnp.exp(u / 2), "n_tokens": x["n_tokens"] * jnp.exp(u / 2)}
        return laws.loss(grown) - loss

    return newton_root(excess, jnp.zeros_like(loss), bounds=(-6.0, 6.0))
