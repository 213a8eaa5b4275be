"""Runs that we trained ourselves: small models of `scalesim.train` on the standard library's sources."""

from __future__ import annotations

import csv
from importlib.resources import files

import numpy as np

from scalesim.data.runs import RunTable

__all__ = ["own_runs"]

_FIELDS = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "n_tokens", "context_length")


def own_runs() -> RunTable:
    """Return our own runs, grouped by context length: byte-level models of four sizes, heads 1 to 16.

    n_params follows the "paper" convention (attention and FFN matrices); the loss is that of validation text,
    in nats a byte. Made by `scalesim train experiments/grids/own_runs.toml`; the table
    `scalesim/data/own_runs.csv` holds more columns: seeds, learning rates, loss by position, device, corpus.
    """
    with (files("scalesim.data") / "own_runs.csv").open() as f:
        rows = [row for row in csv.DictReader(f) if row["status"] == "finished"]
    columns = {name: np.array([float(row[name]) for row in rows]) for name in _FIELDS}
    c = columns
    attention = 2 * c["d_model"] * c["head_dim"] * (c["n_head"] + c["n_kv_head"])
    columns["n_params"] = c["n_layer"] * (attention + 3 * c["d_model"] * c["d_ff"])
    loss = [float(row["loss"]) for row in rows]
    runs = RunTable(columns, loss, source="scalesim train experiments/grids/own_runs.toml")
    return runs.with_group(("context_length",))
