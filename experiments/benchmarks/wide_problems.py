"""Random constrained problems on four wide lattices, and their exhaustive answers.

Each problem is drawn around a witness: a random design of the lattice, whose loss (and a little more) is the
target, and whose measures (and up to a fifth more) are the limits of one to three constraints. So every
problem has an answer, its limits cut near some design that nothing here has optimised, and the search has no
part in drawing it.

The oracle shares nothing with the search but the law and the costs: it spells the lattice out, every d_ff
where that closes the gap to the target loss, and training tokens by the laws' closed form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import scalesim as ss
from scalesim.cost import (
    FIGURE_2,
    HardwareAwareCost,
    LifetimePrice,
    RequestPrice,
    TimePerToken,
    WeightedCost,
    fits,
    max_params,
    max_time_per_token,
    max_time_to_first_token,
    max_training_flops,
)
from scalesim.design import Problem, Query
from scalesim.design.problem import FreeVariables
from scalesim.design.space import DesignSpace, design_space
from scalesim.families import FIGURE
from scalesim.hardware import load_hardware
from scalesim.laws import AspectRatio, Chinchilla, ConditionalShape, Law, Precision, law_from_function
from scalesim.laws.base import power
from scalesim.shape import Shape, count_params
from scalesim.workload import Traffic

__all__ = [
    "CASES",
    "OBJECTIVES",
    "Case",
    "Drawn",
    "best_of_all",
    "draw",
    "own_query",
    "problem_of",
    "query_of",
]

H100 = load_hardware("h100-sxm")
OBJECTIVES = ("Z", "memory", "FLOPs", "TPOT", "$ a million requests", "lifetime $")
CONSTRAINTS = ("HBM", "TPOT", "TTFT", "training FLOPs", "parameters")
OFF = 1e300
"""A limit that nothing reaches: all problems of a lattice have one form, and are solved in one call."""
SEEN = 0.2
"""Witnesses are drawn among designs whose aspect ratio is within this factor of 128, either way."""
CHUNK = 1 << 17


def head_factor(n_head: Any, n_kv_head: Any, c: Any, f: Any) -> Any:
    """Return 1 + c log(1 + 2 / n_head) + f log(1 + 4 / n_kv_head): few heads cost a little loss."""
    return 1.0 + c * jnp.log1p(2.0 / n_head) + f * jnp.log1p(4.0 / n_kv_head)


HeadFactor = law_from_function(
    head_factor, {"c": (0.005, 0.1), "f": (0.001, 0.05)}, ["n_head", "n_kv_head"], linear=["c", "f"]
)
FEW_HEADS = (1, 2, 4, 6, 8, 12, 16, 24, 32)


@dataclass(frozen=True)
class Case:
    """A law with a lattice of what it sees."""

    name: str
    law: Law
    space: DesignSpace


@cache
def cases() -> tuple[Case, ...]:
    heads = HeadFactor(c=0.02, f=0.006)  # type: ignore[call-arg]
    shaped = ConditionalShape() * AspectRatio(eps=0.0008, g=0.6)
    aspect = ss.named_fit("paper").law * AspectRatio(eps=0.002, g=0.5)
    few: dict[str, Any] = {"n_head": FEW_HEADS, "n_kv_head": FEW_HEADS}
    wide = range(512, 6145, 256)
    ffn = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
    return (
        Case("depth", aspect, design_space(aspect, n_layer=range(4, 52), d_model=wide, tile=128, **few)),
        Case(
            "FFN, two devices",
            law := Chinchilla() * ConditionalShape() * heads,
            design_space(
                law,
                ("d_model", "d_ff", "n_head", "n_kv_head", "head_dim"),
                n_layer=range(8, 65, 3),
                d_model=range(512, 6145, 384),
                ffn_ratio=(1.0, 5.0),
                n_head=(2, 4, 8, 16, 32),
                head_dim=(64, 128),
                tensor=2,
            ),
        ),
        Case(
            "tokens",
            law := Chinchilla() * shaped * heads,
            design_space(
                law,
                n_layer=range(8, 65, 2),
                d_model=wide,
                ffn_ratio=ffn,
                tokens_per_param=(10.0, 400.0),
                **few,
            ),
        ),
        Case(
            "tokens and KV precision",
            law := Precision() * shaped * heads,
            design_space(
                law,
                n_layer=range(8, 65, 2),
                d_model=wide,
                ffn_ratio=ffn[::2],
                head_dim=(64, 128, 256),
                tokens_per_param=(10.0, 400.0),
                kv_bits=(4.0, 6.0, 8.0, 16.0),
                **few,
            ),
        ),
    )


CASES = ("depth", "FFN, two devices", "tokens", "tokens and KV precision")


@dataclass(frozen=True)
class Drawn:
    """One problem: the numbers that distinguish it from the others of its lattice."""

    case: Case
    objective: int
    context_length: float
    batch_size: float
    target_loss: float
    limits: tuple[float, ...]

    @property
    def binding(self) -> str:
        """The constraints that it has."""
        named = [n for n, limit in zip(CONSTRAINTS, self.limits, strict=True) if limit < OFF]
        return ", ".join(named)


def problem_of(case: Case) -> Problem:
    return Problem(law=case.law)


def _costs() -> tuple[Any, ...]:
    plain = HardwareAwareCost()
    traffic = Traffic(prompt_tokens=1e12, generated_tokens=2e11)
    return (
        FIGURE_2,
        dataclasses.replace(plain, memory_weight=1.0, memory_exponent=1.0),
        dataclasses.replace(plain, memory_weight=0.0, flops_exponent=1.0),
        TimePerToken(hardware=H100),
        RequestPrice(hardware=H100),
        LifetimePrice(hardware=H100, traffic=traffic),
    )


def query_of(drawn: Drawn) -> Query:
    """Return a problem as a query; those of one case stack."""
    weights = [0.0] * len(OBJECTIVES)
    weights[drawn.objective] = 1.0
    memory, tpot, ttft, training, params = drawn.limits
    return Query(
        workload=ss.Workload(
            context_length=drawn.context_length,
            batch_size=drawn.batch_size,
            generated_length=drawn.context_length / 8,
        ),
        target_loss=drawn.target_loss,
        objective=WeightedCost(costs=_costs(), weights=tuple(weights)),
        constraints=(
            dataclasses.replace(fits(H100), limit=memory),
            max_time_per_token(tpot, H100),
            max_time_to_first_token(ttft, H100),
            max_training_flops(training),
            max_params(params),
        ),
    )


def own_query(drawn: Drawn) -> Query:
    """Return a problem as a query that holds its own objective and limits only, as one asks it alone."""
    query = query_of(drawn)
    return dataclasses.replace(
        query,
        objective=query.objective.function.costs[drawn.objective],
        constraints=tuple(c for c, limit in zip(query.constraints, drawn.limits, strict=True) if limit < OFF),
    )


# The oracle.


@cache
def _lists(case: Case) -> dict[str, np.ndarray]:
    """Return the lattice's lists: heads as pairs, and d_ff as multiples of the tile or as ratios."""
    s = case.space
    assert s.d_model is not None
    assert s.n_head is not None
    assert s.n_kv_head is not None
    pairs = [
        (h, k)
        for h in s.n_head
        for k in s.n_kv_head
        if h % k == 0 and h % s.tensor == 0 and (k % s.tensor == 0 or s.tensor % k == 0)
    ]
    unit = s.tile * s.tensor
    if s.tokens_per_param is None:
        low, high = s.ffn_limits(FIGURE)  # tiles beyond the least d_ff of each width
        d_ff = unit * np.arange((high - low) * max(s.d_model) / unit + 1)
    else:
        d_ff = np.array(s.ffn_ratio or (FIGURE.ffn_ratio,))
    # The two sizes come first: what is drawn or cut is cut there.
    return {
        "n_layer": np.array(s.n_layer, float),
        "d_model": np.array(s.d_model, float),
        "d_ff": d_ff,
        "pair": np.array(pairs, float),
        "head_dim": np.array(s.head_dim or (FIGURE.head_dim,), float),
        "kv_bits": np.array(s.kv_bits or (16.0,), float),
    }


