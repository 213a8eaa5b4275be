"""Model types with experts, with latent attention, or with layers that keep a state."""

from __future__ import annotations

from dataclasses import replace

from scalesim.interop import hybrids, mixtures, recurrences
from scalesim.interop.dense_families import (
    COHERE,
    GEMMA3,
    GLM,
    MISTRAL,
    OLMO2,
    QWEN2,
    QWEN3,
    TIED,
    head_bias,
)
from scalesim.interop.family import Family
from scalesim.interop.layers import Experts, Rules

__all__ = ["MIXED"]

_EXPERTS = Experts()
_SHARED = Experts(n="n_routed_experts", shared="n_shared_experts")
_GATED = Experts(shared_d_ff="shared_expert_intermediate_size", shared_gate=True)
_BESIDE = Experts(shared_d_ff="shared_expert_intermediate_size")
_LOCAL = Experts(n="num_local_experts", d_ff="intermediate_size")
_WITH_SHARED = replace(_LOCAL, shared_d_ff="shared_intermediate_size")
_DEEPSEEK = Family(rules=Rules(mixer="latent", ffn_bias=False, experts=_SHARED))
_MINIMAX = Family(
    layer=recurrences.minimax,
    rules=Rules(qkv_bias=False, output_bias=False),
    defaults={"num_key_value_heads": 8},
)

