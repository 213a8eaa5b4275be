"""Forms of a head law judged where nobody fitted them, and mixed by that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.data.contrasts import ContrastTable
from scalesim.data.runs import RunTable
from scalesim.fitting.contrasts import (
    Spread,
    contrasts,
    covariance,
    estimate_spread,
    log_ratio,
    one_corpus,
    sides,
)
from scalesim.fitting.diagnosis import local
from scalesim.fitting.engine import fit
from scalesim.fitting.evidence import Points
from scalesim.fitting.noise import Squared
from scalesim.fitting.result import Fit
from scalesim.fitting.setup import LawLike, the_law
from scalesim.laws.attention import AttentionLaw
from scalesim.laws.base import Law

__all__ = [
    "FORMS",
    "HOME",
    "OWN",
    "Form",
    "Judged",
    "fit_form",
    "fit_with_contrasts",
    "judge",
    "stack",
]

HOME = 0.0017
"""Scatter of the paper's losses about a smooth law, of log loss: 0.0045 nats, reading error and seed."""

_ROUNDS = 3
"""Times that a law and the spread about it are found in turn."""


@dataclass(frozen=True)
class Form:
    """A way to write the effect of heads: a law, what it holds fixed, and what is believed beforehand."""

    law: Any
    fixed: Mapping[str, float | None]
    priors: Mapping[str, tuple[float, float]]
    bounds: Mapping[str, tuple[float, float]]


_PRIORS = {
    "E": (1.9, 0.08),
    "A": (0.8, 0.25),
    "b": (0.19, 0.05),
    "C": (0.12, 0.1),
    "k": (3.0, 2.0),
    "F": (0.03, 0.03),
    "m": (2.0, 1.5),
    "H": (0.05, 0.04),
    "h": (40.0, 15.0),
    "c": (0.5, 0.35),
    "f": (0.5, 0.35),
}
OWN = {"width_slope": 0.0, "cache_slope": 0.0, "head_slope": 0.0}
"""The slopes of a corpus like most, which fits hold."""


def form_of(u: float, w: float, r: float = 0.0, growth: bool = True) -> Form:
    """Return the form of `AttentionLaw` with these u, w and r, whose terms may outgrow the reducible loss."""
    held = {"u": u, "w": w, "r": r, **OWN}
    if growth:
        return Form(AttentionLaw, held, _PRIORS, {"c": (0.01, 1.0), "f": (0.01, 1.0)})
    priors = {name: prior for name, prior in _PRIORS.items() if name not in "cf"}
    return Form(AttentionLaw, {**held, "c": 0.0, "f": 0.0}, priors, {})


FORMS: dict[str, Form] = {
    "numbers of heads": form_of(0.0, 0.0),
    "number of heads, cached values": form_of(0.0, 1.0),
    "between number and width": form_of(0.5, 0.5),
    "attention width, cached values": form_of(1.0, 1.0),
    "width over the model's, cached values": form_of(1.0, 1.0, r=1.0, growth=False),
}
"""The forms of `AttentionLaw` that are judged for the shipped mixture."""


