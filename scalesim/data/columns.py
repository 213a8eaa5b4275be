"""Which column of a run table is which field: the many names that people and their tools give them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalesim.data.units import PREFIXED, unit_in_name
from scalesim.errors import InvalidInput

__all__ = ["ALIASES", "Found", "find_columns", "listed"]

ALIASES: dict[str, tuple[str, ...]] = {
    "n_params": (
        "params",
        "parameters",
        "N",
        "model_size",
        "num_params",
        "num_parameters",
        "n_parameters",
        "parameter_count",
        "param_count",
        "total_params",
        "total_parameters",
        "model_params",
        "model_parameters",
        "n_params_nonembed",
        "n_params_non_embedding",
        "non_embedding_params",
        "n_params_total",
        "trainable_params",
        "trainable_parameters",
        "num_scaling_params",
    ),
    "n_tokens": (
        "tokens",
        "training_tokens",
        "train_tokens",
        "num_train_tokens",
        "n_train_tokens",
        "D",
        "dataset_size",
        "data_size",
        "num_tokens",
        "total_tokens",
        "tokens_trained",
        "trained_tokens",
        "tokens_seen",
        "tok_seen",
        "seen_tokens",
        "consumed_tokens",
        "tokens_processed",
        "token_count",
        "n_train_tokens_seen",
        "training_tokens_seen",
        "num_input_tokens_seen",
    ),
    "flops": (
        "flop",
        "training_flop",
        "training_flops",
        "train_flops",
        "total_flops",
        "total_flos",
        "num_flops",
        "budget",
        "compute",
        "compute_budget",
        "flops_budget",
        "flop_budget",
        "training_compute",
        "train_compute",
        "C",
    ),
    "loss": (
        "val_loss",
        "validation_loss",
        "valid_loss",
        "eval_loss",
        "test_loss",
        "dev_loss",
        "final_val_loss",
        "final_validation_loss",
        "final_eval_loss",
        "best_val_loss",
        "val_bpb",
        "eval_bpb",
        "bpb",
        "bits_per_byte",
        "final_loss",
        "lm_loss",
        "ce_loss",
        "cross_entropy",
        "cross_entropy_loss",
        "nll",
        "L",
        "train_loss",
        "training_loss",
        "final_train_loss",
    ),
    "context_length": (
        "seq_len",
        "seq_length",
        "sequence_length",
        "block_size",
        "max_seq_len",
        "ctx_len",
        "T",
    ),
    "n_layer": ("n_layers", "num_layers", "layers", "depth", "num_hidden_layers", "L"),
    "d_model": ("width", "hidden_size", "n_embd", "model_dim", "hidden_dim", "dim"),
    "n_head": ("n_heads", "num_heads", "num_attention_heads"),
    "n_kv_head": ("n_kv_heads", "num_kv_heads", "num_key_value_heads"),
    "d_ff": ("ffn_width", "intermediate_size", "ffn_dim", "d_ffn"),
    "head_dim": ("d_head",),
    "vocab_size": ("vocab",),
    "n_epochs": ("epochs",),
    "weight_bits": (),
    "activation_bits": (),
    "kv_bits": (),
    "weight": (),
    "error": ("loss_err", "loss_error", "loss_std"),
    "group": ("run_name", "run", "family", "name", "run_id"),
}
"""Each field, and the other names under which it is recognised: in any case (but for single letters), with or
without separators, and after a path ("eval/loss", "config.n_params"). A unit in the name counts
("tokens (B)")."""

_TRAIN = re.compile(r"(^|[^a-z])(train|training|tr)([^a-z]|$)")
_HELD_OUT = re.compile(r"(^|[^a-z])(val|valid|validation|eval|test|dev|heldout|held_out)([^a-z]|$)")
_PARAMS = re.compile(r"(^|[^a-z])n?(params?|parameters?)([^a-z]|$)")
_NO_COUNT = re.compile(r"^(log|ln)|ratio|per|share|fraction|embed_?params|dtype|group")
_LOSS_LIKE = re.compile(r"loss|nll|cross_?entropy|bpb|perplexity|(^|[^a-z])(ppl|ce)([^a-z]|$)")
_NO_LOSS = re.compile(r"min|max|std|err|scale|weight|aux|balanc|spike|by_|__|smooth|z_loss|router|name|step")
_ONCE = ("n_params", "n_tokens", "flops", "loss", "n_head", "n_kv_head", "d_model", "n_layer")


@dataclass
class Found:
    """Columns by field, the column of each, what their names say they are multiplied by, and notes."""

    values: dict[str, Any]
    names: dict[str, str] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def listed(table: Mapping[str, Any], most: int = 24) -> str:
    """Return the columns of a table, for a message."""
    names = [repr(name) for name in table]
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def find_columns(table: Mapping[str, Any], given: Mapping[str, str], name: str) -> Found:
    """Return the columns by field: those that are given, and those whose name says it.

    Args:
        table: the columns by their own names.
        given: the column of a field.
        name: of the table, for messages.

    Raises:
        InvalidInput: a given column is not there, several columns may be one field, or the table has a row a
            step and a column a run.
    """
    _check_long(table, name)
    found = Found({})
    for key, column in given.items():
        if key not in ALIASES:
            raise InvalidInput(f"column {key}={column}: {key} is no field; they are {', '.join(ALIASES)}.")
        if column not in table:
            raise InvalidInput(
                f"column {key}={column}: {column!r}, which is no column of {name}; it has {listed(table)}."
            )
        other = next((k for k, taken in found.names.items() if taken == column), None)
        if other is not None:
            raise InvalidInput(f"column {column!r} is given for both {other} and {key}; one would do.")
        _take(found, table, key, column, 1.0)
    free = [column for column in table if column not in found.names.values()]
    for key in ALIASES:
        if key in found.values:
            continue
        if key == "loss":
            _take_loss(found, table, free, name)
            continue
        candidates = [
            (column, scale) for column in free for scale in [_matches(column, key, table[column])] if scale
        ]
        exact = [(column, scale) for column, scale in candidates if column == key]
        if key == "flops" and "n_tokens" in found.values:  # a column TFLOPs beside tokens is of a speed
            candidates = [c for c in candidates if not PREFIXED.fullmatch(_squashed(c[0]))]
        if any(c.strip() in "NDC" for c, _ in candidates):  # n beside N is another thing
            candidates = [c for c in candidates if not (len(c[0].strip()) == 1 and c[0].strip().islower())]
        if key == "group":
            candidates = [c for c in candidates if _repeats(table[c[0]], c[0])][:1]
        elif key == "n_params" and not exact:
            known = {column for column, _ in candidates}
            candidates += [(c, 1.0) for c in free if c not in known and _counts_params(c, table[c])]
        alone = _only(exact, candidates, key)
        _choose(found, table, key, exact if alone else candidates, name)
        if alone and key in _ONCE:
            others = [c for c, s in candidates if c != key and not (s == 1 and _equal(table[c], table[key]))]
            if others:
                found.notes.append(f"{key} is the column of that name, not {listed(dict.fromkeys(others))}.")
        if key in ("n_params", "n_tokens", "flops") and key not in found.values:
            _check_logarithms(free, key)
    return found


def _check_logarithms(columns: list[str], key: str) -> None:
    for column in columns:
        bare = re.fullmatch(r"(?:log|ln)_?(?:10|2|e)?_(.+)", _worded(column))
        if bare is not None and _matches(bare[1], key, []):
            raise InvalidInput(
                f"{column!r} holds logarithms of {key} by its name; a column of the plain numbers would do."
            )


def _take(found: Found, table: Mapping[str, Any], key: str, column: str, scale: float) -> None:
    found.values[key], found.names[key] = table[column], column
    if scale != 1.0:
        found.scales[key] = scale
        found.notes.append(f"{key} is {scale:g} times the column {column!r}, by the unit in its name.")
    elif column != key and key in ("n_params", "loss"):
        found.notes.append(f"{key} is the column {column!r}.")


def _only(exact: list[tuple[str, float]], candidates: list[tuple[str, float]], key: str) -> bool:
    """Say whether a column of the field's own name wins: unless another differs from it in case alone."""
    return bool(exact) and not any(c != key and c.strip().lower() == key for c, _ in candidates)


