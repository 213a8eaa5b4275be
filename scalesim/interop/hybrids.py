"""Layers of the families whose attention, FFN or residual stream differ by layer: one function a family."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scalesim.errors import InvalidInput, choose
from scalesim.interop.fields import Fields
from scalesim.interop.layers import Rules, attention, feed_forward, is_local, layer, layer_kind
from scalesim.shape import Block, Dense, MixtureOfExperts, Parameter
from scalesim.shape.ffn import FFN
from scalesim.shape.mixers import CompressedAttention
from scalesim.shape.parameters import matrix, vector


def apertus(f: Fields, rules: Rules, i: int) -> Block:
    """Apertus: an activation with two parameters (xIELU)."""
    return replace(layer(f, rules, i), extras=(vector("bias", "activation", pair=2),))


def phi(f: Fields, rules: Rules, i: int) -> Block:
    """Phi 1 to 2 and Persimmon: norms of queries and keys, where there are any, have biases."""
    normed = f.flag("qk_layernorm")
    block = layer(f, replace(rules, qk_norm="head" if normed else "none"), i)
    size = f.quotient("hidden_size", "num_attention_heads")
    biases = tuple(vector("bias", f"{name}_norm_bias", head_dim=size) for name in "qk")
    return replace(block, extras=biases if normed else ())


def bitnet(f: Fields, rules: Rules, i: int) -> Block:
    """BitNet: norms before the output and the down projection."""
    block = layer(f, rules, i)
    heads, inner = f.size("num_attention_heads"), f.size("intermediate_size")
    size = f.quotient("hidden_size", "num_attention_heads")
    own = vector("norm", "attention_sub_norm", heads=heads, head_dim=size)
    return replace(block, extras=(own, vector("norm", "ffn_sub_norm", mlp=inner)))


def diffllama(f: Fields, rules: Rules, i: int) -> Block:
    """DiffLlama: four vectors weigh one attention against another."""
    block = layer(f, rules, i)
    size = f.optional("head_dim") or f.quotient("hidden_size", "num_attention_heads")
    names = [f"lambda_{end}" for end in ("q1", "k1", "q2", "k2")]
    return replace(block, extras=tuple(vector("bias", name, head_dim=size) for name in names))


def gpt_neo(f: Fields, rules: Rules, i: int) -> Block:
    """GPT-Neo: attention to all and to a window in turn."""
    kinds = f.listed("attention_layers", f.size("num_hidden_layers"))
    runs = f.listed("attention_types") or [[["global", "local"], f.size("num_hidden_layers")]]
    expanded = kinds or [kind for names, times in runs for _ in range(times) for kind in names]
    local = choose("attention_layers", str(expanded[i]), ("global", "local")) == "local"
    window = f.size("window_size", 256)
    mixer = attention(f, rules, i, window=window if local else None)
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i))


def _own_window(f: Fields, i: int, pattern: int) -> int | None:
    return f.size("sliding_window") if is_local(f, Rules(window="pattern", pattern=pattern), i) else None


def gemma_3n(f: Fields, rules: Rules, i: int) -> Block:
    """Gemma 3n: several residual streams (AltUp), a low-rank side path, embeddings of each layer."""
    d, n, per = (
        f.size("hidden_size"),
        f.size("altup_num_inputs", 4),
        f.size("hidden_size_per_layer_input", 256),
    )
    rank, n_layer = f.size("laurel_rank", 64), f.size("num_hidden_layers")
    shared = i >= n_layer - f.count("num_kv_shared_layers", 15)
    widths = f.raw("intermediate_size", 16384)
    width = widths[i] if isinstance(widths, list) else f.size("intermediate_size", 16384)
    f.seen("altup_active_idx", "altup_coef_clip", "altup_correct_scale", "activation_sparsity_pattern")
    extras = (
        matrix("side path down", "laurel_left", embed=d, latent=rank),
        matrix("side path up", "laurel_right", latent=rank, embed=d),
        vector("norm", "laurel_norm", embed=d),
        matrix("stream router", "altup_router", embed=d, stream=n),
        vector("norm", "altup_router_norm", embed=d),
        vector("bias", "altup_scale", embed=d),
        vector("bias", "altup_correction", stream=n, into=n),
        vector("bias", "altup_prediction", stream=n, into=n * n),
        *_layer_input(d, per),
    )
    mixer = attention(f, rules, i, window=_own_window(f, i, 5), shared=shared)
    if shared:
        # Its checkpoints hold what these layers do not use.
        kv, size = mixer.n_kv_head, mixer.head_dim
        unused = [matrix("", f"unused_{n}_proj", embed=d, kv_heads=kv, head_dim=size) for n in "kv"]
        extras = (*extras, *unused, vector("norm", "unused_k_norm", head_dim=size))
    return Block(mixer=mixer, ffn=Dense(d_ff=width), norms=4, extras=extras)


def _layer_input(d: int, per: int) -> tuple[Parameter, ...]:
    return (
        matrix("layer input gate", "layer_input_gate", embed=d, latent=per),
        matrix("layer input projection", "layer_input_proj", latent=per, embed=d),
        vector("norm", "layer_input_norm", embed=d),
    )


def _layer_embeddings(f: Fields, per: int) -> list[Parameter]:
    d, width = f.size("hidden_size"), f.size("num_hidden_layers") * per
    table = vector(
        "embedding", "layer_embedding", vocab=f.size("vocab_size_per_layer_input", 262144), latent=width
    )
    made = matrix("layer embedding projection", "layer_embedding_proj", embed=d, latent=width)
    return [table, made, vector("norm", "layer_embedding_norm", latent=per)]


def gemma_3n_once(f: Fields) -> list[Parameter]:
    """Gemma 3n's tensors beside its layers."""
    d, n = f.size("hidden_size"), f.size("altup_num_inputs", 4)
    names = [f"{name}_{j}" for name in ("altup_in", "altup_out") for j in range(1, n)]
    return [
        *_layer_embeddings(f, f.size("hidden_size_per_layer_input", 256)),
        *(matrix("stream projections", name, embed=d, into=d) for name in names),
    ]


