"""What a table of runs varies and a law does not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scalesim.data.runs import RunTable
from scalesim.fitting.saved import law_name
from scalesim.laws.base import REGISTRY, Law

__all__ = ["unseen_heads"]

HEADS = ("n_head", "n_kv_head", "head_dim")
ALIKE = 0.1
"""Log ratio of the parameters of two runs below which they are of one size."""


def varied_heads(runs: RunTable) -> list[str]:
    """Return the columns of heads in which runs of one size (parameters within 10%) differ.

    Heads that only grow with the model are not among them: what they do, the size does too.

    >>> N = [1e8, 1.02e8, 1e9]
    >>> varied_heads(RunTable({"n_params": N, "n_head": [8, 8, 32], "n_kv_head": [8, 1, 8]}, [3.0, 3.1, 2.5]))
    ['n_kv_head']
    """
    known = [name for name in HEADS if name in runs.columns]
    if "n_params" not in runs.columns or not known:
        return []
    order = np.argsort(runs["n_params"], kind="stable")
    near = np.diff(np.log(runs["n_params"][order])) < ALIKE
    return [name for name in known if np.any(near & (np.diff(runs[name][order]) != 0))]


def unseen_heads(law: Law, runs: RunTable, by: Sequence[str] = ()) -> str | None:
    """Return a sentence on heads that the runs vary and a law does not see, or None.

    Args:
        law: what is fitted.
        runs: to what.
        by: columns by which the runs are grouped, for coefficients of each group's own: these are seen.

    >>> from scalesim.data import paper_runs
    >>> from scalesim.laws import Chinchilla, HeadLaw
    >>> unseen_heads(Chinchilla(), paper_runs())[:80]
    'These runs vary n_head and n_kv_head at one size, which Chinchilla does not see;'
    >>> unseen_heads(HeadLaw(), paper_runs()) is None
    True
    """
    law = getattr(law, "law", law) if type(law).__name__ == "Grouped" else law
    missed = [name for name in varied_heads(runs) if name not in law.fields and name not in by]
    if not missed:
        return None
    ours = {name: kind for name, kind in REGISTRY.items() if kind.__module__.startswith("scalesim.")}
    fields = {name: getattr(kind, "fields", None) for name, kind in ours.items()}
    seeing = [
        name.lower().removesuffix("law")
        for name, own in fields.items()
        if isinstance(own, tuple) and set(missed) <= set(own) <= set(runs.columns)
    ]
    what = f"These runs vary {_listed(missed, 'and')} at one size, which {law_name(law)} does not see"
    return f"{what}; --law {_listed(seeing, 'or')} does." if seeing else f"{what}, and no law of ours does."


def _listed(names: Sequence[str], word: str) -> str:
    return f" {word} ".join([*([", ".join(names[:-1])] if len(names) > 1 else []), names[-1]])
