"""A problem as a user of another optimiser would pose it, given the model and the cost alone.

The variables are the lattice's axes, each by the place along it, and the log of training tokens a parameter,
a real number. That the loss is at most the target is a limit like the others: all are the log of measure over
limit, as the objective is the log of the cost. KV heads are the value chosen or, where that does not divide
the query heads, the nearest that does. The compiled function holds the question's own objective and limits
only.

Over real numbers, for SLSQP, the variables are the logs of the fields themselves, with exact gradients, and
KV heads have one limit more: at most the query heads. Where a run ends, the three nearest values of every
axis are tried in all combinations (2,187; with the two nearest, 128, fewer problems are solved), and in all
at once scipy's `find_root` brings the tokens to the target loss: costs do not fall with tokens, so the fewest
that reach it are the best.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.peers.posed import Loose, Measured, Posed, batched
from experiments.benchmarks.wide_problems import OFF, Drawn, own_query, problem_of
from scalesim.design.axes import Axes
from scalesim.design.problem import FreeVariables
from scalesim.errors import InvalidInput
from scalesim.families import FIGURE
from scalesim.shape import Shape

__all__ = ["pose"]

Num = Any

CLOSE = 1e-8
"""Log of tokens to which a root is sought."""
NEAREST = 3
"""Values of each axis that are tried where a run of SLSQP ends."""


def pose(name: str) -> Callable[[Drawn], Posed]:
    """Return how a problem of a lattice on which training tokens are free is posed."""

    def posed(drawn: Drawn) -> Posed:
        space = drawn.case.space
        if space.tokens_per_param is None:
            raise InvalidInput(f"lattice {name!r} must free the training tokens to be posed plainly.")
        axes = space.axes(FIGURE)
        least, most = np.log(space.tokens_per_param)
        measure = _measure(drawn)
        unit = space.tile * space.tensor

        @jax.jit
        def whole(x: Num) -> tuple[Num, Num]:
            at = dict(zip(axes.names, _values(axes, x), strict=True))
            at["d_ff"] = jnp.round(at["ffn_ratio"] * at["d_model"] / unit) * unit
            return measure(at, jnp.exp(x[..., -1]))

        def fields(x: Num) -> tuple[dict[str, Num], Num]:
            *along, tokens = jnp.exp(x)
            at = dict(zip(axes.names, along, strict=True))
            return {**at, "d_ff": at["ffn_ratio"] * at["d_model"]}, tokens

        def limits(x: Num) -> tuple[Num, Num]:
            at, tokens = fields(x)
            log_cost, excess = measure(at, tokens)
            heads = jnp.log(at["n_kv_head"] / at["n_head"])
            return jnp.append(excess, heads), log_cost

        @jax.jit
        def loose(x: Num) -> tuple[Num, Num, Num, Num]:
            excess, log_cost = limits(x)
            both = jax.jacrev(lambda x: jnp.append(*limits(x)))(x)
            return log_cost, both[-1], excess, both[:-1]

        ends = [(min(values), max(values)) for values in axes.values]
        low, high = np.log(np.array(ends)).T
        return Posed(
            lower=np.append(np.zeros(len(axes.sizes)), least),
            upper=np.append(axes.sizes - 1.0, most),
            whole=np.append(axes.sizes > 0, False),
            limits=1 + sum(limit < OFF for limit in drawn.limits),
            measured=batched(whole),
            loose=Loose(
                lower=np.append(low, least),
                upper=np.append(high, most),
                at=loose,
                near=lambda x: _nearest(axes, x),
                tried=lambda places, measured: _closed(places, (least, most), measured),
            ),
        )

    return posed


def _values(axes: Axes, x: Num) -> list[Num]:
    """Return the value along each axis at the places x (..., 8); KV heads, the nearest that divide."""
    place = jnp.round(x[..., :-1]).astype(int)
    along = [jnp.asarray(values)[place[..., i]] for i, values in enumerate(axes.values)]
    heads, kv = axes.names.index("n_head"), axes.names.index("n_kv_head")
    along[kv] = jnp.asarray(axes.kv_table)[along[heads].astype(int), place[..., kv]]
    return along


def _measure(drawn: Drawn) -> Callable[[dict[str, Num], Num], tuple[Num, Num]]:
    """Return (fields, tokens a parameter) -> log cost and the log excess of the loss and of each limit."""
    problem, query = problem_of(drawn.case), own_query(drawn)

    def measure(at: dict[str, Num], tokens: Num) -> tuple[Num, Num]:
        sizes = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")
        shape = Shape(**{name: at[name] for name in sizes}, vocab_size=FIGURE.vocab_size)
        free = FreeVariables(tokens_per_param=tokens, kv_bits=at["kv_bits"])
        asked = free.applied(query)
        loss = jnp.log(problem.loss_of(shape, asked) / query.target_loss)
        others = asked.excesses(shape)
        return jnp.log(asked.cost(shape)), jnp.stack([loss, *others], -1)

    return measure


def _nearest(axes: Axes, x: np.ndarray) -> np.ndarray:
    """Return the places (n, 7) of all combinations of the nearest values along each axis."""
    around = [
        np.sort(np.argsort(np.abs(np.log(values) - at), kind="stable")[:NEAREST]).tolist()
        for values, at in zip(axes.values, x[:-1], strict=True)
    ]
    return np.array(list(itertools.product(*around)), float)


def _closed(places: np.ndarray, tokens: tuple[float, float], measured: Measured) -> None:
    """Measure some places, each with the fewest tokens that bring it to the target loss."""
    from scipy.optimize.elementwise import find_root

    def loss(log_tokens: np.ndarray, *along: np.ndarray) -> np.ndarray:
        return measured(np.stack([*along, log_tokens], -1))[1][:, 0]

    # Every design it looks at is measured, so the bracket's allowed end is seen as well as the root.
    find_root(loss, tokens, args=tuple(places.T), tolerances={"xatol": CLOSE})
