"""What config classes take for fields that a config leaves out, where it is more than one family's rule."""

from __future__ import annotations

from typing import Any

__all__ = ["CLASS_DEFAULTS", "NESTED_SIZES"]

_KV = "num_key_value_heads"
_SHARED = "n_shared_experts"

CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "afmoe": {_SHARED: 2},
    "aria_text": {_SHARED: 2},
    "axk1": {_SHARED: 1, "q_lora_rank": 1536},
    "bailing_hybrid": {"linear_head_dim": 128},
    "bitnet": {_KV: 5},
    "cwm": {_KV: 8},
    "deepseek_v2": {_SHARED: 2, "q_lora_rank": 1536},
    "deepseek_v3": {"q_lora_rank": 1536},
    "deepseek_v32": {"q_lora_rank": 1536, "index_n_heads": 64, "index_topk": 2048, "index_head_dim": 128},
    "deepseek_v4": {_SHARED: 1},
    "ernie4_5": {_KV: 2},
    "ernie4_5_moe": {_KV: 4, _SHARED: 2},
    "exaone": {_KV: 8},
    "exaone_moe": {_SHARED: 1},
    "falcon_h1": {_KV: 8},
    "flint": {_KV: 4, "shared_expert_intermediate_size": 1024},
    "gemma4_text": {"hidden_size_per_layer_input": 256},
    "glm4_moe_lite": {"q_lora_rank": 768},
    "glm_moe_dsa": {"q_lora_rank": 2048, "index_n_heads": 32, "index_topk": 2048, "index_head_dim": 128},
    "granite_swa": {_KV: 4},
    "granitemoehybrid": {"num_local_experts": 8, "shared_intermediate_size": 1024},
    "hy_v3": {_KV: 8, _SHARED: 1},
    "internlm3": {_KV: 2},
    "iquestcoder": {_KV: 8},
    "kolibri1": {_KV: 4, "shared_expert_intermediate_size": 512},
    "laguna": {"shared_expert_intermediate_size": 512},
    "lfm2": {_KV: 8},
    "lfm2_moe": {_KV: 8},
    "lfm3": {_KV: 4},
    "mamba2": {"n_groups": 8, "tie_word_embeddings": False},
    "mellum": {_KV: 4},
    "minicpm3": {"q_lora_rank": 768},
    "nemotron_h": {"n_groups": 8, _SHARED: 1, "moe_shared_expert_intermediate_size": 7688},
    "qwen3_5_moe_text": {_KV: 2},
    "sarvam_mla": {_SHARED: 1, "first_k_dense_replace": 1},
    "sarvam_moe": {_KV: 4, _SHARED: 1, "first_k_dense_replace": 1, "use_qk_norm": True},
    "seed_oss": {_KV: 8, "attention_bias": True},
    "solar_open": {_KV: 8, _SHARED: 1},
    "youtu": {"q_lora_rank": 1536},
}
"""As transformers 5.24 has them, by model type."""

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
NESTED_SIZES: dict[str, dict[str, int]] = {
    kind: dict(zip(_SIZES, sizes, strict=True))
    for kind, sizes in {
        "gemma": (3072, 28, 16, 24576, 256000),
        "gemma2": (2304, 26, 8, 9216, 256000),
        "llama": (4096, 32, 32, 11008, 32000),
        "mistral": (4096, 32, 32, 14336, 32000),
        "phi3": (3072, 32, 32, 8192, 32064),
        "qwen2": (4096, 32, 32, 22016, 151936),
        "qwen3": (4096, 32, 32, 22016, 151936),
    }.items()
}
"""Sizes of classes, which transformers leaves out of a `text_config` that has them."""
