"""What a mixture of forms was made from: it is sampled, and left without runs, form by form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.data.contrasts import ContrastTable, load_contrasts
from scalesim.data.readers import load_runs
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput
from scalesim.fitting.bootstrap import Bootstrap
from scalesim.fitting.contrasts import Spread, one_corpus, parts
from scalesim.fitting.coordinates import slots_of
from scalesim.fitting.evidence import Points
from scalesim.fitting.forms import HOME, FittedForm
from scalesim.fitting.noise import Squared
from scalesim.fitting.problem import FitProblem
from scalesim.fitting.result import Fit, Origin
from scalesim.fitting.setup import EvidenceLike, prepare
from scalesim.laws.attention import Mixture
from scalesim.laws.base import Law

__all__ = ["MixedSetup", "miss_of", "origin_of", "sampled"]

STEPS, ENOUGH = 30, 1e-8
"""Steps of a fit without some runs, and the change of the coordinates at which it ends."""


ONE_LAW = (
    "this fit is a mixture of forms, each fitted for itself: it has samples (with_bootstrap draws more), "
    "residuals, and runs and studies left out, but no one optimum that could be profiled or moved. A fit of "
    "one form has, as named_fit('paper')."
)


@dataclass(frozen=True, eq=False)
class MixedSetup:
    """What a mixture was made from: its forms with their posteriors, the runs, the comparisons.

    It stands where a fit of one law has its `Setup`, and answers for the runs; it has no one problem.
    """

    members: tuple[FittedForm, ...]
    weights: np.ndarray
    law: Mixture
    runs: RunTable
    table: ContrastTable

    @property
    def points(self) -> Points:
        """The runs as evidence."""
        return Points(self.runs, Squared(HOME, space="log"))

    @property
    def x(self) -> dict[str, np.ndarray]:
        """Each field of the runs that the law sees, (rows,)."""
        return {name: self.runs[name] for name in self.law.fields}

    @property
    def size(self) -> int:
        """Free coefficients of the form that has the most."""
        return max(member.fit.setup.size for member in self.members)

    @property
    def problem(self) -> FitProblem:
        """Raise, as there is none.

        Raises:
            InvalidInput: always.
        """
        raise InvalidInput(ONE_LAW)

    layout = others = rows = template = problem

    def sampled(self, count: int, seed: int) -> Bootstrap:
        """Return `count` samples of the posterior."""
        return sampled(self.law, self.members, count, seed)

    def predicted_without(self, masks: np.ndarray) -> np.ndarray:
        """Return every run's loss under the mixture without the runs in `masks`, nats, both (folds, rows).

        Each form is fitted again to the runs that are left; all its other evidence counts by its posterior:
        f(z) = |r_kept(z)|^2 / 2 + g (z - z0) + (z - z0) H (z - z0) / 2, H being the posterior's precision
        less the curvature of the runs, and g what keeps z0 the optimum of all. Weights and spread stay.
        """
        losses = [_without(member, self.runs, masks) for member in self.members]
        return np.tensordot(self.weights, np.array(losses), axes=1)

    @cached_property
    def comparison_errors(self) -> np.ndarray:
        """Predicted less measured log ratios of the comparisons that are known, percent (rows,)."""
        return 100 * (sum(parts(self.law, self.table)) - self.table.log_ratio)


@jax.jit
def _log_losses(problem: FitProblem, z: jax.Array, x: Mapping[str, jax.Array]) -> tuple[Any, Any]:
    def at(z: jax.Array) -> Any:
        return jnp.log(problem.law(z).loss(x))

    return at(z), jax.jacfwd(at)(z)


def _without(member: FittedForm, runs: RunTable, masks: np.ndarray) -> np.ndarray:
    """Return every run's loss under one form without the runs in `masks`, nats, both (folds, rows)."""
    problem, start = member.fit.setup.problem, np.asarray(member.fit.z)
    x, measured = {name: runs[name] for name in member.law.fields}, np.log(runs.loss)

    def at(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with jax.enable_x64(True):
            value, slope = _log_losses(problem, jnp.asarray(z), x)
            return np.asarray(value), np.asarray(slope)

    def whiten(keep: np.ndarray | None) -> np.ndarray:
        return np.asarray(one_corpus(runs, member.law, member.spread, HOME, keep).whiten)

    value, slope = at(start)
    whole = whiten(None)
    own = whole @ slope
    rest = _semidefinite(np.linalg.inv(member.covariance) - own.T @ own)
    pull = -own.T @ (whole @ (value - measured))
    found = []
    for out in masks:
        some = whiten(~out)

        def cost(z: np.ndarray, value: np.ndarray, some: np.ndarray = some) -> float:
            away, miss = z - start, some @ (value - measured)
            return float(0.5 * miss @ miss + pull @ away + 0.5 * away @ rest @ away)

        z, (value, slope) = start, at(start)
        for _ in range(STEPS):
            kept = some @ slope
            gradient = kept.T @ (some @ (value - measured)) + pull + rest @ (z - start)
            step = -np.linalg.lstsq(kept.T @ kept + rest, gradient, rcond=1e-13)[0]
            least, share = cost(z, value), 1.0
            while share > 1e-3 and not cost(z + share * step, at(z + share * step)[0]) <= least:
                share /= 2
            z = z + share * step
            value, slope = at(z)
            if np.abs(share * step).max() < ENOUGH:
                break
        found.append(np.exp(value))
    return np.array(found)


def _semidefinite(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def origin_of(fit: Fit, evidence: EvidenceLike) -> Origin:
    """Return what a saved mixture was made from: its forms, its runs, the comparisons that ship.

    Raises:
        InvalidInput: the file keeps no forms, or the runs are others than those it was fitted to.
    """
    given: Any = evidence.runs if isinstance(evidence, Points) else evidence
    try:
        return _origin(fit, load_runs(given))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(f"provenance.forms do not say how this mixture was made: {error!r}.") from None


def _origin(fit: Fit, runs: RunTable) -> Origin:
    law, records = fit.law, fit.provenance.get("forms")
    assert isinstance(law, Mixture)
    if not records:
        raise InvalidInput(
            "this mixture was saved by an earlier version, which did not keep its forms' posteriors; "
            "`scalesim.fitting.mixture` of judged forms makes one that does."
        )
    miss = float(np.sqrt(np.mean(miss_of(law, runs) ** 2)))
    if not np.isclose(miss, fit.rms, rtol=1e-4):
        raise InvalidInput(
            f"this mixture was fitted to other evidence: over these {len(runs)} runs its rms error is "
            f"{miss:.4f} nats, over its own {fit.rms:.4f}."
        )
    members = []
    for i, record in enumerate(records):
        own = jax.tree.map(lambda leaf, i=i: float(leaf[i]), law.law)
        spread = Spread(**record["spread"])
        asked = record["asked"]
        with jax.enable_x64(True):
            setup = prepare(
                own,
                [one_corpus(runs, own, spread, HOME)],
                fixed=dict.fromkeys(asked["fixed"]),
                bounds=asked["bounds"],
                priors=asked["priors"],
            )
        z, covariance = np.asarray(record["z"], float), np.asarray(record["covariance"], float)
        if z.shape != (setup.layout.size,) or covariance.shape != (len(z), len(z)):
            raise InvalidInput(
                f"form {record['name']!r} has {setup.layout.size} free coefficients, but the file holds "
                f"{len(z)} and a covariance of shape {covariance.shape}."
            )
        members.append(FittedForm(replace(fit, law=own, origin=Origin(setup, z)), covariance, spread))
    held: Any = MixedSetup(tuple(members), np.asarray(law.weights), law, runs, load_contrasts())
    return Origin(held, np.zeros(0))


def sampled(law: Mixture, members: Sequence[FittedForm], count: int, seed: int) -> Bootstrap:
    """Return `count` laws of new corpora, each of one form, drawn by the mixture's weights."""
    rng = np.random.default_rng(seed)
    weights = np.asarray(law.weights)
    drawn: list[Law] = []
    for member, share in zip(members, _shared_out(weights, count), strict=True):
        drawn += member.draws(share, rng)
    # Every member of a sampled mixture is the law drawn, so its weights do not matter.
    leaves = np.array([jax.tree.leaves(one) for one in drawn])[rng.permutation(count)]
    slots = [slot.name for slot in slots_of(law)]
    wide = [np.repeat(values[:, None], len(members), axis=1) for values in leaves.T]
    coefficients = dict(zip(slots, [*wide, np.tile(weights, (count, 1))], strict=True))
    return Bootstrap(coefficients, np.zeros(count), "posterior", seed, count)


def _shared_out(weights: np.ndarray, count: int) -> list[int]:
    """Return whole numbers in proportion to the weights, that sum to `count`."""
    ends = np.round(np.cumsum(weights) * count).astype(int)
    return np.diff(ends, prepend=0).tolist()


def miss_of(law: Law, runs: RunTable) -> np.ndarray:
    """Return predicted less measured losses, nats (rows,)."""
    with jax.enable_x64(True):
        return np.asarray(law.loss({name: runs[name] for name in law.fields})) - runs.loss
