"""Architectures beyond the plain decoder: latent attention, sliding windows, mixtures of experts.

Each is a small pytree in a field of `Shape`, None in the plain case: the dense shape pays nothing for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.types import Num

__all__ = ["LatentAttention", "MixtureOfExperts", "SlidingWindow"]


@register
@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (MLA; DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Keys and values of all heads are made from one latent vector of kv_lora_rank values, and a rotary part
    of rope_dim values that the heads share: the cache holds kv_lora_rank + rope_dim values a token and
    layer, whatever n_head is. The shape's head_dim is that of a query, its last rope_dim values rotary.

    Attributes:
        kv_lora_rank: size of the cached latent vector.
        q_lora_rank: size of the queries' latent vector (None: queries come from the residual stream).
        rope_dim: rotary values of a query's or key's head_dim.
        v_head_dim: size of a value.
    """

    kv_lora_rank: Num
    q_lora_rank: Num | None = None
    rope_dim: Num = 64
    v_head_dim: Num = 128

    def __post_init__(self) -> None:
        check_sizes(self, ("kv_lora_rank", "rope_dim", "v_head_dim"))
        if self.q_lora_rank is not None:
            check_sizes(self, ("q_lora_rank",))


@register
@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """Layers that attend to the last `window` tokens only, mixed with layers that attend to all.

    Attributes:
        window: tokens a local layer attends to and keeps in its cache.
        global_every: every so-many-th layer is global (Gemma 2: 2, Gemma 3: 6; 0: none, as in Mistral).
        n_global: the number of global layers, where they follow no such rule (None: global_every says).
    """

    window: Num
    global_every: int = static(0)
    n_global: Num | None = None

    def __post_init__(self) -> None:
        check_sizes(self, ("window",))
        check_sizes(self, ("global_every",), least=0)
        if self.n_global is not None:
            check_sizes(self, ("n_global",), least=0)


@register
@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts:
    """FFN blocks of which each token visits a few.

    Attributes:
        n_expert: routed experts in a layer.
        top_k: routed experts that a token visits.
        d_ff: inner width of one expert (the shape's own d_ff is that of its dense layers).
        n_shared: experts of the same width that every token visits.
        n_dense_layer: layers with a dense FFN of the shape's d_ff instead (DeepSeek's first layers).
        router_bias: the router has a bias an expert (DeepSeek-V3's load balancing).
    """

    n_expert: Num
    top_k: Num
    d_ff: Num
    n_shared: Num = 0
    n_dense_layer: Num = 0
    router_bias: bool = static(False)

    def __post_init__(self) -> None:
        check_sizes(self, ("n_expert", "top_k", "d_ff"))
        check_sizes(self, ("n_shared", "n_dense_layer"), least=0)
        both = (self.top_k, self.n_expert)
        if all(isinstance(value, int | float) for value in both) and self.top_k > self.n_expert:
            raise InvalidInput(f"top_k must be at most n_expert = {self.n_expert}, but is {self.top_k}.")
