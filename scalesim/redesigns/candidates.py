"""What a redesign is asked, and the designs that it chooses among."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from scalesim.cost.deployment import Deployment
from scalesim.hardware import Hardware
from scalesim.redesigns.proportions import Heads, heads_of
from scalesim.shape import LatentAttention, Shape
from scalesim.workload import ContextLengths, Traffic, TrainingPlan, Workload

__all__ = ["Built", "Question", "Ranked", "fields_of_heads", "lattice", "rows_of", "systematic"]


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question to the engine; see `scalesim.redesign`."""

    shape: Shape
    plan: TrainingPlan
    spend: str
    workload: Workload
    contexts: ContextLengths | None
    hardware: Hardware
    objective: Any
    traffic: Traffic | None
    loss: float
    max_tpot: float | None
    max_ttft: float | None
    max_devices: int | None
    mixers: tuple[str, ...]
    kv_bits: tuple[float, ...] = ()
    min_kv_heads: int = 1


@dataclass(frozen=True)
class Built:
    """A design with how it is served, and what it costs.

    Attributes:
        mixer: what its attention is: "own", "latent", "shared", "linear".
        heads: as a law sees them.
        shape: whole sizes as floats, of one model.
        way: how it is served.
        figures: of `served`, and "training_flops", "n_tokens", "objective", "price", ...
        scale: log of its depth and width over the model's own, before rounding; None: its very sizes.
        share: of the training budget that it spends.
    """

    mixer: str
    heads: Heads
    shape: Shape
    way: Deployment
    figures: dict[str, float]
    scale: float | None
    share: float = 1.0


@dataclass(frozen=True)
class Ranked:
    """All candidates of one kind of mixer, relaxed, (K,) each.

    Attributes:
        heads: their heads.
        share: of the training budget that each may spend.
        scale: log scale that keeps the loss; nan where none does.
        value: least objective over all deployments; inf where none will do.
        spare: the same over deployments with room to spare.
    """

    heads: Heads
    share: np.ndarray
    scale: np.ndarray
    value: np.ndarray
    spare: np.ndarray

    def near(self, most: int, *, each_kv: bool = False) -> np.ndarray:
        """Return the cheapest candidates by either reading: of all, and some that spend each share.

        With `each_kv`, the cheapest of each number of KV heads too.
        """
        found = []
        for value in (self.value, self.spare):
            order = np.argsort(value)
            order = order[np.isfinite(value[order])]
            found.append(order[:most])
            shares = np.unique(self.share)
            if len(shares) > 1:
                found += [order[self.share[order] == share][: most // 3] for share in shares]
            if each_kv:
                keys = np.asarray(self.heads.n_kv_head)
                found += [order[keys[order] == n][:1] for n in np.unique(keys)]
        return np.unique(np.concatenate(found))


def systematic(weights: np.ndarray, count: int) -> np.ndarray:
    """Return `count` places drawn evenly along the weights."""
    return np.searchsorted(np.cumsum(weights), (np.arange(count) + 0.5) / count).clip(0, len(weights) - 1)


def lattice(shape: Shape, min_kv_heads: int = 1) -> list[tuple[int, int, int]]:
    """Return the (n_head, n_kv_head, head_dim) looked at for a model.

    Heads of 64, of 128 and of the model's own size; query heads up to 32, or to as many as have the model's
    own attention width, in steps of a 32nd of those; KV heads, `min_kv_heads` at least, that divide them. Of
    latent attention, whose cache no head moves, query heads alone.
    """
    own = heads_of(shape)
    if any(isinstance(block.mixer, LatentAttention) for block in shape.blocks):
        most = int(own.n_head)
        return [
            (h, max(h // 4, 1), int(own.head_dim))
            for h in range(max(most // 16, 1), most + 1, max(most // 16, 1))
        ]
    found = []
    for size in sorted({64, 128, int(own.head_dim)}):
        most = max(int(own.n_head * own.head_dim) // size, 32)
        step = max(most // 32, 1)
        counts = range(step, most + 1, step)
        found += [(h, k, size) for h in counts for k in range(min_kv_heads, h + 1) if h % k == 0]
    return found


def rows_of(tree: Any, index: Any) -> Any:
    """Return some rows of every leaf."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)


def fields_of_heads(heads: Heads) -> dict[str, float]:
    """Return the fields of a law that heads are."""
    return {f.name: float(getattr(heads, f.name)) for f in dataclasses.fields(Heads)}
