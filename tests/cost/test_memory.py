"""Bytes: caches of every kind, sharding, precision."""

import dataclasses

import numpy as np
import pytest

from scalesim.cost.cache import kv_bytes_per_token, kv_cache_bytes, state_bytes
from scalesim.cost.memory import activation_bytes, serving_memory, weight_bytes
from scalesim.cost.parallel import Parallel
from scalesim.errors import InvalidInput
from scalesim.models import known_model, known_models
from scalesim.shape import Shape, count_params
from scalesim.workload import Workload
from tests.gradients import assert_gradients_agree

LLAMA = known_model("llama-3-8b").shape
JOB = Workload(context_length=4096, batch_size=4)


@pytest.mark.parametrize("name", known_models())
def test_cache_grows_by_kv_bytes_until_the_window(name):
    shape = known_model(name).shape
    assert kv_cache_bytes(shape, 7) == 7 * kv_bytes_per_token(shape) + state_bytes(shape)


def test_window_caps_local_layers_exactly():
    shape = known_model("gemma-3-27b").shape  # 62 layers: 10 global, 52 local of 1024 tokens
    per_layer = 2 * 16 * 128 * 2
    assert kv_cache_bytes(shape, 131072) == per_layer * (10 * 131072 + 52 * 1024)
    mistral = known_model("mistral-7b-v0.1").shape
    assert kv_cache_bytes(mistral, 32768) == kv_cache_bytes(mistral, 4096)


def test_latent_cache_ignores_the_heads():
    shape = known_model("deepseek-v3").shape
    fewer = dataclasses.replace(shape, n_head=64)
    assert kv_bytes_per_token(shape) == kv_bytes_per_token(fewer) == 61 * 576 * 2


def test_precisions_are_apart():
    base = serving_memory(LLAMA, JOB)
    for field, part in (("weight_bits", "weights"), ("kv_bits", "kv_cache")):
        half = serving_memory(LLAMA, dataclasses.replace(JOB, **{field: 8}))
        # Quantisers leave embeddings, norms and the output table at 16 bits.
        kept = 2 * (LLAMA.n_params_total - count_params(LLAMA, "paper")) if part == "weights" else 0
        assert (getattr(half, part) - kept) * 2 == getattr(base, part) - kept
        assert half.activations == base.activations
    half = dataclasses.replace(JOB, activation_bits=8)
    assert activation_bytes(LLAMA, half) < activation_bytes(LLAMA, JOB)


def test_kv_heads_are_duplicated_beyond_tensor_parallelism():
    whole = kv_bytes_per_token(LLAMA)  # 8 KV heads
    for tensor, heads in ((2, 4), (8, 1), (16, 1), (32, 1)):
        held = kv_bytes_per_token(LLAMA, parallel=Parallel(tensor=tensor))
        assert held == whole * heads / 8


def test_shards_add_up_to_the_model():
    moe = known_model("qwen3-30b-a3b").shape
    for shape, split in ((LLAMA, Parallel(tensor=8)), (moe, Parallel(tensor=4, expert=8))):
        held = weight_bytes(shape, parallel=split)
        assert held * split.devices >= weight_bytes(shape)
    halves = weight_bytes(LLAMA, parallel=Parallel(pipeline=2))
    embedding = 2 * 128256 * 4096 * 2
    assert halves == pytest.approx((weight_bytes(LLAMA) - embedding) / 2 + embedding, rel=1e-6)


def test_a_shared_prefix_is_held_once():
    alone = serving_memory(LLAMA, JOB).kv_cache
    shared = serving_memory(LLAMA, dataclasses.replace(JOB, prefix_length=1024)).kv_cache
    assert alone - shared == 3 * 1024 * kv_bytes_per_token(LLAMA)
    # What the window has dropped is not shared either.
    mistral = known_model("mistral-7b-v0.1").shape
    job = Workload(context_length=16384, batch_size=4, prefix_length=4096)
    assert serving_memory(mistral, job).kv_cache == 4 * kv_cache_bytes(mistral, 16384)


def test_mha_spends_most_of_its_memory_on_the_cache_at_128k():
    # arXiv 2503.09579, section 1: about 90% at about 1B parameters.
    mha = Shape(n_layer=16, d_model=2048, n_head=32, n_kv_head=32, d_ff=5461)
    use = serving_memory(mha, Workload(context_length=131072))
    assert use.kv_cache / (use.kv_cache + use.weights) == pytest.approx(0.88, abs=0.04)


def test_a_batch_of_shapes_equals_a_loop():
    kv = np.array([1, 2, 4, 8])
    batch = dataclasses.replace(LLAMA, n_kv_head=kv)
    got = serving_memory(batch, JOB, Parallel(tensor=4)).total
    loop = [
        serving_memory(dataclasses.replace(LLAMA, n_kv_head=int(k)), JOB, Parallel(tensor=4)).total
        for k in kv
    ]
    np.testing.assert_allclose(got, loop, rtol=1e-12)


def test_gradients_agree():
    def f(x):
        shape = dataclasses.replace(
            LLAMA, n_layer=x["n_layer"], n_kv_head=x["n_kv_head"], head_dim=x["head_dim"]
        )
        job = Workload(
            context_length=x["context"], batch_size=x["batch"], kv_bits=x["kv_bits"], weight_bits=8.0
        )
        return serving_memory(shape, job).total

    at = {
        "n_layer": 30.0,
        "n_kv_head": 6.0,
        "head_dim": 100.0,
        "context": 5000.0,
        "batch": 3.0,
        "kv_bits": 9.0,
    }
    assert_gradients_agree(f, at)


@pytest.mark.parametrize(
    ("name", "degrees", "says"),
    [
        ("llama-3-8b", {"tensor": 3}, "tensor must divide n_head = 32, but is 3"),
        ("qwen2.5-7b", {"tensor": 14}, "tensor must divide n_kv_head = 4 or be a multiple"),
        ("llama-3-8b", {"pipeline": 33}, "pipeline must be at most n_layer = 32"),
        ("llama-3-8b", {"expert": 2}, "expert must be 1 for a shape without experts"),
        ("mixtral-8x7b-v0.1", {"expert": 3}, "expert must divide n_expert = 8"),
        ("llama-3-8b", {"tensor": 0}, "tensor must be a whole number above 0"),
    ],
)
def test_bad_splits_are_named(name, degrees, says):
    with pytest.raises(InvalidInput, match=says):
        serving_memory(known_model(name).shape, JOB, Parallel(**degrees))
