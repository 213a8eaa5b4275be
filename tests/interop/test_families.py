"""Every family's counts as published; what people's configs hold, and what is refused."""

import json
from pathlib import Path

import pytest

from scalesim.cost.memory import weight_bytes
from scalesim.errors import InvalidInput
from scalesim.interop import from_huggingface, read_config
from scalesim.shape import count_params


def config(kind, d, layers, heads, ff, vocab, kv=None, **fields):
    sizes = {
        "model_type": kind, "hidden_size": d, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": ff, "vocab_size": vocab, "num_key_value_heads": kv, **fields,
    }  # fmt: skip
    return {name: value for name, value in sizes.items() if value is not None}


MLA = {"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "kv_lora_rank": 512}
# Totals of the checkpoints on the hub (safetensors, without buffers), or counted by transformers.
TOTALS = {
    "pythia-1b": (1_011_781_632, config("gpt_neox", 2048, 16, 8, 8192, 50304)),
    "opt-125m": (
        125_239_296,
        config("opt", 768, 12, 12, None, 50272, ffn_dim=3072, max_position_embeddings=2048),
    ),
    "opt-350m": (
        331_196_416,
        config("opt", 1024, 24, 16, None, 50272, ffn_dim=4096, max_position_embeddings=2048,
               word_embed_proj_dim=512, do_layer_norm_before=False),
    ),
    "bloom-560m": (
        559_214_592,
        {"model_type": "bloom", "hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880},
    ),
    "falcon-7b": (
        6_921_720_704,
        config("falcon", 4544, 32, 71, None, 65024, multi_query=True, parallel_attn=True, bias=False),
    ),
    "mpt-7b": (
        6_649_286_656,
        {"model_type": "mpt", "d_model": 4096, "n_layers": 32, "n_heads": 32, "vocab_size": 50432,
         "max_seq_len": 2048, "expansion_ratio": 4},
    ),
    "gpt-j-6b": (
        6_050_882_784,
        {"model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048,
         "vocab_size": 50400},
    ),
    "starcoder": (
        15_517_456_384,
        {"model_type": "gpt_bigcode", "n_embd": 6144, "n_layer": 40, "n_head": 48, "n_inner": 24576,
         "n_positions": 8192, "vocab_size": 49152},
    ),
    "starcoder2-3b": (3_030_371_328, config("starcoder2", 3072, 30, 24, 12288, 49152, 2)),
    "stablelm-2-1.6b": (
        1_644_515_328,
        config("stablelm", 2048, 24, 32, 5632, 100352, 32, use_qkv_bias=True),
    ),
    "phi-2": (2_779_683_840, config("phi", 2560, 32, 32, 10240, 51200, qk_layernorm=False)),
    "olmo-1b": (1_176_764_416, config("olmo", 2048, 16, 16, 8192, 50304, tie_word_embeddings=True)),
    "olmo-3-7b": (7_298_011_136, config("olmo3", 4096, 32, 32, 11008, 100278, 32, sliding_window=4096)),
    "olmoe-1b-7b": (
        6_919_161_856,
        config("olmoe", 2048, 16, 16, 1024, 50304, 16, num_experts=64, num_experts_per_tok=8),
    ),
    "command-r": (34_980_831_232, config("cohere", 8192, 40, 64, 22528, 256000, 64)),
    "gemma-2b": (2_506_172_416, config("gemma", 2048, 18, 8, 16384, 256000, 1, head_dim=256)),
    "gemma-7b": (8_537_680_896, config("gemma", 3072, 28, 16, 24576, 256000)),
    "qwen1.5-moe-a2.7b": (
        14_315_784_192,
        config("qwen2_moe", 2048, 24, 16, 5632, 151936, 16, moe_intermediate_size=1408,
               shared_expert_intermediate_size=5632, num_experts=60, num_experts_per_tok=4),
    ),
    "qwen2-57b-a14b": (
        57_408_658_944,
        config("qwen2_moe", 3584, 28, 28, 18944, 151936, 4, moe_intermediate_size=2560,
               shared_expert_intermediate_size=20480, num_experts=64, num_experts_per_tok=8),
    ),
    "every second layer has experts": (
        7_519_346_688,
        config("qwen3_moe", 2048, 24, 16, 5632, 151936, 4, head_dim=128, moe_intermediate_size=1408,
               num_experts=60, num_experts_per_tok=4, decoder_sparse_step=2, mlp_only_layers=[]),
    ),
    "qwen3-next-80b-a3b": (
        79_674_391_296,
        config("qwen3_next", 2048, 48, 16, 5120, 151936, 2, head_dim=256, moe_intermediate_size=512,
               shared_expert_intermediate_size=512, num_experts=512, num_experts_per_tok=10),
    ),
    "phi-3.5-moe": (
        41_873_153_344,
        config("phimoe", 4096, 32, 32, 6400, 32064, 8, num_local_experts=16, num_experts_per_tok=2,
               attention_bias=True, lm_head_bias=True),
    ),
    "jamba-v0.1": (
        51_570_323_328,
        config("jamba", 4096, 32, 32, 14336, 65536, 8, num_experts=16, num_experts_per_tok=2,
               attn_layer_period=8, attn_layer_offset=4, mamba_dt_rank=256),
    ),
    "falcon-h1-0.5b": (
        521_411_104,
        config("falcon_h1", 1024, 36, 8, 2048, 32784, 2, head_dim=64, mamba_n_heads=24, mamba_d_head=64,
               mamba_d_state=128, mamba_n_groups=1, mamba_d_ssm=1536, mamba_rms_norm=False),
    ),
    "lfm2-1.2b": (
        1_170_340_608,
        config("lfm2", 2048, 16, 32, 12288, 65536, 8, block_multiple_of=256, block_ffn_dim_multiplier=1.0,
               block_auto_adjust_ff_dim=True, full_attn_idxs=[2, 5, 8, 10, 12, 14], conv_L_cache=3),
    ),
    "granite-4.0-h-tiny": (
        6_939_037_248,
        config("granitemoehybrid", 1536, 40, 12, 512, 100352, 4, shared_intermediate_size=1024,
               num_local_experts=64, num_experts_per_tok=6, mamba_n_heads=48, mamba_d_head=64,
               mamba_d_state=128, mamba_n_groups=1, tie_word_embeddings=True,
               layer_types=["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)]),
    ),
    "mamba-130m": (
        129_135_360,
        {"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280,
         "time_step_rank": 48},
    ),
    "nemotron-h-8b": (
        8_100_852_736,
        config("nemotron_h", 4096, 52, 32, 21504, 131072, 8, attention_head_dim=128, mamba_num_heads=128,
               mamba_head_dim=64, n_groups=8, ssm_state_size=128, conv_kernel=4,
               hybrid_override_pattern="M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-"),
    ),
    "minimax-text-01": (
        456_089_655_296,
        config("minimax", 6144, 80, 64, 9216, 200064, 8, head_dim=128, num_local_experts=32,
               num_experts_per_tok=2, attn_type_list=([0] * 7 + [1]) * 10),
    ),
    "deepseek-v2": (
        235_741_434_880,
        config("deepseek_v2", 5120, 60, 128, 12288, 102400, 128, q_lora_rank=1536, n_routed_experts=160,
               n_shared_experts=2, num_experts_per_tok=6, moe_intermediate_size=1536,
               first_k_dense_replace=1, **MLA),
    ),
    "kimi-k2": (
        1_026_408_209_408,
        config("kimi_k2", 7168, 61, 64, 18432, 163840, 64, q_lora_rank=1536, n_routed_experts=384,
               n_shared_experts=1, num_experts_per_tok=8, moe_intermediate_size=2048,
               first_k_dense_replace=1, **MLA),
    ),
    # The checkpoint's 7,849,978,192 less the vision and audio towers (as many as E2B's).
    "gemma-3n-e4b": (
        6_866_696_688,
        config("gemma3n_text", 2048, 35, 8, [16384] * 35, 262400, 2, vocab_size_per_layer_input=262144,
               hidden_size_per_layer_input=256, num_kv_shared_layers=15, laurel_rank=64, altup_num_inputs=4),
    ),
    "gemma-3n-e2b": (
        4_456_156_768,
        config("gemma3n_text", 2048, 30, 8, [8192] * 30, 262400, 2, vocab_size_per_layer_input=262144,
               hidden_size_per_layer_input=256, num_kv_shared_layers=10, laurel_rank=64, altup_num_inputs=4),
    ),
    "granite-3.1-2b": (
        2_533_531_648,
        config("granite", 2048, 40, 32, 8192, 49155, 8, tie_word_embeddings=True),
    ),
    "command-r7b": (8_028_033_024, config("cohere2", 4096, 32, 32, 14336, 256000, 8)),
    "ernie-4.5-0.3b": (360_748_032, config("ernie4_5", 1024, 18, 16, 3072, 103424, 2)),
    "seed-oss-36b": (
        36_151_104_512,
        config("seed_oss", 5120, 64, 80, 27648, 155136, 8, attention_bias=True, attention_out_bias=False),
    ),
    "exaone-4.0-1.2b": (
        1_279_391_488,
        config("exaone4", 2048, 30, 32, 4096, 102400, 8, head_dim=64, tie_word_embeddings=True),
    ),
    "glm-4-9b-0414": (9_400_279_040, config("glm4", 4096, 40, 32, 13696, 151552, 2)),
    "apertus-8b": (8_053_338_176, config("apertus", 4096, 32, 32, 21504, 131072, 8)),
    "deepseek-moe-16b": (
        16_375_728_128,
        config("deepseek", 2048, 28, 16, 10944, 102400, 16, moe_intermediate_size=1408, n_routed_experts=64,
               n_shared_experts=2, num_experts_per_tok=6, first_k_dense_replace=1, moe_layer_freq=1),
    ),
    "ling-mini-2.0": (
        16_255_643_392,
        config("bailing_moe", 2048, 20, 16, 5120, 157184, 4, head_dim=128, moe_intermediate_size=512,
               num_experts=256, num_experts_per_tok=8, num_shared_experts=1, first_k_dense_replace=1,
               use_qk_norm=True, use_qkv_bias=False, use_bias=False, moe_router_enable_expert_bias=True),
    ),
    "smollm3-3b": (
        3_075_098_624,
        config("smollm3", 2048, 36, 16, 11008, 128256, 4, layer_types=["full_attention"] * 36,
               no_rope_layers=[1, 1, 1, 0] * 9, use_sliding_window=False),
    ),
    "mistral, keys and values as its class has them": (
        7_241_732_096,
        config("mistral", 4096, 32, 32, 14336, 32000),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOTALS)
def test_totals_are_exact(name):
    total, fields = TOTALS[name]
    imported = from_huggingface(fields)
    assert imported.shape.n_params_total == total
    assert imported.unknown == imported.notes == ()


COUNTED = [json.loads(row) for row in (Path(__file__).parent / "counted.jsonl").read_text().splitlines()]
"""Small configs of many families, as transformers 4 and 5 write them, and its counts of what it builds."""


@pytest.mark.parametrize("row", COUNTED, ids=lambda row: row["config"]["model_type"])
def test_every_familys_options_count_as_transformers_builds_them(row):
    imported = from_huggingface(row["config"])
    assert imported.shape.n_params_total == row["total"]
    assert imported.unknown == ()
    assert imported.model_type == row["config"]["model_type"]


def test_transformers_still_counts_them_so():
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    rows = [row for row in COUNTED if row["config"]["model_type"] in known]
    for row in rows:
        with torch.device("meta"):
            kind = transformers.AutoConfig.for_model(**row["config"], pad_token_id=None)
            model = transformers.AutoModelForCausalLM.from_config(kind)
        assert sum(p.numel() for p in model.parameters()) == row["total"], row["config"]
    assert len(rows) > 100


LLAMA = config("llama", 2048, 16, 32, 8192, 128256, 8, head_dim=64, tie_word_embeddings=True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_of_json_is_read(tmp_path, encoding):
    path = tmp_path / "config.json"
    path.write_bytes(json.dumps(LLAMA).encode(encoding))
    assert read_config(path).shape.n_params_total == 1_235_814_400
    # So is the folder that it lies in.
    assert read_config(tmp_path).shape == read_config(str(path)).shape


def test_a_hub_id_is_found_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--llama"
    for name, layers in (("old", 8), ("new", 16)):
        (folder / "snapshots" / name).mkdir(parents=True)
        text = json.dumps({**LLAMA, "num_hidden_layers": layers})
        (folder / "snapshots" / name / "config.json").write_text(text)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("new")
    assert read_config("someone/llama").shape.n_layer == 16
    with pytest.raises(InvalidInput, match="'someone/other' cannot be read"):
        read_config("someone/other")


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        (
            {"max_position_embeddings": 32768,
             "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
            131072,
        ),
        # As transformers 5 writes it.
        (
            {"max_position_embeddings": 32768,
             "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6,
                                 "original_max_position_embeddings": 32768}},
            131072,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 8.0}}, 32768),
        # Stretched already: not twice.
        (
            {"max_position_embeddings": 163840,
             "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}},
            163840,
        ),
        (
            {"max_position_embeddings": 131072,
             "rope_scaling": {"rope_type": "llama3", "factor": 8, "original_max_position_embeddings": 8192}},
            131072,
        ),
        ({}, None),
    ],
)  # fmt: skip
def test_stretched_positions_reach_factor_times_the_original(fields, context):
    assert from_huggingface({**LLAMA, **fields}).max_context == context


def test_window_layers_start_where_they_are_said_to():
    qwen = config("qwen2", 896, 24, 14, 4864, 151936, 2, tie_word_embeddings=True, sliding_window=2048)
    assert from_huggingface(qwen).shape.window is None
    every = from_huggingface({**qwen, "use_sliding_window": True, "max_window_layers": 0}).shape
    assert [(b.count, b.mixer.window) for b in every.blocks] == [(24, 2048)]
    late = from_huggingface({**qwen, "use_sliding_window": True, "max_window_layers": 20}).shape
    assert [(b.count, b.mixer.window) for b in late.blocks] == [(20, None), (4, 2048)]


def test_the_language_model_of_several_parts_is_read_and_the_rest_said():
    text = config("mistral", 5120, 40, 32, 32768, 131072, 8, head_dim=128, sliding_window=None)
    outer = {
        "model_type": "mistral3",
        "text_config": {**text, "sliding_window": None},
        "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24, "intermediate_size": 4096},
    }
    imported = from_huggingface(outer)
    assert imported.shape.n_params_total == 23_572_403_200
    assert imported.notes == (
        "vision_config is left out: about 302M parameters; the count is that of the language model.",
    )
    mtp = from_huggingface({**LLAMA, "num_nextn_predict_layers": 1})
    (note,) = mtp.notes
    assert note.startswith("1 MTP module")


def test_a_part_takes_its_classs_sizes_and_a_flat_config_must_state_them():
    text = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096}
    imported = from_huggingface({"model_type": "llava", "text_config": text, "vision_config": {"depth": 2}})
    assert imported.shape.n_params_total == 6_738_939_904  # Vicuna 7B with 64 more tokens
    assert "hidden_size, num_hidden_layers" in imported.notes[0]
    with pytest.raises(InvalidInput, match="num_hidden_layers is missing from the llama config"):
        from_huggingface(text)


def test_a_guess_takes_no_sizes_of_a_class():
    """A mixture without a shared expert was read as a Qwen2-MoE with that class's shared one."""
    fields = {**EXPERTS, "model_type": "mine", "attention_bias": False}
    assert from_huggingface(fields).shape.ffn.d_ff_shared is None


def test_kimi_k3_has_latent_experts_and_gates():
    """Its tensors by their names and sizes in the checkpoint: one layer of each kind, counted by hand."""
    d, heads, size, latent = 7168, 96, 128, 3584
    linear = {"full_attn_layers": [2], "kda_layers": [1], "head_dim": size, "num_heads": heads,
              "short_conv_kernel_size": 4, "use_full_rank_gate": True}  # fmt: skip
    text = config(
        "kimi_linear", d, 2, heads, 33792, 163840, heads, q_lora_rank=1536, first_k_dense_replace=1,
        num_experts=896, num_experts_per_token=16, num_shared_experts=2, moe_intermediate_size=3072,
        routed_expert_hidden_size=latent, latent_moe_use_norm=True, attn_res_block_size=12,
        mla_use_output_gate=True, linear_attn_config=linear, **MLA,
    )  # fmt: skip
    wide, inner = heads * size, 3 * 3072
    nets = 5 * d * wide + 3 * wide * 4 + size * (d + wide) + wide + heads + heads * d + size
    down = 1536 * d + 1536 + (512 + 64) * d + 512
    gated = down + 1536 * heads * 192 + 512 * heads * 256 + 2 * d * heads * 128
    experts = 896 * (inner * latent + d) + 2 * d * latent + latent + 2 * inner * d
    mixed = 2 * (2 * d + 4 * d) + 2 * d  # norms, and the residuals' mixing in each layer and at the end
    expected = nets + 3 * d * 33792 + gated + experts + mixed + d + 2 * d * 163840
    imported = from_huggingface({"model_type": "kimi_k3", "text_config": text})
    assert imported.shape.n_params_total == expected
    assert imported.unknown == ()


def test_an_unknown_type_with_known_fields_is_read_as_that_and_said():
    imported = from_huggingface({**LLAMA, "model_type": "lama"})
    assert imported.model_type == "llama"
    assert imported.shape.n_params_total == 1_235_814_400
    assert "model_type 'lama' is not known; its fields are those of 'llama'" in imported.notes[0]
    # The architecture tells families of the same fields apart.
    named = {**TOTALS["smollm3-3b"][1], "model_type": "mine", "architectures": ["SmolLM3ForCausalLM"]}
    assert from_huggingface(named).model_type == "smollm3"
    deepseek = {**TOTALS["kimi-k2"][1], "model_type": "another", "moe_layer_freq": 1}
    assert from_huggingface(deepseek).shape.n_params_total == 1_026_408_209_408


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({**LLAMA, "model_type": "lama", "altup": 4}, "'llama' has its fields but for altup"),
        ({"model_type": "what", "n": 1}, "model_type 'what' is not known"),
        ({"model_type": "qwen3_5", "vision_config": {}}, "text_config is missing"),
        (
            {**TOTALS["nemotron-h-8b"][1], "hybrid_override_pattern": "M-M"},
            "hybrid_override_pattern must have num_hidden_layers = 52 letters, but has 3",
        ),
        (
            {**TOTALS["nemotron-h-8b"][1], "hybrid_override_pattern": "X" * 52},
            "hybrid_override_pattern 'X' is not known",
        ),
        (
            {**TOTALS["falcon-h1-0.5b"][1], "mamba_d_ssm": 1000},
            "mamba_d_ssm must be mamba_n_heads mamba_d_head = 1536, but is 1000",
        ),
        *(
            ({**LLAMA, "model_type": "mine", "hidden_act": "relu2", "architectures": odd}, "leave open which")
            for odd in (1, {}, {"a": 1}, [], [None], "Mine")
        ),
        ({**LLAMA, "model_type": "mine", "hidden_act": "relu2"}, "leave open which tensors it has"),
        ({**LLAMA, "model_type": "mine", "layer_norm_eps": 1e-5}, "leave open which tensors it has"),
        ({**LLAMA, "model_type": "t5", "is_encoder_decoder": True}, "model_type 't5' has an encoder"),
        (
            {**TOTALS["ling-mini-2.0"][1], "model_type": "kimi_linear", **MLA},
            "layer_types is missing, and so is linear_attn_config.full_attn_layers",
        ),
        ({**TOTALS["minimax-text-01"][1], "attn_type_list": [[]] * 79}, "attn_type_list must list"),
        ({**TOTALS["gemma-3n-e4b"][1], "intermediate_size": [1]}, "intermediate_size is not what a gemma3n"),
        (
            {**TOTALS["mpt-7b"][1], "expansion_ratio": "4"},
            "expansion_ratio is not what a mpt config has there",
        ),
        ({"model_type": "llava", "vision_config": {}}, "text_config is missing from the llava config"),
        (
            {**TOTALS["kimi-k2"][1], "num_key_value_heads": 8},
            "num_key_value_heads must be num_attention_heads = 64 with latent attention, but is 8",
        ),
        ({**LLAMA, "quantization_config": {"quant_method": "quip"}}, "quant_method 'quip' is not known"),
        (
            {**LLAMA, "quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}},
            "quant_algo 'MIXED_PRECISION' is not known",
        ),
        (
            {**LLAMA, "quantization_config": {"quant_method": "gptq"}},
            "bits is missing from quantization_config",
        ),
        (
            {**LLAMA, "quantization_config": {"quant_method": "compressed-tensors"}},
            "config_groups is missing from quantization_config",
        ),
    ],
)
def test_what_cannot_be_counted_is_named(fields, says):
    with pytest.raises(InvalidInput, match=says):
        from_huggingface(fields)


GEMMA = config("gemma2", 3584, 42, 16, 14336, 256000, 8, head_dim=256)
QWEN = config("qwen2", 3584, 28, 28, 18944, 152064, 4, tie_word_embeddings=False)
LLAMA_8B = config("llama", 4096, 32, 32, 14336, 128256, 8)
EXPERTS = config(
    "qwen3_moe", 2048, 48, 32, 6144, 151936, 4, head_dim=128, moe_intermediate_size=768, num_experts=128,
    num_experts_per_tok=8, decoder_sparse_step=1, mlp_only_layers=[],
)  # fmt: skip
LLAMA_405B = config("llama", 16384, 126, 128, 53248, 128256, 8)
KEPT_405B = [f"model.layers.{i}.self_attn.{n}_proj" for i in range(126) for n in "qkvo"]
KEPT_405B += [f"model.layers.{i}.mlp.{n}_proj" for i in (0, 125) for n in ("gate", "up", "down")]


@pytest.mark.parametrize(
    ("fields", "quantised", "gib"),
    [
        (GEMMA, {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, 5.74),
        (QWEN, {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}, 5.19),
        (LLAMA_8B, {"quant_method": "bnb", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 5.31),
        (EXPERTS, {"quant_method": "fp8", "weight_block_size": [128, 128]}, 29.03),
        # 8 x 56.7 GiB, measured 57.75 on each of 8.
        (LLAMA_405B, {"quant_method": "fbgemm_fp8", "modules_to_not_convert": KEPT_405B}, 453.68),
    ],
    ids=["awq", "gptq", "bitsandbytes", "fp8 by blocks", "fbgemm"],
)  # fmt: skip
def test_quantised_weights_are_as_large_as_measured(fields, quantised, gib):
    imported = from_huggingface({**fields, "quantization_config": quantised})
    found = weight_bytes(imported.shape, weight_bits=imported.weight_bits) / 2**30
    assert found == pytest.approx(gib, rel=0.015)


def test_bits_of_every_quantiser():
    def bits(**own):
        return from_huggingface({**LLAMA_8B, "quantization_config": own}).weight_bits

    assert bits(quant_method="bitsandbytes", load_in_8bit=True) == pytest.approx(8, rel=0.01)
    assert bits(quant_method="mxfp4") == pytest.approx(4.25)
    assert bits(quant_method="modelopt", quant_algo="NVFP4") == pytest.approx(4.5)
    assert bits(quant_method="modelopt", quant_algo="FP8") == pytest.approx(8, rel=0.01)
    assert bits(quant_method="modelopt", quant_algo="W4A16_AWQ") == 4.125
    assert bits(quant_method="bitnet") == 2
    own = {"weight": {"dtype": "fp4", "group_size": 32, "qscheme": "per_group"}}
    assert bits(quant_method="quark", global_quant_config=own) == 4.25
    group = {"weights": {"num_bits": 4, "group_size": 128, "symmetric": True}}
    assert bits(quant_method="compressed-tensors", config_groups={"group_0": group}) == 4.125
    fp8 = {"targets": ["re:.*self_attn.*"], "weights": {"num_bits": 8, "type": "float"}}
    fp4 = {"targets": ["re:.*experts.*"], "weights": {"num_bits": 4, "type": "float", "group_size": 16}}
    two = {"quant_method": "compressed-tensors", "config_groups": {"group_0": fp8, "group_1": fp4}}
    mixed = from_huggingface({**EXPERTS, "quantization_config": two})
    routed = 48 * 128 * 3 * 2048 * 768
    others = count_params(mixed.shape, "paper") - routed
    assert mixed.weight_bits == pytest.approx((4.5 * routed + 8 * others) / (routed + others), rel=0.001)
    assert bits(quant_method="awq", bits=4, group_size=128, modules_to_not_convert=["mlp"]) > 12
    # The experts alone are quantised: attention is kept.
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router"]
    small = from_huggingface(
        {**EXPERTS, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": kept}}
    )
    assert 4.25 < small.weight_bits < 4.7
