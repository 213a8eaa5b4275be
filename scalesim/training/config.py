"""One training run: what is trained, on what, how."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from scalesim.cost.training import training_flops
from scalesim.errors import InvalidInput, shown
from scalesim.model import ModelOptions
from scalesim.schema import number, whole
from scalesim.shape import Shape
from scalesim.training.recipe import Recipe
from scalesim.workload import TrainingPlan

__all__ = ["TrainConfig"]

_MOST_LAYERS = 4096  # each is compiled by itself
_MOST_STEPS = 10_000_000


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        shape: the model.
        context_length: tokens of a window.
        n_tokens: tokens to train on, rounded up to whole batches.
        batch_tokens: tokens a step; a multiple of context_length.
        learning_rate: the full one.
        seed: of the first values and of the order of the text.
        recipe: how it is optimised.
        options: how it is computed.
        validation_tokens: tokens of validation text that judge it.

    >>> shape = Shape(n_layer=2, d_model=32, n_head=4, n_kv_head=1, head_dim=16, d_ff=64, vocab_size=256)
    >>> run = TrainConfig(shape=shape, context_length=64, n_tokens=10_000, batch_tokens=1024)
    >>> run.n_steps, run.batch_size
    (10, 16)
    """

    shape: Shape
    context_length: int
    n_tokens: int
    batch_tokens: int = 2048
    learning_rate: float = 3e-3
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    options: ModelOptions = field(default_factory=ModelOptions)
    validation_tokens: int = 131_072

    def __post_init__(self) -> None:
        for name in ("context_length", "n_tokens", "batch_tokens", "validation_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int) and 1 <= value <= 1 << 53):
                raise InvalidInput(
                    f"{name} must be a whole number of 1 or more (at most 2^53), but is {shown(value)}."
                )
        whole(0, (1 << 31) - 1)(self.seed, "seed")
        whole(1, _MOST_LAYERS)(self.shape.n_layer, "n_layer of a model to train")
        if self.batch_tokens % self.context_length:
            raise InvalidInput(
                f"batch_tokens must be a multiple of context_length = {self.context_length}, but is "
                f"{self.batch_tokens}."
            )
        if self.batch_size % self.recipe.accumulate:
            raise InvalidInput(
                f"accumulate must divide the {self.batch_size} windows of a batch, but is "
                f"{self.recipe.accumulate}."
            )
        number(above=0, high=1e6)(self.learning_rate, "learning_rate")
        if self.n_steps > _MOST_STEPS:
            raise InvalidInput(
                f"n_tokens / batch_tokens must be at most {_MOST_STEPS:,} steps, but are {self.n_steps:,}."
            )

    @property
    def batch_size(self) -> int:
        """Windows a step."""
        return self.batch_tokens // self.context_length

    @property
    def n_steps(self) -> int:
        """Steps in all."""
        return -(-self.n_tokens // self.batch_tokens)

    @property
    def flops(self) -> float:
        """FLOPs of the run: three forward passes a token, attention's masked half not counted."""
        tokens = self.n_steps * self.batch_tokens
        return float(
            training_flops(self.shape, TrainingPlan(n_tokens=tokens, context_length=self.context_length))
        )

    def to_json(self) -> dict[str, Any]:
        """Return the run as plain values."""
        return dataclasses.asdict(self)

    def run_id(self, corpus_hash: str) -> str:
        """Return a name that this run alone has: 12 hex digits of its values' and its corpus's SHA-256."""
        text = json.dumps([self.to_json(), corpus_hash], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
