"""Layers of the families that mix attention with what keeps a state: recurrences and convolutions."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from scalesim.errors import InvalidInput, choose
from scalesim.interop.fields import NEEDED, Fields
from scalesim.interop.layers import Rules, attention, experts, feed_forward, latent, layer_kind
from scalesim.shape import (
    Attention,
    Block,
    DeltaNet,
    Dense,
    KimiDelta,
    LinearAttention,
    Mamba,
    Mamba2,
    Mixer,
    MixtureOfExperts,
    Parameter,
    ShortConv,
    Together,
)
from scalesim.shape.ffn import FFN
from scalesim.shape.parameters import matrix, vector


def _bits(f: Fields, name: str, default: int) -> int:
    return {"float32": 32, "bfloat16": 16, "float16": 16}.get(str(f.raw(name)), default)


def qwen_next(f: Fields, rules: Rules, i: int) -> Block:
    """Qwen3-Next and Qwen3.5: gated delta nets, and every fourth layer gated attention."""
    kind = layer_kind(f, i, "linear_attention", "full_attention")
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
    extras: tuple[Parameter, ...] = ()
    if isinstance(mixer, Attention) and mixer.qkv_bias and gate == "value":  # one matrix with the queries'
        extras = (vector("bias", "gate_bias", heads=mixer.n_head, head_dim=mixer.head_dim),)
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i), extras=extras)


def minimax(f: Fields, rules: Rules, i: int) -> Block:
    """MiniMax-01: lightning attention, and every eighth layer softmax attention."""
    kinds = f.listed("attn_type_list", f.size("num_hidden_layers"))
    kind = layer_kind(f, i, "linear_attention", "full_attention")
    full = kinds[i] == 1 if kinds is not None else kind == "full_attention" if kind else i % 2 == 0
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
    f.seen("shared_intermediate_size", "shared_moe_mode", "block_size", "shared_moe_coefficient")
    return Block(mixer=attention(f, rules, i, window=None) if full else net, ffn=moe)


def olmo_hybrid(f: Fields, rules: Rules, i: int) -> Block:
    """OLMo hybrid: gated delta nets, and every fourth layer attention with norms after it."""
    kind = layer_kind(f, i, "linear_attention", "full_attention")
    full = kind == "full_attention" if kind else (i + 1) % 4 == 0
    heads = f.size("linear_num_key_heads", f.size("num_attention_heads"))
    net = DeltaNet(
        n_k_head=heads,
        n_v_head=f.size("linear_num_value_heads", heads),
        k_head_dim=f.size("linear_key_head_dim", 96),
        v_head_dim=f.size("linear_value_head_dim", 192),
        kernel=f.size("linear_conv_kernel_dim", 4),
    )
    return Block(mixer=attention(f, rules, i, window=None) if full else net, ffn=feed_forward(f, rules, i))


def _kimi_delta(f: Fields, heads: int, size: int, kernel: int, *, decay: bool, gate: bool) -> KimiDelta:
    f.seen("linear_head_dim", "linear_num_heads", "linear_conv_kernel_dim")
    return KimiDelta(
        n_k_head=heads,
        n_v_head=heads,
        k_head_dim=size,
        v_head_dim=size,
        kernel=kernel,
        decay_rank=size if decay else None,
        gate_rank=size if gate else None,
    )


def kimi(f: Fields, rules: Rules, i: int) -> Block:
    """Kimi Linear and Kimi K3: Kimi Delta Attention, and latent attention in every fourth layer."""
    own = f.raw("linear_attn_config") or {}
    listed, kinds = own.get("full_attn_layers"), layer_kind(f, i, "linear_attention", "full_attention")
    if kinds is None and not isinstance(listed, list):
        raise InvalidInput(
            "layer_types is missing, and so is linear_attn_config.full_attn_layers; a list would do."
        )
    full = kinds == "full_attention" if kinds else i + 1 in (listed or ())  # counted from 1
    mixer: Mixer
    if full:
        mixer = replace(latent(f, i), gate="value" if f.flag("mla_use_output_gate") else "none")
    else:
        heads = f.size("linear_num_heads", own.get("num_heads", NEEDED))
        size = f.size("linear_head_dim", own.get("head_dim", NEEDED))
        kernel = f.size("linear_conv_kernel_dim", own.get("short_conv_kernel_size", 4))
        mixer = _kimi_delta(f, heads, size, kernel, decay=True, gate=not own.get("use_full_rank_gate"))
    ffn = feed_forward(f, rules, i)
    narrow = f.optional("routed_expert_hidden_size")
    extras: list[Parameter] = []
    d = f.size("hidden_size")
    if narrow is not None and isinstance(ffn, MixtureOfExperts):
        ffn = replace(ffn, d_expert=narrow)
        extras += [vector("norm", "expert_norm", latent=narrow)] if f.flag("latent_moe_use_norm") else []
    if f.optional("attn_res_block_size"):
        for name in ("attention_res", "ffn_res"):
            extras += [matrix("residual mixing", f"{name}_proj", embed=d, one=1)]
            extras += [vector("norm", f"{name}_norm", embed=d)]
    return Block(mixer=mixer, ffn=ffn, extras=tuple(extras))


def kimi_once(f: Fields) -> list[Parameter]:
    """Kimi K3's mixing of residuals before the output."""
    d = f.size("hidden_size")
    if not f.optional("attn_res_block_size"):
        return []
    return [
        matrix("residual mixing", "output_res_proj", embed=d, one=1),
        vector("norm", "output_res_norm", embed=d),
    ]