@dataclass(frozen=True, eq=False)
class FittedForm:
    """A form fitted to one corpus's runs and to comparisons, with its posterior's covariance and spread."""

    fit: Fit
    covariance: np.ndarray
    spread: Spread

    @property
    def law(self) -> Law:
        """The law at the posterior's mode."""
        return self.fit.law

    def ratios(self, table: ContrastTable) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted log ratios of comparisons by labs not fitted, and their covariance."""
        a, b = sides(self.law, table, blind=True)
        mean, slopes = self._linear(lambda law: log_ratio(law, a, b))
        return mean, slopes @ self.covariance @ slopes.T + covariance(self.law, table, self.spread)

    def losses(self, runs: RunTable) -> tuple[np.ndarray, np.ndarray]:
        """Return the predicted log losses of runs of the corpus fitted, and the law's covariance of them."""
        x = {name: runs[name] for name in self.law.fields}
        mean, slopes = self._linear(lambda law: jnp.log(law.loss(x)))
        return mean, slopes @ self.covariance @ slopes.T

    def _linear(self, of: Any) -> tuple[np.ndarray, np.ndarray]:
        problem = self.fit.setup.problem
        with jax.enable_x64(True):
            z = jnp.asarray(self.fit.z)
            value, push = jax.linearize(lambda z: of(problem.law(z)), z)
            return np.asarray(value), np.asarray(jax.vmap(push)(jnp.eye(len(z)))).T

    def draws(self, count: int, rng: np.random.Generator) -> list[Law]:
        """Return laws of new corpora: points of the posterior, each with a head effect of its own."""
        z = rng.multivariate_normal(self.fit.z, self.covariance, size=count)
        spread, found = self.spread, []
        wide, cached, sized = (s / np.log(2) * rng.normal(size=count) for s in spread.slopes)
        # A log-normal factor of mean 1: the effect of heads differs, but does not change its sign.
        width = np.sqrt(np.log1p(spread.effect**2))
        factor = np.exp(width * rng.normal(size=count) - width**2 / 2)
        with jax.enable_x64(True):
            for i in range(count):
                law: Any = jax.tree.map(float, self.fit.setup.problem.law(z[i]))
                own = {name: getattr(law, name) * factor[i] for name in ("C", "F", "H")}
                slopes = {"width_slope": wide[i], "cache_slope": cached[i], "head_slope": sized[i]}
                found.append(replace(law, **own, **slopes))
        return found


def fit_form(
    form: Form,
    runs: RunTable,
    table: ContrastTable,
    *,
    keep: np.ndarray | None = None,
    keep_runs: np.ndarray | None = None,
    start: FittedForm | None = None,
    rounds: int = _ROUNDS,
) -> FittedForm:
    """Fit a form to a corpus's runs and to comparisons, and the spread between studies with it.

    Args:
        form: what to fit, `FORMS["numbers of heads"]`.
        runs: of the corpus whose level the law takes.
        table: the comparisons.
        keep, keep_runs: which rows count, booleans; all by default.
        start: a fit to begin at, with fewer starts.
        rounds: how often law and spread are found in turn.
    """
    kept = table if keep is None else table.take(keep)
    law = (form.law() if isinstance(form.law, type) else form.law) if start is None else start.law
    spread = Spread() if start is None else start.spread
    for _ in range(rounds):
        evidence = [
            replace(one_corpus(runs, law, spread, HOME, keep_runs), about=()),
            replace(contrasts(table, law, spread, keep, blind=True), about=()),
        ]
        options: dict[str, Any] = {"fixed": form.fixed, "priors": form.priors, "bounds": form.bounds}
        if start is not None:
            options |= {"starts": 8, "polish": 2}
        found = fit(law, evidence, **options)
        law = found.law
        spread = estimate_spread(law, kept, runs if keep_runs is None else runs.take(keep_runs), HOME)
        start = FittedForm(found, np.zeros((0, 0)), spread)
    with jax.enable_x64(True):
        jacobian = np.asarray(local(found.setup.problem, jnp.asarray(found.z))[0])
    return FittedForm(found, np.linalg.inv(jacobian.T @ jacobian), spread)


