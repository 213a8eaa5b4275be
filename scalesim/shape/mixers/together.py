"""Several mixers that read the same input, their results added (Falcon-H1)."""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.pytree import register
from scalesim.shape.mixers.base import Cached, Mixer, Scores
from scalesim.shape.parameters import Parameter
from scalesim.types import Num

__all__ = ["Together"]


@register
@dataclass(frozen=True)
class Together(Mixer):
    """Mixers side by side in one layer."""

    parts: tuple[Mixer, ...]

    def tensors(self, d: Num) -> list[Parameter]:
        return [p for part in self.parts for p in part.tensors(d)]

    def cached(self) -> tuple[Cached, ...]:
        return tuple(kept for part in self.parts for kept in part.cached())

    def scores(self, *, decode: bool) -> tuple[Scores, ...]:
        return tuple(score for part in self.parts for score in part.scores(decode=decode))

    @property
    def state_bytes(self) -> Num:
        return sum(part.state_bytes for part in self.parts)

    @property
    def step_flops(self) -> Num:
        return sum(part.step_flops for part in self.parts)

    @property
    def moved(self) -> Num:
        return sum(part.moved for part in self.parts)
