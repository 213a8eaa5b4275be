"""Hugging Face's model types: for each what its config class leaves unsaid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scalesim.interop import hybrids, recurrences
from scalesim.interop.fields import NEEDED, Fields
from scalesim.interop.layers import Experts, Rules, layer
from scalesim.shape import Block, Parameter
from scalesim.shape.parameters import matrix, vector

__all__ = ["FAMILIES", "NESTED", "Family"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type: how a layer is read, and what the config's class defaults to.

    Attributes:
        rules: of the usual layers.
        layer: reads layer i.
        names: what its config calls the usual fields.
        defaults: of fields left out.
        norm_bias: LayerNorm with a bias.
        positions: rows of a position table beyond max_position_embeddings (None: no table).
        final_norm: a norm before the output: there, not there, or as a field says.
        extras: further tensors of the model.
    """

    rules: Rules = field(default_factory=Rules)
    layer: Callable[[Fields, Rules, int], Block] = layer
    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    norm_bias: bool = False
    positions: int | None = None
    final_norm: bool | str = True
    extras: Callable[[Fields], list[Parameter]] = lambda f: []

    def but(self, **changes: Any) -> Family:
        """Return it with other rules, defaults (added to its own) or fields."""
        rules = {k: changes.pop(k) for k in list(changes) if k in Rules.__dataclass_fields__}
        for name in ("defaults", "names"):
            changes[name] = {**getattr(self, name), **changes.get(name, {})}
        return replace(self, rules=replace(self.rules, **rules), **changes)


_TIED = {"tie_word_embeddings": True}
_GPT = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
}  # fmt: skip


def _head_bias(f: Fields) -> list[Parameter]:
    return [vector("bias", "lm_head_bias", vocab=f.size("vocab_size"))]


def _embedding_norm(f: Fields) -> list[Parameter]:
    d = f.size("hidden_size")
    return [vector("norm", f"embedding_norm{end}", embed=d) for end in ("", "_bias")]


def _projected(f: Fields) -> list[Parameter]:
    """OPT-350m's embeddings are narrower than its stream."""
    d, narrow = f.size("hidden_size"), f.optional("word_embed_proj_dim") or f.size("hidden_size")
    if narrow == d:
        return []
    # The table holds `narrow` columns: what the count of d columns has too many is taken off.
    less = f.size("vocab_size") * (narrow - d)
    return [
        matrix("embedding projection", "project_in", latent=narrow, embed=d),
        matrix("embedding projection", "project_out", embed=d, latent=narrow),
        vector("embedding", "narrow_embedding", one=less),
    ]


