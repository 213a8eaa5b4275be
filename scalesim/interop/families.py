"""Every model type that is read, by its name."""

from __future__ import annotations

from scalesim.interop.dense_families import DENSE
from scalesim.interop.expert_families import MIXED
from scalesim.interop.family import Family

__all__ = ["FAMILIES", "NESTED"]

FAMILIES: dict[str, Family] = {**DENSE, **MIXED}
"""What each leaves unsaid."""

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
