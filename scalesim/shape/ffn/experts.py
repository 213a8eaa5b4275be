"""A mixture of experts, of which each token visits a few."""

from __future__ import annotations

from dataclasses import dataclass, replace

from scalesim.errors import InvalidInput
from scalesim.pytree import register, static
from scalesim.shape.checks import check_sizes
from scalesim.shape.parameters import Parameter, matrix, vector
from scalesim.types import Num

__all__ = ["MixtureOfExperts"]


@register
@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts:
    """Routed experts, and what every token visits beside them.

    Attributes:
        n_expert: routed experts in a layer.
        top_k: routed experts that a token visits.
        d_ff: inner width of one expert.
        d_ff_shared: inner width of what every token visits (None, or a plain 0: nothing).
        d_expert: width that the routed experts read and write, between two projections (None: d_model;
            Nemotron 3's latent experts).
        gated: three matrices an expert rather than two.
        bias: biases on router and experts (gpt-oss).
        router_bias: the router has a bias an expert (DeepSeek-V3's load balancing).
        shared_gate: a gate of one value on the shared expert (Qwen2-MoE).
    """

    n_expert: Num
    top_k: Num
    d_ff: Num
    d_ff_shared: Num | None = None
    d_expert: Num | None = None
    gated: bool = static(True)
    bias: bool = static(False)
    router_bias: bool = static(False)
    shared_gate: bool = static(False)

    def __post_init__(self) -> None:
        if isinstance(self.d_ff_shared, int | float) and self.d_ff_shared == 0:
            object.__setattr__(self, "d_ff_shared", None)
        check_sizes(self, ("n_expert", "top_k", "d_ff"))
        check_sizes(self, tuple(n for n in ("d_ff_shared", "d_expert") if getattr(self, n) is not None))
        both = (self.top_k, self.n_expert)
        if all(isinstance(value, int | float) for value in both) and self.top_k > self.n_expert:
            raise InvalidInput(f"top_k must be at most n_expert = {self.n_expert}, but is {self.top_k}.")

    def tensors(self, d: Num) -> list[Parameter]:
        """One layer's parameters, at width d."""
        n, wide = self.n_expert, d if self.d_expert is None else self.d_expert
        names = ("gate", "up") if self.gated else ("up",)

        def block(
            prefix: str, operator: str, width: Num, depth: Num, lead: dict[str, Num]
        ) -> list[Parameter]:
            first, last = f"{operator} up projection", f"{operator} down projection"
            return [
                *(
                    matrix(first, f"{prefix}_{x}_proj", group="ffn", **lead, embed=depth, mlp=width)
                    for x in names
                ),
                matrix(last, f"{prefix}_down_proj", group="ffn", **lead, mlp=width, embed=depth),
            ]

        table = [matrix("router", "router", group="ffn", embed=d, expert_out=n)]
        table += block("expert", "expert", self.d_ff, wide, {"expert": n})
        if self.d_expert is not None:
            table.append(matrix("expert in projection", "expert_in_proj", group="ffn", embed=d, latent=wide))
            table.append(
                matrix("expert out projection", "expert_out_proj", group="ffn", latent=wide, embed=d)
            )
        if self.d_ff_shared is not None:
            table += block("shared", "shared expert", self.d_ff_shared, d, {})
            if self.shared_gate:
                table.append(matrix("router", "shared_gate", group="ffn", embed=d, one=1))
        if self.bias:
            table += [vector("bias", f"expert_{x}_bias", expert=n, mlp=self.d_ff) for x in names]
            table.append(vector("bias", "expert_down_bias", expert=n, embed=wide))
        if self.bias or self.router_bias:
            table.append(vector("bias", "router_bias", expert_out=n))
        return [replace(p, visited=self.top_k) if p.axes[0] == "expert" else p for p in table]

    @property
    def inner(self) -> Num:
        """Inner values of one token and matrix, of all experts that it visits."""
        routed = self.top_k * self.d_ff
        return routed if self.d_ff_shared is None else routed + self.d_ff_shared
