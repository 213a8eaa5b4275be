"""Which model to train next, to be surer of the design that was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from scalesim.cost.paper import training_flops
from scalesim.design.design import Design
from scalesim.design.lattice import PAPER
from scalesim.design.problem import Problem
from scalesim.errors import InvalidInput
from scalesim.fitting.sensitivity import Suggestion, suggest_runs

__all__ = ["next_runs"]

SIZES = (5e7, 1e8, 2e8, 4e8, 8e8, 1.6e9)
TRAINING_CONTEXT = 8192.0


def next_runs(fit: Any, design: Design, candidates: Mapping[str, Any] | None = None) -> list[Suggestion]:
    """Rank runs by how much each would shrink the doubt about a design's cost, for its training FLOPs.

    The quantity is log cost of the chosen heads at the target loss, differentiated by the law's
    coefficients through N*; see `scalesim.fitting.suggest_runs`. Training is at 8K context.

    Args:
        fit: the fit that the design was searched with, as `ss.fit` returned it (a saved one has no runs).
        design: the design.
        candidates: each field of the law, (m,), n_params and heads among them; by default the paper's 21
            head configurations at six sizes from 50M to 1.6B.

    Returns:
        The candidates, the most useful for its FLOPs first.

    Raises:
        InvalidInput: the fit was read from a file, or is not identified.

    >>> import scalesim as ss
    >>> held = {"E": 1.97, "k": None, "g": None}
    >>> fit = ss.fit(ss.HeadLaw, ss.load_runs("paper"), fixed=held)
    >>> design = ss.search(fit, ss.Workload(context_length=131072), 2.615)
    >>> best = next_runs(fit, design)[0]
    >>> 0 < best.shrinks < 1
    True
    """
    if getattr(fit, "setup", None) is None:
        raise InvalidInput("fit was read from a file and has no runs; one that ss.fit returned would do.")
    problem, query = design.problem, design.query
    if candidates is None:
        heads = zip(("n_head", "n_kv_head"), PAPER.arrays(), strict=True)
        candidates = {name: np.tile(axis, len(SIZES)) for name, axis in heads}
        candidates["n_params"] = np.repeat(SIZES, len(PAPER.heads))
    x = {name: np.asarray(values, float) for name, values in candidates.items()}
    x.setdefault("n_tokens", problem.tokens_per_param * x["n_params"])
    x.setdefault("context_length", np.full_like(x["n_params"], TRAINING_CONTEXT))
    shape = problem.family.at(x["n_params"], x["n_head"], x["n_kv_head"])
    flops = np.asarray(training_flops(shape, x["n_tokens"], TRAINING_CONTEXT).total)
    n_head, n_kv_head = (jnp.asarray([float(n)]) for n in (design.shape.n_head, design.shape.n_kv_head))

    def log_cost(law: Any) -> Any:
        own = Problem(law=law, family=problem.family, tokens_per_param=problem.tokens_per_param)
        return jnp.log(own.sized(query, n_head, n_kv_head).cost)[0]

    with jax.enable_x64(True):
        return suggest_runs(fit, log_cost, x, flops=flops)