def gemma_4(f: Fields, rules: Rules, i: int) -> Block:
    """Gemma 4: local layers, and global ones with heads of their own; experts beside a dense FFN."""
    n_layer, d = f.size("num_hidden_layers"), f.size("hidden_size")
    shared = i >= n_layer - f.count("num_kv_shared_layers")
    f.seen("use_double_wide_mlp")
    window = None if i == n_layer - 1 else _own_window(f, i, 6)  # its class makes the last layer global
    own: dict[str, Any] = {"window": window, "shared": shared}
    alike = f.flag("attention_k_eq_v")
    wide, fewer = f.size("global_head_dim"), f.optional("num_global_key_value_heads", zero=False)
    if window is None:
        own["k_is_v"] = alike
        if not f.config.get("per_layer_config"):  # which says it otherwise
            own |= {"head_dim": wide, **({"n_kv_head": fewer} if alike and fewer else {})}
    d_ff = f.size("intermediate_size") * (2 if shared and f.flag("use_double_wide_mlp") else 1)
    extras: tuple[Parameter, ...] = ()
    ffn: FFN = Dense(d_ff=d_ff)
    f.seen("num_experts", "moe_intermediate_size", "top_k_experts")
    norms = 4
    if f.flag("enable_moe_block"):
        n, width, top_k = (f.size(x) for x in ("num_experts", "moe_intermediate_size", "top_k_experts"))
        ffn, norms = MixtureOfExperts(n_expert=n, top_k=top_k, d_ff=width, d_ff_shared=d_ff), 7
        extras = (vector("bias", "router_scale", embed=d), vector("bias", "expert_scale", expert_out=n))
    elif f.config.get("num_experts"):
        raise InvalidInput("enable_moe_block must be true where a gemma4 config has experts, but is false.")
    per = f.count("hidden_size_per_layer_input")
    return Block(
        mixer=attention(f, rules, i, **own),
        ffn=ffn,
        norms=norms,
        extras=extras + (_layer_input(d, per) if per else ()),
    )


def gemma_4_once(f: Fields) -> list[Parameter]:
    """Gemma 4's embeddings of each layer, where it has them."""
    f.optional("vocab_size_per_layer_input")
    per = f.count("hidden_size_per_layer_input")
    return _layer_embeddings(f, per) if per else []