def _choose(
    found: Found, table: Mapping[str, Any], key: str, candidates: list[tuple[str, float]], name: str
) -> None:
    if not candidates:
        return
    first, scale = candidates[0]
    others = [c for c, s in candidates[1:] if s != scale or not _equal(table[c], table[first])]
    if others and key in _ONCE:
        raise InvalidInput(
            f"{name} has several columns that may be {key}: {listed(dict.fromkeys([first, *others]))}. "
            f"Say which: --column {key}={first}."
        )
    _take(found, table, key, first, scale)


def _take_loss(found: Found, table: Mapping[str, Any], free: list[str], name: str) -> None:
    """Choose the loss: held-out text's before one that says nothing before the training text's."""
    held: list[tuple[str, float]] = []
    plain: list[tuple[str, float]] = []
    train: list[tuple[str, float]] = []
    for column in free:
        if not _matches(column, "loss", table[column]) and not _is_loss(column):
            continue
        kind = (
            train if _TRAIN.search(_worded(column)) else held if _HELD_OUT.search(_worded(column)) else plain
        )
        kind.append((column, 1.0))
    for kind in (held, plain, train):
        exact = [c for c in kind if c[0] == "loss"]
        if not kind:
            continue
        _choose(found, table, "loss", exact if _only(exact, kind, "loss") else kind, name)
        if kind is held and plain:
            found.notes.append(f"{plain[0][0]!r} beside it is taken for a training loss.")
        if kind is train:
            found.notes.append("It is a training loss: no column holds that of held-out text.")
        return


