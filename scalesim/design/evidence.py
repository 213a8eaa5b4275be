"""All that the paper tells of heads, as evidence for a law: points, drawn curves, head laws and Table 4."""

from __future__ import annotations

import jax
import numpy as np

from scalesim.data import paper_choices, paper_curves, paper_runs
from scalesim.design.lattice import PAPER
from scalesim.design.problem import Problem, Query
from scalesim.design.solve import log_costs, stack_queries
from scalesim.fitting import Choices, Curves, Evidence, Points, Squared
from scalesim.laws.base import Law
from scalesim.workload import Workload

__all__ = ["HEAD_LAWS", "drawn_curves", "head_laws", "paper_evidence", "paper_points", "table_4"]

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
    one = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[None], query)
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


def paper_evidence() -> list[Points | Evidence]:
    """Return everything: the 46 points, the seven curves, the head laws and Table 4.

    >>> [type(evidence).__name__ for evidence in paper_evidence()]
    ['Points', 'Curves', 'Curves', 'Choices']
    """
    return [paper_points(), drawn_curves(), head_laws(), table_4()]
