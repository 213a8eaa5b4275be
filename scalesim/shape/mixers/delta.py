"""The gated delta rule: a matrix of state for each head instead of a cache."""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.shape.mixers.base import Mixer
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["DeltaNet", "KimiDelta"]


@register
@dataclass(frozen=True, kw_only=True)
class DeltaNet(Mixer):
    """Gated DeltaNet (arXiv 2412.06464), as Qwen3-Next and Qwen3.5 have it.

    A head keeps S of k_head_dim x v_head_dim: S <- g S + beta k (v - (g S)^T k)^T, and gives S^T q. Before
    it, queries, keys and values pass a causal filter of `kernel` tokens, of which kernel - 1 are kept.

    Attributes:
        n_k_head, n_v_head: heads of queries and keys, and of values; groups of the latter share a key.
        k_head_dim, v_head_dim: their sizes.
        kernel: length of the filter.
        state_bits: bits a value of S; the filter's tokens take 16.
    """

    n_k_head: Num
    n_v_head: Num
    k_head_dim: Num = 128
    v_head_dim: Num = 128
    kernel: Num = 4
    state_bits: int = static(32)

    def __post_init__(self) -> None:
        check_sizes(self, ("n_k_head", "n_v_head", "k_head_dim", "v_head_dim", "kernel"))
        both = self.n_v_head, self.n_k_head
        if all(isinstance(n, int) for n in both) and both[0] % both[1]:
            raise InvalidInput(f"n_v_head must be a multiple of n_k_head = {both[1]}, but is {both[0]}.")

    @property
    def _filtered(self) -> Num:
        return 2 * self.n_k_head * self.k_head_dim + self.n_v_head * self.v_head_dim

    def tensors(self, d: Num) -> list[Parameter]:
        name, keys, values = "qkvz projection", self.n_k_head, self.n_v_head
        return [
            matrix(name, "q_proj", embed=d, heads=keys, head_dim=self.k_head_dim),
            matrix(name, "k_proj", embed=d, heads=keys, head_dim=self.k_head_dim),
            matrix(name, "v_proj", embed=d, heads=values, head_dim=self.v_head_dim),
            matrix(name, "attention_gate", embed=d, heads=values, head_dim=self.v_head_dim),
            matrix(name, "beta_proj", embed=d, heads=values),
            matrix(name, "decay_proj", embed=d, heads=values),
            matrix("output projection", "o_proj", n_in=2, heads=values, head_dim=self.v_head_dim, embed=d),
            vector("bias", "conv", channel=self._filtered, kernel=self.kernel),
            vector("bias", "decay", heads=values),
            vector("bias", "decay_bias", heads=values),
            vector("norm", "o_norm", head_dim=self.v_head_dim),
        ]

    @property
    def _state(self) -> Num:
        return self.n_v_head * self.k_head_dim * self.v_head_dim

    @property
    def state_bytes(self) -> Num:
        return self._state * (self.state_bits // 8) + 2 * (self.kernel - 1) * self._filtered

    @property
    def step_flops(self) -> Num:
        # Decay 1, what the key recalls 2, the correction 2, the answer 2; and the filter.
        return 7 * self._state + 2 * self.kernel * self._filtered

    @property
    def moved(self) -> Num:
        return self._filtered + 2 * self.n_v_head * self.v_head_dim


@register
@dataclass(frozen=True, kw_only=True)
class KimiDelta(DeltaNet):
    """Kimi Delta Attention (arXiv 2510.26692): a delta net whose channels of a key decay each by itself.

    Attributes:
        decay_rank, gate_rank: ranks of the projections to decays and output gates (None: whole matrices).
    """

    decay_rank: Num | None = None
    gate_rank: Num | None = None

    def tensors(self, d: Num) -> list[Parameter]:
        wide = {
            "decay": ({"heads": self.n_k_head, "head_dim": self.k_head_dim}, self.decay_rank),
            "gate": ({"heads": self.n_v_head, "head_dim": self.v_head_dim}, self.gate_rank),
        }
        table = [
            p for p in super().tensors(d) if p.name not in ("attention_gate", "decay_proj", "decay_bias")
        ]
        for name, (sizes, rank) in wide.items():
            if rank is None:
                table.append(matrix("qkvz projection", f"{name}_proj", embed=d, **sizes))
            else:
                table.append(matrix("qkvz projection", f"{name}_a_proj", embed=d, latent=rank))
                table.append(matrix(f"{name} up projection", f"{name}_b_proj", latent=rank, **sizes))
        return [*table, vector("bias", "decay_bias", **wide["decay"][0])]
