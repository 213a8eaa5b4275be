"""Model types whose layers are attention and one FFN."""

from __future__ import annotations

from dataclasses import replace

from scalesim.errors import InvalidInput
from scalesim.interop import hybrids
from scalesim.interop.family import Family
from scalesim.interop.fields import NEEDED, Fields
from scalesim.interop.layers import Rules
from scalesim.shape import Parameter
from scalesim.shape.parameters import matrix, vector

__all__ = [
    "COHERE",
    "DENSE",
    "GEMMA3",
    "GLM",
    "LLAMA",
    "MISTRAL",
    "OLMO2",
    "QWEN2",
    "QWEN3",
    "TIED",
    "head_bias",
]

TIED = {"tie_word_embeddings": True}
_GPT = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
}  # fmt: skip


def head_bias(f: Fields) -> list[Parameter]:
    """Return the bias of an output table."""
    return [vector("bias", "lm_head_bias", vocab=f.size("vocab_size"))]


def _embedding_norm(f: Fields) -> list[Parameter]:
    d = f.size("hidden_size")
    return [vector("norm", f"embedding_norm{end}", embed=d) for end in ("", "_bias")]


def _projected(f: Fields) -> list[Parameter]:
    """OPT-350m's embeddings are narrower than its stream."""
    if not f.flag("layer_norm_elementwise_affine", True):
        raise InvalidInput("layer_norm_elementwise_affine must be true in an opt config, but is false.")
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


LLAMA = Family(rules=Rules(ffn_bias="mlp_bias"))
_BARE = Rules(qkv_bias=False, output_bias=False)
MISTRAL = Family(
    rules=replace(_BARE, window="all"), defaults={"sliding_window": 4096, "num_key_value_heads": 8}
)
QWEN2 = Family(
    rules=Rules(qkv_bias=True, output_bias=False, window="qwen"),
    defaults={"num_key_value_heads": 32, "use_sliding_window": False, "max_window_layers": 28},
)
QWEN3 = QWEN2.but(
    qkv_bias="attention_bias", output_bias="attention_bias", qk_norm="head", defaults={"head_dim": 128}
)
_GEMMA = Family(defaults={**TIED, "head_dim": 256, "num_key_value_heads": 16})
GEMMA2 = _GEMMA.but(
    norms=4, window="pattern", pattern=2, defaults={"num_key_value_heads": 4, "sliding_window": 4096}
)
GEMMA3 = GEMMA2.but(
    qk_norm="head",
    pattern=6,
    defaults={"num_attention_heads": 8, "vocab_size": 262208, "max_position_embeddings": 131072},
)
COHERE = Family(rules=Rules(norms=1, qk_norm="use_qk_norm:projection"), defaults=TIED)
OLMO2 = Family(rules=Rules(qk_norm="projection"))
GLM = Family(
    rules=Rules(output_bias=False),
    defaults={"num_key_value_heads": 2, "head_dim": 128, "attention_bias": True},
)
GRANITE = Family(rules=Rules(ffn_bias="mlp_bias"))


_GPT2 = Family(
    rules=Rules(plain_heads=True, qkv_bias=True, output_bias=True, ffn_bias=True, gated=False),
    names=_GPT,
    defaults={**TIED, "intermediate_size": None, "max_position_embeddings": NEEDED},
    norm_bias=True,
    positions=0,
)
_NEOX = Family(
    rules=Rules(
        plain_heads=True, qkv_bias="attention_bias", output_bias="attention_bias", ffn_bias=True, gated=False
    ),
    defaults={"attention_bias": True},
    norm_bias=True,
)

