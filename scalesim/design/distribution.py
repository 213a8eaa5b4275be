"""How sure a choice is: every law of the fit's bootstrap asked the same question, in one compiled call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.design.baseline import HeadRule, rule_shapes
from scalesim.design.candidate import reported_cost
from scalesim.design.chances import HEADS, Distribution
from scalesim.design.design import Design
from scalesim.design.lattice import Lattice, evaluate
from scalesim.design.problem import TIED, Freed, Problem, Query
from scalesim.design.space import DesignSpace
from scalesim.design.wide import build, wide_search
from scalesim.errors import InvalidInput, Unreachable
from scalesim.shape import Shape, count_params

__all__ = ["distribution"]

Num = Any


@dataclass(frozen=True)
class _Asked:
    """K configurations under R laws, each brought to the target loss anew; leaves (R, K).

    Attributes:
        cost: infinite where a configuration cannot do what is asked.
        baseline: the rule's shape under each law, (R,); None: a shape that does not follow the law.
    """

    names: tuple[str, ...]
    configurations: np.ndarray
    chosen: int
    shape: Shape
    freed: Freed
    cost: np.ndarray
    baseline: Shape | None


def distribution(
    fit: Any, design: Design, *, resamples: int | None = None, level: float = 0.9
) -> Distribution:
    """Ask every law of a fit's bootstrap the question that a design answers.

    Of a lattice every configuration is evaluated under every law. Of a `DesignSpace` every law has a search
    of its own, and all that any of them finds is evaluated under every law.

    Args:
        fit: the fit that the design was searched with; it must hold a bootstrap.
        design: the answer, which carries its question.
        resamples: how many of the bootstrap's laws to ask; all by default.
        level: of intervals.

    Raises:
        InvalidInput: the fit has no bootstrap, or another law than the design.
        Unreachable: under no law of the bootstrap is the loss reached, or not by the design.

    >>> import scalesim as ss
    >>> fit = ss.named_fit("default")
    >>> design = ss.search(fit, ss.Workload(context_length=131072), 2.615)
    >>> doubt = distribution(fit, design)
    >>> round(float(doubt.probability.sum()), 6)
    1.0
    """
    if getattr(fit, "bootstrap", None) is None:
        raise InvalidInput("fit has no bootstrap; `scalesim.fitting.with_bootstrap(fit)` would give it one.")
    kinds: list[Any] = [jax.tree.structure(law) for law in (fit.law, design.problem.law)]
    if kinds[0] != kinds[1]:
        raise InvalidInput(
            "fit has another law than the design was searched with; a design of ss.search(fit, ...) would do."
        )
    with jax.enable_x64(True):
        laws = jax.tree.map(jnp.asarray, fit.bootstrap.laws(design.problem.law, resamples))
        query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), design.query)
        ask = _ask_lattice if isinstance(design.lattice, Lattice) else _ask_space
        asked = ask(design, query, laws)
        savings = _savings(query, asked, design)
        n_params = np.broadcast_to(count_params(asked.shape, "paper"), asked.cost.shape)
    # Under a law whose floor is above the target nothing reaches it, and there is nothing to compare.
    reached = np.isfinite(asked.cost.min(axis=1))
    if not reached.any():
        raise Unreachable(
            f"target_loss {design.target_loss:g} is out of reach under every law of the bootstrap; a higher "
            "one would do."
        )
    cost, chosen = asked.cost[reached], asked.chosen
    excess = cost / cost.min(axis=1, keepdims=True) - 1
    winner = cost.argmin(axis=1)
    counted = np.isfinite(excess)
    with np.errstate(invalid="ignore"):
        worst = np.quantile(excess, 0.95, axis=0)
        elsewhere = np.where(counted, excess, 0.0).sum(axis=0) / counted.sum(axis=0)
    met = np.isfinite(asked.cost[:, chosen])
    if not met.any():
        raise Unreachable(
            "The design cannot do what is asked under any law of the bootstrap, though others can; "
            "ss.search(fit, ...) would find one that can."
        )
    return Distribution(
        names=asked.names,
        configurations=asked.configurations,
        winner=winner,
        probability=np.bincount(winner, minlength=cost.shape[1]) / len(cost),
        regret=excess.mean(axis=0),
        worst_regret=np.where(np.isfinite(worst), worst, np.inf),
        excess=np.where(np.isfinite(elsewhere), elsewhere, np.inf),
        missed=1 - counted.mean(axis=0),
        cost=asked.cost[met, chosen],
        n_params=n_params[met, chosen],
        savings={name: values[met, chosen] for name, values in savings.items()},
        chosen=chosen,
        level=level,
        tail=fit.bootstrap.tail(level),
        out_of_reach=float(1 - reached.mean()),
    )


def _under(problem: Problem, law: Any) -> Problem:
    return Problem(law=law, family=problem.family, tokens_per_param=problem.tokens_per_param)


def _ruled(problem: Problem, query: Query, rule: HeadRule | None) -> Shape | None:
    if rule is None:
        return None
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], query)
    return jax.tree.map(lambda leaf: jnp.reshape(leaf, ()), rule_shapes(problem, batch, rule))


@partial(jax.jit, static_argnums=(2, 3))
def _lattice_under_all(
    problem: Problem, query: Query, lattice: Lattice, rule: HeadRule | None, laws: Any
) -> Any:
    n_head, n_kv_head = map(jnp.asarray, lattice.arrays())

    def under(law: Any) -> Any:
        own = _under(problem, law)
        designs = evaluate(own, query, lattice, n_head, n_kv_head)
        designs = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_head.shape), designs)
        return designs, _ruled(own, query, rule)

    return jax.vmap(under)(laws)


def _ask_lattice(design: Design, query: Query, laws: Any) -> _Asked:
    lattice, shape = design.lattice, design.shape
    assert isinstance(lattice, Lattice)
    designs, baseline = _lattice_under_all(design.problem, query, lattice, design.rule, laws)
    return _Asked(
        names=HEADS,
        configurations=np.asarray(lattice.heads),
        chosen=lattice.heads.index((int(shape.n_head), int(shape.n_kv_head))),
        shape=designs.shape,
        freed=TIED,
        cost=np.asarray(designs.cost),
        baseline=baseline,
    )


@partial(jax.jit, static_argnums=(2, 3, 4))
def _space_under_all(
    problem: Problem, query: Query, space: DesignSpace, rule: HeadRule | None, gradient: bool, laws: Any
) -> Any:
    """Return each law's best place (R, 7), the designs at all of these under each law (R, R), baselines."""
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], query)

    def best(law: Any) -> Num:
        return wide_search(_under(problem, law), batch, space, gradient).index[0, 0]

    def under(law: Any) -> Any:
        own = _under(problem, law)
        built = build(own, query, space, places)
        built = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, places.shape[:1]), built)
        return built, _ruled(own, query, rule)

    places = jax.lax.map(best, laws)
    return places, *jax.lax.map(under, laws)


