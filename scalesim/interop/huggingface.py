"""Hugging Face config.json: an architecture in, a found design out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalesim.errors import InvalidInput, choose
from scalesim.interop.fields import DEFAULTS, WITHOUT_COST, Fields
from scalesim.shape import LatentAttention, MixtureOfExperts, Shape, SlidingWindow

__all__ = ["ImportedConfig", "from_huggingface", "read_config", "to_huggingface", "write_config"]


@dataclass(frozen=True)
class ImportedConfig:
    """What a config.json says.

    Attributes:
        shape: the architecture.
        model_type: its family, as Hugging Face names it.
        max_context: tokens of context that the model was made for (None: not stated).
        unknown: fields that are not known here and might cost something; everything else was used, or is
            known to cost nothing.
    """

    shape: Shape
    model_type: str
    max_context: int | None
    unknown: tuple[str, ...]


def read_config(path: str) -> ImportedConfig:
    """Read a config.json file.

    Raises:
        InvalidInput: the file cannot be read, is not a JSON object, or is refused by `from_huggingface`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            config = json.load(file)
    except OSError as error:
        raise InvalidInput(f"config {path!r} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise InvalidInput(f"config {path!r} is not JSON: {error}.") from None
    if not isinstance(config, dict):
        raise InvalidInput(f"config {path!r} must hold one JSON object, but holds a {type(config).__name__}.")
    return from_huggingface(config)


def from_huggingface(config: Mapping[str, Any]) -> ImportedConfig:
    """Return the shape of a config.json's dictionary.

    Known model types: llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma2, gemma3, gemma3_text, phi3,
    olmo2, deepseek_v2, deepseek_v3, gpt2. Fields left out take the defaults of the family's config class;
    sizes that make a model what it is must be stated.

    Raises:
        InvalidInput: a model type that is not known, a field that is missing, of the wrong kind, or
            contradicts another.

    >>> config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32,
    ...           "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336,
    ...           "vocab_size": 128256, "tie_word_embeddings": False, "mystery": 1}
    >>> imported = from_huggingface(config)
    >>> imported.shape.n_params_total, imported.unknown
    (8030261248, ('mystery',))
    """
    if "model_type" not in config:
        raise InvalidInput(f"model_type is missing from the config; {', '.join(sorted(DEFAULTS))} are known.")
    family = choose("model_type", str(config["model_type"]), DEFAULTS)
    if family == "gemma3":
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise InvalidInput("text_config is missing from the gemma3 config; an object would do.")
        # The language model alone: the vision tower has its own sizes.
        tied = {k: config[k] for k in ("tie_word_embeddings",) if k in config}
        config, family = {**tied, **text}, "gemma3_text"
    if family == "gpt2":
        return _gpt2(Fields(config, family))
    fields = Fields(config, family)
    shape = _llama_like(fields, family)
    return ImportedConfig(shape, family, fields.optional("max_position_embeddings"), fields.unknown())


def _gpt2(fields: Fields) -> ImportedConfig:
    d_model, n_head = fields.size("n_embd"), fields.size("n_head")
    positions = fields.size("n_positions")
    shape = Shape(
        n_layer=fields.size("n_layer"),
        d_model=d_model,
        n_head=n_head,
        n_kv_head=n_head,
        head_dim=fields.quotient("n_embd", "n_head"),
        d_ff=fields.optional("n_inner") or 4 * d_model,
        vocab_size=fields.size("vocab_size"),
        gated_ffn=False,
        tied_embeddings=fields.flag("tie_word_embeddings"),
        qkv_bias=True,
        output_bias=True,
        ffn_bias=True,
        norm_bias=True,
        n_positions=positions,
    )
    return ImportedConfig(shape, "gpt2", positions, fields.unknown())


def _llama_like(f: Fields, family: str) -> Shape:
    latent = _latent(f) if family.startswith("deepseek") else None
    n_head = f.size("num_attention_heads")
    n_kv_head = f.optional("num_key_value_heads") or n_head
    if latent is None:
        head_dim = f.optional("head_dim") or f.quotient("hidden_size", "num_attention_heads")
    else:
        head_dim = f.size("qk_nope_head_dim") + f.size("qk_rope_head_dim")
        if n_kv_head != n_head:
            raise InvalidInput(
                f"num_key_value_heads must be num_attention_heads = {n_head} with latent attention, "
                f"but is {n_kv_head}."
            )
    bias = f.flag("attention_bias")
    return Shape(
        n_layer=f.size("num_hidden_layers"),
        d_model=f.size("hidden_size"),
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=head_dim,
        d_ff=f.size("moe_intermediate_size" if family == "qwen3_moe" else "intermediate_size"),
        vocab_size=f.size("vocab_size"),
        tied_embeddings=f.flag("tie_word_embeddings"),
        qkv_bias=bias or family == "qwen2",
        output_bias=bias,
        ffn_bias=f.flag("mlp_bias"),
        qk_norm={"qwen3": "head", "qwen3_moe": "head", "gemma3_text": "head", "olmo2": "projection"}.get(  # type: ignore[arg-type]
            family, "none"
        ),
        norms_per_layer=4 if family in ("gemma2", "gemma3_text") else 2,
        latent=latent,
        window=_window(f, family),
        moe=_moe(f, family),
    )


def _latent(f: Fields) -> LatentAttention:
    return LatentAttention(
        kv_lora_rank=f.size("kv_lora_rank"),
        q_lora_rank=f.optional("q_lora_rank"),
        rope_dim=f.size("qk_rope_head_dim"),
        v_head_dim=f.size("v_head_dim"),
    )


def _moe(f: Fields, family: str) -> MixtureOfExperts | None:
    if family == "mixtral":
        return MixtureOfExperts(
            n_expert=f.size("num_local_experts"),
            top_k=f.size("num_experts_per_tok"),
            d_ff=f.size("intermediate_size"),
        )
    if family == "qwen3_moe":
        if f.optional("decoder_sparse_step") not in (None, 1) or f.raw("mlp_only_layers") not in (None, []):
            raise InvalidInput(
                "decoder_sparse_step must be 1 and mlp_only_layers empty: dense layers between are not known."
            )
        return MixtureOfExperts(
            n_expert=f.size("num_experts"),
            top_k=f.size("num_experts_per_tok"),
            d_ff=f.size("moe_intermediate_size"),
        )
    if family.startswith("deepseek"):
        if f.optional("moe_layer_freq") not in (None, 1):
            raise InvalidInput(f"moe_layer_freq must be 1, but is {f.raw('moe_layer_freq')!r}.")
        return MixtureOfExperts(
            n_expert=f.size("n_routed_experts"),
            top_k=f.size("num_experts_per_tok"),
            d_ff=f.size("moe_intermediate_size"),
            n_shared=f.optional("n_shared_experts") or 0,
            n_dense_layer=f.optional("first_k_dense_replace") or 0,
            router_bias=family == "deepseek_v3",
        )
    return None


def _window(f: Fields, family: str) -> SlidingWindow | None:
    window = f.optional("sliding_window")
    kinds = f.raw("layer_types")
    pattern = f.optional("sliding_window_pattern")
    if family in ("qwen2", "qwen3", "qwen3_moe"):
        if not f.flag("use_sliding_window"):
            return None
        # Layers below max_window_layers attend to everything.
        if window is not None and kinds is None:
            full = min(f.size("max_window_layers"), f.size("num_hidden_layers"))
            return SlidingWindow(window=window, n_global=full)
    if kinds is not None:
        if not isinstance(kinds, list) or len(kinds) != f.size("num_hidden_layers"):
            raise InvalidInput(
                f"layer_types must list num_hidden_layers = {f.size('num_hidden_layers')} kinds, but lists "
                f"{len(kinds) if isinstance(kinds, list) else repr(kinds)}."
            )
        for kind in kinds:
            choose("layer_types", str(kind), ("full_attention", "sliding_attention"))
        if "sliding_attention" not in kinds:
            return None
        if window is None:
            raise InvalidInput("sliding_window is missing, but layer_types has sliding_attention.")
        return SlidingWindow(window=window, n_global=kinds.count("full_attention"))
    if window is None:
        return None
    if family == "gemma2":
        return SlidingWindow(window=window, global_every=2)
    if family == "gemma3_text":
        return SlidingWindow(window=window, global_every=pattern or 6)
    return SlidingWindow(window=window)


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
    plain = {
        "gated_ffn": True,
        "norms_per_layer": 2,
        "norm_bias": False,
        "n_positions": 0,
        "layers_per_kv": 1,
        "latent": None,
        "window": None,
        "moe": None,
    }
    for name, expected in plain.items():
        if getattr(shape, name) != expected:
            raise InvalidInput(
                f"{name} must be {expected!r} to be written as a Llama, but is {getattr(shape, name)!r}."
            )
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
    assert set(config) <= set(WITHOUT_COST) | set(DEFAULTS[family.lower()])
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
