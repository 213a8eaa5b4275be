"""Finished runs as rows of a table that `scalesim.fit` reads, one file a run until they are gathered."""

from __future__ import annotations

import csv
import io
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from scalesim.data.delimited import read_table
from scalesim.errors import InvalidInput
from scalesim.files import kind_of, write_whole
from scalesim.shape import count_params
from scalesim.training.loop import TrainResult
from scalesim.training.pattern import words_of
from scalesim.training.recall import recall_by_distance

__all__ = ["check_own", "finite", "gather", "row_of"]

_SHAPE = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size")
_RECIPE = ("schedule", "warmup", "decay", "weight_decay")


def row_of(result: TrainResult) -> dict[str, Any]:
    """Return a finished run as a row: `loss` is that of validation, n_params leaves out embeddings.

    `loss_by_position` holds the validation loss at positions 1, 2, 3-4, 5-8, ... of the window, nats a token,
    as `last position:loss` joined by spaces; `recall` likewise that of a string read 16, 32, 64, ... tokens
    before, as `recall_by_distance` measures it.
    """
    c, corpus = result.config, result.corpus
    device = jax.devices()[0]
    recall = recall_by_distance(result.params, corpus, c)
    return {
        "run_id": c.run_id(corpus.hash),
        **{name: getattr(c.shape, name) for name in _SHAPE},
        "layers": words_of(c.shape),
        "n_params": count_params(c.shape, "non_embedding"),
        "n_params_total": count_params(c.shape, "total"),
        "n_tokens": c.n_steps * c.batch_tokens,
        "context_length": c.context_length,
        "batch_tokens": c.batch_tokens,
        "learning_rate": c.learning_rate,
        "seed": c.seed,
        "rope_theta": c.options.rope_theta,
        **{name: getattr(c.recipe, name) for name in _RECIPE},
        "loss": result.loss,
        "train_loss": result.train_loss,
        "loss_by_position": " ".join(f"{k}:{v:.4f}" for k, v in _octaves(result.loss_by_position).items()),
        "recall": " ".join(f"{k}:{v:.4f}" for k, v in recall.items()),
        "status": result.status,
        "flops": c.flops,
        "seconds": round(result.seconds, 1),
        "tokens_per_second": round(rate, 1) if math.isfinite(rate := result.tokens_per_second) else None,
        "device": f"{device.device_kind} x{jax.device_count()}, {platform.machine()}, jax {jax.__version__}",
        "corpus": corpus.name,
        "corpus_hash": corpus.hash,
    }


def _octaves(losses: np.ndarray) -> dict[int, float]:
    """Return the mean loss of positions 1, 2, 3-4, 5-8, ..., by the last position of each."""
    ends = [1]
    while ends[-1] < len(losses):
        ends.append(min(2 * ends[-1], len(losses)))
    return {e: float(losses[b:e].mean()) for b, e in zip([0, *ends], ends, strict=False)}


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with None for what is not finite: a diverged run's loss."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def gather(rows: Iterable[Mapping[str, Any]], table: Path) -> int:
    """Write the rows to a CSV table, whole or not at all; return how many there are."""
    rows = list(rows)
    if not rows:
        return 0
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(table, text.getvalue(), "run table")
    return len(rows)


def check_own(table: Path, run_ids: Iterable[str] | None = None) -> None:
    """Refuse to replace a table that is none of ours, or (with `run_ids`) holds other runs.

    Raises:
        InvalidInput: the message says which.
    """
    if kind_of(table) is None:
        return
    advice = "is there and is no run table of `scalesim train`; give another folder."
    try:
        columns, _ = read_table(str(table), "run table")
    except InvalidInput as error:
        raise InvalidInput(f"{table} {advice} ({error})") from None
    if next(iter(columns)) != "run_id":
        raise InvalidInput(f"{table} {advice}")
    other = set(columns["run_id"]) - set(run_ids or ())
    if run_ids is not None and other:
        raise InvalidInput(
            f"{table} holds another run ({min(other)}), which would be lost; give another folder."
        )
