"""A config.json's fields: read with a family's names and defaults, each reading remembered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scalesim.errors import InvalidInput

__all__ = ["NEEDED", "SPELLINGS", "WITHOUT_COST", "Fields"]

NEEDED = object()
"""A field that must be stated: its class has a default, that of one particular model, and a config without it
is more likely cut short than meant so."""

DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), NEEDED),
    **dict.fromkeys(("intermediate_size", "vocab_size", "num_experts_per_tok"), NEEDED),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), NEEDED),
    **dict.fromkeys(("moe_intermediate_size", "kv_lora_rank", "qk_nope_head_dim"), NEEDED),
    **dict.fromkeys(("qk_rope_head_dim", "v_head_dim"), NEEDED),
}

_ALIKE = (
    ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "moe_k"),
    ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"),
    ("num_hidden_layers", "num_layers", "n_layers"),
    ("num_key_value_heads", "num_attention_groups", "multi_query_group_num"),
    ("max_position_embeddings", "model_max_length"),
    ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers"),
)
SPELLINGS = {name: tuple(n for n in names if n != name) for names in _ALIKE for name in names}
"""What configs call one field: model types and versions of transformers differ."""

_WITHOUT_COST = """
    _attn_implementation _name_or_path _remove_final_layer_norm _sliding_window_pattern activation
    activation_dropout activation_function activation_situ_beta activation_situ_linear_beta
    add_bos_token add_cross_attention apply_residual_connection_post_layernorm architectures
    att_impl_type attention_dropout attention_in_multiplier attention_multiplier
    attention_out_multiplier attention_probs_dropout_prob attention_softmax_in_fp32
    attention_value_scale attn_config attn_implementation attn_logit_softcapping attn_pdrop attn_scale
    attn_temperature_tuning audio_config audio_token_id auto_map aux_loss_alpha bad_words_ids
    begin_suppress_tokens beta_fast bias_dropout_fusion block_dim block_mlp_init_scale block_norm_eps
    block_out_init_scale block_use_swiglu block_use_xavier_init boa_token_id boi_token_id bos_token_id
    cache_implementation calc_logits_for_entire_prompt chunk_size chunk_size_feed_forward
    classifier_dropout clip_qkv cls_token_id compress_rope_parameters compress_rope_theta conv_dim_out
    conv_use_xavier_init
    cross_attention_hidden_size decoder_start_token_id dim_model_base diversity_penalty
    do_layer_norm_before do_sample dropout dtype dual_chunk_attention_config early_stopping emb_pdrop
    embd_pdrop embedding_dropout embedding_fraction embedding_initializer_range embedding_multiplier
    enable_moe_fp32_combine encoder_no_repeat_ngram_size eoa_token_id eoa_token_index eod_token_id
    eoi_token_id eos_token_id ep_size expert_dtype expert_selection_fn exponential_decay_length_penalty
    final_logit_softcapping finetuning_task floor_scale for_llm_compressor forced_bos_token_id
    forced_eos_token_id full_attn_mod fused_mlp gradient_checkpointing group_limited_greedy hc_eps
    hc_sinkhorn_iters hidden_act hidden_activation hidden_dropout hidden_dropout_prob id2label
    image_seq_length image_size image_token_id image_token_index index_local_blocks
    index_share_for_mtp_iteration indexer_rope_interleave init_config init_device init_method init_std
    initial_context_length initializer_factor initializer_range input_jitter_noise intermediate_router
    interpolate_factor is_decoder is_encoder_decoder is_llama_config kda_lower_bound kda_safe_gate
    key_multiplier label2id lambda_attention lambda_std_dev language layer_norm_eps layer_norm_epsilon
    layer_rope_theta layer_switch layerdrop layernorm_epsilon length_penalty linear_a_log_max
    linear_a_log_min linear_allow_neg_eigval linear_dt_init_floor linear_dt_max linear_dt_min
    lm_head_multiplier logit_scale logits_scaling mamba_chunk_size mamba_hidden_act
    mamba_inner_layernorms mamba_ssm_dtype mask_token_id masked_softmax_fusion max_length max_seq_len
    max_sequence_length mixer_rms_eps mla_use_nope mlp_expansion_factor mlp_hidden_act mlp_multipliers
    mlp_type mm_hidden_size mm_tokens_per_image model_type moe_apply_router_weight_on_input
    moe_aux_loss_coeff moe_norm_min moe_renormalize moe_routed_scaling_factor moe_router_activation
    moe_router_activation_func moe_router_dtype moe_router_enable_expert_bias
    moe_router_logit_softcapping moe_router_scaling_factor moe_router_topk_scaling_factor
    moe_shared_expert_overlap mtp_layers_block_type mtp_loss_scaling_factor mtp_use_dedicated_embeddings
    multimodal_projector_bias mup_enabled n_ctx n_group need_fp32_gate no_bias no_repeat_ngram_size
    no_rope_layer_interval no_rope_layers norm_eps norm_epsilon norm_head norm_softmax norm_topk_prob
    norm_type num_beam_groups num_beams num_expert_group num_hash_layers num_logits_to_keep
    num_return_sequences offset_alibi order_of_interleaved_layers original_max_position_embeddings
    output_attentions output_dropout output_hidden_states output_router_logits output_scores
    pad_token_id partial_rotary_factor partial_rotary_factors position_embedding_type prefix
    prefix_dense_sliding_window_pattern pretraining_tp problem_type projector_hidden_act pruned_heads
    qk_head_dim qk_norm_type query_pre_attn_scalar remove_invalid_values reorder_and_upcast_attn
    repetition_penalty rescale_prenorm_residual resid_pdrop residual_dropout residual_in_fp32
    residual_multiplier return_dict return_dict_in_generate rms_norm_eps rope_interleave
    rope_interleaved rope_local_base_freq rope_local_theta rope_parameters rope_pct rope_percent
    rope_percentage rope_ratio rope_scaling rope_theta rope_type rotary rotary_dim rotary_emb_base
    rotary_pct rotary_scaling_factor route_scale routed_scaling_factor router_aux_loss_coef router_dtype
    router_jitter_noise router_scaling_factor router_z_loss_coef scale_attention_softmax_in_fp32
    scale_attn_by_inverse_layer_idx scale_attn_weights scale_depth scale_emb score_function scoring_func
    sep_token_id seq_aux seq_length shared_expert_combination_strategy skip_bias_add skip_bias_add_qkv
    sliding_window_size slow_but_exact spatial_merge_size ssm_in_multiplier ssm_multipliers
    ssm_out_multiplier summary_activation summary_first_dropout summary_proj_to_labels summary_type
    summary_use_proj suppress_tokens swa_rope_theta swiglu_alpha swiglu_limit swiglu_limits
    swiglu_limits_shared task_specific_params temperature tf_legacy_loss theta tie_encoder_decoder
    time_step_floor time_step_limit time_step_max time_step_min time_step_rank tokenizer_class
    tokenizer_config tokenizer_name top_k top_p topk_group topk_method torch_dtype torchscript
    transformers.js_config transformers_version typical_p unk_token_id unsloth_fixed unsloth_version
    use_associative_scan use_bfloat16 use_bidirectional_attention use_cache use_embedding_sharing
    use_expert_bias use_flash_attn use_gated_activation use_grouped_topk use_head_wise_attn_gate
    use_mamba_kernels use_mambapy use_moe_router_bias use_parallel_block use_parallel_embedding
    use_pos_enc use_rope_layers verbose video_token_id vision_config vision_end_token_id
    vision_feature_layer vision_feature_select_strategy vision_soft_tokens_per_image
    vision_start_token_id vision_token_id yarn_only_types
