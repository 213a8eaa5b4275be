"""Every model type that is read, by its name."""

from __future__ import annotations

from scalesim.interop.dense_families import DENSE
from scalesim.interop.expert_families import MIXED
from scalesim.interop.family import Family

__all__ = ["FAMILIES", "NESTED"]

FAMILIES: dict[str, Family] = {**DENSE, **MIXED}
"""What each leaves unsaid."""

_OUTER = {
    "aria_text": "aria",
    "cohere2": "aya_vision cohere2_vision",
    "deepseek_v3": "kimi_vl kimi_k25",
    "emu3_text_model": "emu3",
    "exaone4": "exaone4_5",
    "gemma": "paligemma",
    "gemma3_text": "gemma3 shieldgemma2",
    "gemma3n_text": "gemma3n",
    "gemma4_text": "gemma4",
    "gemma4_unified_text": "gemma4_unified",
    "glm4v_moe_text": "glm4v_moe",
    "glm4v_text": "glm4v glm46v glmga",
    "granite": "granite_speech granite_speech_plus",
    "hyperclovax": "hyperclovax_vision_v2",
    "kimi_linear": "kimi_k3",
    "lfm2": "lfm2_vl",
    "lfm3": "lfm3_vl",
    "llama": "llava llava_next llava_next_video video_llava vipllava idefics3 smolvlm deepseek_vl "
    "deepseek_vl_hybrid janus perception_lm voxtral glmasr omniasr",
    "llama4_text": "llama4",
    "minimax_m3_vl_text": "minimax_m3_vl minimax_m3",
    "mistral": "mistral3 idefics2 pixtral",
    "nemotron_h": "nemotron_h_omni nemo_speechlm",
    "persimmon": "fuyu",
    "qwen2": "internvl llava_onevision ovis2 got_ocr2 fast_vlm qwen2_audio audioflamingo3 musicflamingo "
    "vibevoice video_llama_3",
    "qwen2_5_omni_text": "qwen2_5_omni qwen2_5_omni_thinker",
    "qwen2_5_vl_text": "qwen2_5_vl",
    "qwen2_vl_text": "qwen2_vl",
    "qwen3": "qwen3_asr lighton_ocr qianfan_ocr fun_asr_nano",
    "qwen3_5_moe_text": "qwen3_5_moe",
    "qwen3_5_text": "qwen3_5 minicpmv4_6",
    "qwen3_omni_moe_text": "qwen3_omni_moe qwen3_omni_moe_thinker",
    "qwen3_vl_moe_text": "qwen3_vl_moe",
    "qwen3_vl_text": "qwen3_vl",
    "step3p5": "step3p7",
}
NESTED = {outer: inner for inner, names in _OUTER.items() for outer in names.split()}
"""Model types of several parts: what their `text_config` is where it does not say."""
