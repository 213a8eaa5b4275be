"""config.json of every family in, a design out."""

import json
import os
from dataclasses import replace

import pytest

from scalesim.errors import InvalidInput
from scalesim.interop import from_huggingface, read_config, to_huggingface
from scalesim.models import known_model, known_models
from scalesim.shape import Attention, Block, Dense, LatentAttention, MixtureOfExperts, Shape

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "hidden_act": "silu",
}  # fmt: skip


def config(model_type, **fields):
    """A config with the sizes that all families share, by their short names."""
    names = {
        "d": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "kv": "num_key_value_heads", "ff": "intermediate_size", "vocab": "vocab_size",
    }  # fmt: skip
    return {"model_type": model_type, **{names.get(k, k): v for k, v in fields.items()}}


# As published on the hub, fields without cost left out.
PUBLISHED = {
    "llama-3-8b": LLAMA,
    "llama-2-7b": config("llama", d=4096, layers=32, heads=32, kv=32, ff=11008, vocab=32000),
    "llama-3.2-1b": config("llama", d=2048, layers=16, heads=32, kv=8, ff=8192, vocab=128256, head_dim=64,
                           tie_word_embeddings=True),
    "smollm2-135m": config("llama", d=576, layers=30, heads=9, kv=3, ff=1536, vocab=49152,
                           tie_word_embeddings=True),
    "mistral-7b-v0.1": config("mistral", d=4096, layers=32, heads=32, kv=8, ff=14336, vocab=32000,
                              sliding_window=4096),
    "mistral-7b-v0.3": config("mistral", d=4096, layers=32, heads=32, kv=8, ff=14336, vocab=32768,
                              sliding_window=None),
    "qwen2.5-7b": config("qwen2", d=3584, layers=28, heads=28, kv=4, ff=18944, vocab=152064,
                         sliding_window=131072, use_sliding_window=False, max_window_layers=28),
    "qwen3-0.6b": config("qwen3", d=1024, layers=28, heads=16, kv=8, ff=3072, vocab=151936, head_dim=128,
                         tie_word_embeddings=True, attention_bias=False),
    "gemma-2-9b": config("gemma2", d=3584, layers=42, heads=16, kv=8, ff=14336, vocab=256000, head_dim=256,
                         sliding_window=4096, attention_bias=False),
    "gemma-3-1b": config("gemma3_text", d=1152, layers=26, heads=4, kv=1, ff=6912, vocab=262144, head_dim=256,
                         sliding_window=512, sliding_window_pattern=6),
    "gemma-3-4b": {"model_type": "gemma3", "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
                   "model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024}},
    "phi-3-mini-4k-instruct": config("phi3", d=3072, layers=32, heads=32, kv=32, ff=8192, vocab=32064,
                                     sliding_window=2047),
    "phi-4": config("phi3", d=5120, layers=40, heads=40, kv=10, ff=17920, vocab=100352, sliding_window=None),
    "olmo-2-1124-7b": config("olmo2", d=4096, layers=32, heads=32, kv=32, ff=11008, vocab=100352),
    "mixtral-8x7b-v0.1": config("mixtral", d=4096, layers=32, heads=32, kv=8, ff=14336, vocab=32000,
                                num_local_experts=8, num_experts_per_tok=2, sliding_window=None),
    "qwen3-30b-a3b": config("qwen3_moe", d=2048, layers=48, heads=32, kv=4, ff=6144, vocab=151936,
                            head_dim=128, moe_intermediate_size=768, num_experts=128, num_experts_per_tok=8,
                            decoder_sparse_step=1, mlp_only_layers=[], max_window_layers=48),
    "deepseek-v2-lite": config("deepseek_v2", d=2048, layers=27, heads=16, kv=16, ff=10944, vocab=102400,
                               q_lora_rank=None, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
                               v_head_dim=128, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6,
                               moe_intermediate_size=1408, first_k_dense_replace=1, moe_layer_freq=1),
    "deepseek-v3": config("deepseek_v3", d=7168, layers=61, heads=128, kv=128, ff=18432, vocab=129280,
                          q_lora_rank=1536, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64,
                          v_head_dim=128, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
                          moe_intermediate_size=2048, first_k_dense_replace=3, moe_layer_freq=1),
    "gpt2": {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
             "n_ctx": 1024, "vocab_size": 50257},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_read_exactly(name):
    imported, known = from_huggingface(PUBLISHED[name]), known_model(name)
    # The catalogue counts DeepSeek-V3's bias of the router as its publisher does: it is a buffer.
    buffers = 58 * 256 if name == "deepseek-v3" else 0
    assert imported.shape.n_params_total + buffers == known.shape.n_params_total
    assert [b.mixer for b in imported.shape.blocks] == [b.mixer for b in known.shape.blocks]
    assert [b.count for b in imported.shape.blocks] == [b.count for b in known.shape.blocks]
    assert imported.unknown == ()


def test_layer_types_say_which_layers_are_global():
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    mixed = {**PUBLISHED["gemma-3-1b"], "num_hidden_layers": 12, "layer_types": kinds * 2}
    blocks = from_huggingface(mixed).shape.blocks
    assert [(b.count, b.mixer.window) for b in blocks] == [(10, 512), (2, None)]
    full = {**LLAMA, "layer_types": ["full_attention"] * 32}
    assert from_huggingface(full).shape.window is None


def test_unknown_fields_are_named():
    assert from_huggingface({**LLAMA, "kv_share": 2, "altup_num": 1}).unknown == ("altup_num", "kv_share")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": ...}, "model_type is missing"),
        (
            {"model_type": "lama", "kv_share": 2},
            "model_type 'lama' is not known; 'llama' has its fields but for kv_share",
        ),
        ({"hidden_size": ...}, "hidden_size is missing from the llama config"),
        ({"hidden_size": "4096"}, "hidden_size must be a whole number above 0, but is '4096'"),
        ({"hidden_size": 4100}, "num_attention_heads = 32 does not divide hidden_size = 4100"),
        ({"num_key_value_heads": 5}, "n_kv_head must divide n_head = 32, but is 5"),
        ({"num_key_value_heads": 0}, "num_key_value_heads must be a whole number above 0, but is 0"),
        ({"num_key_value_heads": 64}, "n_kv_head must be at most n_head = 32"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a whole number above 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be true or false"),
        ({"layer_types": ["full_attention"]}, "layer_types must list num_hidden_layers = 32 kinds"),
        ({"layer_types": ["sliding_attention"] * 32}, "sliding_window is missing"),
        ({"layer_types": ["linear_attention"] * 32}, "layer_types 'linear_attention' is not known"),
    ],
)
def test_bad_configs_are_named(change, says):
    bad = {k: v for k, v in {**LLAMA, **change}.items() if v is not ...}
    with pytest.raises(InvalidInput, match=says):
        from_huggingface(bad)


def test_files_that_are_no_config_are_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(InvalidInput, match=r"pipe.json' is a pipe or a device"):
        read_config(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(InvalidInput, match="nested too deep"):
        read_config(tmp_path / "deep.json")
    with pytest.raises(InvalidInput, match=r"config .*nothing.json' cannot be read: No such file"):
        read_config(str(tmp_path / "nothing.json"))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InvalidInput, match="is not JSON"):
        read_config(str(tmp_path / "bad.json"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InvalidInput, match="must hold one JSON object, but holds a list"):
        read_config(str(tmp_path / "list.json"))
    (tmp_path / "good.json").write_text(json.dumps(LLAMA))
    assert read_config(str(tmp_path / "good.json")).max_context == 8192


HEADS = Attention(n_head=6, n_kv_head=3)
EXPERTS = MixtureOfExperts(n_expert=8, top_k=2, d_ff=128)
LATENT = LatentAttention(n_head=4, kv_lora_rank=64, q_lora_rank=96, head_dim=48, rope_dim=16, v_head_dim=32)
DESIGNS = [
    Shape(n_layer=36, d_model=2048, n_head=8, n_kv_head=1, d_ff=5461),
    Shape(n_layer=4, d_model=256, n_head=6, n_kv_head=3, d_ff=700, tied_embeddings=False, qk_norm="head"),
    Shape(n_layer=4, d_model=256, n_head=6, n_kv_head=3, d_ff=700),
    Shape(
        n_layer=4,
        d_model=256,
        n_head=8,
        n_kv_head=4,
        d_ff=700,
        qkv_bias=True,
        output_bias=True,
        ffn_bias=True,
    ),
    # What else a search or a person may come to: one family each.
    Shape(n_layer=4, d_model=256, n_head=8, n_kv_head=4, d_ff=700, gated_ffn=False, ffn_bias=True),
    Shape(n_layer=4, d_model=256, n_head=6, n_kv_head=3, d_ff=700, window=512),
    Shape(n_layer=4, d_model=256, n_head=6, n_kv_head=3, d_ff=700, window=512, qk_norm="head"),
    Shape(d_model=256, blocks=[Block(count=4, mixer=HEADS, ffn=EXPERTS)]),
    Shape(d_model=256, blocks=[Block(count=4, mixer=replace(HEADS, qk_norm="head"), ffn=EXPERTS)]),
    Shape(
        d_model=256,
        blocks=[
            Block(mixer=LATENT, ffn=Dense(d_ff=700)),
            Block(count=3, mixer=LATENT, ffn=replace(EXPERTS, d_ff_shared=256)),
        ],
    ),
]


@pytest.mark.parametrize("shape", DESIGNS)
def test_a_design_comes_back_as_it_went(shape):
    written = json.loads(json.dumps(to_huggingface(shape, max_context=4096)))
    imported = from_huggingface(written)
    assert imported.shape.blocks == shape.blocks
    assert imported.shape.n_params_total == shape.n_params_total
    assert imported.unknown == imported.notes == ()


@pytest.mark.parametrize("name", known_models())
def test_every_known_model_is_written_as_what_it_is(name):
    shape = known_model(name).shape
    imported = from_huggingface(json.loads(json.dumps(to_huggingface(shape))))
    # The catalogue counts DeepSeek-V3's bias of the router as its publisher does: it is a buffer.
    buffers = 58 * 256 if name == "deepseek-v3" else 0
    assert imported.shape.n_params_total + buffers == shape.n_params_total
    assert [b.mixer for b in imported.shape.blocks] == [b.mixer for b in shape.blocks]
    assert imported.shape.order == shape.order
    assert imported.unknown == imported.notes == ()


def test_layers_that_share_keys_and_values_are_no_model_types():
    own = Block(count=2, mixer=HEADS, ffn=Dense(d_ff=700))
    shape = Shape(d_model=256, blocks=[own, replace(own, mixer=replace(HEADS, shared=True))])
    with pytest.raises(InvalidInput, match="blocks that differ in shared cannot be written as"):
        to_huggingface(shape)


BUILT = [*DESIGNS, *(model.shape for name, model in known_models().items() if name != "deepseek-v3")]


@pytest.mark.parametrize("shape", BUILT)
def test_transformers_builds_a_design_with_the_same_parameters(shape):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    written = to_huggingface(shape)
    kind = transformers.AutoConfig.for_model(**written)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(kind)
    assert sum(p.numel() for p in model.parameters()) == shape.n_params_total


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"d_model": 2048.0}, "d_model must be a whole number"),
        ({"gated_ffn": False, "window": 64}, "gated_ffn must be True to be written as a mistral, but is F"),
        ({"norms_per_layer": 3}, "norms_per_layer must be 2 to be written as a llama, but is 3"),
        ({"qkv_bias": True, "ffn_bias": True, "qk_norm": "head"}, "qk_norm must be 'none' to be written"),
        ({"head_dim": 63}, "head_dim must be even"),
        ({"n_head": 3, "gated_ffn": False}, "n_head must divide d_model = 64 in a arcee's config, but is 3"),
    ],
)
def test_designs_that_no_llama_holds_are_named(change, says):
    good = {"n_layer": 2, "d_model": 64, "n_head": 2, "n_kv_head": 1, "d_ff": 128}
    with pytest.raises(InvalidInput, match=says):
        to_huggingface(Shape(**{**good, **change}))
