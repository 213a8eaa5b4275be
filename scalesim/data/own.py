"""Runs that we trained ourselves: small models of `scalesim.train` on the standard library's sources."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import Literal

import numpy as np

from scalesim.data.runs import RunTable
from scalesim.errors import choose

__all__ = ["own_runs"]

_FIELDS = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "n_tokens", "context_length")


_TABLES = {"short": ("own_runs.csv", "own_runs.toml"), "long": ("own_long_runs.csv", "long_runs.toml")}


def own_runs(contexts: Literal["short", "long"] = "short") -> RunTable:
    """Return our own runs, grouped by context length: byte-level models, heads 1 to 16.

    n_params follows the "paper" convention (attention and FFN matrices); the loss is that of validation text,
    in nats a byte. The tables `scalesim/data/own_runs.csv` and `own_long_runs.csv` hold more columns: seeds,
    learning rates, loss by position, device, corpus, and the second recall by distance.

    Args:
        contexts: "short": four sizes at 64 and 128 bytes, heads of 8 values, made by `scalesim train
            experiments/grids/own_runs.toml`; "long": models of one size a width at 256 to 4,096 bytes, heads
            of 16 values, made by `scalesim train experiments/grids/long_runs.toml` as far as it is trained.

    Raises:
        InvalidInput: another word.

    >>> runs = own_runs("long")
    >>> sorted(set(runs["head_dim"].tolist())), bool((runs["context_length"] >= 256).all())
    ([16.0], True)
    """
    choose("contexts", contexts, _TABLES)
    name, grid = _TABLES[contexts]
    with (files("scalesim.data") / name).open() as f:
        rows = [row for row in csv.DictReader(f) if row["status"] == "finished"]
    columns = {name: np.array([float(row[name]) for row in rows]) for name in _FIELDS}
    c = columns
    attention = 2 * c["d_model"] * c["head_dim"] * (c["n_head"] + c["n_kv_head"])
    columns["n_params"] = c["n_layer"] * (attention + 3 * c["d_model"] * c["d_ff"])
    loss = [float(row["loss"]) for row in rows]
    runs = RunTable(columns, loss, source=f"scalesim train experiments/grids/{grid}")
    return runs.with_group(("context_length",))
