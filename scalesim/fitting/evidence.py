"""What a law is fitted to: measured points, drawn curves, published choices; all are rows of residuals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.data.runs import RunTable
from scalesim.errors import InvalidInput, choose
from scalesim.fitting.noise import Huber, Noise
from scalesim.laws.base import Law
from scalesim.numerics.least_squares import Rows
from scalesim.pytree import register
from scalesim.types import Num

__all__ = ["Choices", "Curves", "Evidence", "PointRows", "Points", "padded_rows"]


class Evidence(ABC):
    """Something that a law should agree with: a pytree that turns a law into rows of residuals.

    `anneal` (at least 1, ending at 1) widens tolerances while a solver is far from its goal. Solvers
    widen the thresholds `delta` themselves; a row whose residual depends on a tolerance does it here.
    """

    @abstractmethod
    def rows(self, law: Law, anneal: Num) -> Rows:
        """Return the residuals of a law."""

    def describe(self) -> dict[str, Any]:
        """Return what this evidence is, for the record that a saved fit keeps."""
        return {"kind": type(self).__name__.lower()}


@dataclass(frozen=True, eq=False)
class Points:
    """Measured runs, and how their residuals count.

    The residual of a run is (log L(x) - log loss) / sigma, or (L(x) - loss) / sigma in linear space.
    """

    runs: RunTable
    noise: Noise = field(default_factory=Huber)

    def describe(self) -> dict[str, Any]:
        """Return what this evidence is, for the record that a saved fit keeps."""
        noise = {k: getattr(self.noise, k) for k in ("delta", "sigma", "space", "asymmetry", "use_error")}
        noise["delta"] = None if np.isinf(self.noise.delta) else self.noise.delta
        columns = {**self.runs.columns, "loss": self.runs.loss}
        if {"n_params", "n_tokens"} <= set(columns) and "flops" not in columns:
            columns["flops"] = 6 * columns["n_params"] * columns["n_tokens"]
        ranges = {k: [float(v.min()), float(v.max())] for k, v in columns.items()}
        return {
            "kind": "points",
            "rows": len(self.runs),
            "source": self.runs.source,
            "notes": list(self.runs.notes),
            "noise": noise,
            "ranges": ranges,
        }


@register
@dataclass(frozen=True)
class PointRows(Evidence):
    """Points as arrays, padded to a few standard lengths with rows of weight 0.

    x: each field (rows,); loss (rows,) in nats; weight (rows,); sigma (rows,); delta and asymmetry numbers.
    """

    x: Mapping[str, Any]
    loss: Any
    weight: Any
    sigma: Any
    delta: Any
    asymmetry: Any
    log_space: bool = field(metadata={"static": True})

    def rows(self, law: Law, anneal: Num) -> Rows:
        """Return (log L - log loss) / sigma, or (L - loss) / sigma."""
        predicted = jnp.asarray(law.loss(self.x))
        if self.log_space:
            # A relaxed law may dip below zero on the way: log of a tiny loss is a large residual, not a nan.
            residual = jnp.log(jnp.maximum(predicted, 1e-6)) - jnp.log(self.loss)
        else:
            residual = predicted - self.loss
        residual = residual / self.sigma
        ones = jnp.ones_like(residual)
        return Rows(residual, self.weight, self.delta * ones, self.asymmetry * ones)


def padded_rows(rows: int) -> int:
    """Return the length that a table is padded to: 16 times 1, 1.5, 2, 3, 4, 6, ..., at least `rows`."""
    size = 16
    while size < rows:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def point_rows(points: Points, fields: tuple[str, ...], extra: Mapping[str, np.ndarray]) -> PointRows:
    """Return the arrays of a run table: the columns a law needs, and `extra` ones (the group's index)."""
    runs, noise = points.runs, points.noise
    if noise.use_error and runs.error is None:
        raise InvalidInput("noise with use_error needs a run table whose `error` is given, but it is not.")
    length = padded_rows(len(runs))

    def pad(values: np.ndarray, filler: float | None = None) -> np.ndarray:
        fill = values[0] if filler is None else filler
        return np.concatenate([values, np.full(length - len(values), fill)])

    sigma = np.full(len(runs), noise.sigma) * (runs.error if noise.use_error else 1.0)
    return PointRows(
        x={name: pad(extra[name] if name in extra else runs[name]) for name in fields},
        loss=pad(runs.loss),
        weight=pad(np.ones(len(runs)) if runs.weight is None else runs.weight, 0.0),
        sigma=pad(sigma),
        delta=np.float64(noise.delta),
        asymmetry=np.float64(noise.asymmetry),
        log_space=noise.space == "log",
    )


@register
@dataclass(frozen=True, eq=False)
class Curves(Evidence):
    """Published laws, sampled: each curve's points, and how closely the fitted law should follow them.

    Attributes:
        x: each field the law needs, (curves, samples).
        loss: what the curve says there, (curves, samples); nats.
        sigma: nats (or, with `free`, fractions of the curve's own span) by which the law may miss.
        free: "none" compares the losses; "offset" lets every curve have a constant of its own, and
            "affine" an offset and a scale, so that only the way it bends is evidence.

    A set of curves weighs as much as `weight` points, however finely it is sampled.

    >>> heads = np.array([[2.0, 4.0, 8.0]])
    >>> curve = Curves({"n_head": heads}, 0.5 * heads**-0.2 + 2.5, sigma=0.1, free="affine")
    >>> curve.free
    'affine'
    """

    x: Mapping[str, Num]
    loss: Num
    sigma: Num = 0.01
    weight: Num = 1.0
    free: Literal["none", "offset", "affine"] = field(default="none", metadata={"static": True})

    def __post_init__(self) -> None:
        choose("free", self.free, ("none", "offset", "affine"))

    def rows(self, law: Law, anneal: Num) -> Rows:
        """Return what is left of each curve when the law's (and the free offset and scale) is taken away."""
        predicted, wanted = jnp.asarray(law.loss(self.x)), jnp.asarray(self.loss)
        residual = predicted - wanted
        if self.free != "none":
            centred = predicted - predicted.mean(-1, keepdims=True)
            target = wanted - wanted.mean(-1, keepdims=True)
            span = jnp.ptp(wanted, axis=-1)[:, None]
            if self.free == "affine":
                scale = (centred * target).sum(-1) / jnp.maximum((centred**2).sum(-1), 1e-300)
                centred = scale[:, None] * centred
            residual = (centred - target) / span
        residual = jnp.ravel(residual / self.sigma)
        ones = jnp.ones_like(residual)
        return Rows(residual, jnp.asarray(self.weight / residual.size * ones), jnp.inf * ones, ones)

    def describe(self) -> dict[str, Any]:
        """Return what this evidence is, for the record that a saved fit keeps."""
        shape = np.shape(self.loss)
        return {
            "kind": "curves",
            "curves": shape[0],
            "free": self.free,
            "sigma": float(self.sigma),
            "weight": float(self.weight),
        }


@register
@dataclass(frozen=True, eq=False)
class Choices(Evidence):
    """Published optima: which of some candidates was found cheapest, for each of a number of queries.

    The law sees them through the cross entropy of a soft argmin: with c = costs(law, query) the log cost
    of every candidate, p = softmax(-c / temperature) and nll = -log p[chosen], the row's residual is
    sqrt(2 nll), so that its half square is nll.

    Attributes:
        query: a pytree of arrays with one leading axis, (queries, ...).
        chosen: the index of the published candidate, (queries,) integers.
        costs: (law, one query) -> log cost of each candidate, (candidates,); infinite where unreachable.
        temperature: log cost by which a candidate must win; 0.005 asks for half a percent.
        weight: how much one query counts.
    """

    query: Any
    chosen: Num
    costs: Callable[[Law, Any], Num] = field(metadata={"static": True})
    temperature: Num = 0.005
    weight: Num = 1.0

    def log_costs(self, law: Law) -> jax.Array:
        """Return the log cost of every candidate for every query, (queries, candidates)."""
        cost = jax.vmap(lambda q: jnp.asarray(self.costs(law, q)))(self.query)
        return jnp.where(jnp.isfinite(cost), cost, 1e3)

    def rows(self, law: Law, anneal: Num) -> Rows:
        """Return sqrt(2 nll) for each query."""
        # Beyond some 10% of cost, a wider tolerance only blurs the choice.
        logits = -self.log_costs(law) / jnp.minimum(self.temperature * anneal, 0.1)
        logits = logits - logits.max(-1, keepdims=True)
        chosen = jnp.take_along_axis(logits, jnp.asarray(self.chosen)[:, None], axis=1)[:, 0]
        nll = jnp.log(jnp.exp(logits).sum(-1)) - chosen
        residual = jnp.sqrt(2 * nll + 1e-12)
        ones = jnp.ones_like(residual)
        return Rows(residual, jnp.asarray(self.weight * ones), jnp.inf * ones, ones)

    def describe(self) -> dict[str, Any]:
        """Return what this evidence is, for the record that a saved fit keeps."""
        return {
            "kind": "choices",
            "queries": len(np.asarray(self.chosen)),
            "temperature": float(self.temperature),
            "weight": float(self.weight),
        }
