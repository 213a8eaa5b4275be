"""Comparisons as evidence: log ratios of losses within a study, whose head effects differ from lab to lab.

With y = log(loss_b / loss_a), mu = log(L(x_b) / L(x_a)) under a law, and everything within one study s,

    y = mu + effect_s mu_head + share_s mu_size + sum_j slope_sj log2(f_j(x_b) / f_j(x_a)) + noise_b - noise_a

mu_size is what the sizes alone make of the law, mu_head the rest; f are the attention width, the cached
values and head_dim. Every random term is normal about 0: `effect` and `slope` are how labs differ, `share`
that each corpus has a floor, and so a reducible share, of its own; integrated out, they are the covariance
of a study's rows. The deviations (`Spread`) are estimated from the comparisons themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.optimize import minimize

from scalesim.data.contrasts import ContrastTable
from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput
from scalesim.fitting.evidence import Evidence
from scalesim.laws.base import Law
from scalesim.numerics.least_squares import Rows
from scalesim.pytree import register
from scalesim.types import Num

__all__ = [
    "Contrasts",
    "Spread",
    "contrasts",
    "covariance",
    "estimate_spread",
    "one_corpus",
    "run_noise",
]

HEADS = ("n_head", "n_kv_head", "head_dim")
READING = 2e-4
"""Deviation that is left between two models of one loss: rounding, and reading off a figure."""
KEYS = 0.4
"""Standard deviation, as a fraction, of the effect of KV heads in the one corpus whose level the law takes.

Studies differ by more (`Spread.effect`). At 0.4 that corpus counts for less than its 46 runs would, and the
law still describes it within 0.006 nats.
"""


@dataclass(frozen=True)
class Spread:
    """How far comparisons scatter about a law: standard deviations, of log loss.

    Attributes:
        noise: of one training run (another seed, another order of the data), where a row does not tell it.
        width, cache, head_dim: between studies, for each doubling of the attention width, of the cached
            values, and of head_dim.
        effect: between studies, of the size of the head effect, as a fraction of it.
        share: between corpora, of the reducible share of the loss, as a fraction of it.
    """

    noise: float = 0.0017
    width: float = 0.0012
    cache: float = 0.0007
    head_dim: float = 0.0015
    effect: float = 0.6
    share: float = 0.2

    @property
    def slopes(self) -> np.ndarray:
        """width, cache and head_dim, (3,)."""
        return np.array([self.width, self.cache, self.head_dim])


def side(law: Law, table: ContrastTable, of: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the fields of a law for one side of the comparisons, (rows,) each.

    Raises:
        InvalidInput: a field is not given for some row.
    """
    for name in law.fields:
        values = of.get(name, np.full(len(table), np.nan))
        if np.isnan(values).any():
            row = table.name[np.flatnonzero(np.isnan(values))[0]]
            raise InvalidInput(f"{type(law).__name__} needs {name}, which comparison {row} does not tell.")
    return {name: np.asarray(of[name], float) for name in law.fields}


