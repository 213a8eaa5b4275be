"""How sure a choice is: every law of the fit's bootstrap asked the same question, in one compiled call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.errors import InvalidInput, Unreachable
from scalesim.search.baseline import HeadRule, rule_shapes
from scalesim.search.candidate import reported_cost
from scalesim.search.design import Design
from scalesim.search.lattice import Lattice, evaluate
from scalesim.search.problem import Problem, Query

__all__ = ["Distribution", "distribution"]

Num = Any


@dataclass(frozen=True, eq=False)
class Distribution:
    """What R laws say of one question, head configuration by head configuration.

    Each configuration is brought to the target loss under each law anew, so its size differs from law to law.

    Attributes:
        heads: the lattice's (n_head, n_kv_head), (K, 2).
        winner: the index of the cheapest configuration under each law, (R,).
        probability: the share of laws under which each is the cheapest, (K,).
        regret: expected excess of each over the cheapest of the law, as a fraction, (K,).
        worst_regret: the same, at the 95th percentile.
        cost: the chosen configuration's objective under each law, (R,).
        n_params: its size under each law, (R,).
        savings: of the chosen configuration over the baseline at equal loss, {"memory": (R,), ...}.
        chosen: index of the chosen configuration.
        level: of the intervals.
        tail: the share of laws that an interval leaves out on either side (see `Bootstrap.tail`).
        out_of_reach: the share of laws under which no configuration reaches the loss; they are left out.
    """

    heads: np.ndarray
    winner: np.ndarray
    probability: np.ndarray
    regret: np.ndarray
    worst_regret: np.ndarray
    cost: np.ndarray
    n_params: np.ndarray
    savings: dict[str, np.ndarray]
    chosen: int
    level: float
    tail: float
    out_of_reach: float = 0.0

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Return the expanded percentile interval of some values over the laws."""
        low, high = np.quantile(values, [self.tail, 1 - self.tail])
        return float(low), float(high)

    @property
    def best_in_expectation(self) -> tuple[int, int]:
        """The configuration of least expected excess."""
        return self._heads(int(np.argmin(self.regret)))

    @property
    def safest(self) -> tuple[int, int]:
        """The configuration whose excess is least where it is bad, at the 95th percentile of laws."""
        return self._heads(int(np.argmin(self.worst_regret)))

    def indistinguishable(self, within: float = 0.01) -> list[tuple[int, int]]:
        """Return the configurations that cost at most `within` more than the best, in expectation."""
        order = np.argsort(self.regret)
        return [self._heads(i) for i in order if self.regret[i] <= within]

    def _heads(self, index: int) -> tuple[int, int]:
        n_head, n_kv_head = self.heads[index]
        return int(n_head), int(n_kv_head)

    def to_json(self) -> dict[str, Any]:
        """Return the distribution as plain values, configurations by probability."""
        order = [i for i in np.argsort(-self.probability, kind="stable") if np.isfinite(self.regret[i])]
        rows = [
            {
                "n_head": self._heads(i)[0],
                "n_kv_head": self._heads(i)[1],
                "probability": float(self.probability[i]),
                "regret": float(self.regret[i]),
            }
            for i in order[:12]
        ]
        return {
            "laws": len(self.cost),
            "configurations": rows,
            "best_in_expectation": self.best_in_expectation,
            "safest": self.safest,
            "within_one_percent": self.indistinguishable(),
            "n_params_interval": self.interval(self.n_params),
            "savings_intervals": {name: self.interval(values) for name, values in self.savings.items()},
            "in_words": self.in_words(),
        }

    def in_words(self) -> str:
        """Return what the distribution says, in a sentence or two."""
        near = len(self.indistinguishable())
        low, high = self.interval(self.savings["objective"])
        share, regret = 100 * self.probability[self.chosen], 100 * self.regret[self.chosen]
        said = (
            f"{self._heads(self.chosen)} is the cheapest under {share:.0f}% of the fit's resamples, and on "
            f"average {regret:.2f}% dearer than the cheapest"
        )
        if near > 1:
            said += f"; {near} configurations are within 1% of it: the data cannot tell them apart"
        said += (
            f". It saves {100 * low:.1f}% to {100 * high:.1f}% of the objective ({100 * self.level:.0f}%)."
        )
        if self.out_of_reach:
            said += f" Under {100 * self.out_of_reach:.1f}% of the resamples the loss is out of reach of all."
        return said


