"""Hugging Face config.json: a design out.

What a shape has is said in the words of configs, and each model type is asked what it reads of them: the
first that reads the same shape is it. So whatever is read can be written.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from scalesim.errors import InvalidInput
from scalesim.files import write_whole
from scalesim.interop.families import FAMILIES
from scalesim.interop.huggingface import shape_of
from scalesim.interop.hybrids import RATES
from scalesim.interop.layers import layer
from scalesim.shape import (
    Attention,
    Block,
    CompressedAttention,
    DeltaNet,
    Dense,
    LatentAttention,
    Mamba2,
    MixtureOfExperts,
    Shape,
    ShortConv,
    Together,
)

__all__ = ["to_huggingface", "write_config"]

_NAMES = {
    "arcee": "Arcee", "cohere": "Cohere", "cohere2": "Cohere2",
    "deepseek_v3": "DeepseekV3", "deepseek_v32": "DeepseekV32", "deepseek_v4": "DeepseekV4",
    "falcon_h1": "FalconH1", "gemma": "Gemma", "gemma2": "Gemma2", "gemma3_text": "Gemma3",
    "gemma4_text": "Gemma4", "glm": "Glm", "glm4": "Glm4", "glm4_moe": "Glm4Moe",
    "glm_moe_dsa": "GlmMoeDsa", "gpt2": "GPT2LMHeadModel", "gpt_neox": "GPTNeoX", "gpt_oss": "GptOss",
    "granite": "Granite", "granitemoehybrid": "GraniteMoeHybrid", "lfm2": "Lfm2", "llama": "Llama",
    "llama4_text": "Llama4", "mimo_v2_flash": "MiMoV2Flash", "minimax_m2": "MiniMaxM2",
    "ministral": "Ministral", "mistral": "Mistral", "mixtral": "Mixtral", "nemotron": "Nemotron",
    "nemotron_h": "NemotronH", "olmo2": "Olmo2", "olmo3": "Olmo3", "olmo_hybrid": "OlmoHybrid",
    "olmoe": "Olmoe", "phi3": "Phi3", "qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3",
    "qwen3_5_moe_text": "Qwen3_5Moe", "qwen3_5_text": "Qwen3_5", "qwen3_moe": "Qwen3Moe",
    "qwen3_next": "Qwen3Next", "seed_oss": "SeedOss", "smollm3": "SmolLM3", "solar_open": "SolarOpen",
    "stablelm": "StableLm", "starcoder2": "Starcoder2",
}  # fmt: skip
_FIRST = (
    "llama",
    "mistral",
    "arcee",
    "qwen2",
    "qwen3",
    "ministral",
    "granite",
    "seed_oss",
    "mixtral",
    "qwen3_moe",
)
_ORDER = (*_FIRST, *(kind for kind in _NAMES if kind not in _FIRST))
# transformers builds these only of heads that divide the width, though nothing in them needs it.
_DIVIDED = frozenset({"llama", "arcee", "gemma2", "gemma3_text"})
_COUNTED = frozenset({"afmoe", "ernie4_5_moe", "laguna"})  # a router's bias is a parameter


def to_huggingface(shape: Shape, *, max_context: int = 131072, rope_theta: float = 5e5) -> dict[str, Any]:
    """Return a config.json's dictionary that transformers builds with the same parameters.

    The first model type that has what the shape has: a Llama with its own head_dim where it will do, else a
    Mistral (the same network, with windows or heads that do not divide d_model), a Qwen, a Gemma and so on.

    Args:
        shape: whole numbers.
        max_context: tokens of context.
        rope_theta: base of the rotary embedding (5e5 as in the paper and in Llama 3).

    Raises:
        InvalidInput: a size that is not whole, or an option that no model type has beside the others.

    >>> design = Shape(n_layer=36, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461)
    >>> written = to_huggingface(design)
    >>> written["model_type"], written["head_dim"]
    ('llama', 64)
    """
    sizes = {"n_layer": shape.n_layer, "d_model": shape.d_model, "vocab_size": shape.vocab_size}
    for block in shape.blocks:
        for part in (block.mixer, block.ffn):
            names = [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
            sizes |= {n: v for n in names if isinstance(v := getattr(part, n), int | float)}
    for name, value in sizes.items():
        if not isinstance(value, int):
            raise InvalidInput(
                f"{name} must be a whole number in a config.json, but is {value!r}; {round(value)} would do."
            )
    if isinstance(shape.mixer, Attention) and shape.head_dim % 2:
        raise InvalidInput(f"head_dim must be even for rotary embeddings, but is {shape.head_dim}.")
    common = {
        "tie_word_embeddings": shape.tied_embeddings,
        "max_position_embeddings": shape.n_positions or max_context,
        "rms_norm_eps": 1e-6,
        "rope_theta": rope_theta,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    closest: tuple[int, str] = (100, "the shape cannot be written as a config.json.")
    for kind in _ORDER:
        for said in _said(shape, kind):
            own = FAMILIES[kind].names
            written: dict[str, Any] = {
                own.get(name, name): value for name, value in {**said, **common}.items()
            }
            written["model_type"] = kind
            found, why = _differs(shape, kind, written)
            if not found:
                return _trimmed(written, kind)
            closest = min(closest, (found, why), key=lambda reading: reading[0])
    raise InvalidInput(closest[1])


def write_config(shape: Shape, path: str, *, max_context: int = 131072) -> None:
    """Write `to_huggingface` of a shape to a file.

    Raises:
        InvalidInput: the shape cannot be written so, or the file cannot be written.
        Unreachable: the disk is full; the old file stays.
    """
    text = json.dumps(to_huggingface(shape, max_context=max_context), indent=2)
    write_whole(path, text + "\n", "config")


def _layers(shape: Shape) -> list[Block]:
    order = shape.order or tuple((i, int(block.count)) for i, block in enumerate(shape.blocks))
    return [shape.blocks[place] for place, count in order for _ in range(count)]


def _said(shape: Shape, kind: str) -> Iterator[dict[str, Any]]:
    """Yield what configs say of a shape: all of their words, of which a family reads its own."""
    layers = _layers(shape)
    mixers = [
        part for b in layers for part in (b.mixer.parts if isinstance(b.mixer, Together) else (b.mixer,))
    ]
    base: dict[str, Any] = {
        "hidden_size": shape.d_model,
        "num_hidden_layers": len(layers),
        "vocab_size": shape.vocab_size,
        "hidden_act": "silu",
    }
    # Of layers that share what an indexer picks, the one that picks says its sizes.
    for mixer in sorted(dict.fromkeys(mixers), key=lambda m: getattr(m, "n_index_head", 1) is None):
        for name, value in _mixer_said(mixer).items():
            base.setdefault(name, value)
    windows = {m.window for m in mixers if isinstance(m, Attention) and m.window is not None}
    kinds = [_layer_kind(b, kind) for b in layers]
    rule = FAMILIES[kind].rules.window
    if (
        windows
        and FAMILIES[kind].layer is layer
        and (
            rule == "none"
            or (rule == "all" and None in {m.window for m in mixers if isinstance(m, Attention)})
        )
    ):
        return  # its class has no windows, or none in some layers
    if len(set(kinds)) > 1 or (windows and rule != "all"):
        base["layer_types"] = kinds
    base |= {"use_sliding_window": bool(windows), "max_window_layers": 0 if windows else len(layers)}
    windows |= {m.window for m in mixers if isinstance(m, CompressedAttention)}
    base["sliding_window"] = base["attention_chunk_size"] = min(windows, default=None)
    letters = {"linear_attention": "M", "full_attention": "*"}
    base["hybrid_override_pattern"] = "".join(
        letters.get(k, "M") if b.mixer is not None else "-" if isinstance(b.ffn, Dense) else "E"
        for k, b in zip(kinds, layers, strict=True)
    )
    per = next((p.shape[1] for p in shape.extras if p.name == "layer_embedding"), 0)
    base["hidden_size_per_layer_input"] = int(per) // len(layers)
    picks = [m for m in mixers if isinstance(m, LatentAttention) and m.index_top_k is not None]
    if picks:
        base["indexer_types"] = ["shared" if m.n_index_head is None else "full" for m in picks]
    base["compress_rates"] = {
        k: m.ratio for k, m in zip(kinds, mixers, strict=False) if isinstance(m, CompressedAttention)
    } or None
    base["full_attn_idxs"] = [i for i, k in enumerate(kinds) if k == "full_attention"]
    base |= _attention_said([m for m in mixers if isinstance(m, Attention)])
    dense = [b.ffn for b in layers if isinstance(b.ffn, Dense)]
    experts = [b.ffn for b in layers if isinstance(b.ffn, MixtureOfExperts)]
    widths = [dense[0].d_ff] if dense else []
    if experts:
        first = next(i for i, b in enumerate(layers) if isinstance(b.ffn, MixtureOfExperts))
        base |= _experts_said(experts[0], first, [b.ffn for b in layers], kind)
        widths = [w for w in (*widths, experts[0].d_ff, experts[0].d_ff_shared) if w]
    elif kind.startswith("deepseek"):
        base |= {"first_k_dense_replace": len(layers), "n_routed_experts": 1}
    gate = (dense or experts or [Dense(d_ff=1)])[0]
    if not gate.gated:
        base["hidden_act"] = "relu2"
    base["mlp_bias"] = isinstance(gate, Dense) and gate.bias
    for width in widths or [4 * shape.d_model]:
        yield {**base, "intermediate_size": width, "intermediate_size_mlp": widths[0] if widths else width}


def _layer_kind(block: Block, kind: str) -> str:
    mixer = block.mixer
    if isinstance(mixer, Attention):
        local = "chunked_attention" if kind == "llama4_text" else "sliding_attention"
        return "full_attention" if mixer.window is None else local
    if isinstance(mixer, CompressedAttention):
        near, sparse, far = RATES
        return near if not mixer.ratio else far if mixer.n_index_head is None else sparse
    if isinstance(mixer, LatentAttention):
        return "full_attention"
    return "conv" if isinstance(mixer, ShortConv) else "linear_attention"


def _mixer_said(mixer: Any) -> dict[str, Any]:
    """Return what configs call a mixer's sizes."""
    if isinstance(mixer, Attention):
        return {
            "num_attention_heads": mixer.n_head,
            "num_key_value_heads": mixer.n_kv_head,
            "head_dim": mixer.head_dim,
            "attention_head_dim": mixer.head_dim,
            "v_head_dim": mixer.v_head_dim,
            "attention_bias": mixer.qkv_bias,
            "attention_out_bias": mixer.output_bias,
            "use_qkv_bias": mixer.qkv_bias,
            "use_bias": mixer.qkv_bias,
            "qkv_bias": mixer.qkv_bias,
            "use_qk_norm": mixer.qk_norm != "none",
            "qk_layernorm": mixer.qk_norm != "none",
            "attn_output_gate": mixer.gate != "none",
        }
    if isinstance(mixer, LatentAttention):
        return {
            "num_attention_heads": mixer.n_head,
            "num_key_value_heads": mixer.n_head,
            "q_lora_rank": mixer.q_lora_rank,
            "kv_lora_rank": mixer.kv_lora_rank,
            "qk_nope_head_dim": mixer.head_dim - mixer.rope_dim,
            "qk_rope_head_dim": mixer.rope_dim,
            "v_head_dim": mixer.v_head_dim,
            "attention_bias": mixer.bias,
            "index_n_heads": mixer.n_index_head,
            "index_head_dim": mixer.index_head_dim,
            "index_topk": mixer.index_top_k,
        }
    if isinstance(mixer, CompressedAttention):
        return {
            "num_attention_heads": mixer.n_head,
            "num_key_value_heads": 1,
            "head_dim": mixer.head_dim,
            "q_lora_rank": mixer.q_lora_rank,
            "o_lora_rank": mixer.o_lora_rank,
            "o_groups": mixer.o_groups,
            "index_n_heads": mixer.n_index_head or 64,
            "index_head_dim": mixer.index_head_dim,
            "index_topk": mixer.index_top_k or 512,
        }
    if isinstance(mixer, DeltaNet):
        return {
            "linear_num_key_heads": mixer.n_k_head,
            "linear_num_value_heads": mixer.n_v_head,
            "linear_key_head_dim": mixer.k_head_dim,
            "linear_value_head_dim": mixer.v_head_dim,
            "linear_conv_kernel_dim": mixer.kernel,
            "mamba_ssm_dtype": f"float{mixer.state_bits}" if mixer.state_bits == 32 else "bfloat16",
        }
    if isinstance(mixer, Mamba2):
        own = {"n_heads": mixer.n_ssm_head, "d_head": mixer.ssm_head_dim, "d_state": mixer.state_size}
        own |= {"n_groups": mixer.n_group, "d_conv": mixer.kernel}
        return {
            **{f"mamba_{name}": value for name, value in own.items()},
            "mamba_d_ssm": mixer.n_ssm_head * mixer.ssm_head_dim,
            "mamba_rms_norm": mixer.norm,
            "mamba_num_heads": mixer.n_ssm_head,
            "mamba_head_dim": mixer.ssm_head_dim,
            "ssm_state_size": mixer.state_size,
            "n_groups": mixer.n_group,
            "conv_kernel": mixer.kernel,
            "mamba_ssm_cache_dtype": "float32" if mixer.state_bits == 32 else "bfloat16",
        }
    return {"conv_L_cache": mixer.kernel} if isinstance(mixer, ShortConv) else {}


