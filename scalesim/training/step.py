"""One step of training, and what a model's loss is: pure functions, compiled once a shape and recipe."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

from scalesim.model import ModelOptions, Params, forward, init_params
from scalesim.shape import Shape
from scalesim.training.recipe import Recipe, optimiser, rate_factors, schedule
from scalesim.types import Num

__all__ = ["TrainState", "compiled_eval", "compiled_step", "first_state", "position_loss", "train_step"]


class TrainState(NamedTuple):
    """All that a step changes."""

    params: Params
    moments: Any
    step: Array


def first_state(shape: Shape, recipe: Recipe, seed: Int[Array, ""] | int) -> TrainState:
    """Return the state before the first step, drawn from the seed."""
    params = init_params(shape, jax.random.key(seed))
    return TrainState(params, optimiser(recipe, shape).init(params), jnp.zeros((), jnp.int32))


def position_loss(
    params: Params, windows: Int[Array, "B T1"], shape: Shape, options: ModelOptions
) -> Float[Array, "B T"]:
    """Return -log p(next token) in nats, of each token of each window: (B, T) for windows of T + 1."""
    logits = forward(params, windows[:, :-1], shape, options)
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])


def train_step(
    state: TrainState,
    windows: Int[Array, "B T1"],
    learning_rate: Num,
    n_steps: Num,
    shape: Shape,
    recipe: Recipe,
    options: ModelOptions,
) -> tuple[TrainState, Float[Array, ""]]:
    """Return the state after one step, and the batch's mean loss before it.

    AdamW with the recipe's schedule: p <- p - lr f(step) c_p (m / (sqrt(v) + eps) + w p), where f is the
    schedule, c_p muP's factor and w the weight decay (of matrices).
    """
    options = recipe.model_options(shape, options)

    def loss(params: Params, part: Array) -> Array:
        return position_loss(params, part, shape, options).mean()

    value, gradient = _in_parts(jax.value_and_grad(loss), state.params, windows, recipe.accumulate)
    # A gradient that is not finite spoils the state: the loss tells of it.
    value = jnp.where(jnp.isfinite(optax.tree.norm(gradient)), value, jnp.nan)
    update, moments = optimiser(recipe, shape).update(gradient, state.moments, state.params)
    rate = learning_rate * schedule(recipe, state.step, n_steps)
    factors = rate_factors(recipe, shape)
    params = {k: p - (rate * factors[k]).astype(p.dtype) * update[k] for k, p in state.params.items()}
    return TrainState(params, moments, state.step + 1), value


def _in_parts(function: Any, params: Params, windows: Array, parts: int) -> tuple[Array, Any]:
    """Return the mean value and gradient over equal parts of a batch, one part in memory at a time."""
    if parts == 1:
        return function(params, windows)
    split = windows.reshape(parts, windows.shape[0] // parts, windows.shape[1])

    def add(total: Any, part: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(params, part)), None

    like = jax.eval_shape(function, params, split[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    total, _ = jax.lax.scan(add, zeros, split)
    return jax.tree.map(lambda x: x / parts, total)


@lru_cache(maxsize=64)
def compiled_step(shape: Shape, recipe: Recipe, options: ModelOptions, *, packed: bool) -> Any:
    """Return `train_step` compiled for a shape; packed: over a leading axis of runs.

    Learning rate and number of steps are arguments: runs that differ in them share the program.
    """
    step = partial(train_step, shape=shape, recipe=recipe, options=options)
    if packed:
        step = jax.vmap(step, in_axes=(0, 0, 0, None))
    return jax.jit(step, donate_argnums=0)


@lru_cache(maxsize=64)
def compiled_eval(shape: Shape, recipe: Recipe, options: ModelOptions, *, packed: bool) -> Any:
    """Return `position_loss` compiled, summed over the rows of a batch: (T,); packed: (runs, T)."""
    options = recipe.model_options(shape, options)

    def total(params: Params, windows: Array) -> Array:
        return position_loss(params, windows, shape, options).sum(axis=0)

    return jax.jit(jax.vmap(total, in_axes=(0, None)) if packed else total)
