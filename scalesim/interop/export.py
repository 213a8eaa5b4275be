"""Hugging Face config.json: a found design out."""

from __future__ import annotations

import json
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.files import write_whole
from scalesim.shape import Attention, Dense, LatentAttention, MixtureOfExperts, Shape

__all__ = ["to_huggingface", "write_config"]


def to_huggingface(shape: Shape, *, max_context: int = 131072, rope_theta: float = 5e5) -> dict[str, Any]:
    """Return a config.json's dictionary that transformers builds with the same parameters.

    The family that has what the shape has: a Llama with its own head_dim, or a Mistral, the same network,
    where layers have a window or n_head does not divide d_model (transformers 5 refuses that of a Llama,
    though nothing in it needs it); an Arcee where the FFN has two matrices; a Qwen3 where queries and keys
    are normed by head; a Mixtral or a Qwen3-MoE with experts in all layers; a DeepSeek-V3 with latent
    attention and experts.

    Args:
        shape: whole numbers; two norms a layer.
        max_context: tokens of context.
        rope_theta: base of the rotary embedding (5e5 as in the paper and in Llama 3).

    Raises:
        InvalidInput: a size that is not whole, or an option that no such family has.

    >>> design = Shape(n_layer=36, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    >>> to_huggingface(design)["head_dim"]
    64
    """
    for name in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size"):
        value = getattr(shape, name)
        if not isinstance(value, int):
            raise InvalidInput(
                f"{name} must be a whole number in a config.json, but is {value!r}; {round(value)} would do."
            )
    for name, expected in {"norms_per_layer": 2, "norm_bias": False, "n_positions": 0}.items():
        if getattr(shape, name) != expected:
            raise InvalidInput(
                f"{name} must be {expected!r} to be written as a Llama, but is {getattr(shape, name)!r}."
            )
    if isinstance(shape.mixer, LatentAttention):
        own, family = _latent(shape), "DeepseekV3"
    else:
        own, family = _grouped(shape)
    return {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": {"DeepseekV3": "deepseek_v3", "Qwen3Moe": "qwen3_moe"}.get(family, family.lower()),
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.mixer.n_kv_head,  # type: ignore[union-attr]
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied_embeddings,
        "rms_norm_eps": 1e-6,
        "rope_theta": rope_theta,
        "max_position_embeddings": max_context,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        **own,
    }


def _grouped(shape: Shape) -> tuple[dict[str, Any], str]:
    mixer, ffn = shape.mixer, shape.ffn
    plain = len(shape.blocks) == 1 and isinstance(mixer, Attention) and not shape.extras
    if not plain or mixer != Attention(
        n_head=shape.n_head, n_kv_head=shape.n_kv_head, head_dim=shape.head_dim, window=shape.window,
        qkv_bias=shape.qkv_bias, output_bias=shape.output_bias, qk_norm=shape.qk_norm,
    ):  # fmt: skip
        raise InvalidInput(
            "blocks must be of one kind, attention with a dense FFN or experts, to be written as a Llama."
        )
    if shape.qkv_bias != shape.output_bias:
        raise InvalidInput(f"output_bias must equal qkv_bias = {shape.qkv_bias} in a Llama's config.")
    if shape.qk_norm == "projection" or (shape.qk_norm == "head" and shape.ffn_bias):
        raise InvalidInput(f"qk_norm {shape.qk_norm!r} cannot be written as a Llama or a Qwen3.")
    if shape.head_dim % 2:
        raise InvalidInput(f"head_dim must be even for rotary embeddings, but is {shape.head_dim}.")
    family = "Qwen3" if shape.qk_norm == "head" else "Llama"
    own = {
        "head_dim": shape.head_dim,
        "intermediate_size": shape.d_ff,
        "hidden_act": "silu",
        "attention_bias": shape.qkv_bias,
    }
    if isinstance(ffn, MixtureOfExperts):
        return _experts(shape, ffn, own, family)
    assert isinstance(ffn, Dense)
    if not ffn.gated:
        if family == "Qwen3" or shape.window is not None:
            raise InvalidInput("gated_ffn must be True beside q/k norms or a window, but is False.")
        return {**own, "mlp_bias": ffn.bias, "hidden_act": "relu2"}, "Arcee"
    if family == "Qwen3":
        window = {} if shape.window is None else _every_layer(shape.window)
        return {**own, **window}, family
    if shape.window is not None or shape.d_model % shape.n_head:
        if shape.qkv_bias or ffn.bias:
            raise InvalidInput(
                f"n_head must divide d_model = {shape.d_model} in a Llama with biases, and it has no window, "
                f"but n_head is {shape.n_head} and window {shape.window}."
            )
        del own["attention_bias"]
        return {**own, "sliding_window": shape.window}, "Mistral"
    return {**own, "mlp_bias": ffn.bias}, family


