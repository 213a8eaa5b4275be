"""The evidence behind a design: how far beyond it, which runs would add most, and the paper's as a law's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.paper import paper_training_flops
from scalesim.data import paper_choices, paper_curves, paper_runs
from scalesim.design.design import Candidate, Design
from scalesim.design.lattice import PAPER, log_costs
from scalesim.design.problem import Problem, Query, precisions, stack_queries
from scalesim.fitting import Choices, Curves, Points, Squared
from scalesim.fitting.diagnosis import identification
from scalesim.fitting.predict import beyond, evidence_ranges, predict
from scalesim.fitting.sensitivity import Suggestion, suggest_runs
from scalesim.laws.base import Law, fields_of
from scalesim.units import format_context
from scalesim.workload import Workload

__all__ = [
    "HEAD_LAWS",
    "drawn_curves",
    "extrapolation",
    "extrapolation_text",
    "head_laws",
    "loss_intervals",
    "next_runs",
    "paper_evidence",
    "paper_points",
    "table_4",
]

_WORDS = {
    "n_params": "size",
    "n_head": "query heads",
    "n_kv_head": "KV heads",
    "context_length": "context",
    "n_tokens": "training tokens",
    "flops": "training compute",
    "head_dim": "head sizes",
    "d_ff": "FFN widths",
    "d_model": "widths",
    "n_layer": "depths",
}


def extrapolation(fit: Any, best: Candidate, context_length: float, loss: float) -> dict[str, float]:
    """Return, for each field that the evidence has a range of, the factor by which a design is outside.

    1 is inside the range; 16 is sixteen times its greatest, or a sixteenth of its least. "loss" is by how
    many nats the target is below the least measured (0: not below).
    """
    shape = best.shape
    values = {
        "n_params": best.n_params,
        "n_head": shape.n_head,
        "n_kv_head": shape.n_kv_head,
        "context_length": context_length,
    }
    for name in getattr(fit, "law", fit).fields:
        if name in ("head_dim", "d_ff", "d_model", "n_layer"):
            values[name] = getattr(shape, name)
        elif name == "n_tokens":
            values[name] = best.n_tokens
    outside = {name: float(factor) for name, factor in beyond(fit, values).items()}
    least = evidence_ranges(fit).get("loss", (loss, loss))[0]
    return {**outside, "loss": max(0.0, least - loss)} if outside else {}


def extrapolation_text(fit: Any, outside: dict[str, float], sees_context: bool) -> str:
    """Return what to know about a design's distance from the evidence, and what it leaves open of the law."""
    blind = [name for name in ("n_head", "n_kv_head") if name not in getattr(fit, "law", fit).fields]
    unseen = (
        f"The law does not see {' and '.join(_WORDS[name] for name in blind)}: fewer cost no loss in it, so "
        "what they save is no evidence."
    )
    if not outside:
        text = "The law came without its evidence: how far this extrapolates is not known."
        return f"{text} {unseen}" if blind else text
    far = [
        f"{factor:.3g} times beyond the measured {_WORDS[name]}"
        for name, factor in outside.items()
        if name in _WORDS and factor > 1.005 and (name != "context_length" or sees_context)
    ]
    if outside.get("loss", 0.0) > 0.005:
        far.append(f"{outside['loss']:.2f} nats below the least measured loss")
    text = f"Beyond the evidence: {', '.join(far)}." if far else "Within the range of the evidence."
    context = evidence_ranges(fit).get("context_length")
    if context and not sees_context and outside.get("context_length", 1.0) > 1.005:
        text += (
            f" Losses were measured at {format_context(context[1])} context: as in the paper, they are taken "
            "to rank head configurations alike at any context."
        )
    return " ".join((text, *([unseen] if blind else []), *identification(fit)))


def _fields_of_all(
    law: Law, problem: Problem, found: Sequence[tuple[Candidate, Query]]
) -> dict[str, np.ndarray]:
    """Return each field of a law, (m,), of m designs of one kind of shape."""

    def column(values: Iterable[Any]) -> np.ndarray:
        return np.array([float(value) for value in values])

    shape = jax.tree.map(lambda *sizes: column(sizes), *(best.shape for best, _ in found))
    seen = [precisions(problem.law, query.workload) for _, query in found]
    bits = {name: column(each[name] for each in seen) for name in seen[0]}
    if "kv_bits" in bits:
        bits["kv_bits"] = column(best.kv_bits for best, _ in found)
    n_tokens = column(best.n_tokens for best, _ in found)
    context = column(query.workload.context_length for _, query in found)
    fields = fields_of(law, shape, n_tokens, context, **bits)
    return {name: np.broadcast_to(np.asarray(value, float), len(found)) for name, value in fields.items()}


def loss_intervals(
    fit: Any, problem: Problem, found: Sequence[tuple[Candidate, Query]]
) -> list[tuple[float, float] | None]:
    """Return the 90% intervals of the losses that models of some designs would have, all in one prediction.

    They hold the uncertainty of the law, what it may be off beyond its runs, and the scatter of single runs
    about it (`scalesim.fitting.predict`); None without a bootstrap.
    """
    if getattr(fit, "bootstrap", None) is None or not found:
        return [None] * len(found)
    x = _fields_of_all(fit.law, problem, found)
    predicted = predict(fit, x, level=0.9)
    return list(zip(predicted.run_low.tolist(), predicted.run_high.tolist(), strict=True))


SIZES = (5e7, 1e8, 2e8, 4e8, 8e8, 1.6e9)


