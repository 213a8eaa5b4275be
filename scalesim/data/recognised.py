"""Public run tables that are known by their columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["RECIPES", "Recipe"]

Table = dict[str, np.ndarray]


def _as_it_is(table: Table) -> Table:
    return table


@dataclass(frozen=True)
class Recipe:
    """How to read one public table.

    Attributes:
        name: of the set.
        what: what is done to it, a sentence.
        signature: columns that together tell the set.
        columns: the set's name of each field.
        prepare: what happens to the table first.
    """

    name: str
    what: str
    signature: frozenset[str]
    columns: Mapping[str, str]
    prepare: Callable[[Table], Table] = field(default=_as_it_is)

    def fits(self, table: Mapping[str, np.ndarray]) -> bool:
        """Tell whether a table has all columns of the signature."""
        return self.signature <= set(table)


def _best_by(keys: tuple[str, ...], loss: str) -> Callable[[Table], Table]:
    """Return a step that keeps the row of least loss for each value of `keys`."""

    def best(table: Table) -> Table:
        values = np.where(np.isfinite(table[loss].astype(float)), table[loss].astype(float), np.inf)
        least: dict[tuple, int] = {}
        for i, key in enumerate(zip(*(table[k].tolist() for k in keys), strict=True)):
            if key not in least or values[i] < values[least[key]]:
                least[key] = i
        rows = sorted(least.values())
        return {k: v[rows] for k, v in table.items()}

    return best


def _gadre(table: Table) -> Table:
    table = _best_by(("d_model", "n_layer", "n_head", "tokens"), "loss_openlm_val")(table)
    pairs = zip(table["d_model"].tolist(), table["n_layer"].tolist(), strict=True)
    return {**table, "family": np.array([f"{d:g}x{n:g}" for d, n in pairs])}


def _finished(table: Table) -> Table:
    keep = table["finished"].astype(str) == "True"
    table = {k: v[keep] for k, v in table.items()}
    return {**table, "group": np.array([f"T={t:g}" for t in table["context_length"].astype(float)])}


RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "the points of Hoffmann et al.'s Figure 4",
        "the published refit drops the 5 largest losses (drop_largest=5).",
        frozenset({"Model Size", "Training FLOP", "loss", "hex_color"}),
        {"n_params": "Model Size", "flops": "Training FLOP", "loss": "loss"},
    ),
    Recipe(
        "Gemstones",
        "rows of one run are correlated, so the run is the group; n_params leaves out embeddings.",
        frozenset({"run_name", "n_params_nonembed", "tokens", "num_nodes", "seconds_per_step"}),
        {"n_params": "n_params_nonembed", "n_tokens": "tokens", "group": "run_name"},
    ),
    Recipe(
        "the head counts of Gadre et al.",
        "the best of the warm-ups is kept, and (width, depth) is the group.",
        frozenset({"key", "loss_openlm_val", "warmup_steps", "cooldown_lr", "n_params_calc_2emb"}),
        {
            "n_params": "n_params_calc_2emb",
            "n_tokens": "tokens",
            "loss": "loss_openlm_val",
            "group": "family",
        },
        _gadre,
    ),
    Recipe(
        "the Llama IsoFLOP runs at two contexts",
        "finished runs only; the context is the group; n_params leaves out embeddings.",
        frozenset({"isoflop_causal", "isoflop_full", "val_loss", "finished"}),
        {
            "n_params": "n_params_nonembed",
            "n_tokens": "tokens",
            "loss": "val_loss",
            "flops": "isoflop_causal",
            "group": "group",
        },
        _finished,
    ),
    Recipe(
        "Step Law",
        "the best loss of each (N, D) cell; n_params leaves out embeddings.",
        frozenset({"exp_name", "smooth_loss", "n_params_nonembed", "tokens"}),
        {"n_params": "n_params_nonembed", "n_tokens": "tokens", "loss": "loss"},
    ),
    Recipe(
        "the collected IsoFLOP points",
        "the experiment is the group; select one by select={'experiment': ...}.",
        frozenset({"budget", "tokens", "params", "experiment"}),
        {
            "n_params": "params",
            "n_tokens": "tokens",
            "flops": "budget",
            "loss": "loss",
            "group": "experiment",
        },
    ),
    Recipe(
        "the OLMo ladder",
        "the loss is C4's; others by columns={'loss': 'loss_pile', ...}; the size is the group.",
        frozenset({"n_params_nonembed_olmo", "loss_c4_en", "size", "flops_per_token_fwdbwd"}),
        {
            "n_params": "n_params_nonembed_olmo",
            "n_tokens": "tokens",
            "loss": "loss_c4_en",
            "group": "size",
        },
    ),
)