DENSE: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "ministral": MISTRAL.but(window="listed"),
    "ministral3": MISTRAL.but(defaults={"sliding_window": None}),
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text"), QWEN2),
    "qwen3_vl_text": QWEN3,
    "gemma": _GEMMA,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "phi": Family(
        layer=hybrids.phi,
        rules=Rules(norms=1, qkv_bias=True, output_bias=True, ffn_bias=True, gated=False),
        norm_bias=True,
        extras=head_bias,
    ),
    "persimmon": Family(
        layer=hybrids.phi,
        rules=Rules(plain_heads=True, qkv_bias=True, output_bias=True, ffn_bias=True, gated=False),
        defaults={"qk_layernorm": True},
        norm_bias=True,
    ),
    "phi3": Family(rules=replace(_BARE, window="all")),
    "olmo": Family(rules=Rules(norms=0), final_norm=False),
    "olmo2": OLMO2,
    "olmo3": OLMO2.but(window="pattern", pattern=4, defaults={"sliding_window": 4096}),
    "granite": GRANITE,
    "smollm3": LLAMA.but(window="listed", defaults={"num_key_value_heads": 4, **TIED}),
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
        defaults={**TIED, "use_bias": True, "num_key_value_heads": 2},
    ),
    "cohere": COHERE,
    "cohere2": COHERE.but(window="pattern", pattern=4, qk_norm="none", defaults={"sliding_window": 4096}),
    "glm": GLM,
    "glm4": GLM.but(norms=4),
    "glm4v_text": GLM.but(norms=4, defaults={"head_dim": None}),
    "mimo": QWEN2,
    "nemotron": Family(
        rules=Rules(gated=False, ffn_bias="mlp_bias"), norm_bias=True, defaults={"num_key_value_heads": 8}
    ),
    "gpt_neox": _NEOX,
    **dict.fromkeys(
        ("gptj", "codegen"),
        _GPT2.but(
            norms=1,
            qkv_bias=False,
            output_bias=False,
            positions=None,
            extras=head_bias,
            defaults={"tie_word_embeddings": False},
        ),
    ),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2.but(plain_heads=False, kv=lambda f: 1 if f.flag("multi_query", True) else None),
    "opt": Family(
        rules=Rules(
            plain_heads=True,
            qkv_bias="enable_bias",
            output_bias="enable_bias",
            ffn_bias="enable_bias",
            gated=False,
        ),
        names={"intermediate_size": "ffn_dim"},
        defaults={**TIED, "enable_bias": True, "max_position_embeddings": NEEDED},
        norm_bias=True,
        positions=2,
        final_norm="do_layer_norm_before",
        extras=_projected,
    ),
    "bloom": Family(
        rules=Rules(plain_heads=True, qkv_bias=True, output_bias=True, ffn_bias=True, gated=False),
        names={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
        defaults={**TIED, "intermediate_size": None},
        norm_bias=True,
        extras=_embedding_norm,
    ),
    "mpt": Family(
        rules=Rules(plain_heads=True, qkv_bias=False, output_bias=False, gated=False),
        names={
            "hidden_size": "d_model",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "max_position_embeddings": "max_seq_len",
        },
        defaults={**TIED, "intermediate_size": None},
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
        defaults={**TIED, "intermediate_size": None},
        norm_bias=True,
    ),
    "arcee": LLAMA.but(gated=False),
    "seed_oss": LLAMA.but(
        qkv_bias="attention_bias", output_bias="attention_out_bias", defaults={"head_dim": 128}
    ),
    "exaone4": Family(
        rules=replace(_BARE, qk_norm="head", window="listed"), defaults={"num_key_value_heads": 32}
    ),
    "ernie4_5": Family(
        rules=Rules(qkv_bias="use_bias", output_bias="use_bias", ffn_bias="use_bias"),
        defaults={**TIED, "head_dim": 128},
    ),
    "hunyuan_v1_dense": Family(rules=Rules(qk_norm="head")),
    "apertus": Family(
        layer=hybrids.apertus,
        rules=Rules(gated=False, qk_norm="head"),
        defaults={"tie_word_embeddings": False},
    ),
    **dict.fromkeys(("minicpm", "iquestcoder"), LLAMA.but(window="listed")),
    "cwm": LLAMA.but(qkv_bias=False, output_bias=False, window="listed"),
    **dict.fromkeys(("exaone", "internlm3", "emu3_text_model", "internlm2"), LLAMA),
    "helium": LLAMA.but(output_bias=False),
    "bitnet": Family(layer=hybrids.bitnet),
    "diffllama": Family(layer=hybrids.diffllama),
    "gpt_neo": Family(
        layer=hybrids.gpt_neo,
        rules=Rules(plain_heads=True, qkv_bias=False, output_bias=True, ffn_bias=True, gated=False),
        names={"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"},
        defaults={**TIED, "intermediate_size": None, "max_position_embeddings": NEEDED},
        norm_bias=True,
        positions=0,
    ),
    "granite_swa": GRANITE.but(sinks=True, window="listed", defaults=TIED),
    "hyperclovax": GRANITE.but(post_norm="use_post_norm", defaults={"use_post_norm": True}),
    "jais2": Family(
        rules=Rules(gated=False, ffn_bias="mlp_bias"),
        defaults={"attention_bias": True, "mlp_bias": True},
        norm_bias=True,
    ),
    "nanochat": Family(rules=Rules(norms=0, gated=False), final_norm=False),
    "vaultgemma": GEMMA2.but(norms=2),
    **dict.fromkeys(("phi4mm", "phi4_multimodal"), Family(rules=replace(_BARE, window="all"))),
}
"""Each by its name."""
