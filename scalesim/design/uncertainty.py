"""How sure a choice is: every law of the fit's bootstrap asked the same question, in one compiled call."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from scalesim.cost.objectives import reported_cost
from scalesim.design.design import Design
from scalesim.design.lattice import HEADS
from scalesim.design.problem import NOTHING_FREE, Problem, Query, precisions
from scalesim.design.relaxation import Compared, Priced
from scalesim.errors import InvalidInput, Unreachable
from scalesim.faces import Face, Shown
from scalesim.fitting.predict import extrapolation_error, normal_draws
from scalesim.fitting.result import Fit
from scalesim.laws.attention import Mixture
from scalesim.laws.base import Law, fields_of
from scalesim.laws.terms import Constant
from scalesim.programs import always, kept_jit
from scalesim.shape import Shape, count_params

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

__all__ = ["Distribution", "distribution"]

Named = tuple[float, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Distribution(Shown):
    """What R laws say of one question, configuration by configuration.

    Each configuration is brought to the target loss under each law anew, so its size differs from law to law.
    Of a `Lattice` all are compared. Of a `DesignSpace`, those that are the best under some law, each found by
    a search of its own: depth, width, heads and what else is a whole number; d_ff or the training tokens,
    whichever closes the gap to the loss, follow the law.

    Attributes:
        query: the question.
        names: what tells configurations apart: ("n_head", "n_kv_head"), and of a space its other axes.
        configurations: the values, (K, len(names)).
        winner: the index of the cheapest configuration under each law, (R,).
        probability: the share of laws under which each is the cheapest, (K,).
        regret: expected excess of each over the cheapest of the law, as a fraction, (K,); infinite where it
            cannot do what is asked under some law.
        worst_regret: the same, at the 95th percentile.
        missed: the share of laws under which each cannot be brought to the loss or within a limit, (K,). Of a
            space it is then often a layer short: d_ff has a range.
        excess: as regret, over the laws under which it is not missed.
        cost: the chosen configuration's objective under each law that it is not missed under, (R',).
        n_params: its size under these.
        savings: what it saves over the baseline at equal loss under these, {"memory": (R',), ...}.
        chosen: index of the chosen configuration.
        level: of the intervals.
        tail: the share of laws that an interval leaves out on either side (see `Bootstrap.tail`).
        out_of_reach: the share of laws under which no configuration reaches the loss; they are left out.
        forms: of a `Mixture`, what its members are called: the laws above are samples of the whole mixture.
        savings_by_form: what the chosen configuration saves under each member alone, at its best fit,
            {"memory": (len(forms),), ...}; NaN where it cannot be brought to the loss.
    """

    query: Query
    names: tuple[str, ...]
    configurations: np.ndarray
    winner: np.ndarray
    probability: np.ndarray
    regret: np.ndarray
    worst_regret: np.ndarray
    missed: np.ndarray
    excess: np.ndarray
    cost: np.ndarray
    n_params: np.ndarray
    savings: dict[str, np.ndarray]
    chosen: int
    level: float
    tail: float
    out_of_reach: float = 0.0
    forms: tuple[str, ...] = ()
    savings_by_form: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def heads(self) -> np.ndarray:
        """(n_head, n_kv_head) of each configuration, (K, 2)."""
        return self.configurations[:, [self.names.index(name) for name in HEADS]]

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Return the expanded percentile interval of some values over the laws."""
        low, high = np.quantile(values, [self.tail, 1 - self.tail])
        return float(low), float(high)

    def between_forms(self, name: str = "objective") -> tuple[float, float] | None:
        """Return the least and the most that a saving is from form to form of the law, if it has forms."""
        values = self.savings_by_form.get(name, np.empty(0))
        values = values[np.isfinite(values)]
        return (float(values.min()), float(values.max())) if len(values) else None

    @property
    def best_in_expectation(self) -> Named:
        """The configuration of least expected excess among those least often missed, by `names`."""
        return self.values(int(np.lexsort((self.excess, self.missed))[0]))

    @property
    def safest(self) -> Named:
        """The configuration whose excess is least where it is bad, at the 95th percentile of laws."""
        return self.values(int(np.argmin(self.worst_regret)))

    def indistinguishable(self, within: float = 0.01) -> list[Named]:
        """Return the configurations that cost at most `within` more than the best, in expectation."""
        order = np.argsort(self.regret)
        return [self.values(i) for i in order if self.regret[i] <= within]

    def values(self, index: int) -> Named:
        """Return a configuration in the order of `names`, whole numbers as such."""
        return tuple(_plain(value) for value in self.configurations[index])

    def label(self, index: int) -> str:
        """Return what a configuration is called in figures: `12 : 1`, or `19 × 2624, 12 : 1`."""
        given = dict(zip(self.names, self.values(index), strict=True))
        called = f"{given.pop('n_head')} : {given.pop('n_kv_head')}"
        if "n_layer" in given:
            called = f"{given.pop('n_layer')} × {given.pop('d_model')}, {called}"
        return ", ".join([called, *(f"{name} {value:.4g}" for name, value in given.items())])

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Return, for each name, between which values `level` of the laws' best designs lie."""
        best = self.configurations[self.winner]
        ends = np.quantile(best, [self.tail, 1 - self.tail], axis=0, method="nearest")
        return {name: (_plain(a), _plain(b)) for name, a, b in zip(self.names, *ends, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Return the distribution as plain values, configurations by probability."""
        order = [i for i in np.lexsort((self.excess, -self.probability)) if self.missed[i] < 1]
        rows = [
            {
                **dict(zip(self.names, self.values(i), strict=True)),
                "probability": float(self.probability[i]),
                "regret": float(self.excess[i]),
                "missed": float(self.missed[i]),
            }
            for i in order[:12]
        ]
        return {
            "laws": len(self.winner),
            "configurations": rows,
            "best_in_expectation": self.best_in_expectation,
            "safest": self.safest,
            "within_one_percent": self.indistinguishable(),
            "ranges": self.ranges(),
            "n_params_interval": self.interval(self.n_params),
            "savings_intervals": {name: self.interval(values) for name, values in self.savings.items()},
            "savings_between_forms": {name: self.between_forms(name) for name in self.savings_by_form},
            "in_words": self.text(),
        }

    def _face(self) -> Face:
        order = [i for i in np.lexsort((self.excess, -self.probability)) if self.missed[i] < 1]
        columns = ("configuration", "cheapest under, %", "mean excess, %", "missed, %")
        rows = [
            (self.label(i), 100 * self.probability[i], 100 * self.excess[i], 100 * self.missed[i])
            for i in order
        ]
        return Face(
            f"What {len(self.winner)} laws say of one question", columns, rows, (self.text(),), most=6
        )

    def to_polars(self) -> pl.DataFrame:
        """Return a row for each configuration, the most probable first."""
        import polars as pl

        order = np.lexsort((self.excess, -self.probability))
        named = {name: self.configurations[order, i] for i, name in enumerate(self.names)}
        columns = ("probability", "regret", "worst_regret", "missed", "excess")
        return pl.DataFrame({**named, **{name: getattr(self, name)[order] for name in columns}})

    def plot(self) -> Figure:
        """Return a figure: how often each configuration is the cheapest, and what the chosen one saves."""
        from scalesim.report.uncertainty_figure import draw_distributions

        return draw_distributions([self])

    def text(self) -> str:
        """Return what the distribution says, in a sentence or two."""
        whole = self.names != HEADS
        near = len(self.indistinguishable())
        low, high = self.interval(self.savings["objective"])
        share, excess = 100 * self.probability[self.chosen], 100 * self.excess[self.chosen]
        missed = 100 * self.missed[self.chosen]
        called = self.label(self.chosen) if whole else str(self.values(self.chosen))
        text = f"{called} is the cheapest under {share:.0f}% of the fit's resamples, and "
        text += f"on average {excess:.2f}% dearer than the cheapest"
        if missed:
            text += f"; under {missed:.1f}% it cannot do what is asked, and these are left out"
        if near > 1:
            among = f" of the {len(self.regret)} that are the best under some" if whole else ""
            text += f"; {near} configurations{among} are within 1% of it: the data cannot tell them apart"
        text += f". It saves {_percents((low, high))} of the objective ({100 * self.level:.0f}%)."
        if between := self.between_forms():
            text += f" From form to form of the law, each at its best fit: {_percents(between)}."
        if whole:
            spans = [f"{name} {_span(*ends)}" for name, ends in self.ranges().items()]
            text += f" The best designs ({100 * self.level:.0f}%): {', '.join(spans)}."
        if self.out_of_reach:
            text += f" Under {100 * self.out_of_reach:.1f}% of the resamples the loss is out of reach of all."
        return text


def _plain(value: float) -> float:
    return int(value) if float(value).is_integer() else float(value)


def _percents(ends: tuple[float, float]) -> str:
    return f"{100 * ends[0]:.1f}% to {100 * ends[1]:.1f}%"


def _span(low: float, high: float) -> str:
    return f"{low:.5g}" if low == high else f"{low:.5g} to {high:.5g}"


def distribution(
    fit: Fit, design: Design, *, resamples: int | None = None, level: float = 0.9
) -> Distribution:
    """Ask every law of a fit's bootstrap the question that a design answers.

    A law that the fit's rollout knows to miss larger runs is off by that too, where the design is beyond
    the runs. Of a lattice every configuration is evaluated under every law. Of a `DesignSpace` every law has
    a search of its own, and all that any of them finds is evaluated under every law.

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
    >>> spread = distribution(fit, design)
    >>> round(float(spread.probability.sum()), 6)
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
        laws = jax.tree.map(np.asarray, fit.resamples.laws(design.problem.law, resamples))
        count, forms = len(jax.tree.leaves(laws)[0]), _alone(design.problem.law)
        if forms is not None:
            laws = jax.tree.map(lambda a, b: np.concatenate([a, b]), laws, forms)
        problem, laws = _beyond_the_runs(fit, design, laws, count)
        query = jax.tree.map(lambda leaf: np.asarray(leaf, float), design.query)
        gradient = design.relaxed is not None
        asked = design.lattice.under(problem, query, laws, design.shape, design.rule, gradient)
        designs, baseline = jax.device_get((asked.designs, asked.baseline))
        asked = replace(asked, designs=designs, baseline=baseline)
        costs = asked.designs.cost[:count]
        saved = _savings(query, asked, design)
        savings = {name: values[:count] for name, values in saved.items()}
        sizes = np.broadcast_to(count_params(asked.designs.shape, "paper"), asked.designs.cost.shape)
        n_params = sizes[:count]
    # Under a law whose floor is above the target nothing reaches it, and there is nothing to compare.
    reached = np.isfinite(costs.min(axis=1))
    if not reached.any():
        raise Unreachable(
            f"target_loss {design.target_loss:g} is out of reach under every law of the bootstrap; a higher "
            "one would do."
        )
    cost, chosen = costs[reached], asked.chosen
    excess = cost / cost.min(axis=1, keepdims=True) - 1
    winner = cost.argmin(axis=1)
    counted = np.isfinite(excess)
    with np.errstate(invalid="ignore"):
        worst = np.quantile(excess, 0.95, axis=0)
        elsewhere = np.where(counted, excess, 0.0).sum(axis=0) / counted.sum(axis=0)
    met = np.isfinite(costs[:, chosen])
    if not met.any():
        raise Unreachable(
            "The design cannot do what is asked under any law of the bootstrap, though others can; "
            "ss.search(fit, ...) would find one that can."
        )
    return Distribution(
        query=design.query,
        names=asked.names,
        configurations=asked.configurations,
        winner=winner,
        probability=np.bincount(winner, minlength=cost.shape[1]) / len(cost),
        regret=excess.mean(axis=0),
        worst_regret=np.where(np.isfinite(worst), worst, np.inf),
        excess=np.where(np.isfinite(elsewhere), elsewhere, np.inf),
        missed=1 - counted.mean(axis=0),
        cost=costs[met, chosen],
        n_params=n_params[met, chosen],
        savings={name: values[met, chosen] for name, values in savings.items()},
        chosen=chosen,
        level=level,
        tail=fit.resamples.tail(level),
        out_of_reach=float(1 - reached.mean()),
        forms=() if forms is None else forms.names,
        savings_by_form={} if forms is None else _by_form(saved, asked, count),
    )


def _alone(law: Law) -> Mixture | None:
    return law.alone() if isinstance(law, Mixture) and np.ndim(law.weights) == 1 else None


def _by_form(saved: dict[str, np.ndarray], asked: Compared, count: int) -> dict[str, np.ndarray]:
    met = np.isfinite(asked.designs.cost[count:, asked.chosen])
    return {name: np.where(met, values[count:, asked.chosen], np.nan) for name, values in saved.items()}


def _beyond_the_runs(fit: Fit, design: Design, laws: Law, count: int) -> tuple[Problem, Law]:
    """Give the first `count` laws the error that distance beyond the runs adds, as predictions have it."""
    problem, best = design.problem, design.best
    bits = precisions(problem.law, design.query.workload)
    if "kv_bits" in bits:
        bits["kv_bits"] = best.kv_bits
    context = float(design.query.workload.context_length)
    x = fields_of(problem.law, best.shape, best.n_tokens, context, **bits)
    error = float(np.nan_to_num(extrapolation_error(fit, {k: np.float64(v) for k, v in x.items()})))
    if not error:
        return problem, laws
    factor = np.ones(len(jax.tree.leaves(laws)[0]))
    factor[:count] = np.exp(error * normal_draws(count))
    return problem.under(problem.law * Constant(E=1.0)), laws * Constant(E=factor)


def _savings(query: Query, asked: Compared, design: Design) -> dict[str, np.ndarray]:
    """Return 1 - cost/baseline of every configuration under every law, (R, K) each."""
    baseline: Any = jax.tree.map(float, design.baseline.shape)
    if asked.baseline is not None:
        count = np.shape(asked.designs.cost)
        baseline = jax.tree.map(lambda leaf: np.broadcast_to(leaf[:, None], count), asked.baseline)
    found: dict[str, np.ndarray] = jax.device_get(_saved(query, asked.designs, baseline))
    return found


@partial(kept_jit, heavy=always)
def _saved(query: Query, designs: Priced, baseline: Shape) -> dict[str, Any]:
    own, others = designs.free.applied(query), NOTHING_FREE.applied(query)
    return {name: 1 - f(designs.shape, own) / f(baseline, others) for name, f in _MEASURES.items()}


_MEASURES = {
    "objective": lambda shape, query: query.cost(shape),
    "memory": lambda shape, query: reported_cost(query.objective).memory(shape, query.workload).total,
    "flops": lambda shape, query: reported_cost(query.objective).flops(shape, query.workload).total,
}
