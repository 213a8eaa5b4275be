"""Hugging Face config.json: a found design out."""

from __future__ import annotations

import json
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.shape import Shape

__all__ = ["to_huggingface", "write_config"]


def to_huggingface(shape: Shape, *, max_context: int = 131072, rope_theta: float = 5e5) -> dict[str, Any]:
    """Return a config.json's dictionary that transformers builds with the same parameters.

    A LlamaForCausalLM with its own head_dim; a Qwen3ForCausalLM where queries and keys are normed by head; a
    MistralForCausalLM without a window, the same network, where n_head does not divide d_model (transformers
    5 refuses that of a Llama, though nothing in it needs it).

    Args:
        shape: whole numbers; dense, gated, with two norms a layer.
        max_context: tokens of context.
        rope_theta: base of the rotary embedding (5e5 as in the paper and in Llama 3).

    Raises:
        InvalidInput: a size that is not whole, or an option that neither family has.

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
    plain = {"gated_ffn": True, "norms_per_layer": 2, "norm_bias": False, "n_positions": 0, "window": None}
    for name, expected in plain.items():
        if getattr(shape, name) != expected:
            raise InvalidInput(
                f"{name} must be {expected!r} to be written as a Llama, but is {getattr(shape, name)!r}."
            )
    if not shape.is_plain:
        raise InvalidInput("blocks must be one of plain attention and a dense FFN to be written as a Llama.")
    if shape.qkv_bias != shape.output_bias:
        raise InvalidInput(f"output_bias must equal qkv_bias = {shape.qkv_bias} in a Llama's config.")
    if shape.qk_norm == "projection" or (shape.qk_norm == "head" and shape.ffn_bias):
        raise InvalidInput(f"qk_norm {shape.qk_norm!r} cannot be written as a Llama or a Qwen3.")
    if shape.head_dim % 2:
        raise InvalidInput(f"head_dim must be even for rotary embeddings, but is {shape.head_dim}.")
    family = "Qwen3" if shape.qk_norm == "head" else "Llama"
    if family == "Llama" and shape.d_model % shape.n_head:
        if shape.qkv_bias or shape.ffn_bias:
            raise InvalidInput(
                f"n_head must divide d_model = {shape.d_model} in a Llama with biases, but is {shape.n_head}."
            )
        family = "Mistral"
    config: dict[str, Any] = {
        "architectures": [f"{family}ForCausalLM"],
        "model_type": family.lower(),
        "hidden_size": shape.d_model,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_kv_head,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.d_ff,
        "vocab_size": shape.vocab_size,
        "tie_word_embeddings": shape.tied_embeddings,
        "attention_bias": shape.qkv_bias,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": rope_theta,
        "max_position_embeddings": max_context,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    if family == "Llama":
        config["mlp_bias"] = shape.ffn_bias
    if family == "Mistral":
        del config["attention_bias"]
        config["sliding_window"] = None
    return config


def write_config(shape: Shape, path: str, *, max_context: int = 131072) -> None:
    """Write `to_huggingface` of a shape to a file.

    Raises:
        InvalidInput: the shape cannot be written so, or the file cannot be written.
    """
    text = json.dumps(to_huggingface(shape, max_context=max_context), indent=2)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    except OSError as error:
        raise InvalidInput(f"config {path!r} cannot be written: {error.strerror}.") from None