def _attention_said(mixers: list[Attention]) -> dict[str, Any]:
    """Return what is said of layers that see all, and of those that see a window, where they differ."""
    near = next((m for m in mixers if m.window is not None), None)
    far = next((m for m in mixers if m.window is None), None)
    if near is None or far is None:
        return {}
    own = {"num_attention_heads": near.n_head, "num_key_value_heads": near.n_kv_head}
    own |= {"head_dim": near.head_dim, "v_head_dim": near.v_head_dim or near.head_dim}
    return {
        **{f"swa_{name}": value for name, value in own.items()},
        "add_swa_attention_sink_bias": near.sinks,
        "add_full_attention_sink_bias": far.sinks,
        "global_head_dim": far.head_dim,
        "num_global_key_value_heads": far.n_kv_head,
        "attention_k_eq_v": far.k_is_v,
    }


def _experts_said(moe: MixtureOfExperts, first: int, ffns: list[Any], kind: str) -> dict[str, Any]:
    shared, sparse = moe.d_ff_shared or 0, [isinstance(ffn, MixtureOfExperts) for ffn in ffns]
    step = next((i for i, has in enumerate(sparse[first + 1 :], 1) if has), 1)
    counts = ("num_experts", "num_local_experts", "n_routed_experts")
    return {
        **dict.fromkeys(counts, moe.n_expert),
        "num_experts_per_tok": moe.top_k,
        "top_k_experts": moe.top_k,
        "enable_moe_block": True,
        "moe_intermediate_size": moe.d_ff,
        "n_shared_experts": (shared // moe.d_ff) if kind != "nemotron_h" else int(bool(shared)),
        "shared_expert_intermediate_size": shared,
        "shared_intermediate_size": shared,
        "moe_shared_expert_intermediate_size": shared,
        "moe_latent_size": moe.d_expert,
        "first_k_dense_replace": first if all(sparse[first:]) else 0,
        "interleave_moe_layer_step": step,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, has in enumerate(sparse) if not has],
        **({} if all(sparse) else {"mlp_layer_types": ["sparse" if has else "dense" for has in sparse]}),
        "moe_layers": [i for i, has in enumerate(sparse) if has],
        "n_group": 1,
        "topk_group": 1,
    }