def _designs(case: Case, flat: Any) -> tuple[Shape, Any, Any]:
    """Return designs by number: shapes, whether the lattice holds them, and KV bits."""
    lists = _lists(case)
    at = dict(zip(lists, jnp.unravel_index(flat, [len(v) for v in lists.values()]), strict=True))
    n_layer, d_model, d_ff, pair, head_dim, kv_bits = (jnp.asarray(v)[at[k]] for k, v in lists.items())
    s, unit = case.space, case.space.tile * case.space.tensor
    low, high = s.ffn_limits(FIGURE)
    if s.tokens_per_param is None:
        d_ff = d_ff + unit * jnp.ceil(low * d_model / unit - 1e-9)
        real = d_ff <= high * d_model * (1 + 1e-9)
    else:
        d_ff, real = jnp.round(d_ff * d_model / unit) * unit, jnp.ones_like(d_model, bool)
    shape = Shape(
        n_layer=n_layer,
        d_model=d_model,
        n_head=pair[..., 0],
        n_kv_head=pair[..., 1],
        head_dim=head_dim,
        d_ff=d_ff,
        vocab_size=FIGURE.vocab_size,
    )
    return shape, real, kv_bits


def _size(case: Case) -> int:
    return int(np.prod([len(values) for values in _lists(case).values()]))


def _loss(case: Case, shape: Shape, kv_bits: Any, tokens: Any, context: Any) -> Any:
    bits = {"weight_bits": 16.0, "activation_bits": 16.0, "kv_bits": kv_bits}
    return case.law(shape, tokens, context, **bits)


