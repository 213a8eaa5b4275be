"""One layer of a config, by the rules of its family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from scalesim.errors import InvalidInput, choose
from scalesim.interop.fields import Fields
from scalesim.shape import Attention, Block, Dense, LatentAttention, MixtureOfExperts
from scalesim.shape.ffn import FFN

__all__ = [
    "Experts",
    "Rules",
    "attention",
    "experts",
    "feed_forward",
    "is_local",
    "latent",
    "layer",
    "layer_kind",
]


@dataclass(frozen=True, kw_only=True)
class Experts:
    """What a family calls the fields of its experts, and what they have.

    `shared` is a field with the number of shared experts, `shared_d_ff` one with their width together,
    `dense` one with the width of layers without experts. DeepSeek-V3's bias of the router is no parameter but
    a buffer, and not counted; where it is one, `router_bias`. `every` says which layers have experts: by
    decoder_sparse_step, moe_layer_freq and first_k_dense_replace, or by expert_layer_period and
    expert_layer_offset.
    """

    n: str = "num_experts"
    top_k: str = "num_experts_per_tok"
    d_ff: str = "moe_intermediate_size"
    shared: str | None = None
    shared_d_ff: str | None = None
    shared_gate: bool = False
    dense: str = "intermediate_size"
    bias: bool = False
    router_bias: bool = False
    every: Literal["step", "expert_layer"] = "step"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a family's layers have; a bias is there, not there, or as a field says.

    `qk_norm` may be `field:kind`. `window` tells which layers are local: all, as `layer_types` lists, every
    one but each `pattern`-th, or Qwen's from max_window_layers on. `one_norm` is a field (or a function) that
    makes one norm serve attention and FFN, `post_norm` one that adds a norm after each. `plain_heads`: its
    class knows neither KV heads nor a size of heads.
    """

    mixer: Literal["attention", "latent"] = "attention"
    norms: int = 2
    one_norm: str | Callable[[Fields], bool] | None = None
    post_norm: str | None = None
    qkv_bias: bool | str = "attention_bias"
    output_bias: bool | str = "attention_bias"
    ffn_bias: bool | str = False
    gated: bool = True
    qk_norm: str = "none"
    gate: Literal["none", "value", "head"] = "none"
    sinks: bool = False
    window: Literal["none", "all", "listed", "pattern", "qwen"] = "none"
    pattern: int = 1
    kv: Callable[[Fields], int | None] | None = None
    plain_heads: bool = False
    experts: Experts | None = None


def layer(f: Fields, rules: Rules, i: int) -> Block:
    """Return layer i of a decoder with attention and an FFN in every layer."""
    f.seen("use_parallel_residual")  # in parallel or one after the other: the same tensors
    mixer = latent(f, i) if rules.mixer == "latent" else attention(f, rules, i)
    norms = rules.norms
    if rules.one_norm is not None:
        one = f.flag(rules.one_norm) if isinstance(rules.one_norm, str) else rules.one_norm(f)
        norms = 1 if one else norms
    if rules.post_norm is not None and f.flag(rules.post_norm):
        norms += 2
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i), norms=norms)


def heads(f: Fields, rules: Rules) -> tuple[int, int, int]:
    """Return query heads, KV heads and head_dim."""
    n_head = f.size("num_attention_heads")
    if rules.plain_heads:
        return n_head, n_head, f.quotient("hidden_size", "num_attention_heads")
    own = rules.kv(f) if rules.kv is not None else f.optional("num_key_value_heads", zero=False)
    return n_head, own or n_head, f.optional("head_dim") or f.quotient("hidden_size", "num_attention_heads")


def attention(f: Fields, rules: Rules, i: int, **changes: Any) -> Attention:
    """Return layer i's grouped-query attention."""
    n_head, n_kv_head, head_dim = heads(f, rules)
    qk_norm = rules.qk_norm
    if ":" in qk_norm:
        name, kind = qk_norm.split(":")
        qk_norm = kind if f.flag(name) else "none"
    fields = {
        "n_head": n_head,
        "n_kv_head": n_kv_head,
        "head_dim": head_dim,
        "window": None if "window" in changes else window(f, rules, i),
        "qkv_bias": f.flag(rules.qkv_bias),
        "output_bias": f.flag(rules.output_bias),
        "qk_norm": qk_norm,
        "gate": rules.gate,
        "sinks": rules.sinks,
    }
    return Attention(**{**fields, **changes})


def latent(f: Fields, i: int) -> LatentAttention:
    """Return a layer's latent attention."""
    n_head, kv = f.size("num_attention_heads"), f.optional("num_key_value_heads", zero=False)
    f.raw("head_dim")
    if kv not in (None, n_head):
        raise InvalidInput(
            f"num_key_value_heads must be num_attention_heads = {n_head} with latent attention, but is {kv}."
        )
    index = f.optional("index_n_heads")
    f.seen("layer_types")  # "indexed_attention" in all of them
    return LatentAttention(
        n_head=n_head,
        kv_lora_rank=f.size("kv_lora_rank"),
        q_lora_rank=f.optional("q_lora_rank"),
        head_dim=f.size("qk_nope_head_dim") + f.size("qk_rope_head_dim"),
        rope_dim=f.size("qk_rope_head_dim"),
        v_head_dim=f.size("v_head_dim"),
        bias=f.flag("attention_bias"),
        n_index_head=index if index and _has_indexer(f, i) else None,
        index_head_dim=f.size("index_head_dim") if index else 128,
        index_top_k=f.size("index_topk") if index else None,
    )


