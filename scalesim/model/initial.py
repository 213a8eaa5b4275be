"""First values of a model's tensors, by what the parameter table says of each."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from scalesim.shape import Parameter, Shape

__all__ = ["initial_value", "stacked_shape"]

_OUTPUTS = ("o_proj", "down_proj")


def stacked_shape(parameter: Parameter) -> tuple[int, ...]:
    """Return the tensor's sizes as the model holds it: the layers that have it in front."""
    return parameter.shape if parameter.layers is None else (int(parameter.layers), *parameter.shape)


def initial_value(parameter: Parameter, shape: Shape, key: Array) -> Array:
    """Draw a tensor: norms 1, biases 0, embeddings N(0, 0.02^2), matrices N(0, 1/fan_in).

    The matrices that write to the residual stream (o_proj, down_proj) are smaller by sqrt(2 n_layer), so that
    the stream's variance does not grow with depth (GPT-2's rule).
    """
    sizes = stacked_shape(parameter)
    if parameter.group == "norm":
        return jnp.ones(sizes, jnp.float32)
    if parameter.group == "bias":
        return jnp.zeros(sizes, jnp.float32)
    if parameter.group == "embedding":
        return 0.02 * jax.random.normal(key, sizes, jnp.float32)
    spread = fan_in(parameter) ** -0.5
    if parameter.name in _OUTPUTS:
        spread /= math.sqrt(2 * shape.n_layer)
    return spread * jax.random.normal(key, sizes, jnp.float32)


def fan_in(parameter: Parameter) -> int:
    """Return how many values one output of a matrix sums over."""
    return int(parameter.product[0])
