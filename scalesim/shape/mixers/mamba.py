"""State-space mixers: Mamba-2 and Mamba."""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.shape.mixers.base import Mixer
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["Mamba", "Mamba2"]


@register
@dataclass(frozen=True, kw_only=True)
class Mamba2(Mixer):
    """Mamba-2 (arXiv 2405.21060): each head keeps ssm_head_dim x state_size, h <- a h + dt x b^T, gives h c.

    Attributes:
        n_ssm_head: heads, of ssm_head_dim channels each.
        ssm_head_dim: channels of a head.
        state_size: values kept a channel.
        n_group: groups of heads that share b and c.
        kernel: length of the causal filter before it, of which kernel - 1 tokens are kept.
        conv_bias, bias: biases of the filter and of the projections.
        norm: a norm over the gated result.
        state_bits: bits a value of the state; the filter's tokens take 16.
    """

    n_ssm_head: Num
    ssm_head_dim: Num = 64
    state_size: Num = 128
    n_group: Num = 1
    kernel: Num = 4
    conv_bias: bool = static(True)
    bias: bool = static(False)
    norm: bool = static(True)
    state_bits: int = static(16)

    def __post_init__(self) -> None:
        check_sizes(self, ("n_ssm_head", "ssm_head_dim", "state_size", "n_group", "kernel"))

    @property
    def _inner(self) -> Num:
        return self.n_ssm_head * self.ssm_head_dim

    @property
    def _filtered(self) -> Num:
        return self._inner + 2 * self.n_group * self.state_size

    def tensors(self, d: Num) -> list[Parameter]:
        heads, wide = self.n_ssm_head, {"heads": self.n_ssm_head, "head_dim": self.ssm_head_dim}
        table = [
            matrix("in projection", "in_proj", embed=d, **wide),
            matrix("in projection", "gate_proj", embed=d, **wide),
            matrix("in projection", "bc_proj", embed=d, pair=2, groups=self.n_group, state=self.state_size),
            matrix("in projection", "dt_proj", embed=d, heads=heads),
            matrix("output projection", "o_proj", n_in=2, **wide, embed=d),
            vector("bias", "conv", channel=self._filtered, kernel=self.kernel),
            *(vector("bias", name, heads=heads) for name in ("dt_bias", "decay", "skip")),
        ]
        if self.conv_bias:
            table.append(vector("bias", "conv_bias", channel=self._filtered))
        if self.bias:
            table.append(vector("bias", "in_bias", channel=self._filtered + self._inner + heads))
            table.append(vector("bias", "o_bias", embed=d))
        return [*table, vector("norm", "o_norm", **wide)] if self.norm else table

    @property
    def state_bytes(self) -> Num:
        state = self._inner * self.state_size * (self.state_bits // 8)
        return state + 2 * (self.kernel - 1) * self._filtered

    @property
    def step_flops(self) -> Num:
        # Decay 1, the input's outer product 1, their sum 1, the answer 2; and the filter.
        return 5 * self._inner * self.state_size + 2 * self.kernel * self._filtered

    @property
    def moved(self) -> Num:
        return self._filtered + 2 * self._inner


@register
@dataclass(frozen=True, kw_only=True)
class Mamba(Mixer):
    """Mamba (arXiv 2312.00752): each of `inner` channels keeps state_size values, by a decay of its own.

    Attributes:
        inner: channels.
        state_size: values kept a channel.
        dt_rank: rank of the step's projection.
        kernel: length of the causal filter.
        conv_bias, bias: biases of the filter and of the projections.
        norms: norms of step, b and c (Jamba).
        state_bits: bits a value of the state; the filter's tokens take 16.
    """

    inner: Num
    state_size: Num = 16
    dt_rank: Num = 256
    kernel: Num = 4
    conv_bias: bool = static(True)
    bias: bool = static(False)
    norms: bool = static(False)
    state_bits: int = static(16)

    def __post_init__(self) -> None:
        check_sizes(self, ("inner", "state_size", "dt_rank", "kernel"))

    def tensors(self, d: Num) -> list[Parameter]:
        inner, state, rank = self.inner, self.state_size, self.dt_rank
        table = [
            matrix("in projection", "in_proj", embed=d, pair=2, mlp=inner),
            matrix("step projection", "x_proj", mlp=inner, latent=rank + 2 * state),
            matrix("dt projection", "dt_proj", latent=rank, mlp=inner),
            matrix("output projection", "o_proj", mlp=inner, embed=d),
            vector("bias", "conv", mlp=inner, kernel=self.kernel),
            vector("bias", "decay", mlp=inner, state=state),
            vector("bias", "dt_bias", mlp=inner),
            vector("bias", "skip", mlp=inner),
        ]
        if self.conv_bias:
            table.append(vector("bias", "conv_bias", mlp=inner))
        if self.bias:
            table += [vector("bias", "in_bias", pair=2, mlp=inner), vector("bias", "o_bias", embed=d)]
        if self.norms:
            table += [vector("norm", "dt_norm", latent=rank)]
            table += [vector("norm", f"{name}_norm", state=state) for name in "bc"]
        return table

    @property
    def state_bytes(self) -> Num:
        return self.inner * (self.state_size * (self.state_bits // 8) + 2 * (self.kernel - 1))

    @property
    def step_flops(self) -> Num:
        return self.inner * (7 * self.state_size + 2 * self.kernel)

    @property
    def moved(self) -> Num:
        return 4 * self.inner