def _differs(shape: Shape, kind: str, written: dict[str, Any]) -> tuple[int, str]:
    """Return how many fields of a shape a model type reads otherwise, and a sentence of the first."""
    picks: list[Any] = [b.mixer for b in shape.blocks if getattr(b.mixer, "index_top_k", None) is not None]
    without = ("deepseek_v3", "deepseek_v32")[: 1 + any(m.n_index_head is None for m in picks)]
    if isinstance(shape.mixer, LatentAttention) and picks and kind in without:
        return 98, f"index_top_k must be None to be written as a {kind}."
    try:
        read, _ = shape_of(kind, written)
        shape = shape if kind in _COUNTED else _without_router_bias(shape)
    except (InvalidInput, TypeError, AttributeError, IndexError, KeyError) as error:
        return 99, f"the shape cannot be written as a {kind}: {error}"
    named, other = _fields(shape), _fields(read)
    wrong = [n for n in {**named, **other} if named.get(n) != other.get(n)]
    if len(read.blocks) < len(shape.blocks):
        each = [_fields(shape.replace(blocks=(b,), order=())) for b in shape.blocks]
        apart = [n for n in each[0] if n != "layers" and len({repr(one.get(n)) for one in each}) > 1]
        return 1 + len(wrong), f"blocks that differ in {', '.join(apart)} cannot be written as a {kind}."
    if not wrong and read != shape:
        return 98, f"the order of blocks cannot be written as a {kind}."
    if not wrong and kind in _DIVIDED and shape.d_model % int(shape.n_head):
        return 1, f"n_head must divide d_model = {shape.d_model} in a {kind}'s config, but is {shape.n_head}."
    if not wrong:
        return 0, ""
    want, got = (repr(found.get(wrong[0], "absent")) for found in (named, other))
    return 1 + len(wrong), f"{wrong[0]} must be {got} to be written as a {kind}, but is {want}."