_EXPERTS = Experts()
_LOCAL = Experts(n="num_local_experts", d_ff="intermediate_size")
_WITH_SHARED = replace(_LOCAL, shared_d_ff="shared_intermediate_size")
_LLAMA = Family(rules=Rules(ffn_bias="mlp_bias"))
_MISTRAL = Family(rules=Rules(window="all"), defaults={"sliding_window": 4096, "num_key_value_heads": 8})
_QWEN2 = Family(
    rules=Rules(qkv_bias=True, output_bias=False, window="qwen"),
    defaults={"num_key_value_heads": 32, "use_sliding_window": False, "max_window_layers": 28},
)
_QWEN3 = _QWEN2.but(
    qkv_bias="attention_bias", output_bias="attention_bias", qk_norm="head", defaults={"head_dim": 128}
)
_GEMMA = Family(defaults={**_TIED, "head_dim": 256, "num_key_value_heads": 16})
_GEMMA2 = _GEMMA.but(
    norms=4, window="pattern", pattern=2, defaults={"num_key_value_heads": 4, "sliding_window": 4096}
)
_GEMMA3 = _GEMMA2.but(
    qk_norm="head",
    pattern=6,
    defaults={"num_attention_heads": 8, "vocab_size": 262208, "max_position_embeddings": 131072},
)
_DEEPSEEK = Family(
    rules=Rules(mixer="latent", ffn_bias=False, experts=Experts(shared="n_shared_experts")),
)
_COHERE = Family(rules=Rules(norms=1, qk_norm="use_qk_norm:projection"), defaults=_TIED)
_OLMO2 = Family(rules=Rules(qk_norm="projection"))
_GLM = Family(
    rules=Rules(output_bias=False),
    defaults={"num_key_value_heads": 2, "head_dim": 128, "attention_bias": True},
)
_GRANITE = Family(rules=Rules(ffn_bias="mlp_bias"))
_GPT2 = Family(
    rules=Rules(qkv_bias=True, output_bias=True, ffn_bias=True, gated=False),
    names=_GPT,
    defaults={**_TIED, "intermediate_size": None, "max_position_embeddings": NEEDED},
    norm_bias=True,
    positions=0,
)
_NEOX = Family(
    rules=Rules(qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias=True, gated=False),
    defaults={"attention_bias": True},
    norm_bias=True,
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "ministral": _MISTRAL.but(window="listed"),
    "ministral3": _MISTRAL.but(defaults={"sliding_window": None}),
    "mixtral": _MISTRAL.but(experts=_LOCAL),
    "qwen2": _QWEN2,
    "qwen2_moe": _QWEN2.but(
        qkv_bias="qkv_bias",
        experts=replace(_EXPERTS, shared_d_ff="shared_expert_intermediate_size", shared_gate=True),
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
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3.but(experts=_EXPERTS, defaults={"num_key_value_heads": 4, "head_dim": None}),
    "qwen2_vl_text": _QWEN2,
    "qwen2_5_vl_text": _QWEN2,
    "qwen3_vl_text": _QWEN3,
    "qwen3_vl_moe_text": _QWEN3.but(experts=_EXPERTS, defaults={"num_key_value_heads": 16}),
    "qwen3_next": Family(
        layer=recurrences.qwen_next,
        rules=Rules(
            qk_norm="head",
            gate="value",
            experts=replace(_EXPERTS, shared_d_ff="shared_expert_intermediate_size", shared_gate=True),
        ),
        defaults={"head_dim": 256, "num_key_value_heads": 2, "shared_expert_intermediate_size": 512},
    ),
    "qwen3_5_text": Family(
        layer=recurrences.qwen_next,
        rules=Rules(qk_norm="head", gate="value"),
        defaults={"head_dim": 256, "num_key_value_heads": 4},
    ),
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "gemma3n_text": _GEMMA3.but(
        layer=hybrids.gemma_3n,
        pattern=5,
        extras=hybrids.gemma_3n_once,
        defaults={"num_key_value_heads": 2, "sliding_window": 512, "vocab_size": 262400},
    ),
    "gemma4_text": _GEMMA3.but(
        layer=hybrids.gemma_4,
        extras=hybrids.gemma_4_once,
        defaults={"sliding_window": 512, "global_head_dim": 512, "vocab_size": 262144},
    ),
    "phi": Family(
        rules=Rules(
            norms=1, qkv_bias=True, output_bias=True, ffn_bias=True, gated=False, qk_norm="qk_layernorm:none"
        ),
        norm_bias=True,
        extras=_head_bias,
    ),
    "phi3": Family(rules=Rules(window="all")),
    "phimoe": _MISTRAL.but(
        experts=_LOCAL,
        norm_bias=True,
        extras=lambda f: _head_bias(f) if f.flag("lm_head_bias") else [],
        defaults={"sliding_window": None},
    ),
    "olmo": Family(rules=Rules(norms=0), final_norm=False),
    "olmo2": _OLMO2,
    "olmo3": _OLMO2.but(window="pattern", pattern=4, defaults={"sliding_window": 4096}),
    "olmoe": _OLMO2.but(experts=replace(_EXPERTS, d_ff="intermediate_size")),
    "granite": _GRANITE,
    "granitemoe": Family(rules=Rules(experts=_LOCAL)),
    "granitemoeshared": Family(rules=Rules(experts=_WITH_SHARED)),
    "granitemoehybrid": Family(
        layer=recurrences.granite_hybrid,
        rules=Rules(experts=_WITH_SHARED),
        defaults={"num_local_experts": 0},
    ),
    "smollm3": _LLAMA.but(window="listed", defaults={"num_key_value_heads": 4, **_TIED}),
    "stablelm": Family(
        rules=Rules(
            qkv_bias="use_qkv_bias",
            output_bias=False,
            qk_norm="qk_layernorm:projection",
            one_norm="use_parallel_residual",
        ),
        norm_bias=True,
        defaults={"num_key_value_heads": 32},
    ),
    "starcoder2": Family(
        rules=Rules(
            qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias", gated=False, window="all"
        ),
        norm_bias=True,
        defaults={**_TIED, "use_bias": True, "num_key_value_heads": 2},
    ),
    "cohere": _COHERE,
    "cohere2": _COHERE.but(window="pattern", pattern=4, qk_norm="none", defaults={"sliding_window": 4096}),
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "glm_moe_dsa": _DEEPSEEK,
    "deepseek_v4": Family(layer=hybrids.deepseek_v4, extras=hybrids.deepseek_v4_once),
    "glm": _GLM,
    "glm4": _GLM.but(norms=4),
    "glm4_moe": _GLM.but(
        qk_norm="use_qk_norm:head",
        experts=Experts(n="n_routed_experts", shared="n_shared_experts"),
        defaults={
            "attention_bias": False,
            "num_key_value_heads": 8,
            "head_dim": None,
            "first_k_dense_replace": 1,
        },
    ),
    "glm4_moe_lite": _DEEPSEEK,
    "minimax_m2": Family(
        rules=Rules(
            qk_norm="use_qk_norm:projection",
            experts=_LOCAL,
        ),
        defaults={"use_qk_norm": True, "head_dim": 128, "num_key_value_heads": 8},
    ),
    "minimax": Family(layer=recurrences.minimax, defaults={"num_key_value_heads": 8}),
    "mimo": _QWEN2,
    "mimo_v2_flash": Family(layer=hybrids.mimo_v2),
    "llama4_text": Family(
        layer=hybrids.llama_4, defaults={"num_key_value_heads": 8, "head_dim": 128, "num_experts_per_tok": 1}
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
    "nemotron": Family(
        rules=Rules(gated=False, ffn_bias="mlp_bias"), norm_bias=True, defaults={"num_key_value_heads": 8}
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
    "lfm2": Family(layer=recurrences.lfm2, defaults=_TIED, rules=Rules(qk_norm="head")),
    "lfm2_moe": Family(layer=recurrences.lfm2, defaults=_TIED, rules=Rules(qk_norm="head", experts=_EXPERTS)),
    "mamba2": Family(layer=recurrences.mamba2, defaults={**_TIED, "intermediate_size": None}),
    "mamba": Family(layer=recurrences.mamba, defaults={**_TIED, "intermediate_size": None}),
    "gpt_neox": _NEOX,
    "gptj": _GPT2.but(
        norms=1,
        qkv_bias=False,
        output_bias=False,
        positions=None,
        extras=_head_bias,
        defaults={"tie_word_embeddings": False},
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2.but(kv=lambda f: 1 if f.flag("multi_query", True) else None),
    "opt": Family(
        rules=Rules(qkv_bias="enable_bias", output_bias="enable_bias", ffn_bias="enable_bias", gated=False),
        names={"intermediate_size": "ffn_dim"},
        defaults={**_TIED, "enable_bias": True, "max_position_embeddings": NEEDED},
        norm_bias=True,
        positions=2,
        final_norm="do_layer_norm_before",
        extras=_projected,
    ),
    "bloom": Family(
        rules=Rules(qkv_bias=True, output_bias=True, ffn_bias=True, gated=False),
        names={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
        defaults={**_TIED, "intermediate_size": None},
        norm_bias=True,
        extras=_embedding_norm,
    ),
    "mpt": Family(
        rules=Rules(qkv_bias=False, output_bias=False, gated=False),
        names={
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len",
        },
        defaults={**_TIED, "intermediate_size": None},
    ),
    "falcon": Family(
        rules=Rules(
            qkv_bias="bias",
            output_bias="bias",
            ffn_bias="bias",
            gated=False,
            kv=hybrids.falcon_heads,
            one_norm=hybrids.falcon_one_norm,
        ),
        names={"intermediate_size": "ffn_hidden_size"},
        defaults={**_TIED, "intermediate_size": None},
        norm_bias=True,
    ),
    "arcee": _LLAMA.but(gated=False),
    "seed_oss": _LLAMA.but(
        qkv_bias="attention_bias", output_bias="attention_out_bias", defaults={"head_dim": 128}
    ),
    "exaone4": Family(rules=Rules(qk_norm="head", window="listed"), defaults={"num_key_value_heads": 32}),
    "ernie4_5": Family(
        rules=Rules(qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias"),
        defaults={**_TIED, "head_dim": 128},
    ),
    "hunyuan_v1_dense": Family(rules=Rules(qk_norm="head")),
    "apertus": Family(
        layer=hybrids.apertus,
        rules=Rules(gated=False, qk_norm="head"),
        defaults={"tie_word_embeddings": False},
    ),
    "minicpm": _LLAMA,
}
FAMILIES["qwen3_5_moe_text"] = FAMILIES["qwen3_5_text"].but(
    experts=FAMILIES["qwen3_next"].rules.experts, defaults={"shared_expert_intermediate_size": 512}
)
"""Every model type that is read, by its name."""

NESTED = {
    "glm4v": "glm4",
    "glm4v_moe": "glm4_moe",
    "glm4v_moe_text": "glm4_moe",
    "glm4v_text": "glm4",
    "gemma3": "gemma3_text",
    "gemma3n": "gemma3n_text",
    "gemma4": "gemma4_text",
    "kimi_k25": "kimi_k2",
    "llama4": "llama4_text",
    "llava": "llama",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
}
"""Model types of several parts: what their `text_config` is where it does not say."""