def _every_layer(window: int) -> dict[str, Any]:
    return {"sliding_window": window, "use_sliding_window": True, "max_window_layers": 0}


def _experts(
    shape: Shape, ffn: MixtureOfExperts, own: dict[str, Any], family: str
) -> tuple[dict[str, Any], str]:
    if ffn != MixtureOfExperts(n_expert=ffn.n_expert, top_k=ffn.top_k, d_ff=ffn.d_ff):
        raise InvalidInput(
            "Experts beside a shared one, or with biases, need latent attention (DeepSeek-V3)."
        )
    if family == "Llama":
        if shape.qkv_bias:
            raise InvalidInput("qkv_bias must be False in a Mixtral's config, but is True.")
        del own["attention_bias"]
        counts = {"num_local_experts": ffn.n_expert, "num_experts_per_tok": ffn.top_k}
        return {**own, **counts, "sliding_window": shape.window}, "Mixtral"
    counts = {
        "num_experts": ffn.n_expert,
        "num_experts_per_tok": ffn.top_k,
        "moe_intermediate_size": ffn.d_ff,
    }
    window = {} if shape.window is None else _every_layer(shape.window)
    return {**own, **counts, **window, "decoder_sparse_step": 1, "mlp_only_layers": []}, "Qwen3Moe"


def _latent(shape: Shape) -> dict[str, Any]:
    mixer, last = shape.mixer, shape.blocks[-1].ffn
    assert isinstance(mixer, LatentAttention)
    first = [b for b in shape.blocks if isinstance(b.ffn, Dense)]
    shared = getattr(last, "d_ff_shared", None) or 0
    alike = all(b.mixer == mixer for b in shape.blocks) and mixer.n_index_head is None
    if not alike or len(shape.blocks) > 2 or not isinstance(last, MixtureOfExperts) or shared % last.d_ff:
        raise InvalidInput(
            "blocks must be of one latent attention, dense FFNs first, then experts, whose shared width is "
            "a multiple of theirs, to be written as a DeepSeek-V3."
        )
    return {
        "q_lora_rank": mixer.q_lora_rank,
        "kv_lora_rank": mixer.kv_lora_rank,
        "qk_nope_head_dim": mixer.head_dim - mixer.rope_dim,
        "qk_rope_head_dim": mixer.rope_dim,
        "v_head_dim": mixer.v_head_dim,
        "attention_bias": mixer.bias,
        "hidden_act": "silu",
        "intermediate_size": first[0].ffn.d_ff if first else last.d_ff,  # type: ignore[union-attr]
        "first_k_dense_replace": sum(b.count for b in first),
        "n_routed_experts": last.n_expert,
        "num_experts_per_tok": last.top_k,
        "moe_intermediate_size": last.d_ff,
        "n_shared_experts": shared // last.d_ff,
        "n_group": 1,
        "topk_group": 1,
    }


def write_config(shape: Shape, path: str, *, max_context: int = 131072) -> None:
    """Write `to_huggingface` of a shape to a file.

    Raises:
        InvalidInput: the shape cannot be written so, or the file cannot be written.
        Unreachable: the disk is full; the old file stays.
    """
    text = json.dumps(to_huggingface(shape, max_context=max_context), indent=2)
    write_whole(path, text + "\n", "config")
