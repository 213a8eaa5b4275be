"""A feed-forward block that every token passes."""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["Dense"]


@register
@dataclass(frozen=True, kw_only=True)
class Dense:
    """An FFN of inner width d_ff: three matrices where gated (SwiGLU, arXiv 2002.05202), else two."""

    d_ff: Num
    gated: bool = static(True)
    bias: bool = static(False)

    def __post_init__(self) -> None:
        check_sizes(self, ("d_ff",))

    def tensors(self, d: Num) -> list[Parameter]:
        """One layer's parameters, at width d."""
        names = ("gate", "up") if self.gated else ("up",)
        table = [
            matrix("FFN up projection", f"{name}_proj", group="ffn", embed=d, mlp=self.d_ff) for name in names
        ]
        table.append(matrix("FFN down projection", "down_proj", group="ffn", mlp=self.d_ff, embed=d))
        if self.bias:
            table += [vector("bias", f"{name}_bias", mlp=self.d_ff) for name in names]
            table.append(vector("bias", "down_bias", embed=d))
        return table

    @property
    def inner(self) -> Num:
        """Inner values of one token and matrix."""
        return self.d_ff
