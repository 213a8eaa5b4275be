"""Layers of the families with experts whose attention or FFN differ by layer: one function a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

from scalesim.interop.fields import Fields
from scalesim.interop.layers import Rules, attention, feed_forward, is_local, layer, layer_kind
from scalesim.shape import Attention, Block, Dense, IndexedAttention, MixtureOfExperts
from scalesim.shape.ffn import FFN


def axk1(f: Fields, rules: Rules, i: int) -> Block:
    """A.X K1: a norm after the experts."""
    block = layer(f, rules, i)
    return replace(block, norms=3) if isinstance(block.ffn, MixtureOfExperts) else block


def bailing_moe(f: Fields, rules: Rules, i: int) -> Block:
    """Ling 1 and 2: a bias of the router may be a parameter."""
    biased, block = f.flag("moe_router_enable_expert_bias"), layer(f, rules, i)
    if biased and isinstance(block.ffn, MixtureOfExperts):
        block = replace(block, ffn=replace(block.ffn, router_bias=True))
    return block


def dbrx(f: Fields, rules: Rules, i: int) -> Block:
    """DBRX: its attention's and experts' sizes stand in objects of their own."""
    inner = {}
    for name in ("attn_config", "ffn_config"):
        own = f.raw(name)
        inner[name] = Fields(own if isinstance(own, Mapping) else {}, f"dbrx {name}", {}, {})
    kv, moe = inner["attn_config"].size("kv_n_heads", 1), inner["ffn_config"]
    n, top_k, d_ff = moe.size("moe_num_experts"), moe.size("moe_top_k"), moe.size("ffn_hidden_size")
    ffn = MixtureOfExperts(n_expert=n, top_k=top_k, d_ff=d_ff)
    return Block(mixer=attention(f, rules, i, n_kv_head=kv, window=None), ffn=ffn)


def hunyuan(f: Fields, rules: Rules, i: int) -> Block:
    """Hunyuan: experts beside a dense FFN, sizes by layer."""
    d_ff = f.optional("moe_intermediate_size") or f.size("intermediate_size")
    f.seen("intermediate_size", "use_mixed_mlp_moe", "use_qk_norm", "attention_head_dim")
    f.seen("use_cla", "cla_share_factor", "moe_layer_num_skipped")
    head_dim = f.optional("head_dim") or f.optional("attention_head_dim")
    ffn = MixtureOfExperts(
        n_expert=f.size("num_experts"),
        top_k=f.size("num_experts_per_tok"),
        d_ff=d_ff,
        d_ff_shared=f.count("n_shared_experts", 1) * d_ff,
    )
    own = {} if head_dim is None else {"head_dim": head_dim}
    return Block(mixer=attention(f, rules, i, window=None, **own), ffn=ffn)


def laguna(f: Fields, rules: Rules, i: int) -> Block:
    """Laguna: query heads by layer, and a gate for each or for each value."""
    heads = f.optional("num_attention_heads_per_layer") or f.size("num_attention_heads")
    gate = "head" if f.raw("gating", True) in (True, "per-head") else "value"
    mixer = attention(f, rules, i, gate=gate, n_head=heads)
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i))


def step(f: Fields, rules: Rules, i: int) -> Block:
    """Step 3.5 and 3.7: a window in most layers, with heads of their own; a gate for each head."""
    f.seen("attention_other_setting", "num_sliding_attention_heads", "n_shared_experts")
    local, other = is_local(f, rules, i), f.raw("attention_other_setting")
    heads = f.optional("num_sliding_attention_heads")
    if heads is None and isinstance(other, Mapping):
        heads = other.get("num_attention_heads")
    mixer = attention(f, rules, i)
    if local and heads is not None:
        mixer = replace(mixer, n_head=int(heads))
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i))


def minimax_m3(f: Fields, rules: Rules, i: int) -> Block:
    """MiniMax-M3: an indexer picks blocks of keys for the queries of the sparse layers."""
    old = f.raw("sparse_attention_config") or {}
    names = ("index_n_heads", "index_head_dim", "index_block_size", "index_topk_blocks")
    olds = ("sparse_num_index_heads", "sparse_index_dim", "sparse_block_size", "sparse_topk_blocks")
    n, size, block, most = (
        f.size(name, old.get(other, default))
        for name, other, default in zip(names, olds, (4, 128, 128, 16), strict=True)
    )
    f.seen("moe_intermediate_size", "n_shared_experts")
    kind = layer_kind(f, i, "full_attention", "minimax_m3_sparse")
    sparse = bool(old.get("sparse_attention_freq", [0] * (i + 1))[i]) if kind is None else "sparse" in kind
    mixer = attention(f, rules, i, window=None)
    if sparse:
        own = {x.name: getattr(mixer, x.name) for x in fields(mixer)}
        mixer = IndexedAttention(**own, n_index_head=n, index_head_dim=size, index_top_k=most * block)
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i))


def llama_4(f: Fields, rules: Rules, i: int) -> Block:
    """Llama 4: chunks of attention but in every fourth layer; experts in every so-many-th."""
    f.seen("use_qk_norm")
    every = f.size("no_rope_layer_interval", 4)
    full = f.listed("no_rope_layers", f.size("num_hidden_layers")) or []
    kind = layer_kind(f, i, "chunked_attention", "full_attention")
    is_full = kind == "full_attention" if kind else (full[i] == 0 if full else (i + 1) % every == 0)
    mixer = attention(f, Rules(), i, window=None if is_full else f.optional("attention_chunk_size"))
    width, step = f.size("intermediate_size"), f.size("interleave_moe_layer_step", 1)
    listed = f.listed("moe_layers")
    dense = Dense(d_ff=f.size("intermediate_size_mlp"))
    n, top_k = f.size("num_local_experts"), f.size("num_experts_per_tok")
    moe = MixtureOfExperts(n_expert=n, top_k=top_k, d_ff=width, d_ff_shared=width)
    has = i in listed if listed else (i + 1) % step == 0
    return Block(mixer=mixer, ffn=moe if has else dense)


def mimo_v2(f: Fields, rules: Rules, i: int) -> Block:
    """MiMo-V2: local and global layers with heads of their own, values shorter than keys."""
    pattern, kind = (
        f.listed("hybrid_layer_pattern", f.size("num_hidden_layers")),
        layer_kind(f, i, "full_attention", "sliding_attention"),
    )
    if pattern is None and kind is None:  # as its class has it
        kind = "full_attention" if i == 0 or (i + 1) % 6 == 0 else "sliding_attention"
    local = pattern[i] == 1 if pattern is not None else kind == "sliding_attention"
    f.seen("attention_chunk_size")
    prefix = "swa_" if local else ""
    names = ("num_attention_heads", "num_key_value_heads")
    # transformers writes no sizes of local layers: twice the KV heads, the rest alike.
    twice = 2 if local else 1
    n_head = f.size(f"{prefix}{names[0]}", f.size(names[0]))
    n_kv_head = f.size(f"{prefix}{names[1]}", twice * f.size(names[1]))
    f.seen(*names)
    f.seen(
        *(f"swa_{name}" for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim"))
    )
    mixer = Attention(
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=f.size(f"{prefix}head_dim", f.size("head_dim")),
        v_head_dim=f.size(f"{prefix}v_head_dim", f.size("v_head_dim")),
        window=f.size("sliding_window") if local else None,
        sinks=f.flag("add_swa_attention_sink_bias", kind is not None)
        if local
        else f.flag("add_full_attention_sink_bias"),
        qkv_bias=f.flag("attention_bias"),
    )
    moe = f.listed("moe_layer_freq", f.size("num_hidden_layers"))
    listed = f.listed("mlp_layer_types", f.size("num_hidden_layers"))
    if moe is None:
        moe = [i > 0 for i in range(i + 1)] if listed is None else [kind == "sparse" for kind in listed]
    shared = f.count("n_shared_experts") * f.size("moe_intermediate_size")
    if moe[i]:
        n, top_k, width = (
            f.size(x) for x in ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
        )
        ffn: FFN = MixtureOfExperts(n_expert=n, top_k=top_k, d_ff=width, d_ff_shared=shared)
    else:
        ffn = Dense(d_ff=f.size("intermediate_size"))
    return Block(mixer=mixer, ffn=ffn)
