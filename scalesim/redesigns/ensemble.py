"""The laws that a redesign is judged by: of size and tokens, each with every form of the law of heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import jax
import numpy as np

from scalesim.data.contrasts import ContrastTable
from scalesim.data.effects import effect_of
from scalesim.errors import InvalidInput
from scalesim.fitting.contrasts import run_noise
from scalesim.fitting.named import named_fit
from scalesim.fitting.predict import evidence_ranges
from scalesim.fitting.result import Fit
from scalesim.laws import AttentionLaw, Chinchilla, Mixture, TokensAndHeads
from scalesim.redesigns.resizing import Laws

__all__ = ["BASES", "NOISE", "Ensemble", "ensemble", "reweighted", "token_ranges"]

BASES = ("tokens-chinchilla", "tokens-llama3")
"""Fits of size and tokens to two public sets of runs, between which a model is judged half and half."""

_EFFECTS = {"latent": "latent attention", "shared": "shared keys and values", "linear": "linear layers"}
_DRAWS = 200
NOISE = 0.0017
"""Spread of one training run's loss, relative: what comparisons of single runs differ by for nothing."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Laws with their weights: what differs between them is what the evidence leaves open between forms.

    Attributes:
        laws: leaves (M,): each law of size and tokens with each form of the law of heads.
        weights: (M,), sum to 1.
        names: of the members.
        draws: leaves (R,): each a member with coefficients that the evidence also allows.
        member: of which member each draw is, (R,).
        importance: how much each draw counts, (R,), sum to 1.
        effects: log effect of each kind of mixer: its mean (0 if within its spread), and (R,) draws.
        fit: the fit of heads.
    """

    laws: TokensAndHeads
    weights: np.ndarray
    names: tuple[str, ...]
    draws: TokensAndHeads
    member: np.ndarray
    importance: np.ndarray
    effects: dict[str, tuple[float, np.ndarray]]
    fit: Fit

    def __len__(self) -> int:
        return len(self.weights)

    @cached_property
    def every(self) -> TokensAndHeads:
        """The laws and then their draws, leaves (M + R,): what one call asks all of them."""
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), self.laws, self.draws)

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what `every` says, (M + R,), as that of the laws and that of the draws."""
        return values[: len(self)], values[len(self) :]

    def effect(self, kind: str) -> np.ndarray:
        """Return the log effect of a kind of mixer under `every`, (M + R,)."""
        mean, draws = self.effects[kind]
        return np.concatenate([np.full(len(self), mean), draws])

    def mixture(self, own: np.ndarray, n: int) -> Laws:
        """Return the weighted mean of all laws, n times; `own` is the model's loss under `every`."""
        spread = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (n, len(self))), self.laws)
        return Laws(spread, *(np.broadcast_to(v, (n, len(self))) for v in (self.weights, self.split(own)[0])))

    def each(self, own: np.ndarray, which: np.ndarray) -> Laws:
        """Return one of `every` for each row, in the shape of `mixture`; `own` as there."""
        spread, losses = jax.tree.map(
            lambda leaf: np.repeat(np.asarray(leaf)[which][:, None], len(self), 1), (self.every, own)
        )
        weights = np.zeros((len(which), len(self)))
        weights[:, 0] = 1.0
        return Laws(spread, weights, losses)

    def moved(self, by: float) -> Ensemble:
        """Return the laws with another log effect on every kind of mixer: that of a precision."""
        return replace(
            self, effects={kind: (mean + by, draws + by) for kind, (mean, draws) in self.effects.items()}
        )


@cache
def _bases() -> tuple[Fit, ...]:
    return tuple(named_fit(name) for name in BASES)