def _ask_space(design: Design, query: Query, laws: Any) -> _Asked:
    """Search under every law; the design's own law goes first, and is not one of those asked."""
    space = design.lattice
    assert isinstance(space, DesignSpace)
    problem, gradient = design.problem, design.relaxed is not None
    laws = jax.tree.map(
        lambda own, many: jnp.concatenate([jnp.asarray(own, float)[None], many]), problem.law, laws
    )
    found = _space_under_all(problem, query, space, design.rule, gradient, laws)
    places, built, baseline = jax.device_get(found)
    # A law that nothing reaches the loss under has no best, so its place is nobody's.
    some = np.isfinite(np.diagonal(np.asarray(built.cost)))
    _, first, which = np.unique(places[some], axis=0, return_index=True, return_inverse=True)
    kept = np.flatnonzero(some)[first]
    built = jax.tree.map(lambda leaf: leaf[1:, kept], built)
    names = ["n_layer", "d_model", *HEADS]
    columns = [np.asarray(getattr(built.shape, name))[0] for name in names]
    for name in ("ffn_ratio", "head_dim", "kv_bits"):
        axis = space.axes(problem.family)
        values = axis.values[axis.names.index(name)]
        if len(values) > 1:
            names.append(name)
            columns.append(values[places[kept, axis.names.index(name)]])
    return _Asked(
        names=tuple(names),
        configurations=np.stack(columns, axis=1),
        chosen=int(np.ravel(which)[0]),
        shape=built.shape,
        freed=built.freed,
        cost=np.asarray(built.cost),
        baseline=None if baseline is None else jax.tree.map(lambda leaf: leaf[1:], baseline),
    )


def _savings(query: Query, asked: _Asked, design: Design) -> dict[str, np.ndarray]:
    """Return 1 - cost/baseline of every configuration under every law, (R, K) each."""
    count = asked.cost.shape
    baseline: Any = design.baseline.shape
    if asked.baseline is not None:
        baseline = jax.tree.map(
            lambda leaf: jnp.broadcast_to(jnp.asarray(leaf)[:, None], count), asked.baseline
        )
    own, others = asked.freed.asked(query), TIED.asked(query)
    return {name: np.asarray(1 - f(asked.shape, own) / f(baseline, others)) for name, f in _MEASURES.items()}


_MEASURES = {
    "objective": lambda shape, query: query.objective(shape, query.workload),
    "memory": lambda shape, query: reported_cost(query.objective).memory(shape, query.workload).total,
    "flops": lambda shape, query: reported_cost(query.objective).flops(shape, query.workload).total,
}