def sides(
    law: Law, table: ContrastTable, *, blind: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the fields of a law for both sides.

    Raises:
        InvalidInput: a field is not given, or the models of a row differ in nothing that the law sees; with
            `blind`, in nothing that any law of heads sees.
    """
    a, b = side(law, table, table.a), side(law, table, table.b)
    same = unseen(law, table)
    if blind:
        others = [name for name in ("n_params", *HEADS) if name in table.a and name in table.b]
        same &= np.all([table.a[name] == table.b[name] for name in others], axis=0)
    if same.any():
        row = table.name[np.flatnonzero(same)[0]]
        raise InvalidInput(
            f"The models of comparison {row} differ in nothing that {type(law).__name__} sees "
            f"({', '.join(law.fields)}): leave the row out, or use a law that sees the difference."
        )
    return a, b


def unseen(law: Law, table: ContrastTable) -> np.ndarray:
    """Say which rows compare models that are the same to a law, (rows,)."""
    a, b = side(law, table, table.a), side(law, table, table.b)
    return np.asarray(np.all([a[name] == b[name] for name in law.fields], axis=0))


def log_ratio(law: Law, a: Mapping[str, Num], b: Mapping[str, Num]) -> Num:
    """Return log(L(b) / L(a)); a law below zero on its way counts as nearly zero."""
    floor = 1e-6
    return jnp.log(jnp.maximum(law.loss(b), floor)) - jnp.log(jnp.maximum(law.loss(a), floor))


def parts(law: Law, table: ContrastTable) -> tuple[np.ndarray, np.ndarray]:
    """Return what the sizes alone make of each comparison under a law, and what the rest does."""
    with jax.enable_x64(True):
        a, b = sides(law, table, blind=True)
        total = np.asarray(log_ratio(law, a, b))
        size = (
            np.asarray(log_ratio(law, a, {**a, "n_params": b["n_params"]})) if "n_params" in a else 0 * total
        )
    return size, total - size


def doublings(x: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return log2 of attention width, cached values and head_dim, (rows, 3); 1 where not given."""
    rows = len(next(iter(x.values())))
    n_head, n_kv_head, head_dim = (np.nan_to_num(x.get(n, np.ones(rows)), nan=1.0) for n in HEADS)
    return np.log2(np.stack([n_head * head_dim, n_kv_head * head_dim, head_dim], axis=1))


def covariance(law: Law, table: ContrastTable, spread: Spread) -> np.ndarray:
    """Return the covariance of the comparisons' log ratios about a law, (rows, rows)."""
    pieces = _pieces(law, table)
    return np.asarray(_covariance(pieces, np.array([getattr(spread, f.name) for f in fields(spread)])))


def _pieces(law: Law, table: ContrastTable) -> dict[str, np.ndarray]:
    size, head = parts(law, table)
    far = doublings(table.b) - doublings(table.a)
    study = table.study
    return {
        **_runs(table),
        "same": (study[:, None] == study[None, :]).astype(float),
        "size": np.outer(size, size),
        "head": np.outer(head, head),
        "far": np.einsum("ij,kj->jik", far, far),
    }


def _covariance(p: Mapping[str, Any], deviations: Any) -> Any:
    noise, slopes, effect, share = (
        deviations[0] ** 2,
        deviations[1:4] ** 2,
        deviations[4] ** 2,
        deviations[5] ** 2,
    )
    own = effect * p["head"] + share * p["size"] + jnp.tensordot(jnp.asarray(slopes), p["far"], axes=1)
    return noise * p["runs"] + p["stated"] + own * p["same"] + READING**2 * np.eye(len(p["runs"]))


def run_noise(table: ContrastTable, noise: float) -> np.ndarray:
    """Return the covariance of log ratios by the noise of their runs alone, (rows, rows).

    `noise` is that of a run whose row does not tell it. Rows that share a run share its noise.
    """
    pieces = _runs(table)
    return noise**2 * pieces["runs"] + pieces["stated"] + READING**2 * np.eye(len(table))


def _runs(table: ContrastTable) -> dict[str, np.ndarray]:
    """Return D D^T of runs whose noise is not stated, and D diag(noise^2) D^T of those whose is.

    D (rows, runs) is -1 where a run is a row's first and 1 where it is its second.
    """
    known: dict[tuple, int] = {}
    incidence = np.zeros((len(table), 2 * len(table)))
    stated = np.full(2 * len(table), np.nan)
    for of, loss, sign in ((table.a, table.loss_a, -1.0), (table.b, table.loss_b, 1.0)):
        others = np.stack([np.round(of[f]) for f in sorted(of)], axis=1)
        for i in range(len(table)):
            key = (
                table.study[i],
                table.corpus[i],
                round(float(loss[i]), 6),
                *np.nan_to_num(others[i]).tolist(),
            )
            run = known.setdefault(key, len(known))
            incidence[i, run] += sign
            stated[run] = np.fmax(stated[run], table.noise[i])
    alike = incidence * np.isnan(stated)
    return {"runs": alike @ alike.T, "stated": incidence * np.nan_to_num(stated) ** 2 @ incidence.T}


@register
@dataclass(frozen=True, eq=False)
class Contrasts(Evidence):
    """Log ratios of losses, and how they scatter together: the rows are W (log L(x) - log loss).

    Made by `contrasts` of comparisons, and by `one_corpus` of the runs of one study among many.

    Attributes:
        x: each field the law needs, (runs,).
        log_loss: of each run, (runs,); a level that the rows do not see is left out.
        whiten: W (rows, runs), so that the residuals have unit covariance.
        about: what this is, for the record: (name, value) pairs.
    """

    x: Mapping[str, Num]
    log_loss: Num
    whiten: Num
    about: tuple[tuple[str, Any], ...] = field(default=(), metadata={"static": True})

    def rows(self, law: Law, anneal: Num) -> Rows:
        """Return W (log L(x) - log loss)."""
        predicted = jnp.log(jnp.maximum(law.loss(self.x), 1e-6))
        residual = jnp.asarray(self.whiten) @ (predicted - self.log_loss)
        ones = jnp.ones_like(residual)
        return Rows(residual, ones, jnp.inf * ones, ones)

    def describe(self) -> dict[str, Any]:
        """Return what this evidence is, for the record that a saved fit keeps."""
        about = {key: dict(value) if key in ("spread", "ranges") else value for key, value in self.about}
        about["ranges"] = {name: list(pair) for name, pair in about.get("ranges", {}).items()}
        return {"kind": "contrasts", **about}


def contrasts(
    table: ContrastTable,
    law: Law,
    spread: Spread | None = None,
    keep: np.ndarray | None = None,
    *,
    blind: bool = False,
) -> Contrasts:
    """Return comparisons as evidence for a law.

    Args:
        table: the comparisons, `load_contrasts()`.
        law: one near the answer: how far studies differ is a fraction of what it says.
        spread: how far they scatter; `estimate_spread(law, table)` measures it.
        keep: which rows count, (rows,) booleans; the others have residuals of 0.
        blind: accept rows that the law sees no difference in.

    Raises:
        InvalidInput: a row does not tell a field, or the law sees no difference in it.

    >>> from scalesim.data import load_contrasts
    >>> from scalesim.laws import HeadLaw
    >>> contrasts(load_contrasts(), HeadLaw(), blind=True).whiten.shape
    (22, 44)
    """
    spread = spread or Spread()
    a, b = sides(law, table, blind=blind)
    keep = np.ones(len(table), bool) if keep is None else np.asarray(keep, bool)
    scatter = covariance(law, table, spread)
    whiten = np.zeros((len(table), len(table)))
    whiten[np.ix_(keep, keep)] = np.linalg.inv(np.linalg.cholesky(scatter[np.ix_(keep, keep)]))
    kept = table.take(keep)
    ranges = {
        name: (float(both.min()), float(both.max()))
        for name in HEADS
        if name in law.fields and (both := np.concatenate([kept.a[name], kept.b[name]])).size
    }
    about = (
        ("rows", int(keep.sum())),
        ("sources", len(set(kept.study))),
        ("spread", tuple(asdict(spread).items())),
        ("ranges", tuple(ranges.items())),
    )
    x = {name: np.concatenate([a[name], b[name]]) for name in law.fields}
    log_loss = np.concatenate([np.zeros(len(table)), table.log_ratio])
    return Contrasts(x, log_loss, np.concatenate([-whiten, whiten], axis=1), about)


def one_corpus(
    runs: RunTable, law: Law, spread: Spread, noise: float, keep: np.ndarray | None = None
) -> Contrasts:
    """Return a study's runs as evidence for the law of corpora in general, its own KV effect integrated out.

    Args:
        runs: measured losses of one corpus, whose level the law takes.
        law: one near the answer, as in `contrasts`.
        spread: how far studies differ.
        noise: standard deviation of log loss about a smooth law.
        keep: which rows count, (rows,) booleans.
    """
    keep = np.ones(len(runs), bool) if keep is None else np.asarray(keep, bool)
    pieces = _corpus_pieces(law, runs, keep)
    scatter = np.asarray(_corpus_covariance(pieces, spread.slopes, KEYS, noise))
    whiten = np.zeros((len(runs), len(runs)))
    whiten[np.ix_(keep, keep)] = np.linalg.inv(np.linalg.cholesky(scatter[np.ix_(keep, keep)]))
    x = {name: runs[name] for name in law.fields}
    return Contrasts(x, np.log(runs.loss), whiten, (("rows", int(keep.sum())), ("corpus", runs.source)))


def _corpus_pieces(law: Law, runs: RunTable, keep: np.ndarray) -> dict[str, np.ndarray]:
    """Return how far each run's heads are from the middle of the table's, and the KV effect there."""
    far = doublings(runs.columns)
    x = {name: np.asarray(runs[name], float) for name in law.fields}
    middle = dict(x)
    if "n_kv_head" in x:
        middle["n_kv_head"] = np.full(len(runs), np.exp(np.log(x["n_kv_head"][keep]).mean()))
    with jax.enable_x64(True):
        head = np.asarray(log_ratio(law, middle, x))
    return {"far": far - far[keep].mean(axis=0), "head": head}


def _corpus_covariance(pieces: Mapping[str, Any], slopes: Any, effect: Any, noise: float) -> Any:
    far, head = pieces["far"], pieces["head"]
    own = far @ jnp.diag(jnp.asarray(slopes) ** 2) @ far.T + effect**2 * head[:, None] * head[None, :]
    return own + noise**2 * np.eye(len(head))


_GUESSES = {"noise": 0.3, "width": 0.7, "cache": 0.7, "head_dim": 0.7, "effect": 0.5}
"""Standard deviation of the log of each deviation about `Spread()`'s, for tables that tell little of it."""


def estimate_spread(
    law: Law, table: ContrastTable, runs: RunTable | None = None, noise: float = 0.0
) -> Spread:
    """Return the deviations under which the comparisons' scatter about a law is most probable.

    `runs` of one corpus, with `noise` about a smooth law, count as one more study.

    The mode of the marginal likelihood (random effects integrated out) times a log-normal prior about
    `Spread()`'s values; `share` is held at its value.

    >>> from scalesim.data import load_contrasts
    >>> from scalesim.laws import AttentionLaw
    >>> found = estimate_spread(AttentionLaw(), load_contrasts())
    >>> 0.0005 < found.noise < 0.005
    True
    """
    size, head = parts(law, table)
    miss = table.log_ratio - size - head
    pieces = _pieces(law, table)
    guess, prior = Spread(), np.array(list(_GUESSES.values()))
    start = np.log([getattr(guess, name) for name in _GUESSES])

    own = None if runs is None else _corpus_pieces(law, runs, np.ones(len(runs), bool))
    if runs is not None:
        off = np.log(runs.loss) - np.log(np.asarray(law.loss({name: runs[name] for name in law.fields})))

    def surprise(logs: jax.Array) -> jax.Array:
        sizes = jnp.exp(logs)
        total = _surprise(_covariance(pieces, jnp.append(sizes, guess.share)), miss)
        if own is not None:
            total += _surprise(_corpus_covariance(own, sizes[1:4], KEYS, noise), off)
        return total + 0.5 * jnp.sum(((logs - start) / prior) ** 2)

    with jax.enable_x64(True):
        logs = np.asarray(minimize(surprise, jnp.asarray(start), method="BFGS", tol=1e-4).x)
    return replace(guess, **{name: float(np.exp(v)) for name, v in zip(_GUESSES, logs, strict=True)})


def _surprise(scatter: Any, miss: Any) -> Any:
    root = jnp.linalg.cholesky(scatter)
    scaled = jax.scipy.linalg.solve_triangular(root, miss, lower=True)
    return jnp.sum(jnp.log(jnp.diag(root))) + 0.5 * scaled @ scaled