@partial(jax.jit, static_argnums=(2, 3))
def _under_all(problem: Problem, query: Query, lattice: Lattice, rule: HeadRule | None, laws: Any) -> Any:
    n_head, n_kv_head = map(jnp.asarray, lattice.arrays())

    def under(law: Any) -> Any:
        own = Problem(law=law, family=problem.family, tokens_per_param=problem.tokens_per_param)
        designs = evaluate(own, query, lattice, n_head, n_kv_head)
        designs = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, n_head.shape), designs)
        if rule is None:
            return designs, None
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], query)
        return designs, jax.tree.map(lambda leaf: jnp.reshape(leaf, ()), rule_shapes(own, batch, rule))

    return jax.vmap(under)(laws)


def distribution(
    fit: Any, design: Design, *, resamples: int | None = None, level: float = 0.9
) -> Distribution:
    """Ask every law of a fit's bootstrap the question that a design answers.

    Args:
        fit: the fit that the design was searched with; it must hold a bootstrap.
        design: the answer, which carries its question.
        resamples: how many of the bootstrap's laws to ask; all by default.
        level: of intervals.

    Raises:
        InvalidInput: the fit has no bootstrap, or the design is of a `DesignSpace`.
        Unreachable: no law of the bootstrap reaches the loss.

    >>> import scalesim as ss
    >>> fit = ss.named_fit("default")
    >>> design = ss.search(fit, ss.Workload(context_length=131072), 2.615)
    >>> doubt = distribution(fit, design)
    >>> round(float(doubt.probability.sum()), 6)
    1.0
    """
    if getattr(fit, "bootstrap", None) is None:
        raise InvalidInput("fit has no bootstrap; `scalesim.fit.with_bootstrap(fit)` would give it one.")
    problem, query, lattice = design.problem, design.query, design.lattice
    if not isinstance(lattice, Lattice):
        raise InvalidInput(
            "distribution compares the head configurations of a lattice, but the design is of a DesignSpace; "
            "one of scalesim.search.buildable() would do."
        )
    with jax.enable_x64(True):
        laws = jax.tree.map(jnp.asarray, fit.bootstrap.laws(problem.law, resamples))
        asked = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), query)
        designs, baseline = _under_all(problem, asked, lattice, design.rule, laws)
        baseline = design.baseline.shape if baseline is None else baseline
        savings = _savings(asked, designs.shape, baseline, design)
        cost, log_n = np.asarray(designs.cost), np.asarray(designs.log_n_params)
    # Under a law whose floor is above the target nothing reaches it, and there is nothing to compare.
    reached = np.isfinite(cost.min(axis=1))
    if not reached.any():
        raise Unreachable(
            f"target_loss {design.target_loss:g} is out of reach under every law of the bootstrap; a higher "
            "one would do."
        )
    cost, log_n = cost[reached], log_n[reached]
    savings = {name: values[reached] for name, values in savings.items()}
    heads = np.asarray(lattice.heads)
    chosen = lattice.heads.index((int(design.shape.n_head), int(design.shape.n_kv_head)))
    excess = cost / cost.min(axis=1, keepdims=True) - 1
    winner = cost.argmin(axis=1)
    with np.errstate(invalid="ignore"):
        worst = np.quantile(excess, 0.95, axis=0)
    return Distribution(
        heads=heads,
        winner=winner,
        probability=np.bincount(winner, minlength=len(heads)) / len(cost),
        regret=excess.mean(axis=0),
        worst_regret=np.where(np.isfinite(worst), worst, np.inf),
        cost=cost[:, chosen],
        n_params=np.exp(log_n[:, chosen]),
        savings={name: values[:, chosen] for name, values in savings.items()},
        chosen=chosen,
        level=level,
        tail=fit.bootstrap.tail(level),
        out_of_reach=float(1 - reached.mean()),
    )


def _savings(query: Query, shape: Any, baseline: Any, design: Design) -> dict[str, np.ndarray]:
    """Return 1 - cost/baseline of every configuration under every law, (R, K) each."""
    cost = query.objective
    count = jnp.shape(shape.n_layer)
    if design.rule is not None:
        baseline = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:, None], count), baseline)
    reported = reported_cost(cost)
    measures = {
        "objective": lambda s: cost(s, query.workload),
        "memory": lambda s: reported.memory(s, query.workload).total,
        "flops": lambda s: reported.flops(s, query.workload).total,
    }
    return {name: np.asarray(1 - f(shape) / f(baseline)) for name, f in measures.items()}