def _tokens_for(case: Case, shape: Shape, kv_bits: Any, target: Any) -> Any:
    """Return D with (E + A N^-alpha + B D^-beta) factors = target, by the laws' closed form (nan: none)."""
    base: Any = case.law
    while hasattr(base, "base"):
        base = base.base
    n = count_params(shape, "non_embedding")
    endless = _loss(case, shape, kv_bits, 1e300, 8192.0)
    by_size = base.loss(
        {"n_params": n, "n_tokens": 1e300, "weight_bits": 16.0, "activation_bits": 16.0, "kv_bits": kv_bits}
    )
    left = target * by_size / endless - by_size  # the factors do not see tokens
    return jnp.where(left > 0, power(jnp.maximum(left, 1e-12) / base.B, -1 / base.beta), jnp.inf)


@partial(jax.jit, static_argnums=0)
def _least(case: Case, drawn: Query, objective: Any, first: Any) -> tuple[Any, Any, Any]:
    """Return the least cost of a chunk of the lattice, its number, and how many designs it holds."""
    flat = first + jnp.arange(CHUNK)
    inside = flat < _size(case)
    shape, real, kv_bits = _designs(case, jnp.minimum(flat, _size(case) - 1))
    job = drawn.workload
    n = count_params(shape, "paper")
    if case.space.tokens_per_param is None:
        per_param = 20.0 + 0 * n
        reached = _loss(case, shape, kv_bits, 20.0 * n, job.context_length) <= drawn.target_loss * (1 + 1e-9)
    else:
        least, most = case.space.tokens_per_param
        wanted = _tokens_for(case, shape, kv_bits, drawn.target_loss) / n
        per_param, reached = jnp.maximum(wanted, least), wanted <= most
    free = FreeVariables(
        tokens_per_param=None if case.space.tokens_per_param is None else per_param,
        kv_bits=None if case.space.kv_bits is None else kv_bits,
    )
    asked = free.applied(drawn)
    allowed = inside & real & reached
    for c in asked.constraints:

        def met(allowed: Any, c: Any = c) -> Any:
            return allowed & (asked.measure(c.measure, shape) <= c.limit * (1 + 1e-9))

        allowed = jax.lax.cond(c.limit < OFF, met, lambda allowed: allowed, allowed)
    costs = asked.objective.function.costs
    branches = [partial(lambda cost, _: asked.measure(cost, shape), cost) for cost in costs]
    cost = jnp.where(allowed, jax.lax.switch(objective, branches, 0), jnp.inf)
    best = jnp.argmin(cost)
    return cost[best], flat[best], jnp.sum(inside & real)


def best_of_all(drawn: Drawn) -> tuple[float, int]:
    """Return the least cost of all designs that do what is asked, and how many the lattice holds."""
    query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), query_of(drawn))
    parts = [
        _least(drawn.case, query, drawn.objective, first) for first in range(0, _size(drawn.case), CHUNK)
    ]
    costs, _, counts = zip(*parts, strict=True)
    return float(min(map(float, costs))), int(sum(map(int, counts)))


# Drawing.


@partial(jax.jit, static_argnums=0)
def _measures(case: Case, query: Query, flat: Any, per_param: Any) -> tuple[Any, Any, list[Any]]:
    shape, real, kv_bits = _designs(case, flat)
    free = FreeVariables(tokens_per_param=per_param, kv_bits=None if case.space.kv_bits is None else kv_bits)
    asked = free.applied(query)
    loss = _loss(
        case, shape, kv_bits, per_param * count_params(shape, "paper"), query.workload.context_length
    )
    return loss, real, [asked.measure(c.measure, shape) for c in asked.constraints]


def draw(case: Case, count: int, seed: int) -> Iterator[Drawn]:
    """Yield random problems of a lattice, each with at least one answer."""
    rng = np.random.default_rng(seed)
    lists = _lists(case)
    made = 0
    while made < count:
        flat = int(rng.integers(_size(case)))
        at = dict(zip(lists, np.unravel_index(flat, [len(v) for v in lists.values()]), strict=True))
        aspect = lists["d_model"][at["d_model"]] / lists["n_layer"][at["n_layer"]]
        context, batch = float(2 ** rng.uniform(11, 18)), float(2 ** rng.integers(0, 5))
        per_param = 20.0 if case.space.tokens_per_param is None else float(np.exp(rng.uniform(2.5, 5.5)))
        slack, objective = 1 + rng.uniform(0, 0.002), int(rng.integers(len(OBJECTIVES)))
        chosen = rng.permutation(len(CONSTRAINTS))[: rng.integers(1, 4)]
        room = 1 + rng.uniform(0, 0.2, len(CONSTRAINTS))
        blank = Drawn(case, objective, context, batch, 3.0, (OFF,) * len(CONSTRAINTS))
        loss, real, measures = _measures(case, query_of(blank), flat, per_param)
        if not bool(real) or not 128 * SEEN <= aspect <= 128 / SEEN:
            continue
        made += 1
        limits = [
            float(m) * r if i in chosen else OFF for i, (m, r) in enumerate(zip(measures, room, strict=True))
        ]
        yield dataclasses.replace(blank, target_loss=float(loss) * slack, limits=tuple(limits))


Oracle = Callable[[Drawn], tuple[float, int]]
