"""Layers of the families that mix kinds: one function a family, layer i of its config."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from scalesim.errors import InvalidInput, choose
from scalesim.interop.fields import Fields
from scalesim.interop.layers import Rules, attention, experts, feed_forward, is_local, layer
from scalesim.shape import (
    Attention,
    Block,
    DeltaNet,
    Dense,
    LinearAttention,
    Mamba,
    Mamba2,
    MixtureOfExperts,
    Parameter,
    ShortConv,
    Together,
)
from scalesim.shape.ffn import FFN
from scalesim.shape.mixers import CompressedAttention
from scalesim.shape.parameters import matrix, vector


def _kind(f: Fields, i: int, *known: str, name: str = "layer_types") -> str | None:
    listed = f.listed(name, f.size("num_hidden_layers"))
    return None if listed is None else choose(name, str(listed[i]), known)


def _bits(f: Fields, name: str, default: int) -> int:
    return {"float32": 32, "bfloat16": 16, "float16": 16}.get(str(f.raw(name)), default)


def apertus(f: Fields, rules: Rules, i: int) -> Block:
    """Apertus: an activation with two parameters (xIELU)."""
    return replace(layer(f, rules, i), extras=(vector("bias", "activation", pair=2),))


def qwen_next(f: Fields, rules: Rules, i: int) -> Block:
    """Qwen3-Next and Qwen3.5: gated delta nets, and every fourth layer gated attention."""
    kind = _kind(f, i, "linear_attention", "full_attention")
    every = f.size("full_attention_interval", 4)
    f.seen("mlp_only_layers")
    gate = "value" if f.flag("attn_output_gate", True) else "none"
    net = DeltaNet(
        n_k_head=f.size("linear_num_key_heads", 16),
        n_v_head=f.size("linear_num_value_heads", 32),
        k_head_dim=f.size("linear_key_head_dim", 128),
        v_head_dim=f.size("linear_value_head_dim", 128),
        kernel=f.size("linear_conv_kernel_dim", 4),
        state_bits=_bits(f, "mamba_ssm_dtype", 32),
    )
    full = kind == "full_attention" if kind else (i + 1) % every == 0
    mixer = attention(f, rules, i, window=None, gate=gate) if full else net
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
    window = _own_window(f, i, 6)
    own: dict[str, Any] = {"window": window, "shared": shared}
    alike = f.flag("attention_k_eq_v")
    wide, fewer = f.size("global_head_dim"), f.optional("num_global_key_value_heads")
    if window is None:
        own |= {"head_dim": wide, "k_is_v": alike}
        if alike and fewer:
            own["n_kv_head"] = fewer
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


def llama_4(f: Fields, rules: Rules, i: int) -> Block:
    """Llama 4: chunks of attention but in every fourth layer; experts in every so-many-th."""
    f.seen("use_qk_norm")
    every = f.size("no_rope_layer_interval", 4)
    full = f.listed("no_rope_layers", f.size("num_hidden_layers")) or []
    kind = _kind(f, i, "chunked_attention", "full_attention")
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
    local = (f.listed("hybrid_layer_pattern", f.size("num_hidden_layers")) or [0] * (i + 1))[i] == 1
    f.seen("attention_chunk_size")
    prefix = "swa_" if local else ""
    names = ("num_attention_heads", "num_key_value_heads")
    n_head, n_kv_head = (f.size(prefix + name) for name in names)
    f.seen(*names)
    f.seen(
        *(f"swa_{name}" for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim"))
    )
    mixer = Attention(
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=f.size(f"{prefix}head_dim"),
        v_head_dim=f.size(f"{prefix}v_head_dim"),
        window=f.size("sliding_window") if local else None,
        sinks=f.flag("add_swa_attention_sink_bias") if local else f.flag("add_full_attention_sink_bias"),
        qkv_bias=f.flag("attention_bias"),
    )
    moe = f.listed("moe_layer_freq", f.size("num_hidden_layers"))
    shared = f.count("n_shared_experts") * f.size("moe_intermediate_size")
    if moe is not None and moe[i]:
        n, top_k, width = (
            f.size(x) for x in ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
        )
        ffn: FFN = MixtureOfExperts(n_expert=n, top_k=top_k, d_ff=width, d_ff_shared=shared)
    else:
        ffn = Dense(d_ff=f.size("intermediate_size"))
    return Block(mixer=mixer, ffn=ffn)


def minimax(f: Fields, rules: Rules, i: int) -> Block:
    """MiniMax-01: lightning attention, and every eighth layer softmax attention."""
    kinds = f.listed("attn_type_list", f.size("num_hidden_layers"))
    kind = _kind(f, i, "linear_attention", "full_attention")
    full = kinds[i] == 1 if kinds is not None else kind == "full_attention" if kind else (i + 1) % 8 == 0
    head_dim = f.optional("head_dim") or f.quotient("hidden_size", "num_attention_heads")
    net = LinearAttention(n_linear_head=f.size("num_attention_heads"), linear_head_dim=head_dim)
    moe = MixtureOfExperts(
        n_expert=f.size("num_local_experts"),
        top_k=f.size("num_experts_per_tok"),
        d_ff=f.size("intermediate_size"),
    )
    parts = ("full_attn", "full_attention", "linear_attn", "linear_attention", "mlp")
    f.seen(
        "postnorm",
        *(f"{a}{part}_{b}_factor" for a in ("", "layernorm_") for part in parts for b in ("alpha", "beta")),
    )
    return Block(mixer=attention(f, rules, i) if full else net, ffn=moe)


def _mamba_2(f: Fields, prefix: str = "mamba_", **names: str) -> Mamba2:
    def name(ours: str) -> str:
        return names.get(ours, prefix + ours)

    heads, head_dim = f.size(name("n_heads")), f.optional(name("d_head"))
    if head_dim is None:
        head_dim = f.size("hidden_size") * f.size("mamba_expand", 2) // heads
    f.seen("mamba_expand", "expand", name("d_ssm"))
    return Mamba2(
        n_ssm_head=heads,
        ssm_head_dim=head_dim,
        state_size=f.size(name("d_state")),
        n_group=f.size(name("n_groups"), 1),
        kernel=f.size(name("d_conv"), 4),
        conv_bias=f.flag(name("conv_bias"), True),
        bias=f.flag(name("proj_bias")),
        norm=f.flag("mamba_rms_norm", True),
        state_bits=_bits(f, "mamba_ssm_cache_dtype", 16),
    )


def nemotron_h(f: Fields, rules: Rules, i: int) -> Block:
    """Nemotron-H and Nemotron 3: each layer is a Mamba-2, an attention, an FFN or experts alone."""
    letters = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
    listed, pattern = f.listed("layers_block_type"), f.raw("hybrid_override_pattern")
    kinds = [letters.get(str(kind), str(kind)) for kind in listed] if listed else list(pattern or "")
    if len(kinds) != f.size("num_hidden_layers"):
        raise InvalidInput(
            f"hybrid_override_pattern must have num_hidden_layers = {f.size('num_hidden_layers')} letters, "
            f"but has {len(kinds)}."
        )
    kind = choose("hybrid_override_pattern", kinds[i], ("M", "*", "-", "E"))
    mamba = _mamba_2(
        f, n_heads="mamba_num_heads", d_head="mamba_head_dim", d_state="ssm_state_size", n_groups="n_groups",
        d_conv="conv_kernel", conv_bias="use_conv_bias", proj_bias="mamba_proj_bias",
    )  # fmt: skip
    head_dim = f.optional("head_dim", f.optional("attention_head_dim"))
    f.seen("use_bias")
    if kind == "M":
        return Block(mixer=mamba, norms=1)
    if kind == "*":
        return Block(
            mixer=attention(f, rules, i, window=None, **({"head_dim": head_dim} if head_dim else {})), norms=1
        )
    d_ff, shared = f.size("intermediate_size"), f.count("n_shared_experts")
    bias = f.flag("mlp_bias")
    if kind == "-":
        return Block(ffn=Dense(d_ff=d_ff, gated=False, bias=bias), norms=1)
    moe = MixtureOfExperts(
        n_expert=f.size("n_routed_experts"),
        top_k=f.size("num_experts_per_tok"),
        d_ff=f.size("moe_intermediate_size"),
        d_ff_shared=shared * f.count("moe_shared_expert_intermediate_size"),
        d_expert=f.optional("moe_latent_size"),
        gated=False,
    )
    return Block(ffn=moe, norms=1)


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


def granite_hybrid(f: Fields, rules: Rules, i: int) -> Block:
    """Granite 4: Mamba-2 or attention without positions; experts with a shared one, or that alone."""
    listed = f.listed("layers_block_type", f.size("num_hidden_layers"))
    kind = (listed or f.listed("layer_types", f.size("num_hidden_layers")) or ["mamba"] * (i + 1))[i]
    mixer = (
        attention(f, replace(rules, window="none"), i, window=None)
        if "attention" in str(kind)
        else _mamba_2(f)
    )
    shared = f.size("shared_intermediate_size", 1024)
    ffn: FFN = Dense(d_ff=shared)
    if f.optional("num_local_experts"):
        assert rules.experts is not None
        ffn = experts(f, rules.experts)
    f.seen("intermediate_size", "position_embedding_type", "num_experts_per_tok")
    f.seen("normalization_function", "layer_types")
    return Block(mixer=mixer, ffn=ffn)


def jamba(f: Fields, rules: Rules, i: int) -> Block:
    """Jamba: Mamba with norms, attention in every eighth layer; experts in every second."""
    d = f.size("hidden_size")
    full = i % f.size("attn_layer_period", 8) == f.count("attn_layer_offset", 4)
    rank = f.raw("mamba_dt_rank", "auto")
    mamba = Mamba(
        inner=f.size("mamba_expand", 2) * d,
        state_size=f.size("mamba_d_state", 16),
        dt_rank=math.ceil(d / 16) if rank == "auto" else f.size("mamba_dt_rank"),
        kernel=f.size("mamba_d_conv", 4),
        conv_bias=f.flag("mamba_conv_bias", True),
        bias=f.flag("mamba_proj_bias"),
        norms=True,
    )
    f.seen("sliding_window")
    ffn = feed_forward(f, rules, i)
    return Block(
        mixer=attention(f, Rules(qkv_bias=False, output_bias=False), i, window=None) if full else mamba,
        ffn=ffn,
    )


def bamba(f: Fields, rules: Rules, i: int) -> Block:
    """Bamba: Mamba-2, attention in the layers that attn_layer_indices lists."""
    full = i in (f.listed("attn_layer_indices") or ())
    mixer = attention(f, rules, i, window=None) if full else _mamba_2(f)
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i))


def falcon_h1(f: Fields, rules: Rules, i: int) -> Block:
    """Falcon-H1: attention and Mamba-2 side by side in every layer."""
    heads, d_ssm = f.size("mamba_n_heads"), f.optional("mamba_d_ssm")
    own = _mamba_2(f)
    if d_ssm is not None and d_ssm != heads * own.ssm_head_dim:
        raise InvalidInput(
            f"mamba_d_ssm must be mamba_n_heads mamba_d_head = {heads * own.ssm_head_dim}, but is {d_ssm}."
        )
    own = replace(own, norm=f.flag("mamba_rms_norm"))
    f.seen("projectors_bias", "mamba_norm_before_gate", "mamba_use_mlp", "attn_layer_indices")
    return Block(mixer=Together((attention(f, rules, i, window=None), own)), ffn=feed_forward(f, rules, i))


def lfm2(f: Fields, rules: Rules, i: int) -> Block:
    """LFM2: short convolutions, attention in the layers that are listed."""
    kind = _kind(f, i, "conv", "full_attention")
    full = kind == "full_attention" if kind else i in (f.listed("full_attn_idxs") or ())
    d = f.size("hidden_size")
    conv = ShortConv(
        width=f.optional("conv_dim") or d, kernel=f.size("conv_L_cache", 3), bias=f.flag("conv_bias")
    )
    bare = Rules(qkv_bias=False, output_bias=False, qk_norm="head")
    mixer = attention(f, bare, i, window=None) if full else conv
    ffn = feed_forward(f, rules, i)
    if isinstance(ffn, Dense) and f.flag("block_auto_adjust_ff_dim", rules.experts is None):
        times, multiple = f.raw("block_ffn_dim_multiplier", 1.0), f.size("block_multiple_of", 256)
        width = int(2 * (f.optional("block_ff_dim") or ffn.d_ff) / 3)
        ffn = Dense(d_ff=multiple * -(-int(width * (1.0 if times is None else times)) // multiple))
    f.seen(
        "block_dim",
        "block_mlp_init_scale",
        "block_out_init_scale",
        "block_use_swiglu",
        "num_heads",
        "conv_dim_out",
    )
    f.seen("use_expert_bias", "block_multiple_of", "block_ffn_dim_multiplier", "block_ff_dim")
    return Block(mixer=mixer, ffn=ffn)


def mamba2(f: Fields, rules: Rules, i: int) -> Block:
    """Mamba-2 alone."""
    mixer = _mamba_2(
        f,
        n_heads="num_heads",
        d_head="head_dim",
        d_state="state_size",
        n_groups="n_groups",
        d_conv="conv_kernel",
        conv_bias="use_conv_bias",
        proj_bias="use_bias",
    )
    f.seen("rms_norm")
    return Block(mixer=mixer, norms=1)


def mamba(f: Fields, rules: Rules, i: int) -> Block:
    """Mamba alone."""
    d = f.size("hidden_size")
    inner = f.optional("intermediate_size") or f.size("expand", 2) * d
    rank = f.raw("time_step_rank", "auto")
    mixer = Mamba(
        inner=inner,
        state_size=f.size("state_size", 16),
        dt_rank=math.ceil(d / 16) if rank == "auto" else f.size("time_step_rank"),
        kernel=f.size("conv_kernel", 4),
        conv_bias=f.flag("use_conv_bias", True),
        bias=f.flag("use_bias"),
    )
    f.seen("expand", "time_step_init_scheme", "time_step_scale")
    return Block(mixer=mixer, norms=1)


def falcon_heads(f: Fields) -> int | None:
    """Falcon: one KV head, or num_kv_heads in the new architecture."""
    new, many = f.flag("new_decoder_architecture"), f.optional("num_kv_heads")
    return many if new or not f.flag("multi_query", True) else 1


def falcon_one_norm(f: Fields) -> bool:
    """Falcon: attention and FFN in parallel after one norm (in the new architecture after two)."""
    f.seen("alibi", "num_ln_in_parallel_attn")
    two = f.flag("new_decoder_architecture") and f.raw("num_ln_in_parallel_attn") != 1
    return f.flag("parallel_attn", True) and not two


def deepseek_v4(f: Fields, rules: Rules, i: int) -> Block:
    """DeepSeek-V4: a window and compressed tokens, one shared key and value; mixed residual streams."""
    n_layer, d, streams = f.size("num_hidden_layers"), f.size("hidden_size"), f.size("hc_mult", 4)
    ratios = f.listed("compress_ratios")
    if ratios is None or len(ratios) < n_layer:
        raise InvalidInput(f"compress_ratios must list num_hidden_layers = {n_layer} ratios.")
    sparse = ratios[i] == 4
    mixer = CompressedAttention(
        n_head=f.size("num_attention_heads"),
        head_dim=f.size("head_dim"),
        q_lora_rank=f.size("q_lora_rank"),
        o_lora_rank=f.size("o_lora_rank"),
        o_groups=f.size("o_groups"),
        window=f.size("sliding_window"),
        ratio=int(ratios[i]),
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