def nemotron_nas(f: Fields, rules: Rules, i: int) -> Block:
    """Nemotron found by NAS: blocks of unequal heads and widths, some without attention or FFN."""
    blocks = f.listed("block_configs", f.size("num_hidden_layers"))
    if blocks is None:
        raise InvalidInput("block_configs is missing from the nemotron-nas config; a list would do.")
    d, n_head, one = f.size("hidden_size"), f.size("num_attention_heads"), blocks[i]
    mixer, ffn, extras, norms = None, None, [], 0
    own = one.get("attention") or {}
    if own.get("replace_with_linear"):
        extras, norms = [matrix("linear layer", "attention_linear", embed=d, into=d)], 1
    elif not own.get("no_op"):
        group = own.get("n_heads_in_group")
        if not isinstance(group, int) or group < 1 or n_head % group:
            raise InvalidInput(
                f"n_heads_in_group must divide num_attention_heads = {n_head}, but is {group!r}."
            )
        mixer, norms = attention(f, rules, i, n_kv_head=n_head // group, window=own.get("window_length")), 1
    own = one.get("ffn") or {}
    if own.get("replace_with_linear"):
        extras, norms = [*extras, matrix("linear layer", "ffn_linear", embed=d, into=d)], norms + 1
    elif not own.get("no_op"):
        width = own.get("intermediate_size") or -(-int(2 * own["ffn_mult"] * d / 3) // 256) * 256
        ffn, norms = Dense(d_ff=width), norms + 1
    return Block(mixer=mixer, ffn=ffn, norms=norms, extras=tuple(extras))


def falcon_heads(f: Fields) -> int | None:
    """Falcon: one KV head, or num_kv_heads in the new architecture."""
    new, many = f.flag("new_decoder_architecture"), f.optional("num_kv_heads", zero=False)
    return many if new or not f.flag("multi_query", True) else 1


def falcon_one_norm(f: Fields) -> bool:
    """Falcon: attention and FFN in parallel after one norm (in the new architecture after two)."""
    f.seen("alibi", "num_ln_in_parallel_attn")
    two = f.flag("new_decoder_architecture") and f.raw("num_ln_in_parallel_attn") != 1
    return f.flag("parallel_attn", True) and not two


RATES = {"sliding_attention": 0, "compressed_sparse_attention": 4, "heavily_compressed_attention": 128}


def deepseek_v4(f: Fields, rules: Rules, i: int) -> Block:
    """DeepSeek-V4: a window and compressed tokens, one shared key and value; mixed residual streams."""
    n_layer, d, streams = f.size("num_hidden_layers"), f.size("hidden_size"), f.size("hc_mult", 4)
    ratios, rates = f.listed("compress_ratios"), {**RATES, **(f.raw("compress_rates") or {})}
    f.seen("mlp_layer_types", "moe_layer_types")
    kind = layer_kind(f, i, *RATES)
    if ratios is not None and len(ratios) >= n_layer:
        kind = {0: "sliding_attention", 4: "compressed_sparse_attention"}.get(
            ratios[i], "heavily_compressed_attention"
        )
        ratio = ratios[i]
    elif ratios is not None:
        raise InvalidInput(f"compress_ratios must list num_hidden_layers = {n_layer} ratios.")
    else:
        kind = kind or tuple(RATES)[1 + (i < 2 or i % 2 == 0)]
        ratio = rates[kind]
    sparse = kind == "compressed_sparse_attention"
    mixer = CompressedAttention(
        n_head=f.size("num_attention_heads"),
        head_dim=f.size("head_dim"),
        q_lora_rank=f.size("q_lora_rank"),
        o_lora_rank=f.size("o_lora_rank"),
        o_groups=f.size("o_groups"),
        window=f.size("sliding_window"),
        ratio=int(ratio),
        n_index_head=f.size("index_n_heads") if sparse else None,
        index_head_dim=f.size("index_head_dim"),
        index_top_k=f.size("index_topk") if sparse else None,
    )
    f.seen("num_key_value_heads", "qk_rope_head_dim", "attention_bias")
    moe = MixtureOfExperts(
        n_expert=f.size("n_routed_experts"),
        top_k=f.size("num_experts_per_tok"),
        d_ff=f.size("moe_intermediate_size"),
        d_ff_shared=f.count("n_shared_experts") * f.size("moe_intermediate_size"),
    )
    extras = [
        p for name in ("attention", "ffn") for p in _streams(name, (2 + streams) * streams, streams, d, 3)
    ]
    return Block(mixer=mixer, ffn=moe, extras=tuple(extras))


def _streams(name: str, mixes: int, streams: int, d: int, scales: int) -> list[Parameter]:
    return [
        matrix("stream mixing", f"{name}_streams", stream=streams, embed=d, mix=mixes, n_in=2),
        vector("bias", f"{name}_streams_bias", mix=mixes),
        vector("bias", f"{name}_streams_scale", scale=scales),
    ]


def deepseek_v4_once(f: Fields) -> list[Parameter]:
    """DeepSeek-V4's mixing of the streams before the output."""
    streams = f.size("hc_mult", 4)
    return _streams("head", streams, streams, f.size("hidden_size"), 1)
