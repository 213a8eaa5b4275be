"""Heads at a fixed width in public runs (`gadre_heads`), as comparisons: head sizes of 32 to 256."""

from __future__ import annotations

import csv

import numpy as np

from experiments.public_data import public_runs
from scalesim.data.contrasts import ContrastTable

__all__ = ["gadre_contrasts"]

LEAST_WIDTH, LEAST_DEPTH, LEAST_HEAD, BASE = 512, 8, 32, 8


def gadre_contrasts() -> ContrastTable:
    """Return 8 heads against 4, 12 and 16 at the same depth and width, the best warm-up of each."""
    with (public_runs() / "gadre_heads" / "grid_heads.csv").open() as f:
        rows = list(csv.DictReader(f))
    best: dict[tuple[int, int, int], float] = {}
    for row in rows:
        key = (int(row["d_model"]), int(row["n_layer"]), int(row["n_head"]))
        best[key] = min(best.get(key, np.inf), float(row["loss_openlm_val"]))
    pairs = [
        (d, depth, heads)
        for d, depth, heads in sorted(best)
        if d >= LEAST_WIDTH and depth >= LEAST_DEPTH and heads != BASE and d / heads >= LEAST_HEAD
        if (d, depth, BASE) in best
    ]
    width, depth, heads = (np.array(column, float) for column in zip(*pairs, strict=True))

    def model(n_head: np.ndarray) -> dict[str, np.ndarray]:
        size = {"n_params": 12 * depth * width**2, "head_dim": width / n_head}
        return {"n_head": n_head, "n_kv_head": n_head, "n_layer": depth, "d_model": width, **size}

    base = np.array([best[d, n, BASE] for d, n, _ in pairs])
    other = np.array([best[key] for key in pairs])
    names = np.array([f"gadre_{d}x{n}_h{h}" for d, n, h in pairs])
    source = np.full(len(pairs), "mlfoundations/scaling@a003c49")
    corpora = np.array([f"OpenLM validation, {d} x {n}" for d, n, _ in pairs])
    models = model(np.full(len(pairs), BASE, float)), model(heads)
    return ContrastTable(*models, base, other, names, source, corpora)
