"""Can a measure be searched by gradient? What a user writes may have none, or one that lies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.constraints import AtMost
from scalesim.design.problem import Query
from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape import Shape
from scalesim.workload import Workload

__all__ = ["OnHost", "searchable", "why_not_smooth"]

Num = Any

_UNTRACEABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)
_FIELDS = ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff")
_POINTS = np.log(
    np.array(
        [
            [8.3, 700.0, 5.0, 1.3, 1900.0],
            [13.7, 1500.0, 9.0, 3.0, 4100.0],
            [21.2, 2100.0, 17.0, 2.0, 5300.0],
            [33.4, 4300.0, 30.0, 7.0, 11000.0],
        ]
    )
)
_STEP = 0.37
"""Length of a segment in the log of every field, longer than the steps that rounding makes."""
_TOLERANCE = 0.02


@register
@dataclass(frozen=True)
class OnHost:
    """A measure in plain Python, called for one design at a time: whatever it does, JAX need not trace it."""

    function: Any = static()

    def __call__(self, shape: Shape, workload: Workload) -> Num:
        """Return the measure, of the fields' broadcast shape."""
        leaves, tree = jax.tree.flatten((shape, workload))
        leaves = jnp.broadcast_arrays(*(jnp.asarray(leaf, float) for leaf in leaves))

        def each(*arrays: Any) -> np.ndarray:
            columns = [np.asarray(a, float).ravel() for a in arrays]
            values = [self.function(*_plain(tree, row)) for row in zip(*columns, strict=True)]
            return np.asarray(values, float).reshape(np.shape(arrays[0])).astype(np.asarray(arrays[0]).dtype)

        return jax.pure_callback(
            each, jax.ShapeDtypeStruct(leaves[0].shape, leaves[0].dtype), *leaves, vmap_method="broadcast_all"
        )


def _plain(tree: Any, row: Sequence[Any]) -> Any:
    """Return a pytree of Python numbers, whole ones where they are (a baseline's heads need not divide)."""
    numbers = [float(value) for value in row]
    try:
        return tree.unflatten([int(v) if v.is_integer() else v for v in numbers])
    except InvalidInput:
        return tree.unflatten(numbers)


def _ours(measure: Any) -> bool:
    """Say whether a measure, and all within it, is this package's, whose gradients its tests have checked."""
    if isinstance(measure, tuple):
        return all(map(_ours, measure))
    if isinstance(measure, jax.tree_util.Partial):
        return getattr(measure.func, "__module__", "").startswith("scalesim.")
    if not callable(measure):
        return True
    inner = [getattr(measure, f.name) for f in dataclasses.fields(measure)] if _is_data(measure) else []
    return type(measure).__module__.startswith("scalesim.") and all(map(_ours, inner))


def _is_data(measure: Any) -> bool:
    return dataclasses.is_dataclass(measure) and not isinstance(measure, type)


def why_not_smooth(measure: Any, workload: Workload) -> str | None:
    """Return why a measure has no gradient that a search could follow, or None.

    Its differences over segments, f(b) - f(a) in logs, are held against the integral of its gradient along
    them: equal for whatever is smooth, or has a kink here and there; not for rounding, counting or steps,
    whose gradient is zero or leaves a part out.

    >>> job = Workload(context_length=8192.0)
    >>> why_not_smooth(lambda shape, job: shape.n_layer * shape.n_kv_head, job)
    >>> why_not_smooth(lambda shape, job: jnp.ceil(shape.n_layer), job)
    'its gradient accounts for none of its change between two shapes, as that of rounding or steps does'
    """

    def log_measure(logs: Num) -> Num:
        sizes = dict(zip(_FIELDS, jnp.exp(logs), strict=True))
        return jnp.log(measure(Shape(**sizes), workload) * 1.0)

    nodes, weights = np.polynomial.legendre.leggauss(24)
    start = jnp.asarray(_POINTS)
    direction = _STEP * jnp.asarray([[1.0, 0.8, 0.9, 1.1, 0.7]])
    along = start[None] + (0.5 + 0.5 * nodes)[:, None, None] * direction[None]
    try:
        ends = jax.vmap(jax.vmap(log_measure))(jnp.stack([start, start + direction]))
        slopes = jax.vmap(jax.vmap(jax.grad(log_measure)))(along)
    except _UNTRACEABLE as error:
        return f"JAX cannot trace it ({type(error).__name__}: it asks for the value of a number)"
    if not np.isfinite(ends).all():
        return "it is not a positive number at some shapes"
    if not np.isfinite(slopes).all():
        return "its gradient is not a number at some shapes"
    change = np.asarray(ends[1] - ends[0])
    followed = np.asarray((slopes * direction[None]).sum(-1).T @ weights / 2)
    missed = np.abs(change - followed)
    if (missed <= _TOLERANCE * (np.abs(change) + 0.05)).all():
        return None
    share = "none" if np.abs(followed).max() < 1e-9 else f"{100 * (followed / change).mean():.0f}%"
    found = f"its gradient accounts for {share} of its change between two shapes"
    return f"{found}, as that of rounding or steps does"


def searchable(query: Query) -> tuple[Query, str | None]:
    """Return the question in a form that can be compiled, and why no gradient search will do (or None).

    Measures of this package are taken to be smooth. A user's that JAX cannot trace is called design by
    design (`OnHost`).
    """
    reasons = []

    def checked(measure: Any, name: str) -> Any:
        if _ours(measure):
            return measure
        why = why_not_smooth(measure, query.workload)
        if why is None:
            return measure
        reasons.append(f"{name}: {why}")
        if "cannot trace" not in why:
            return measure
        return OnHost(measure.func if isinstance(measure, jax.tree_util.Partial) else measure)

    objective = checked(query.objective, "the objective")
    constraints = tuple(
        AtMost(measure=checked(c.measure, c.name), limit=c.limit, name=c.name) for c in query.constraints
    )
    told = dataclasses.replace(query, objective=objective, constraints=constraints)
    return told, "; ".join(reasons) or None
