"""What published ablations say of attention beyond head counts: effects on loss, and cautions."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from scalesim.errors import choose

__all__ = ["Caution", "Effect", "cautions", "effect_of", "effects"]

NOISE = 100 * 0.0017 * np.sqrt(2)
"""Standard deviation of a comparison of two single training runs, percent of loss."""


@dataclass(frozen=True)
class Effect:
    """The effect of a kind of attention on loss, as published ablations have it.

    Attributes:
        kind: what is changed; `table` lists who measured it against what.
        percent: the mean over studies, of 100 log(loss with / loss without); negative is better.
        error: the standard error of that mean.
        between: the standard deviation of studies about it, beyond their noise.
        sources: the studies.
        comparisons: how many pairs of models they hold.

    `spread` is what a new corpus should expect about `percent`.
    """

    kind: str
    percent: float
    error: float
    between: float
    sources: tuple[str, ...]
    comparisons: int

    @property
    def spread(self) -> float:
        """Standard deviation for a new corpus: of the mean and of studies about it, percent of loss."""
        return float(np.hypot(self.error, self.between))

    def __str__(self) -> str:
        count = len(self.sources)
        return (
            f"{self.kind}: {self.percent:+.2f}% of loss, +- {self.spread:.2f}% for a new corpus "
            f"({self.comparisons} comparisons of {count} {'studies' if count > 1 else 'study'})."
        )


@dataclass(frozen=True)
class Caution:
    """What an answer must carry where loss does not tell, with the figure and its source."""

    text: str
    figure: str
    source: str

    def __str__(self) -> str:
        return f"{self.text}: {self.figure} ({self.source})."


def _rows(name: str) -> list[dict[str, str]]:
    with (files("scalesim.data") / name).open() as f:
        return list(csv.DictReader(line for line in f if not line.startswith("#")))


def effects() -> dict[str, Effect]:
    """Return every effect of the table, by its kind.

    >>> sorted(effects())
    ['experts', 'latent attention', 'linear layers', 'shared keys and values', 'tied keys and values']
    """
    rows = _rows("effects.csv")
    return {kind: effect_of(kind) for kind in dict.fromkeys(row["kind"] for row in rows)}


def effect_of(kind: str) -> Effect:
    """Return the effect of a kind of attention on loss: a meta-analysis of the studies that measured it.

    Study i has the mean y_i of its n_i comparisons, whose variance is v_i = noise^2 / n_i. Studies vary about
    the common mean by tau^2 = max(0, (Q - (k - 1)) / (sum w - sum w^2 / sum w)), w = 1/v and Q = sum w (y -
    mean)^2, and the mean weighs each by 1 / (v_i + tau^2) (DerSimonian and Laird 1986). Of one study nothing
    is known of tau: it is then taken to be as large as the effect itself, or as the noise.

    Raises:
        InvalidInput: no study of the table measured it; the message lists what they measured.

    >>> found = effect_of("latent attention")
    >>> len(found.sources), found.comparisons, abs(found.percent) < found.spread
    (4, 8, True)
    """
    rows = _rows("effects.csv")
    choose("kind", kind, sorted({row["kind"] for row in rows}))
    studies: dict[str, list[float]] = {}
    for row in rows:
        if row["kind"] == kind:
            study = row["source"].split(",")[0].split(" (")[0].split("#")[0]
            percent = 100 * np.log(float(row["loss_b"]) / float(row["loss_a"]))
            studies.setdefault(study, []).append(percent)
    mean = np.array([np.mean(v) for v in studies.values()])
    noise = np.array([NOISE**2 / len(v) for v in studies.values()])
    count = sum(map(len, studies.values()))
    if len(mean) == 1:
        between = max(abs(float(mean[0])), float(NOISE))
        return Effect(kind, float(mean[0]), float(np.sqrt(noise[0])), between, tuple(studies), count)
    weight = 1 / noise
    common = np.sum(weight * mean) / weight.sum()
    excess = np.sum(weight * (mean - common) ** 2) - (len(mean) - 1)
    between2 = max(0.0, excess / (weight.sum() - np.sum(weight**2) / weight.sum()))
    weight = 1 / (noise + between2)
    common = np.sum(weight * mean) / weight.sum()
    error, between = float(np.sqrt(1 / weight.sum())), float(np.sqrt(between2))
    return Effect(kind, float(common), error, between, tuple(studies), count)


def cautions(shape: Any) -> list[Caution]:
    """Return what published evidence warns of in a shape, each with its figure and source.

    >>> from scalesim.shape import Shape
    >>> shape = Shape(n_layer=24, d_model=2048, n_head=16, n_kv_head=1, head_dim=128, d_ff=5504)
    >>> [caution.source for caution in cautions(shape)][0]
    'arXiv 2603.02188 (second hand)'
    """
    present = set(_properties(shape))
    return [
        Caution(row["text"], row["figure"], row["source"])
        for row in _rows("cautions.csv")
        if row["when"] in present
    ]


def _properties(shape: Any) -> Iterator[str]:
    """Tell which rows of the table of cautions a shape calls for."""
    for mixer in (block.mixer for block in shape.blocks if block.mixer is not None):
        kind = type(mixer).__name__
        n_head, n_kv_head = (float(getattr(mixer, name, 1)) for name in ("n_head", "n_kv_head"))
        if kind == "Attention" and n_head >= 4 * n_kv_head:
            yield "few_kv_heads"
        if kind == "Attention" and float(mixer.head_dim) < 64:
            yield "small_heads"
        if kind == "LatentAttention":
            yield "latent"
        if kind in ("LinearAttention", "DeltaNet", "Mamba", "Mamba2"):
            yield "linear_layers"
        if getattr(mixer, "window", None) is not None:
            yield "sliding_window"
        if getattr(mixer, "shared", False):
            yield "shared_kv"