MIXED: dict[str, Family] = {
    "mixtral": MISTRAL.but(experts=_LOCAL),
    "qwen2_moe": QWEN2.but(
        qkv_bias="qkv_bias",
        experts=_GATED,
        defaults={
            "qkv_bias": True,
            "num_key_value_heads": 16,
            "decoder_sparse_step": 1,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        },
    ),
    "qwen3_moe": QWEN3.but(experts=_EXPERTS, defaults={"num_key_value_heads": 4, "head_dim": None}),
    "qwen3_vl_moe_text": QWEN3.but(experts=_EXPERTS, defaults={"num_key_value_heads": 16}),
    "qwen3_next": Family(
        layer=recurrences.qwen_next,
        rules=Rules(
            qk_norm="head",
            gate="value",
            experts=_GATED,
        ),
        defaults={"head_dim": 256, "num_key_value_heads": 2, "shared_expert_intermediate_size": 512},
    ),
    "qwen3_5_text": Family(
        layer=recurrences.qwen_next,
        rules=Rules(qk_norm="head", gate="value"),
        defaults={"head_dim": 256, "num_key_value_heads": 4},
    ),
    "gemma3n_text": GEMMA3.but(
        layer=hybrids.gemma_3n,
        pattern=5,
        extras=hybrids.gemma_3n_once,
        defaults={"num_key_value_heads": 2, "sliding_window": 512, "vocab_size": 262400},
    ),
    "gemma4_text": GEMMA3.but(
        layer=hybrids.gemma_4,
        extras=hybrids.gemma_4_once,
        defaults={"sliding_window": 512, "global_head_dim": 512, "vocab_size": 262144},
    ),
    "phimoe": MISTRAL.but(
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        experts=_LOCAL,
        norm_bias=True,
        extras=lambda f: head_bias(f) if f.flag("lm_head_bias") else [],
        defaults={"sliding_window": None},
    ),
    "olmoe": OLMO2.but(experts=replace(_EXPERTS, d_ff="intermediate_size")),
    "granitemoe": Family(rules=Rules(experts=_LOCAL)),
    "granitemoeshared": Family(rules=Rules(experts=_WITH_SHARED)),
    "granitemoehybrid": Family(
        layer=recurrences.granite_hybrid,
        rules=Rules(experts=_WITH_SHARED),
        defaults={"num_local_experts": 0},
    ),
    "deepseek_v4": Family(layer=hybrids.deepseek_v4, extras=hybrids.deepseek_v4_once),
    "glm4_moe": GLM.but(
        qk_norm="use_qk_norm:head",
        experts=_SHARED,
        defaults={
            "attention_bias": False,
            "num_key_value_heads": 8,
            "head_dim": None,
            "first_k_dense_replace": 1,
        },
    ),
    "minimax_m2": Family(
        rules=Rules(
            qkv_bias=False,
            output_bias=False,
            qk_norm="use_qk_norm:projection",
            experts=_LOCAL,
        ),
        defaults={"use_qk_norm": True, "head_dim": 128, "num_key_value_heads": 8},
    ),
    **dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), _MINIMAX),
    "mimo_v2_flash": Family(layer=mixtures.mimo_v2),
    "llama4_text": Family(
        layer=mixtures.llama_4, defaults={"num_key_value_heads": 8, "head_dim": 128, "num_experts_per_tok": 1}
    ),
    "gpt_oss": Family(
        rules=Rules(
            window="pattern",
            pattern=2,
            sinks=True,
            experts=replace(_LOCAL, bias=True),
        ),
        defaults={"attention_bias": True, "head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128},
    ),
    "nemotron_h": Family(layer=recurrences.nemotron_h, defaults={"num_key_value_heads": 8}),
    "nemotron-nas": Family(layer=hybrids.nemotron_nas),
    "jamba": Family(
        layer=recurrences.jamba,
        rules=Rules(experts=replace(_EXPERTS, d_ff="intermediate_size", every="expert_layer")),
        defaults={"num_key_value_heads": 8},
    ),
    "bamba": Family(
        layer=recurrences.bamba, rules=Rules(ffn_bias="mlp_bias"), defaults={"num_key_value_heads": 8}
    ),
    "falcon_h1": Family(layer=recurrences.falcon_h1, rules=Rules(ffn_bias="mlp_bias")),
    "lfm2": Family(layer=recurrences.lfm2, defaults=TIED, rules=Rules(qk_norm="head")),
    "lfm2_moe": Family(layer=recurrences.lfm2, defaults=TIED, rules=Rules(qk_norm="head", experts=_EXPERTS)),
    "mamba2": Family(layer=recurrences.mamba2, defaults={**TIED, "intermediate_size": None}),
    "mamba": Family(layer=recurrences.mamba, defaults={**TIED, "intermediate_size": None}),
    **dict.fromkeys(("deepseek_v2", "kimi_k2", "mistral4", "sarvam_mla"), _DEEPSEEK),
    **dict.fromkeys(
        ("deepseek_v3", "deepseek_v32", "glm_moe_dsa"),
        _DEEPSEEK.but(defaults={"first_k_dense_replace": 3, "n_shared_experts": 1}),
    ),
    "glm4_moe_lite": _DEEPSEEK.but(defaults={"first_k_dense_replace": 1, "n_shared_experts": 1}),
    **dict.fromkeys(
        ("minicpm3", "youtu"), Family(rules=Rules(mixer="latent", ffn_bias="mlp_bias"), defaults=TIED)
    ),
    "axk1": Family(layer=mixtures.axk1, rules=_DEEPSEEK.rules, defaults={"first_k_dense_replace": 1}),
    "deepseek": Family(rules=Rules(experts=_SHARED)),
    "dots1": Family(rules=Rules(qk_norm="head", window="listed", experts=_SHARED)),
    "solar_open": Family(rules=Rules(output_bias=False, experts=_SHARED), defaults={"head_dim": 128}),
    "bailing_moe": Family(
        layer=mixtures.bailing_moe,
        rules=Rules(
            qk_norm="use_qk_norm:head", qkv_bias="use_qkv_bias", output_bias="use_bias", experts=_SHARED
        ),
    ),
    "sarvam_moe": Family(rules=Rules(output_bias=False, qk_norm="use_qk_norm:head", experts=_SHARED)),
    "hy_v3": Family(
        rules=Rules(qk_norm="head", ffn_bias="mlp_bias", experts=_SHARED),
        defaults={"first_k_dense_replace": 1, "head_dim": 128},
    ),
    "hunyuan_v1_moe": Family(
        layer=mixtures.hunyuan, rules=Rules(qk_norm="head"), defaults={"moe_intermediate_size": None}
    ),
    "exaone_moe": Family(
        rules=Rules(
            qkv_bias=False, output_bias=False, qk_norm="head", window="pattern", pattern=4, experts=_SHARED
        ),
        defaults={"first_k_dense_replace": 1, "sliding_window": 4096},
    ),
    "ernie4_5_moe": Family(
        rules=Rules(
            qkv_bias="use_bias",
            output_bias="use_bias",
            ffn_bias="use_bias",
            experts=replace(_SHARED, router_bias=True),
        ),
        defaults={**TIED, "moe_layer_start_index": 1},
    ),
    "afmoe": Family(
        rules=Rules(
            norms=4,
            qk_norm="head",
            gate="value",
            window="pattern",
            pattern=4,
            experts=replace(_SHARED, router_bias=True),
        ),
        names={"sliding_window_pattern": "global_attn_every_n_layers"},
        defaults={"head_dim": 128, "num_dense_layers": 1, "sliding_window": 1024},
    ),
    "aria_text": Family(
        rules=Rules(ffn_bias="mlp_bias", experts=Experts(d_ff="intermediate_size", shared="n_shared_experts"))
    ),
    "cohere2_moe": COHERE.but(
        qk_norm="none",
        window="pattern",
        pattern=4,
        experts=Experts(
            d_ff="intermediate_size", shared="n_shared_experts", dense="prefix_dense_intermediate_size"
        ),
        defaults={"sliding_window": 4096, "head_dim": 128},
    ),
    "dbrx": Family(
        layer=mixtures.dbrx,
        names={
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len",
        },
    ),
    "flex_olmo": OLMO2.but(experts=replace(_EXPERTS, d_ff="intermediate_size")),
    "granitemoe_swa": Family(rules=Rules(sinks=True, window="listed", experts=_WITH_SHARED)),
    "mellum": QWEN3.but(experts=_EXPERTS, window="listed"),
    "kolibri1": QWEN3.but(qkv_bias=False, output_bias=False, norms=4, window="listed", experts=_BESIDE),
    "flint": QWEN3.but(sinks=True, window="listed", experts=_BESIDE),
    "laguna": Family(
        layer=mixtures.laguna,
        rules=Rules(qk_norm="head", window="listed", experts=replace(_BESIDE, router_bias=True)),
        defaults={"first_k_dense_replace": 1, "head_dim": 128, "num_key_value_heads": 8},
    ),
    "step3p5": Family(
        layer=mixtures.step,
        rules=Rules(
            qk_norm="head",
            gate="head",
            window="listed",
            experts=Experts(shared_d_ff="share_expert_dim"),
        ),
        defaults={"head_dim": 128, "num_key_value_heads": 8, "first_k_dense_replace": 3},
    ),
    "minimax_m3_vl_text": Family(
        layer=mixtures.minimax_m3,
        rules=Rules(
            qkv_bias=False,
            output_bias=False,
            qk_norm="use_qk_norm:head",
            experts=replace(_WITH_SHARED, dense="dense_intermediate_size"),
        ),
        defaults={
            "use_qk_norm": True,
            "head_dim": 128,
            "num_key_value_heads": 4,
            "shared_intermediate_size": 3072,
        },
    ),
    "kimi_linear": Family(
        layer=recurrences.kimi,
        rules=_DEEPSEEK.rules,
        extras=recurrences.kimi_once,
        defaults={"first_k_dense_replace": 1, "n_shared_experts": 1},
    ),
    "bailing_hybrid": Family(
        layer=recurrences.bailing,
        rules=_DEEPSEEK.rules,
        defaults={"first_k_dense_replace": 2, "n_shared_experts": 1, "head_dim": 128},
    ),
    "olmo_hybrid": Family(layer=recurrences.olmo_hybrid, rules=Rules(qk_norm="projection")),
    "lfm3": Family(layer=recurrences.lfm3, defaults=TIED, rules=Rules(qk_norm="head")),
    "falcon_mamba": Family(layer=recurrences.mamba, defaults={**TIED, "intermediate_size": None}),
}
MIXED["glm4v_moe_text"] = MIXED["glm4_moe"].but(qk_norm="none", defaults={"attention_bias": True})
MIXED["bailing_moe_v2"] = MIXED["bailing_moe"]
MIXED["hunyuan"] = MIXED["hunyuan_v1_moe"]
MIXED["qwen3_omni_moe_text"] = MIXED["qwen3_moe"]
MIXED["gemma4_unified_text"] = MIXED["gemma4_text"].but(defaults={"sliding_window": 1024})
MIXED["qwen3_5_moe_text"] = MIXED["qwen3_5_text"].but(
    experts=_GATED, defaults={"shared_expert_intermediate_size": 512}
)
"""Each by its name."""