def next_runs(fit: Any, design: Design, candidates: Mapping[str, Any] | None = None) -> list[Suggestion]:
    """Rank runs by how much each would shrink the uncertainty of a design's cost, for its training FLOPs.

    The quantity is log cost of the chosen heads at the target loss, differentiated by the law's
    coefficients through N*; see `scalesim.suggest_runs`. Tokens and training context are the plan's.

    Args:
        fit: the fit that the design was searched with, with its runs.
        design: the design.
        candidates: each field of the law, (m,), n_params and heads among them; by default the paper's 21
            head configurations at six sizes from 50M to 1.6B.

    Returns:
        The candidates, the most useful for its FLOPs first.

    Raises:
        InvalidInput: the fit has no runs, or is not identified.

    >>> import scalesim as ss
    >>> held = {"E": 1.97, "k": None, "g": None}
    >>> fit = ss.fit(ss.HeadLaw, ss.load_runs("paper"), fixed=held)
    >>> design = ss.search(fit, ss.Workload(context_length=131072), 2.615)
    >>> best = next_runs(fit, design)[0]
    >>> 0 < best.shrinks < 1
    True
    """
    problem, query = design.problem, design.query
    plan = query.plan
    if candidates is None:
        heads = zip(("n_head", "n_kv_head"), PAPER.arrays(), strict=True)
        candidates = {name: np.tile(axis, len(SIZES)) for name, axis in heads}
        candidates["n_params"] = np.repeat(SIZES, len(PAPER.heads))
    x = {name: np.asarray(values, float) for name, values in candidates.items()}
    shape = problem.family.at(x["n_params"], x["n_head"], x["n_kv_head"])
    x.setdefault("n_tokens", np.asarray(plan.tokens(shape) + 0 * x["n_params"]))
    x.setdefault("context_length", np.full_like(x["n_params"], float(plan.context_length)))
    flops = np.asarray(paper_training_flops(shape, x["n_tokens"], float(plan.context_length)).total)
    n_head, n_kv_head = (jnp.asarray([float(n)]) for n in (design.shape.n_head, design.shape.n_kv_head))

    def log_cost(law: Any) -> Any:
        return jnp.log(problem.under(law).sized(query, n_head, n_kv_head).cost)[0]

    with jax.enable_x64(True):
        return suggest_runs(fit, log_cost, x, flops=flops)


# All that the paper tells of heads: points, drawn curves, head laws and Table 4.

NOISE = 0.004
"""Scatter of the digitised losses about a smooth law, in nats: what the best forms leave (0.004 to 0.005)."""

HEAD_LAWS = ((4.7e8, 0.579, -0.124, 2.473), (6.8e8, 0.398, -0.177, 2.583), (1.2e9, 0.301, -0.227, 2.622))
"""The paper's L(n_head) = a n_head^b + c at 1K context: (n_params, a, b, c)."""


def drawn_curves(samples: int = 6) -> Curves:
    """Return Figure 2's seven laws as evidence, sampled over the sizes of its models."""
    t = paper_curves()
    n_params = np.tile(np.geomspace(3.5e7, 6.5e8, samples), (len(t["E"]), 1))
    loss = t["A_at_1e8"][:, None] * (n_params / 1e8) ** -t["b"][:, None] + t["E"][:, None]
    heads = {name: np.repeat(t[name][:, None], samples, axis=1) for name in ("n_head", "n_kv_head")}
    return Curves({"n_params": n_params, **heads}, loss, sigma=5 * NOISE, weight=len(t["E"]))


def head_laws() -> Curves:
    """Return the published laws in n_head as evidence.

    They were measured at another context and level, so each has an offset and a scale of its own, and
    only the way it bends counts. Their n_kv_head is not published: n_head is assumed.
    """
    n_head = np.tile([2.0, 4.0, 8.0, 16.0, 32.0], (len(HEAD_LAWS), 1))
    n_params, a, b, c = (np.array(column)[:, None] for column in zip(*HEAD_LAWS, strict=True))
    x = {"n_params": n_params + 0 * n_head, "n_head": n_head, "n_kv_head": n_head}
    return Curves(x, a * n_head**b + c, sigma=0.1, weight=len(HEAD_LAWS), free="affine")


def _costs(law: Law, query: Query) -> jax.Array:
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], query)
    return log_costs(Problem(law=law), one, PAPER)[0]


def table_4() -> Choices:
    """Return the paper's table of optima as evidence: which of its 21 candidates had the least Z.

    The law sees it through the cross entropy of a soft argmin over log Z, in Figure 2's units.
    """
    t = paper_choices()
    queries = [
        Query(workload=Workload(context_length=context), target_loss=loss)
        for loss, context in zip(t["target_loss"].tolist(), t["context_length"].tolist(), strict=True)
    ]
    chosen = [PAPER.heads.index(pair) for pair in zip(t["n_head"], t["n_kv_head"], strict=True)]
    return Choices(stack_queries(queries), np.asarray(chosen), _costs, temperature=NOISE, weight=8.0)


def paper_points() -> Points:
    """Return the 46 measured losses, in squares of nats."""
    return Points(paper_runs(), Squared(NOISE))


def paper_evidence() -> list[Points | Curves | Choices]:
    """Return everything: the 46 points, the seven curves, the head laws and Table 4.

    >>> [type(evidence).__name__ for evidence in paper_evidence()]
    ['Points', 'Curves', 'Curves', 'Choices']
    """
    return [paper_points(), drawn_curves(), head_laws(), table_4()]