def _is_loss(column: str) -> bool:
    worded = _worded(column)
    return bool(_LOSS_LIKE.search(worded)) and not _NO_LOSS.search(worded)


def _counts_params(column: str, values: Any) -> bool:
    worded = _worded(column)
    if not _PARAMS.search(worded) or _NO_COUNT.search(worded):
        return False
    kind = getattr(values, "dtype", np.dtype(object)).kind
    return kind in "iuf"


def _worded(column: str) -> str:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)  # CrossEntropyLoss
    return re.sub(r"[^a-z0-9]+", "_", parted.lower()).strip("_")


def _squashed(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.lower())


def _matches(column: str, key: str, values: Any) -> float:
    """Return what a column is multiplied by if its name says that it is a field, else 0."""
    plain = column.strip()
    names = (key, *ALIASES[key])
    single = tuple(n for n in names if len(n) == 1)
    if len(plain) == 1:
        return float(plain.upper() in single and _letter_means(plain, key, values))
    known = {_squashed(n) for n in names if len(n) > 1}
    last = re.split(r"[/.]", plain)[-1]
    path = plain[: len(plain) - len(last)].lower()
    if key == "loss" and last != plain and _squashed(last) == "loss":
        return 1.0
    if len(last) == 1 and last != plain and last.isupper():
        return float(last in single and _letter_means(last, key, values))
    if _squashed(plain) in known or (last != plain and "embed" not in path and _squashed(last) in known):
        return 1.0
    if key not in ("n_params", "n_tokens", "flops"):
        return 0.0
    for text in (last, plain):  # val/tokens_B, but N/1e6 and compute (PFLOP/s-days)
        base, scale = unit_in_name(text) or ("", 0.0)
        if _squashed(base) in known or base.strip().upper() in single:
            return scale
    return 0.0


def _letter_means(letter: str, key: str, values: Any) -> bool:
    """Say whether a letter can be the field: L is layers where it is whole, d a width where it is small."""
    try:
        numbers = np.asarray(values, float)
    except (TypeError, ValueError, OverflowError):
        return letter in "NDCT"  # 1.3B
    numbers = numbers[np.isfinite(numbers)]
    if letter in "Ll":
        return bool(np.all(numbers == np.floor(numbers))) == (key == "n_layer")
    return letter.isupper() or bool(np.all(numbers >= 1e5))


def _repeats(values: Any, column: str) -> bool:
    """Say whether labels tell groups apart; names that each row has its own do not."""
    if _squashed(column) not in ("name", "runid"):
        return True
    labels = [str(v) for v in values]
    return 1 < len(set(labels)) < len(labels)


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(np.array_equal(np.asarray(a, float), np.asarray(b, float), equal_nan=True))
    except (TypeError, ValueError):
        return [str(x) for x in a] == [str(x) for x in b]


def _check_long(table: Mapping[str, Any], name: str) -> None:
    """Refuse tables of another kind than a row a run: exports of one metric over steps."""
    wanted = "What is wanted is a row a run, with columns such as n_params, n_tokens and loss."
    names = list(table)
    if {n.lower() for n in names} == {"wall time", "step", "value"}:
        raise InvalidInput(f"{name} is one curve of one run, as TensorBoard exports it. {wanted}")
    runs = {n.rsplit(" - ", 1)[0] for n in names if " - " in n}
    steps = [n for n in names if _squashed(n) in ("step", "globalstep", "relativetimeprocess", "traintokens")]
    if steps and runs and all(n in steps or " - " in n for n in names):
        raise InvalidInput(
            f"{name} has a row a step and a column a run ({', '.join(sorted(runs)[:4])}"
            f"{', ...' if len(runs) > 4 else ''}), as Weights & Biases exports a chart. {wanted} "
            f"Its columns are {listed(table)}."
        )
