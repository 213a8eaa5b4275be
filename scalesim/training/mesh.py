"""Training over many devices: a mesh, where each tensor lies on it, and batches cut to fit.

The axes of tensors are the logical ones of `scalesim.parameter_table`; RULES says which lie along the mesh's
"model" axis (tensor parallel), all else is replicated. Batches lie along "data". XLA adds the communication.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scalesim.errors import InvalidInput
from scalesim.shape import Parameter, Shape, parameter_table
from scalesim.training.config import TrainConfig
from scalesim.training.recipe import optimiser
from scalesim.training.step import TrainState, first_state

__all__ = ["RULES", "check_mesh", "make_mesh", "sharded_batch", "sharded_state"]

RULES: dict[str, str | None] = {"vocab": "model", "heads": "model", "kv_heads": "model", "mlp": "model"}
"""The mesh axis that each logical axis lies along; those not named are replicated."""


def make_mesh(data: int | None = None, model: int = 1) -> Mesh:
    """Return a mesh of all devices, of all hosts: `data` copies of the model, each over `model` devices.

    Raises:
        InvalidInput: data * model is not the number of devices.

    >>> make_mesh().axis_names
    ('data', 'model')
    """
    n_devices = jax.device_count()
    data = n_devices // model if data is None else data
    if data * model != n_devices or data < 1:
        raise InvalidInput(
            f"data x model must be the {n_devices} devices there are, but are {data} x {model}."
        )
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def check_mesh(shape: Shape, rows: int, mesh: Mesh) -> None:
    """Refuse a shape or batch that does not divide over the mesh, naming the field.

    KV heads fewer than the model axis are kept whole on each device.
    """
    data, model = mesh.shape["data"], mesh.shape["model"]
    if rows % data:
        raise InvalidInput(f"A batch of {rows} windows does not divide over {data} devices of the data axis.")
    for name in ("n_head", "d_ff", "vocab_size"):
        if getattr(shape, name) % model:
            raise InvalidInput(
                f"{name} = {getattr(shape, name)} does not divide over {model} devices of the model axis."
            )


def _spec(parameter: Parameter, mesh: Mesh) -> NamedSharding:
    model = mesh.shape["model"]
    places = [
        RULES.get(axis) if size % model == 0 else None
        for axis, size in zip(parameter.axes, parameter.shape, strict=True)
    ]
    return NamedSharding(mesh, PartitionSpec(*([None] if parameter.per_layer else []), *places))


def sharded_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """Return the first state of a run, each tensor made where it lies; the same values as on one device."""
    shape, recipe = config.shape, config.recipe
    params = {p.name: _spec(p, mesh) for p in parameter_table(shape)}
    whole = NamedSharding(mesh, PartitionSpec())

    def first() -> TrainState:
        return first_state(shape, recipe, config.seed)

    like = jax.eval_shape(first)
    moments = optax.tree.map_params(
        optimiser(recipe, shape),
        lambda _, place: place,
        like.moments,
        params,
        transform_non_params=lambda _: whole,
    )
    places: Any = (params, moments, whole)
    return jax.jit(first, out_shardings=TrainState(*places))()


def sharded_batch(batch: np.ndarray, mesh: Mesh) -> Array:
    """Return a batch over the data axis; each host puts its own rows on its own devices."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return jax.make_array_from_callback(batch.shape, sharding, lambda index: batch[index])


def replicated(values: Any, mesh: Mesh) -> Any:
    """Return arrays with a copy on each device."""
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), whole, lambda index: np.asarray(x)[index]), values
    )
