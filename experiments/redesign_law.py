"""The loss of a model on which a whole training budget is spent: what `redesign` searches with.

A law in parameters and tokens from public runs, times the head factor of the paper's points, over the same
of the model that is to be replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

import scalesim as ss
from experiments.base_laws import base_fit
from scalesim.cost import training_flops
from scalesim.data import paper_runs
from scalesim.design.evidence import NOISE
from scalesim.families import ShapeFamily, fixed_ratio
from scalesim.fitting import Fit, Points, Squared, with_bootstrap
from scalesim.laws import Law, SeparableHeadLaw, register_law
from scalesim.shape import Shape, count_params
from scalesim.workload import TrainingPlan

__all__ = ["FEWEST", "MODELS", "AtBudget", "Model", "law_for"]

Num = Any

FEWEST = 20.0
"""Tokens a parameter below which no design goes: the paper's points, and so the head factor, are at 20."""


@dataclass(frozen=True)
class Model:
    """A model as it was built: its catalogue name, training tokens and context, and where those were read."""

    name: str
    n_tokens: float
    trained_at: int
    source: str

    @property
    def shape(self) -> Shape:
        """Its shape."""
        return ss.known_model(self.name).shape

    @property
    def family(self) -> ShapeFamily:
        """Shapes with its proportions."""
        s = self.shape
        return fixed_ratio(
            s.d_model / s.n_layer,
            ffn_ratio=s.d_ff / s.d_model,
            head_dim=s.head_dim,
            vocab_size=s.vocab_size,
            tied_embeddings=s.tied_embeddings,
        )


MODELS = (
    Model("llama-3.1-8b", 15e12, 8192, "arXiv 2407.21783: 15T tokens, 8K until the long-context stage"),
    Model("llama-3.1-70b", 15e12, 8192, "arXiv 2407.21783: 15T tokens, 8K until the long-context stage"),
    Model("qwen3-8b", 36e12, 4096, "arXiv 2505.09388: 36T tokens, 4K until the last stage"),
)


@register_law
class AtBudget(Law):
    """The loss of a shape on which a whole training budget is spent, over that of the model it replaces.

    L = l(N, D, h) / l(N0, D0, h0) with l = e + (Lb(N, D) - e) (Lh(N, h) - e') / (Lh(N, h0) - e') and
    D = max(C / FLOPs a token, 20 N). e = e' = 0 (`reducible` 0): heads act on the whole loss; 1: on what is
    above either law's floor. `each`: what the head law, whose heads have 64 values, sees a head as.
    """

    base: Law
    heads: Law
    budget: Num
    n_params: Num
    n_tokens: Num
    n_head: Num
    n_kv_head: Num
    trained_at: Num
    reducible: Num
    each: Num
    fields = ("n_params", "n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
    convention = "paper"

    def tokens(self, shape: Shape, n_params: Num) -> Num:
        """Return the tokens that the budget buys, or 20 a parameter where those are more."""
        a_token = training_flops(shape, TrainingPlan(n_tokens=1.0, context_length=self.trained_at))
        return jnp.maximum(self.budget / a_token, FEWEST * n_params)

    def _absolute(self, n_params: Num, n_tokens: Num, n_head: Num, n_kv_head: Num) -> Num:
        def by_heads(n_head: Num, n_kv_head: Num) -> Num:
            at = {"n_params": n_params, "n_head": self.each * n_head, "n_kv_head": self.each * n_kv_head}
            return self.heads.loss(at) - self.reducible * self.heads.E  # type: ignore[attr-defined]

        floor = self.reducible * self.base.E  # type: ignore[attr-defined]
        above = self.base.loss({"n_params": n_params, "n_tokens": n_tokens}) - floor
        return floor + above * by_heads(n_head, n_kv_head) / by_heads(self.n_head, self.n_kv_head)

    def loss(self, x: Any) -> Num:
        """Return the loss over the replaced model's: 1 is as good."""
        shape = Shape(**{name: x[name] for name in self.fields[1:]})
        n_tokens = self.tokens(shape, x["n_params"])
        mine = self._absolute(x["n_params"], n_tokens, x["n_head"], x["n_kv_head"])
        return mine / self._absolute(self.n_params, self.n_tokens, self.n_head, self.n_kv_head)


@cache
def separable() -> Fit:
    """Return another form of head law fitted to the same points: no demand for KV heads that grows with N."""
    points = Points(paper_runs(), Squared(NOISE))
    return with_bootstrap(ss.fit(SeparableHeadLaw, points, fixed={"E": 1.97}), 200, kind="cluster")


def law_for(
    model: Model, base: str = "chinchilla", form: str = "paper", **options: float
) -> tuple[AtBudget, AtBudget]:
    """Return the model's law, and its resamples: each a pair of one of the base law's and one of the head
    law's.

    Args:
        model: whose budget and heads.
        base: whose law in N and D.
        form: the head law: "paper", or "separable".
        options: `reducible` and `each` (see `AtBudget`), or another `trained_at`.
    """
    heads: Any = ss.named_fit("paper") if form == "paper" else separable()
    tokens, s = base_fit(base), model.shape
    trained_at = options.get("trained_at", float(model.trained_at))
    given = {
        "budget": float(training_flops(s, TrainingPlan(n_tokens=model.n_tokens, context_length=trained_at))),
        "n_params": float(count_params(s, "paper")),
        "n_tokens": model.n_tokens,
        "n_head": float(s.n_head),
        "n_kv_head": float(s.n_kv_head),
        "trained_at": trained_at,
        "reducible": options.get("reducible", 0.0),
        "each": options.get("each", 1.0),
    }
    count = min(len(heads.resamples), len(tokens.resamples))
    drawn = AtBudget(
        base=tokens.resamples.laws(tokens.law, count),
        heads=heads.resamples.laws(heads.law, count),
        **{name: np.full(count, value) for name, value in given.items()},
    )
    return AtBudget(base=tokens.law, heads=heads.law, **given), drawn
