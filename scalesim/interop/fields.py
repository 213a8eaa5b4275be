"""The fields of Hugging Face's config classes: what they default to, and which cost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalesim.errors import InvalidInput

__all__ = ["DEFAULTS", "WITHOUT_COST", "Fields"]

# A field with NEEDED must be stated: its class has a default, that of one particular model, and a config
# without it is more likely cut short than meant so.
NEEDED = object()
_COMMON: dict[str, Any] = {
    "hidden_size": NEEDED,
    "num_hidden_layers": NEEDED,
    "num_attention_heads": NEEDED,
    "num_key_value_heads": None,
    "intermediate_size": NEEDED,
    "vocab_size": NEEDED,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "head_dim": None,
    "max_position_embeddings": None,
    "sliding_window": None,
    "layer_types": None,
    "sliding_window_pattern": None,
}
_QWEN: dict[str, Any] = {**_COMMON, "use_sliding_window": False, "max_window_layers": 28}
_DEEPSEEK: dict[str, Any] = {
    **_COMMON,
    "q_lora_rank": None,
    "kv_lora_rank": NEEDED,
    "qk_nope_head_dim": NEEDED,
    "qk_rope_head_dim": NEEDED,
    "v_head_dim": NEEDED,
    "n_routed_experts": NEEDED,
    "num_experts_per_tok": NEEDED,
    "moe_intermediate_size": NEEDED,
    "n_shared_experts": None,
    "first_k_dense_replace": 0,
    "moe_layer_freq": 1,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": _COMMON,
    # The class defaults to a window of 4096; v0.1 is from before it was ever left out.
    "mistral": {**_COMMON, "sliding_window": 4096},
    "mixtral": {**_COMMON, "num_local_experts": NEEDED, "num_experts_per_tok": NEEDED},
    "qwen2": _QWEN,
    "qwen3": {**_QWEN, "head_dim": 128},
    "qwen3_moe": {
        **_QWEN,
        "num_experts": NEEDED,
        "num_experts_per_tok": NEEDED,
        "moe_intermediate_size": NEEDED,
        "decoder_sparse_step": 1,
        "mlp_only_layers": None,
    },
    "gemma2": {**_COMMON, "tie_word_embeddings": True, "head_dim": 256, "sliding_window": 4096},
    # Published multimodal configs leave out what the text class defaults to.
    "gemma3_text": {
        **_COMMON,
        "tie_word_embeddings": True,
        "head_dim": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
    "gemma3": {},
    "phi3": _COMMON,
    "olmo2": _COMMON,
    "deepseek_v2": _DEEPSEEK,
    "deepseek_v3": _DEEPSEEK,
    "gpt2": {
        "n_embd": NEEDED,
        "n_head": NEEDED,
        "n_layer": NEEDED,
        "n_positions": NEEDED,
        "n_inner": None,
        "vocab_size": NEEDED,
        "tie_word_embeddings": True,
    },
}

WITHOUT_COST = frozenset(
    (
        "_attn_implementation",
        "_name_or_path",
        "activation_function",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "attn_logit_softcapping",
        "attn_pdrop",
        "auto_map",
        "aux_loss_alpha",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "dtype",
        "embd_pdrop",
        "embedding_dropout",
        "eos_token_id",
        "ep_size",
        "final_logit_softcapping",
        "gradient_checkpointing",
        "hidden_act",
        "hidden_activation",
        "id2label",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "is_llama_config",
        "label2id",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "model_type",
        "n_ctx",
        "n_group",
        "norm_topk_prob",
        "num_nextn_predict_layers",
        "original_max_position_embeddings",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "partial_rotary_factor",
        "pretraining_tp",
        "quantization_config",
        "query_pre_attn_scalar",
        "reorder_and_upcast_attn",
        "resid_pdrop",
        "return_dict",
        "rms_norm_eps",
        "rope_interleaved",
        "rope_local_base_freq",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "routed_scaling_factor",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
        "scoring_func",
        "seq_aux",
        "sliding_window_size",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "task_specific_params",
        "topk_group",
        "topk_method",
        "torch_dtype",
        "transformers_version",
        "unsloth_fixed",
        "unsloth_version",
        "use_bidirectional_attention",
        "use_cache",
    )
)
"""Fields that change what a model computes or how it is trained, but neither its sizes nor its costs."""


class Fields:
    """A config's fields, read with the family's defaults, each reading remembered."""

    def __init__(self, config: Mapping[str, Any], family: str) -> None:
        self._config, self._family, self._defaults = config, family, DEFAULTS[family]

    def raw(self, name: str) -> Any:
        """Return a field as it stands; its default where it is left out or null."""
        value = self._config.get(name)
        if value is None:
            # A null is how configs say "none": it overrides a default, except of a size that must be.
            default = self._defaults.get(name)
            value = default if name not in self._config or default is NEEDED else None
        if value is NEEDED:
            raise InvalidInput(f"{name} is missing from the {self._family} config; a whole number would do.")
        return value

    def optional(self, name: str) -> int | None:
        """Return a whole number above 0, or None where there is none."""
        value = self.raw(name)
        if value is None or value == 0:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidInput(f"{name} must be a whole number above 0, but is {value!r}.")
        return value

    def size(self, name: str) -> int:
        """Return a whole number above 0 that must be there."""
        value = self.raw(name)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise InvalidInput(f"{name} must be a whole number above 0, but is {value!r}.")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.raw(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} must be true or false, but is {value!r}.")
        return value

    def quotient(self, whole: str, part: str) -> int:
        """Return whole / part, which must come out even."""
        a, b = self.size(whole), self.size(part)
        if a % b:
            raise InvalidInput(f"head_dim is missing, and {part} = {b} does not divide {whole} = {a}.")
        return a // b

    def unknown(self) -> tuple[str, ...]:
        """Return the fields that neither the family nor the list of fields without cost knows."""
        known = set(self._defaults) | WITHOUT_COST
        return tuple(sorted(name for name in self._config if name not in known))
