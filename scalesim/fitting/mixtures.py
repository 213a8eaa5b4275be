"""The mean of several forms as one fit: its weights, its samples, and what was left out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np

from scalesim.data.contrasts import ContrastTable
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput
from scalesim.fitting.contrasts import Spread, contrasts
from scalesim.fitting.evidence import Points
from scalesim.fitting.forms import HOME, Judged, stack
from scalesim.fitting.mixed_setup import MixedSetup, miss_of, sampled
from scalesim.fitting.noise import Squared
from scalesim.fitting.result import Fit, Origin
from scalesim.laws.attention import Mixture
from scalesim.laws.base import Law

__all__ = ["left_out", "mixture"]

DRAWS = 8000
"""Draws of a form and of its error, of which an interval is the quantiles."""


def mixture(
    judged: Mapping[str, Judged],
    runs: RunTable,
    table: ContrastTable,
    *,
    least: float = 0.05,
    samples: int = 200,
    seed: int = 0,
    tell: np.ndarray | None = None,
) -> Fit:
    """Return the fit whose law is the forms' mean, weighted by `stack`, with samples of form and constants.

    A sample is one form (drawn by the weights) at one point of its posterior, for one new corpus: so what
    is asked of the samples holds the uncertainty within a form, between forms, and between corpora.

    Args:
        judged: the forms, of one class of law.
        runs, table: what they were fitted to.
        least: forms of less weight are left out.
        samples: how many laws `Fit.bootstrap` holds.
        seed: of the samples.
        tell: which comparisons the fit keeps row by row as they were predicted when their study was left
            out, (rows,) booleans; all by default. Of the others it keeps each study's error.
    """
    names = list(judged)
    weights = stack(densities(judged))
    weights = np.where(weights >= least, weights, 0.0)
    kept = [i for i in np.argsort(-weights, kind="stable") if weights[i] > 0]
    weights = weights[kept] / weights[kept].sum()
    chosen = {names[i]: judged[names[i]] for i in kept}
    members = [own.fitted for own in chosen.values()]
    law = Mixture(law=_stacked([member.law for member in members]), weights=weights, names=tuple(chosen))
    bootstrap = sampled(law, members, samples, seed)
    off = miss_of(law, runs)
    spread = _mean_spread([member.spread for member in members], weights)
    evidence = [
        Points(runs, Squared(HOME, space="log")).describe(),
        contrasts(table, members[0].law, spread, blind=True).describe(),
    ]
    stated = np.ones(len(table), bool) if tell is None else np.asarray(tell, bool)
    found = Fit(
        law=law,
        objective=float("nan"),
        gradient_norm=max(member.fit.gradient_norm for member in members),
        rms=float(np.sqrt(np.mean(off**2))),
        starts_agreeing=min(member.fit.starts_agreeing for member in members),
        starts_polished=members[0].fit.starts_polished,
        optima=(),
        status="converged",
        message=f"A mixture of {len(kept)} forms, weighted by what was left out of their fits.",
        standard_errors=bootstrap.standard_errors,
        condition=max(member.fit.condition for member in members),
        provenance={
            "evidence": evidence,
            "forms": [_record(name, own, runs) for name, own in chosen.items()],
            "studies": _studies(chosen, table),
            "comparisons": _comparisons(chosen, table, stated),
        },
        bootstrap=bootstrap,
    )
    held: Any = MixedSetup(tuple(members), weights, law, runs, table)
    return replace(found, origin=Origin(held, np.zeros(0)))


def densities(judged: Mapping[str, Judged]) -> np.ndarray:
    """Return the log density of each fold, left out, under each form, (folds, forms)."""
    return np.array([list(own.studies.values()) for own in judged.values()]).T


def left_out(
    judged: Mapping[str, Judged], table: ContrastTable, level: float = 0.9
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, float]]:
    """Return what the mixture says of each comparison with its study left out, and how probable that was.

    Neither a form's own fit nor the weights have seen the study.

    Returns:
        The mean and the ends of the interval, percent (rows,), and the log density of each study.
    """
    density, rng = densities(judged), np.random.default_rng(0)
    folds = list(next(iter(judged.values())).studies)
    percent = np.array([own.percent for own in judged.values()])
    deviation = np.array([own.deviation for own in judged.values()])
    mean, low, high = np.zeros((3, len(table)))
    total = {}
    for study in dict.fromkeys(table.study):
        some, fold = table.study == study, folds.index(str(study))
        weights = stack(np.delete(density, fold, axis=0))
        which = rng.choice(len(weights), p=weights, size=DRAWS)
        noise = rng.normal(size=(DRAWS, int(some.sum())))
        drawn = percent[which][:, some] + deviation[which][:, some] * noise
        tail = (1 - level) / 2
        mean[some] = (weights @ percent)[some]
        low[some], high[some] = np.quantile(drawn, [tail, 1 - tail], axis=0)
        most = density[fold].max()
        total[str(study)] = float(np.log(weights @ np.exp(density[fold] - most)) + most)
    return mean, low, high, total


def _record(name: str, own: Judged, runs: RunTable) -> dict[str, Any]:
    """Return a form as plain values: what it was asked, its posterior, and its errors."""
    asked = own.fitted.fit.setup.asked()
    return {
        "name": name,
        "home": float(np.sqrt(np.mean(miss_of(own.fitted.law, runs) ** 2))),
        "largest": own.largest,
        "log_density": {**own.studies},
        "asked": {key: asked[key] for key in ("fixed", "bounds", "priors")},
        "z": np.asarray(own.fitted.fit.z).tolist(),
        "covariance": own.fitted.covariance.tolist(),
        "spread": asdict(own.fitted.spread),
    }


def _studies(judged: Mapping[str, Judged], table: ContrastTable) -> list[dict[str, Any]]:
    """Return each study's errors when it was left out, percent of loss rms."""
    mean, low, high, _ = left_out(judged, table)
    measured = 100 * table.log_ratio
    found = []
    for study in dict.fromkeys(table.study):
        some = table.study == study
        found.append(
            {
                "study": str(study),
                "comparisons": int(some.sum()),
                "rms": _rms((mean - measured)[some]),
                "covered": int(np.sum((low <= measured) & (measured <= high) & some)),
                "forms": {name: _rms((own.percent - measured)[some]) for name, own in judged.items()},
            }
        )
    return found


def _comparisons(judged: Mapping[str, Judged], table: ContrastTable, stated: np.ndarray) -> list[dict]:
    mean, low, high, _ = left_out(judged, table)
    return [
        {
            "name": str(table.name[i]),
            "study": str(table.study[i]),
            "measured": float(100 * table.log_ratio[i]),
            "percent": float(mean[i]),
            "low": float(low[i]),
            "high": float(high[i]),
            "forms": {name: float(own.percent[i]) for name, own in judged.items()},
        }
        for i in np.flatnonzero(stated)
    ]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _stacked(laws: Sequence[Law]) -> Law:
    if len({jax.tree.structure(law) for law in laws}) != 1:
        raise InvalidInput("the forms of a mixture must be of one class of law, with the same options.")
    return jax.tree.map(lambda *leaves: np.array(leaves, float), *laws)


def _mean_spread(spreads: Sequence[Spread], weights: np.ndarray) -> Spread:
    squares = {name: np.dot(weights, [getattr(s, name) ** 2 for s in spreads]) for name in asdict(spreads[0])}
    return Spread(**{name: float(np.sqrt(v)) for name, v in squares.items()})
