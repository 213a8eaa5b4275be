"""What can be searched, and why nothing was found: gradients that lie, limits that contradict each other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.measure import Measure, takes_plan
from scalesim.design.problem import MAX_PARAMS, MIN_PARAMS, Query
from scalesim.errors import InvalidInput
from scalesim.laws.base import Law
from scalesim.pytree import register, static
from scalesim.shape import Shape
from scalesim.types import Num
from scalesim.workload import TrainingPlan, Workload

__all__ = [
    "FREE",
    "OnHost",
    "check_visible",
    "contradiction",
    "nearest_to_all",
    "out_of_reach",
    "searchable",
    "visible",
    "why_not_smooth",
]

Nearest = Callable[[Sequence[tuple[int, ...]]], list[np.ndarray]]

# What the law sees: what it cannot see must not be free.

FREE = ("d_model", "d_ff", "n_head", "n_kv_head", "head_dim", "n_tokens", "kv_bits")
"""What can be free, by the field whose effect on the loss a law must see."""

_SEEN_BY: dict[str, tuple[tuple[str, ...], ...]] = {
    "d_model": (("n_layer",), ("d_model",)),
    **{name: ((name,),) for name in FREE if name != "d_model"},
}
"""For each name of `FREE`, the fields that show it: any one of these sets."""


def visible(law: Law, name: str) -> bool:
    """Say whether a law sees what freeing `name` would change, at a given size.

    Depth against width shows in either of them; all else only in the field itself.

    >>> from scalesim.laws import AspectRatio, HeadLaw
    >>> visible(HeadLaw(), "d_model"), visible(HeadLaw() * AspectRatio(), "d_model")
    (False, True)
    """
    return any(set(fields) <= set(law.fields) for fields in _SEEN_BY[name])


def check_visible(law: Law, names: Sequence[str]) -> None:
    """Raise InvalidInput where a field is free whose effect on the loss the law cannot see."""
    for name in names:
        if not visible(law, name):
            needs = " or ".join(" with ".join(fields) for fields in _SEEN_BY[name])
            raise InvalidInput(
                f"{name} is free, but the law cannot see it: {type(law).__name__} sees "
                f"{', '.join(law.fields)}, and its loss would have to see {needs}. Left to the search, "
                f"{name} would run to an absurd value for nothing. Leave it to the family, or "
                "compose the law with one that sees it."
            )


# Whether a measure has a gradient that can be followed.

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

    def __call__(self, shape: Shape, workload: Workload, plan: TrainingPlan) -> Num:
        """Return the measure, of the fields' broadcast shape."""
        leaves, tree = jax.tree.flatten((shape, workload, plan))
        leaves = jnp.broadcast_arrays(*(jnp.asarray(leaf, float) for leaf in leaves))

        def each(*arrays: Any) -> np.ndarray:
            columns = [np.asarray(a, float).ravel() for a in arrays]
            rows = (
                jax.tree.unflatten(tree, [int(v) if v.is_integer() else v for v in map(float, row)])
                for row in zip(*columns, strict=True)
            )
            wanted = 3 if takes_plan(self.function) else 2
            values = np.asarray([self.function(*row[:wanted]) for row in rows], float)
            return values.reshape(np.shape(arrays[0])).astype(np.asarray(arrays[0]).dtype)

        return jax.pure_callback(
            each, jax.ShapeDtypeStruct(leaves[0].shape, leaves[0].dtype), *leaves, vmap_method="broadcast_all"
        )


def _ours(measure: Any) -> bool:
    """Say whether a measure, and all within it, is this package's, whose gradients its tests have checked."""
    if isinstance(measure, Measure):
        return _ours(measure.function)
    if isinstance(measure, tuple):
        return all(map(_ours, measure))
    if isinstance(measure, jax.tree_util.Partial):
        return getattr(measure.func, "__module__", "").startswith("scalesim.")
    if not callable(measure):
        return True
    data = dataclasses.is_dataclass(measure) and not isinstance(measure, type)
    inner = [getattr(measure, f.name) for f in dataclasses.fields(measure)] if data else []
    return type(measure).__module__.startswith("scalesim.") and all(map(_ours, inner))


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

    def checked(measure: Measure, name: str) -> Measure:
        if _ours(measure):
            return measure
        why = why_not_smooth(measure, query.workload)
        if why is None:
            return measure
        reasons.append(f"{name}: {why}")
        if "cannot trace" not in why:
            return measure
        plain = measure.function.func if isinstance(measure.function, jax.tree_util.Partial) else None
        return dataclasses.replace(measure, function=OnHost(plain or measure.function))

    objective = checked(query.objective, "the objective")
    constraints = tuple(dataclasses.replace(c, measure=checked(c.measure, c.name)) for c in query.constraints)
    compiled = dataclasses.replace(query, objective=objective, constraints=constraints)
    return compiled, "; ".join(reasons) or None


# Why there is no answer.


def out_of_reach(query: Query, least: float, most: float) -> str | None:
    """Return that no size has the target loss, given the least and greatest of all candidates, or None."""
    target = float(query.target_loss)
    if target <= least:
        return (
            f"target_loss {target:g} is out of reach: with {MAX_PARAMS:.0e} parameters the best of the "
            f"candidates has a loss of {least:.4g} under this law. A target above that would do."
        )
    if target >= most:
        return (
            f"target_loss {target:g} is higher than the loss of any model of at least {MIN_PARAMS:.0e} "
            f"parameters ({most:.4g} under this law). A target below that would do."
        )
    return None


def nearest_to_all(query: Query, name: str, excess: np.ndarray) -> str:
    """Return which limit the design nearest to satisfying all exceeds most."""
    worst = int(np.argmax(excess))
    binding = query.constraints[worst]
    limit, loss, more = float(binding.limit), float(query.target_loss), float(excess[worst])
    return (
        f"No design satisfies the constraints at target_loss {loss:g}: the nearest, {name}, has "
        f"{binding.name} = {limit * np.exp(more):.4g}, {100 * np.expm1(more):.1f}% above its limit of "
        f"{limit:.4g}."
    )


def contradiction(query: Query, nearest_to: Nearest) -> str:
    """Return which constraint contradicts the target loss, or which two each other, and by how much.

    Args:
        query: the question.
        nearest_to: for subsets of the limits, every limit's excess in the design nearest to those alone.
    """
    tolerance = float(query.tolerance)
    names = [f"{c.name} <= {float(c.limit):.4g}" for c in query.constraints]
    alone = [(i,) for i in range(len(names))]
    for (i,), excess in zip(alone, nearest_to(alone), strict=True):
        if excess[i] > tolerance:
            return (
                f"{names[i]} and the target_loss contradict each other: with no other limit, the design "
                f"nearest to both misses one by {100 * np.expm1(excess[i]):.1f}%."
            )
    pairs = list(itertools.combinations(range(len(names)), 2))
    if not pairs:
        return ""
    worst = [excess[list(pair)].max() for pair, excess in zip(pairs, nearest_to(pairs), strict=True)]
    most = int(np.argmax(worst))
    if worst[most] <= tolerance:
        return "Any two of them can be met at this loss, but not all."
    first, second = pairs[most]
    return (
        f"{names[first]} and {names[second]} contradict each other: each can be met alone at this loss, but "
        f"the design nearest to both exceeds one by {100 * np.expm1(worst[most]):.1f}%."
    )
