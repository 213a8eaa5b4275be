"""How a model is computed, as apart from what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalesim.errors import InvalidInput, choose

__all__ = ["ModelOptions"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a shape's model is computed; none of this changes its parameters.

    Attributes:
        dtype: of activations and matrix products; parameters are kept in float32.
        attention: "blocked" is made for CPUs (`scalesim.model.blocked`); "xla" and "cudnn" are those of
            `jax.nn.dot_product_attention`; "auto" is blocked on a CPU, cuDNN's flash attention on an NVIDIA
            GPU in bfloat16, and xla elsewhere.
        remat: what the backward pass computes again rather than keeps: nothing, all but the matrix
            products' results ("dots"), or all of a block ("block").
        unroll: blocks of the scan over layers laid out one after another (0: all of up to 16 layers on a
            CPU, where the loop's copies cost 7% of a step; 1 elsewhere).
        rope_theta: base of the rotary frequencies.
        norm_eps: added to the mean square in RMSNorm.
        logit_scale: multiplies the logits (muP's output multiplier; 1 in the published models).

    >>> ModelOptions(dtype="bfloat16").remat
    'none'
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["auto", "blocked", "xla", "cudnn"] = "auto"
    remat: Literal["none", "dots", "block"] = "none"
    unroll: int = 0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    logit_scale: float = 1.0

    def __post_init__(self) -> None:
        choose("dtype", self.dtype, ("float32", "bfloat16"))
        choose("attention", self.attention, ("auto", "blocked", "xla", "cudnn"))
        choose("remat", self.remat, ("none", "dots", "block"))
        if self.unroll < 0:
            raise InvalidInput(f"unroll must be 0 (chosen) or more, but is {self.unroll}.")