"""
WITHOUT_COST = frozenset(_WITHOUT_COST.split())
"""Fields that change what a model computes or how it is trained, but neither its sizes nor its costs."""


class Fields:
    """A config's fields, read by the family's names and with its defaults.

    Where the family is `guessed`, its class's sizes are no defaults of the config's. While `layer` is set, a
    list of as many sizes as there are layers stands for that layer's, and what `per_layer_config` says of the
    layer goes before what the config says of all.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        family: str,
        names: Mapping[str, str],
        defaults: Mapping[str, Any],
        *,
        guessed: bool = False,
    ) -> None:
        self.config, self.family, self._guessed = config, family, guessed
        self._names, self._defaults = names, {**DEFAULTS, **defaults}
        self._read: set[str] = set()
        self.layer: int | None = None
        self.last = ""

    def key(self, name: str) -> str:
        """Return what this config calls a field."""
        key = self._names.get(name, name)
        others = (n for n in SPELLINGS.get(key, ()) if n in self.config and n not in self._names.values())
        return key if key in self.config else next(others, key)

    def _own(self, key: str) -> Any:
        each = self.config.get("per_layer_config")
        if self.layer is None or not isinstance(each, Mapping):
            return None
        self._read.add("per_layer_config")
        own = next((each[k] for k in each if str(k).isdecimal() and int(k) == self.layer), None)
        return own.get(key) if isinstance(own, Mapping) else None

    def raw(self, name: str, default: Any = None) -> Any:
        """Return a field as it stands; its default where it is left out or null."""
        default = self._defaults.get(name, default)
        key = self.key(name)
        self._read.add(key)
        self.last = key
        value = self._own(key)
        value = self.config.get(key) if value is None else value
        if value is None:
            # A null is how configs say "none": it overrides a default, except of a size that must be.
            value = default if key not in self.config or default is NEEDED else None
        if self._guessed and key not in self.config and isinstance(value, int):
            value = NEEDED if value > 1 or (value and name in self._defaults) else value
        if value is NEEDED:
            raise InvalidInput(f"{key} is missing from the {self.family} config; a whole number would do.")
        return value

    def optional(self, name: str, default: int | None = None, *, zero: bool = True) -> int | None:
        """Return a whole number above 0, or None where there is none, which 0 says too if `zero`."""
        value = self.raw(name, default)
        if value is None or (zero and value == 0):
            return None
        return self._whole(name, value)

    def size(self, name: str, default: Any = NEEDED) -> int:
        """Return a whole number above 0 that must be there."""
        return self._whole(name, self.raw(name, default))

    def count(self, name: str, default: int = 0) -> int:
        """Return a whole number of at least 0."""
        return self.optional(name, default) or 0

    def _whole(self, name: str, value: Any) -> int:
        if isinstance(value, list) and self.layer is not None and self.layer < len(value):
            value = value[self.layer]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            key = self.key(name)
            raise InvalidInput(f"{key} must be a whole number above 0, but is {value!r}.")
        return value

    def flag(self, name: str | bool, default: bool = False) -> bool:
        """Return true or false: a field's, or what the family always has."""
        if isinstance(name, bool):
            return name
        value = self.raw(name, default)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} must be true or false, but is {value!r}.")
        return value

    def listed(self, name: str, length: int | None = None) -> list[Any] | None:
        """Return a list, of `length` entries where that is given, or None where there is none.

        Entries of the layers that predict further tokens, after the others, are left out.
        """
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, list) and length is not None:
            value = value[:length] if len(value) == length + self.count("num_nextn_predict_layers") else value
        if not isinstance(value, list) or (length is not None and len(value) != length):
            found = len(value) if isinstance(value, list) else repr(value)
            wanted = "a list" if length is None else f"num_hidden_layers = {length} kinds"
            raise InvalidInput(f"{name} must list {wanted}, but lists {found}.")
        return value

    def quotient(self, whole: str, part: str) -> int:
        """Return whole / part, which must come out even."""
        a, b = self.size(whole), self.size(part)
        if a % b:
            names = [self.key(name) for name in (part, whole)]
            raise InvalidInput(f"head_dim is missing, and {names[0]} = {b} does not divide {names[1]} = {a}.")
        return a // b

    def seen(self, *names: str) -> None:
        """Take fields as read that change nothing here, beside those that do."""
        self._read.update(names)

    def is_used(self, name: str) -> bool:
        """Tell whether a field was read, or is one that any model may have."""
        return name in self._read or name in WITHOUT_COST

    def unknown(self) -> tuple[str, ...]:
        """Return the fields that were not read and are not known to cost nothing.

        A field that says no, or nothing, is one of what the model does not have.
        """
        known = self._read | WITHOUT_COST
        said = {name for name, value in self.config.items() if value not in (None, False, [], {}, "")}
        return tuple(sorted(said - known))
