"""The tables of "Cost-Optimal Grouped-Query Attention for Long-Context Modeling" (arXiv 2503.09579).

Its authors published no loss tables: losses and curves were measured off the vector figures.
"""

from __future__ import annotations

from importlib.resources import files

import numpy as np

from scalesim.data.runs import RunTable

__all__ = ["TOKENS_PER_PARAMETER", "paper_choices", "paper_curves", "paper_runs"]

TOKENS_PER_PARAMETER = 20.0
_CONTEXT = 8192


def _table(name: str) -> dict[str, np.ndarray]:
    import csv

    with (files("scalesim.data") / name).open() as f:
        rows = list(csv.DictReader(f))
    return {k: np.array([float(row[k]) for row in rows]) for k in rows[0]}


def paper_runs() -> RunTable:
    """Return the 46 trained models of Figures 1 and 2, grouped by head configuration.

    n_params follows the "paper" convention; 20 tokens a parameter, trained and measured at 8,192 tokens
    of context. Figure 1's Llama-3 series (its n_head changes with the width) makes six groups of one row.
    """
    t = _table("paper_loss_points.csv")
    columns = {k: t[k] for k in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim")}
    columns["n_params"] = t["n_params_non_embedding"]
    columns["n_tokens"] = TOKENS_PER_PARAMETER * columns["n_params"]
    columns["context_length"] = np.full(len(t["loss"]), float(_CONTEXT))
    runs = RunTable(
        columns, t["loss"], error=t["loss_err"], source="arXiv 2503.09579, Figures 1 and 2, digitised"
    )
    return runs.with_group(("n_head", "n_kv_head"))


def paper_curves() -> dict[str, np.ndarray]:
    """Return the seven laws drawn in Figure 2, L = A_at_1e8 (N/1e8)^-b + E, a column each."""
    return _table("paper_curves.csv")


def paper_choices() -> dict[str, np.ndarray]:
    """Return Table 4: the cost-optimal n_head and n_kv_head by target_loss and context_length."""
    return _table("paper_table4.csv")