def ensemble(fit: Fit, *, draws: int = _DRAWS) -> Ensemble:
    """Return the laws of a redesign: every law of size and tokens in `BASES` with every form of heads.

    Args:
        fit: a fit of `AttentionLaw`, or of a `Mixture` of its forms, with samples (the shipped "default").
        draws: how many samples in all; each member has as many as its weight is of the whole.

    Raises:
        InvalidInput: the fit is of another law, or has no samples.
    """
    law = fit.law
    forms: Any
    names: tuple[str, ...]
    if isinstance(law, AttentionLaw):
        forms, weights, names = jax.tree.map(np.atleast_1d, law), np.ones(1), ("heads",)
    elif isinstance(law, Mixture) and isinstance(law.law, AttentionLaw):
        forms, weights, names = law.law, np.asarray(law.weights), law.names
    else:
        raise InvalidInput(
            "a redesign needs a law whose heads act on the reducible loss (AttentionLaw, or a Mixture of its "
            f"forms), but is given {type(law).__name__}. The shipped fit 'default' would do."
        )
    if fit.resamples is None:
        raise InvalidInput("a redesign needs a fit with samples. with_bootstrap(fit) gives it some.")
    n = len(weights)
    drawn: Any = fit.resamples.laws(law)
    sampled = drawn if isinstance(law, AttentionLaw) else drawn.law  # leaves (R,) or (R, n)
    sampled = jax.tree.map(lambda leaf: np.reshape(leaf, (len(fit.resamples), -1)) * np.ones(n), sampled)
    bases: list[Any] = [base.law for base in _bases()]
    laws = _stacked([
        TokensAndHeads(tokens=base, heads=jax.tree.map(lambda x, i=i: np.broadcast_to(x, (n,))[i], forms))
        for base in bases for i in range(n)
    ])  # fmt: skip
    shares = np.concatenate([np.asarray(weights) / len(bases)] * len(bases))
    rng = np.random.default_rng(0)
    each = np.maximum(np.round(shares * draws).astype(int), 1)
    found, member = [], []
    for m, count in enumerate(each):
        base, form = divmod(m, n)
        tokens = _bases()[base].resamples
        assert tokens is not None
        some = tokens.laws(bases[base])
        rows = np.linspace(0, len(fit.resamples) - 1, count).round().astype(int)
        others = rng.integers(len(tokens), size=count)
        heads = jax.tree.map(lambda leaf, rows=rows, form=form: leaf[rows, form], sampled)
        found.append((jax.tree.map(lambda leaf, others=others: leaf[others], some), heads))
        member += [m] * count
    draws_of = [
        jax.tree.map(lambda *leaves: np.concatenate(leaves), *part) for part in zip(*found, strict=True)
    ]
    who = np.array(member)
    importance = shares[who] / each[who]
    total = len(who)
    normal = {kind: effect_of(name) for kind, name in _EFFECTS.items()}
    # A mean within its own spread is nothing to build on: it is taken as 0, the spread stays.
    means = {kind: e.percent if abs(e.percent) > e.spread else 0.0 for kind, e in normal.items()}
    effects = {
        kind: (mean / 100, (mean + normal[kind].spread * rng.standard_normal(total)) / 100)
        for kind, mean in means.items()
    } | {"own": (0.0, np.zeros(total))}
    return Ensemble(
        laws=laws,
        weights=shares,
        names=tuple(f"{base.removeprefix('tokens-')}, {name}" for base in BASES for name in names),
        draws=TokensAndHeads(tokens=_floats(draws_of[0]), heads=draws_of[1], effect=np.zeros(total)),
        member=who,
        importance=importance / importance.sum(),
        effects=effects,
        fit=fit,
    )  # fmt: skip


def token_ranges() -> list[dict[str, tuple[float, float]]]:
    """Return the ranges of the runs that each law of size and tokens was fitted to."""
    return [evidence_ranges(base) for base in _bases()]


def _floats(law: Chinchilla) -> Chinchilla:
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), law)


def _stacked(laws: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf, float) for leaf in leaves]), *laws)


def reweighted(laws: Ensemble, table: ContrastTable) -> Ensemble:
    """Return the laws with each sample counted by how well it predicts comparisons of one's own.

    A sample's weight is multiplied by exp(-d^T C^-1 d / 2), d being the log ratios measured less predicted
    and C their covariance by the noise of the runs (`NOISE`, or what the table tells); ten samples drawn by
    these weights then stand for the laws, each for a tenth of the weight, samples of one form side by side.

    Raises:
        InvalidInput: a comparison lacks heads or parameters, or no sample is anywhere near what was measured.
    """
    names = ("n_params", "n_head", "n_kv_head", "head_dim")
    missing = [n for n in names if n not in table.a or np.isnan(np.asarray(table.a[n], float)).any()]
    if missing:
        raise InvalidInput(f"the comparisons lack {', '.join(missing)}, which the law sees.")
    measured = np.log(np.asarray(table.loss_b) / np.asarray(table.loss_a))
    off = np.zeros((len(measured), len(laws.member)))
    for i, found in enumerate(measured):
        sides = []
        for side in (table.a, table.b):
            x = {name: float(side[name][i]) for name in names}
            x["n_tokens"] = float(side["n_tokens"][i]) if "n_tokens" in side else 20 * x["n_params"]
            sides.append(np.log(np.asarray(laws.draws.loss(x))))
        off[i] = sides[1] - sides[0] - found
    misses = 0.5 * np.sum(off * np.linalg.solve(run_noise(table, NOISE), off), axis=0)
    weight = laws.importance * np.exp(-(misses - misses.min()))
    weight = weight / weight.sum()
    if misses.min() > 8 * max(len(measured), 1):
        raise InvalidInput(
            "no sample of the law is near the comparisons: their losses may be of different text."
        )
    m = len(laws)
    chosen = np.searchsorted(np.cumsum(weight), (np.arange(m) + 0.5) / m).clip(0, len(weight) - 1)
    members = jax.tree.map(lambda leaf: np.asarray(leaf)[chosen], laws.draws)
    tenth = (m * (np.cumsum(weight) - weight / 2)).astype(int).clip(0, m - 1)
    return replace(
        laws,
        laws=members,
        weights=np.full(m, 1 / m),
        names=tuple(f"sample {i + 1}" for i in range(m)),
        member=tenth,
        importance=weight,
    )