def _without_router_bias(shape: Shape) -> Shape:
    """Return it as transformers counts it: the bias that balances a router's load is a buffer there."""
    blocks = [
        dataclasses.replace(b, ffn=dataclasses.replace(b.ffn, router_bias=False))
        if isinstance(b.ffn, MixtureOfExperts)
        else b
        for b in shape.blocks
    ]
    return shape.replace(blocks=blocks)


def _fields(shape: Shape) -> dict[str, Any]:
    """Return a shape's options and sizes by name."""
    names = ("tied_embeddings", "norm_bias", "n_positions", "final_norm", "extras")
    found: dict[str, Any] = {name: getattr(shape, name) for name in names}
    for i, block in enumerate(shape.blocks):
        place = f" of block {i + 1}" if i else ""
        own = {"norms_per_layer": block.norms, "layers": block.count, "extra tensors": block.extras}
        for part, prefix in ((block.mixer, ""), (block.ffn, "ffn_")):
            own[f"{prefix or 'mixer_'}kind"] = type(part).__name__
            for field in dataclasses.fields(part) if dataclasses.is_dataclass(part) else ():
                name = {"gated": "gated_ffn", "bias": f"{prefix}bias"}.get(field.name, field.name)
                own[name] = getattr(part, field.name)
        found |= {name + place: value for name, value in own.items()}
    return found


def _trimmed(written: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return a config without what its family does not read, and with its class."""
    _, fields = shape_of(kind, written)
    used = {n: v for n, v in written.items() if fields.is_used(n) and (v is not None or n in _NULLS)}
    name = _NAMES[kind]
    return {"architectures": [name if name.endswith("Model") else f"{name}ForCausalLM"], **used}


_NULLS = ("q_lora_rank", "sliding_window")
