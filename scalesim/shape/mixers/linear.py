"""Linear attention and short convolutions: mixers of constant size."""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.shape.mixers.base import Mixer
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["LinearAttention", "ShortConv"]


@register
@dataclass(frozen=True, kw_only=True)
class LinearAttention(Mixer):
    """Lightning attention (arXiv 2401.04658), with MiniMax-01's gate: S <- decay S + k v^T, gives S^T q.

    Attributes:
        n_linear_head: heads of queries, keys and values.
        linear_head_dim: their size.
        gate: an output gate as wide as the values.
        norm: a norm over the result.
        state_bits: bits a value of S.
    """

    n_linear_head: Num
    linear_head_dim: Num = 128
    gate: bool = static(True)
    norm: bool = static(True)
    state_bits: int = static(32)

    def __post_init__(self) -> None:
        check_sizes(self, ("n_linear_head", "linear_head_dim"))

    def tensors(self, d: Num) -> list[Parameter]:
        wide = {"heads": self.n_linear_head, "head_dim": self.linear_head_dim}
        names = ("q_proj", "k_proj", "v_proj", *(("attention_gate",) if self.gate else ()))
        table = [matrix("qkv projection", name, embed=d, **wide) for name in names]
        table.append(matrix("output projection", "o_proj", n_in=2, **wide, embed=d))
        return [*table, vector("norm", "o_norm", **wide)] if self.norm else table

    @property
    def _state(self) -> Num:
        return self.n_linear_head * self.linear_head_dim * self.linear_head_dim

    @property
    def state_bytes(self) -> Num:
        return self._state * (self.state_bits // 8)

    @property
    def step_flops(self) -> Num:
        return 5 * self._state

    @property
    def moved(self) -> Num:
        return 4 * self.n_linear_head * self.linear_head_dim


@register
@dataclass(frozen=True, kw_only=True)
class ShortConv(Mixer):
    """A gated causal filter of `kernel` tokens (LFM2): o_proj(c * filter(b * x)), all as wide as the model.

    Attributes:
        kernel: length of the filter, of which kernel - 1 tokens are kept.
        width: channels, d_model.
        bias: biases on filter and projections.
    """

    width: Num
    kernel: Num = 3
    bias: bool = static(False)

    def __post_init__(self) -> None:
        check_sizes(self, ("width", "kernel"))

    def tensors(self, d: Num) -> list[Parameter]:
        table = [
            matrix("in projection", "in_proj", embed=d, part=3, mlp=self.width),
            matrix("output projection", "o_proj", mlp=self.width, embed=d),
            vector("bias", "conv", mlp=self.width, kernel=self.kernel),
        ]
        if self.bias:
            table += [vector("bias", "in_bias", part=3, mlp=self.width), vector("bias", "o_bias", embed=d)]
            table.append(vector("bias", "conv_bias", mlp=self.width))
        return table

    @property
    def state_bytes(self) -> Num:
        return 2 * (self.kernel - 1) * self.width

    @property
    def step_flops(self) -> Num:
        return 2 * self.kernel * self.width

    @property
    def moved(self) -> Num:
        return 4 * self.width