def bailing(f: Fields, rules: Rules, i: int) -> Block:
    """Ling 3: Kimi Delta Attention, and latent attention with a gate a head in every so-many-th layer."""
    kind = layer_kind(f, i, "linear_attention", "full_attention")
    full = kind == "full_attention" if kind else (i + 1) % f.size("layer_group_size", 6) == 0
    f.seen("layer_group_size")
    mixer: Mixer = replace(latent(f, i), gate="head")
    if not full:
        # transformers keeps the rotary size in head_dim, and the nets' beside it.
        heads = f.size("linear_num_heads", f.size("num_attention_heads"))
        size, kernel = f.size("linear_head_dim", f.size("head_dim")), f.size("short_conv_kernel_size", 4)
        mixer = _kimi_delta(f, heads, size, kernel, decay=False, gate=False)
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i))


def _mamba_2(f: Fields, *, heads: Any = NEEDED, state: Any = NEEDED, **names: str) -> Mamba2:
    def name(ours: str) -> str:
        return names.get(ours, f"mamba_{ours}")

    n_head, head_dim = f.size(name("n_heads"), heads), f.raw(name("d_head"))
    if head_dim in (None, "auto"):
        head_dim = f.size("hidden_size") * f.size("mamba_expand", 2) // n_head
    else:
        head_dim = f.size(name("d_head"))
    f.seen("mamba_expand", "expand", name("d_ssm"))
    return Mamba2(
        n_ssm_head=n_head,
        ssm_head_dim=head_dim,
        state_size=f.size(name("d_state"), state),
        n_group=f.size(name("n_groups"), 1),
        kernel=f.size(name("d_conv"), 4),
        conv_bias=f.flag(name("conv_bias"), True),
        bias=f.flag(name("proj_bias")),
        norm=f.flag("mamba_rms_norm", True),
        state_bits=_bits(f, "mamba_ssm_cache_dtype", 16),
    )


def nemotron_h(f: Fields, rules: Rules, i: int) -> Block:
    """Nemotron-H and Nemotron 3: each layer is a Mamba-2, an attention, an FFN or experts alone."""
    letters = {"mamba": "M", "linear_attention": "M", "attention": "*", "full_attention": "*"}
    letters |= {"mlp": "-", "moe": "E"}
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
        d_conv="conv_kernel", conv_bias="use_conv_bias", proj_bias="use_bias",
    )  # fmt: skip
    head_dim = f.optional("head_dim", f.optional("attention_head_dim"))
    f.seen("use_bias", "intermediate_size", "moe_intermediate_size", "moe_shared_expert_intermediate_size")
    f.seen("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "mlp_bias", "attention_bias")
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
        d_ff_shared=f.count("moe_shared_expert_intermediate_size") if shared else 0,
        d_expert=f.optional("moe_latent_size"),
        gated=False,
    )
    return Block(ffn=moe, norms=1)


def granite_hybrid(f: Fields, rules: Rules, i: int) -> Block:
    """Granite 4: Mamba-2 or attention without positions; experts with a shared one, or that alone."""
    listed = f.listed("layers_block_type", f.size("num_hidden_layers"))
    kind = (listed or f.listed("layer_types", f.size("num_hidden_layers")) or ["mamba"] * (i + 1))[i]
    known = ("mamba", "linear_attention", "attention", "full_attention")
    state = choose("layer_types", str(kind), known) in known[:2]
    own = _mamba_2(f, heads=128, state=256) if state or f.raw("mamba_n_heads") else None
    mixer = own if state else attention(f, replace(rules, window="none"), i, window=None)
    shared = f.size("shared_intermediate_size", 1024)
    ffn: FFN = Dense(d_ff=shared)
    if f.optional("num_local_experts"):
        assert rules.experts is not None
        ffn = experts(f, rules.experts)
    f.seen("intermediate_size", "num_experts_per_tok")
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
    if f.flag("mamba_proj_bias") != f.flag("projectors_bias"):
        raise InvalidInput("projectors_bias must equal mamba_proj_bias in a falcon_h1 config.")
    own = replace(own, norm=f.flag("mamba_rms_norm"))
    f.seen("projectors_bias", "mamba_norm_before_gate", "mamba_use_mlp", "attn_layer_indices")
    return Block(mixer=Together((attention(f, rules, i, window=None), own)), ffn=feed_forward(f, rules, i))


def lfm2(f: Fields, rules: Rules, i: int) -> Block:
    """LFM2: short convolutions, attention in the layers that are listed."""
    kind = layer_kind(f, i, "conv", "full_attention")
    listed = f.listed("full_attn_idxs")
    full = kind == "full_attention" if kind else listed is None or i in listed
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
    f.seen("num_heads", "full_attn_idxs", "block_multiple_of", "block_ffn_dim_multiplier", "block_ff_dim")
    return Block(mixer=mixer, ffn=ffn)


def lfm3(f: Fields, rules: Rules, i: int) -> Block:
    """LFM3: short convolutions and gated attention, of which some sees a window; norms before and after."""
    kind = layer_kind(f, i, "conv", "full_attention", "sliding_attention")
    if kind is None:
        raise InvalidInput("layer_types is missing from the lfm3 config; a list would do.")
    d, window = f.size("hidden_size"), f.optional("sliding_window")
    mixer: Mixer = ShortConv(width=d, kernel=f.size("conv_L_cache", 7), bias=f.flag("conv_bias"))
    gate = "head" if f.flag("use_attention_gate", True) else "none"
    if kind != "conv":
        seen = window if kind == "sliding_attention" else None
        mixer = attention(f, rules, i, window=seen, gate=gate)
    norms = 4 if f.flag("use_sandwich_norm", True) else 2
    return Block(mixer=mixer, ffn=feed_forward(f, rules, i), norms=norms)


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
    f.seen("use_falcon_mambapy")
    return Block(mixer=mixer, norms=1)