def _has_indexer(f: Fields, i: int) -> bool:
    """Tell whether layer i picks its tokens, rather than taking those of an earlier layer (GLM-5.2)."""
    n_layer, pattern = f.size("num_hidden_layers"), f.raw("index_topk_pattern")
    kinds = f.listed("indexer_types", n_layer)
    if kinds is None and pattern is not None:
        kinds = [{"F": "full", "S": "shared"}.get(str(p).upper(), str(p)) for p in pattern]
        if len(kinds) < n_layer:
            raise InvalidInput(f"index_topk_pattern must have num_hidden_layers = {n_layer} letters.")
    if kinds is not None:
        return choose("indexer_types", str(kinds[i]), ("full", "shared")) == "full"
    every, offset = f.count("index_topk_freq", 1) or 1, f.raw("index_skip_topk_offset", 2)
    return max(i - offset + 1, 0) % every == 0


def window(f: Fields, rules: Rules, i: int) -> int | None:
    """Return the window of layer i, None where it sees all."""
    size = f.optional("sliding_window")
    local = is_local(f, rules, i)
    if local and size is None:
        # Qwen's classes write "sliding_attention" of layers whose window is null: they see all.
        if "sliding_window" in f.config or f.raw("layer_types") is None:
            return None
        raise InvalidInput("sliding_window is missing, but layer_types has sliding_attention.")
    return size if local else None


def is_local(f: Fields, rules: Rules, i: int) -> bool:
    """Tell whether layer i has a window: by layer_types where it is listed, else by the family's rule."""
    n_layer = f.size("num_hidden_layers")
    kinds = f.listed("layer_types", n_layer)
    pattern = f.raw("sliding_window_pattern")
    used = f.flag("use_sliding_window", default=rules.window not in ("qwen", "listed"))
    f.seen("max_window_layers")
    if kinds is not None:
        for kind in kinds:
            choose("layer_types", str(kind), ("full_attention", "sliding_attention"))
        return kinds[i] == "sliding_attention"
    if not used or rules.window == "none":
        return False
    if rules.window == "qwen":
        return i >= f.count("max_window_layers") and f.raw("sliding_window") is not None
    if isinstance(pattern, str):  # "LLLG"
        return pattern[i % len(pattern)] == "L"
    if rules.window == "pattern":
        return (i + 1) % (pattern or rules.pattern) != 0
    return rules.window == "all"


def layer_kind(f: Fields, i: int, *known: str, name: str = "layer_types") -> str | None:
    """Return what a list of the config calls layer i, one of the `known`; None where there is no list."""
    listed = f.listed(name, f.size("num_hidden_layers"))
    return None if listed is None else choose(name, str(listed[i]), known)


def feed_forward(f: Fields, rules: Rules, i: int) -> FFN:
    """Return layer i's FFN: experts where the family has them there."""
    if rules.experts is not None and has_experts(f, rules.experts, i):
        if f.flag(rules.ffn_bias):
            raise InvalidInput(f"{rules.ffn_bias} must be false where {f.family}'s layers have experts.")
        return replace(experts(f, rules.experts), gated=rules.gated)
    d_ff = f.optional("intermediate_size" if rules.experts is None else rules.experts.dense)
    if d_ff is None:
        d_ff = round(f.size("hidden_size") * (f.raw("expansion_ratio") or 4))
    return Dense(d_ff=d_ff, gated=rules.gated, bias=f.flag(rules.ffn_bias))


def has_experts(f: Fields, names: Experts, i: int) -> bool:
    """Tell whether layer i has experts."""
    if f.raw(names.n) == 0:
        return False
    if names.every == "expert_layer":
        return i % f.size("expert_layer_period", 2) == f.count("expert_layer_offset", 1)
    dense = f.listed("mlp_only_layers") or ()
    step = f.size("decoder_sparse_step", 1)
    first = f.count("first_k_dense_replace", f.count("num_dense_layers", f.count("moe_layer_start_index")))
    last, stride = f.raw("moe_layer_end_index"), f.size("moe_layer_interval", 1)
    enumerated = f.raw("moe_layers_enum")
    freq = f.raw("moe_layer_freq")
    listed = f.listed("mlp_layer_types", f.size("num_hidden_layers"))
    if listed is not None:
        return choose("mlp_layer_types", str(listed[i]), ("sparse", "dense")) == "sparse"
    if enumerated is not None:  # "3,4,5", or a list
        each = enumerated.split(",") if isinstance(enumerated, str) else enumerated
        return i in {int(n) for n in each if str(n).strip()}
    if isinstance(freq, list):
        return bool(f.listed("moe_layer_freq", f.size("num_hidden_layers"))[i])  # type: ignore[index]
    every = f.size("moe_layer_freq", 1)
    if last is not None and last >= 0 and i > last:
        return False
    return i not in dense and (i + 1) % step == (i + 1) % stride == i % every == 0 and i >= first


def experts(f: Fields, names: Experts) -> MixtureOfExperts:
    """Return a layer's experts."""
    f.seen("intermediate_size", "experts_per_token", "use_routing_bias", "shared_intermediate_size")
    f.seen("dense_intermediate_size", "moe_layer_freq", "moe_shared_expert_intermediate_size")
    shared = 0
    if names.shared is not None:
        shared = f.count(names.shared) * f.size(names.d_ff)
    elif names.shared_d_ff is not None:
        shared = f.count(names.shared_d_ff)
    return MixtureOfExperts(
        n_expert=f.size(names.n),
        top_k=f.size(names.top_k),
        d_ff=f.size(names.d_ff),
        d_ff_shared=shared,
        bias=names.bias,
        router_bias=names.router_bias,
        shared_gate=names.shared_gate and bool(shared),
    )