def fit_with_contrasts(
    law: LawLike,
    runs: RunTable,
    table: ContrastTable,
    *,
    fixed: Mapping[str, float | None] | None = None,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    starts: int = 64,
) -> Fit:
    """Fit a law to one's own runs and to comparisons of others, and the spread between studies with it.

    The level and the head effects of `runs` count in full, least squares of log losses with the scatter
    `HOME`; what studies say of heads counts by how they differ. `AttentionLaw` takes the form "number of
    heads, cached values" where `fixed` does not say otherwise.

    >>> from scalesim.data import load_contrasts, paper_runs
    >>> found = fit_with_contrasts("attention", paper_runs(), load_contrasts(), starts=16)
    >>> found.rms < 0.005, found.provenance["evidence"][1]["sources"]
    (True, 6)
    """
    template: Any = the_law(law)
    form = Form(template, {}, {}, {})
    if isinstance(template, AttentionLaw):
        form = FORMS["number of heads, cached values"]
    held = {**form.fixed, **(fixed or {})}
    ranges = {name: span for name, span in {**form.bounds, **(bounds or {})}.items() if name not in held}
    priors = {name: prior for name, prior in form.priors.items() if name not in held}
    spread, found = Spread(), None
    for _ in range(2):
        evidence: list[Any] = [Points(runs, Squared(HOME, space="log")), contrasts(table, template, spread)]
        found = fit(template, evidence, fixed=held, bounds=ranges, priors=priors, starts=starts)
        template, spread = found.law, estimate_spread(found.law, table)
    assert found is not None
    return found


@dataclass(frozen=True, eq=False)
class Judged:
    """How a form does on what it was not fitted to.

    Attributes:
        fitted: the form fitted to everything.
        percent, deviation: of each comparison with its study left out, in percent of loss, (rows,).
        studies: the log density of each study's comparisons, and of the largest runs, when left out.
        largest: rms error of the largest runs, left out, nats.
    """

    fitted: FittedForm
    percent: np.ndarray
    deviation: np.ndarray
    studies: dict[str, float]
    largest: float


LARGEST = "the largest runs"


def judge(form: Form, runs: RunTable, table: ContrastTable, by: str = "n_layer") -> Judged:
    """Fit a form, leave every study out in turn, and the runs with the largest value of `by`."""
    whole = fit_form(form, runs, table)
    study = table.study
    percent, deviation = np.zeros(len(table)), np.zeros(len(table))
    density: dict[str, float] = {}
    for name in dict.fromkeys(study):
        out = study == name
        found = fit_form(form, runs, table, keep=~out, start=whole, rounds=2)
        mean, scatter = found.ratios(table.take(out))
        density[str(name)] = _log_density(table.log_ratio[out] - mean, scatter)
        percent[out], deviation[out] = 100 * mean, 100 * np.sqrt(np.diag(scatter))
    large = runs[by] == runs[by].max()
    found = fit_form(form, runs, table, keep_runs=~large, start=whole, rounds=1)
    some = runs.take(large)
    mean, scatter = found.losses(some)
    scatter = scatter + HOME**2 * np.eye(len(some))
    density[LARGEST] = _log_density(np.log(some.loss) - mean, scatter)
    largest = float(np.sqrt(np.mean((np.exp(mean) - some.loss) ** 2)))
    return Judged(whole, percent, deviation, density, largest)


def _log_density(miss: np.ndarray, scatter: np.ndarray) -> float:
    root = np.linalg.cholesky(scatter)
    scaled = np.linalg.solve(root, miss)
    return float(-np.log(np.diag(root)).sum() - 0.5 * scaled @ scaled - 0.5 * len(miss) * np.log(2 * np.pi))


def stack(density: np.ndarray, spare: float = 1.0, steps: int = 2000) -> np.ndarray:
    """Return the weights w of forms that make what was left out most probable.

    Maximises sum_k log sum_i w_i p_ki + (spare / forms) sum_i log w_i over folds k (Yao et al. 2018, "Using
    stacking to average Bayesian predictive distributions"), by expectation and maximisation; the last term
    counts as `spare` folds of not knowing.

    Args:
        density: log p_ki of fold k under form i, (folds, forms).

    >>> stack(np.log([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])).round(2).tolist()
    [0.73, 0.27]
    """
    density = np.asarray(density, float)
    forms = density.shape[1]
    likely = np.exp(density - density.max(axis=1, keepdims=True))
    weights = np.full(forms, 1 / forms)
    for _ in range(steps):
        votes = weights * likely
        votes = (votes / votes.sum(axis=1, keepdims=True)).sum(axis=0) + spare / forms
        weights = votes / votes.sum()
    return weights
