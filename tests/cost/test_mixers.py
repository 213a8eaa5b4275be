"""Every mixer's FLOPs against XLA's count of one compiled layer, and caches against their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from scalesim.cost.cache import kv_cache_bytes, pool_bytes, pool_layout, state_bytes
from scalesim.cost.flops import forward_flops
from scalesim.cost.latency import step_time
from scalesim.cost.memory import serving_memory, weight_bytes
from scalesim.hardware import load_hardware
from scalesim.interop import from_huggingface
from scalesim.models import known_model
from scalesim.shape import (
    Attention,
    Block,
    CompressedAttention,
    DeltaNet,
    Dense,
    IndexedAttention,
    KimiDelta,
    LatentAttention,
    LinearAttention,
    Mamba,
    Mamba2,
    MixtureOfExperts,
    Shape,
    ShortConv,
    Together,
)
from scalesim.shape import mixers as kinds
from scalesim.workload import Workload
from tests.cost import mixers as plain
from tests.gradients import assert_gradients_agree
from tests.interop.test_families import TOTALS

D, BATCH, LENGTH = 256, 2, 32
MIXERS = {
    "attention": Attention(n_head=8, n_kv_head=2, head_dim=48),
    "values shorter than keys": Attention(n_head=8, n_kv_head=2, head_dim=48, v_head_dim=32),
    "gated": Attention(n_head=8, n_kv_head=2, head_dim=48, gate="value"),
    "one projection for keys and values": Attention(n_head=8, n_kv_head=2, head_dim=48, k_is_v=True),
    "latent": LatentAttention(
        n_head=8, kv_lora_rank=64, q_lora_rank=96, head_dim=48, rope_dim=16, v_head_dim=32
    ),
    "latent with an indexer": LatentAttention(
        n_head=8, kv_lora_rank=64, q_lora_rank=96, head_dim=48, rope_dim=16, v_head_dim=32,
        n_index_head=8, index_head_dim=64, index_top_k=1024,
    ),
    "gated latent": LatentAttention(
        n_head=8, kv_lora_rank=64, head_dim=48, rope_dim=16, v_head_dim=32, gate="value"
    ),
    "with an indexer": IndexedAttention(
        n_head=8, n_kv_head=2, head_dim=48, n_index_head=2, index_head_dim=32, index_top_k=1024
    ),
    "kimi delta": KimiDelta(n_k_head=4, n_v_head=4, k_head_dim=64, v_head_dim=64, decay_rank=32),
    "delta net": DeltaNet(n_k_head=2, n_v_head=4, k_head_dim=64, v_head_dim=64),
    "mamba-2": Mamba2(n_ssm_head=8, ssm_head_dim=64, state_size=64, n_group=2),
    "mamba": Mamba(inner=512, state_size=16, dt_rank=16),
    "linear": LinearAttention(n_linear_head=4, linear_head_dim=64),
    "short convolution": ShortConv(width=D),
    "together": Together((Attention(n_head=4, n_kv_head=2), Mamba2(n_ssm_head=4, state_size=64))),
    "compressed": CompressedAttention(
        n_head=8, head_dim=64, q_lora_rank=96, o_lora_rank=64, o_groups=2, window=4096, ratio=8
    ),
}  # fmt: skip
FFN = Dense(d_ff=512)


def layer(mixer, ffn=None):
    return Shape(d_model=D, vocab_size=1000, blocks=(Block(mixer=mixer, ffn=ffn, norms=1),))


def test_every_kind_is_tried():
    named = {getattr(kinds, name) for name in kinds.__all__}
    all_kinds = {kind for kind in named if isinstance(kind, type) and issubclass(kind, kinds.Mixer)}
    assert {type(m) for m in MIXERS.values()} == all_kinds - {kinds.Mixer} == set(plain.LAYERS)


@pytest.mark.parametrize("name", MIXERS)
def test_flops_are_those_that_xla_counts(name):
    mixer = MIXERS[name]
    # Of a recurrence one step: XLA computes elements again in each fusion that reads them, and counts it.
    length = 1 if state_bytes(layer(mixer)) and name != "short convolution" else LENGTH
    args = plain.arguments(mixer, D, BATCH), jax.ShapeDtypeStruct((BATCH, length, D), jnp.float32)
    compiled = jax.jit(lambda p, x: plain.LAYERS[type(mixer)](p, x, mixer)).lower(*args).compile()
    counted = compiled.cost_analysis()["flops"]
    found = forward_flops(layer(mixer), length, batch_size=BATCH, causal=False, logits="none").total
    assert found == pytest.approx(counted, rel=0.05)


def test_experts_cost_what_a_token_visits():
    moe = MixtureOfExperts(n_expert=16, top_k=3, d_ff=128, d_ff_shared=64, d_expert=96)
    found = forward_flops(layer(None, moe), 1, logits="none")
    assert found.router == 2 * D * 16
    assert found.ffn == 2 * (3 * 3 * 96 * 128 + 2 * D * 96 + 3 * D * 64)


# By hand: values a token of each kind of cache, times 2 bytes, and bytes of state.
BY_DEFINITION = {
    "qwen3.5-27b": lambda t: 16 * 2 * 4 * 256 * 2 * t + 48 * (48 * 128 * 128 * 4 + 3 * (2 * 2048 + 6144) * 2),
    "gpt-oss-20b": lambda t: 2 * 8 * 64 * 2 * (12 * t + 12 * min(t, 128)),
    "gemma-4-26b-a4b": lambda t: 2 * (5 * 2 * 2 * 512 * t + 25 * 2 * 8 * 256 * min(t, 1024)),
    "deepseek-v3.2": lambda t: 61 * (512 + 64 + 128) * 2 * t,
    "llama-4-scout-17b-16e": lambda t: 2 * 8 * 128 * 2 * (12 * t + 36 * min(t, 8192)),
    "mimo-v2-flash": lambda t: 2 * (9 * 4 * (192 + 128) * t + 39 * 8 * (192 + 128) * min(t, 128)),
    "minimax-m2.5": lambda t: 62 * 2 * 8 * 128 * 2 * t,
    "nemotron-3-nano-30b-a3b": lambda t: 6 * 2 * 2 * 128 * 2 * t + 23 * (64 * 64 * 128 * 4 + 3 * 6144 * 2),
    "deepseek-v4-flash": lambda t: 2 * (
        43 * 512 * min(t, 128) + 21 * (512 + 128) * t / 4 + 20 * 512 * t / 128
    ),
    "mixtral-8x7b-v0.1": lambda t: 32 * 2 * 8 * 128 * 2 * t,
    "gemma-3-4b": lambda t: 2 * 2 * 4 * 256 * (5 * t + 29 * min(t, 1024)),
    "kimi-k2": lambda t: 61 * 576 * 2 * t,
    # Configs of the tests of families.
    "jamba-v0.1": lambda t: 4 * 2 * 8 * 128 * 2 * t + 28 * 8192 * (16 * 2 + 3 * 2),
    "falcon-h1-0.5b": lambda t: 36 * (2 * 2 * 64 * 2 * t + 24 * 64 * 128 * 2 + 3 * (1536 + 256) * 2),
    "granite-4.0-h-tiny": lambda t: 4 * 2 * 4 * 128 * 2 * t + 36 * (48 * 64 * 128 * 2 + 3 * (3072 + 256) * 2),
    "lfm2-1.2b": lambda t: 6 * 2 * 8 * 64 * 2 * t + 10 * 2 * 2 * 2048,
    "mamba-130m": lambda t: 24 * 1536 * (16 * 2 + 3 * 2),
    "nemotron-h-8b": lambda t: 4 * 2 * 8 * 128 * 2 * t + 24 * (128 * 64 * 128 * 2 + 3 * (8192 + 2048) * 2),
    "minimax-text-01": lambda t: 10 * 2 * 8 * 128 * 2 * t + 70 * 64 * 128 * 128 * 4,
    "qwen3-next-80b-a3b": lambda t: (
        12 * 2 * 2 * 256 * 2 * t + 36 * (32 * 128 * 128 * 4 + 3 * (2 * 2048 + 4096) * 2)
    ),
    # The last fifteen layers take keys and values of earlier ones: 16 local and 4 global have their own.
    "gemma-3n-e4b": lambda t: 2 * 2 * 2 * 256 * (4 * t + 16 * min(t, 512)),
    "olmo-3-7b": lambda t: 2 * 2 * 32 * 128 * (8 * t + 24 * min(t, 4096)),
    "command-r7b": lambda t: 2 * 2 * 8 * 128 * (8 * t + 24 * min(t, 4096)),
    "falcon-7b": lambda t: 32 * 2 * 64 * 2 * t,
    "starcoder": lambda t: 40 * 2 * 128 * 2 * t,
    "deepseek-v2": lambda t: 60 * 576 * 2 * t,
}  # fmt: skip
MADE = {
    "kimi delta": (MIXERS["kimi delta"], lambda t: 4 * 64 * 64 * 4 + 3 * 3 * 4 * 64 * 2),
    "with an indexer": (MIXERS["with an indexer"], lambda t: 2 * (2 * 2 * 48 + 32) * t),
    "an earlier layer's indexer": (
        dataclasses.replace(MIXERS["latent with an indexer"], n_index_head=None), lambda t: 2 * 80 * t
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*BY_DEFINITION, *MADE])
@pytest.mark.parametrize("length", [1024, 32768, 1048576])
def test_caches_are_what_their_definition_says(name, length):
    if name in MADE:
        mixer, definition = MADE[name]
        shape = layer(mixer)
    else:
        definition = BY_DEFINITION[name]
        shape = from_huggingface(TOTALS[name][1]).shape if name in TOTALS else known_model(name).shape
    assert kv_cache_bytes(shape, length) == definition(length)


# Bytes a token of the pool that vLLM's log states: alvarobartt/hf-mem#60, #61 and #70.
def test_an_engines_pool_is_what_its_log_says():
    gpt_oss = known_model("gpt-oss-120b").shape
    assert pool_layout(gpt_oss).per_token == pytest.approx(5.38 * 2**30 / 78384, rel=0.03)
    small = known_model("gpt-oss-20b").shape
    assert 32 * pool_bytes(small, 8192) == pytest.approx(12.00 * 2**30, rel=1e-3)
    assert 32 * kv_cache_bytes(small, 8192) == pytest.approx(6.09 * 2**30, rel=1e-3)
    # Gemma 4 31B: 50 local layers of 16 heads of 256, 10 global of 4 of 512, which take as large pages.
    local = Block(count=50, mixer=Attention(n_head=32, n_kv_head=16, head_dim=256, window=1024), ffn=FFN)
    full = Block(count=10, mixer=Attention(n_head=32, n_kv_head=4, head_dim=512), ffn=FFN)
    gemma = Shape(d_model=5376, vocab_size=262144, blocks=(local, full))
    assert pool_layout(gemma).per_token == pytest.approx(983195, rel=0.03)
    # A state fills a page, and the blocks of the attention layers are as long as that takes.
    hybrid = known_model("qwen3.5-27b").shape
    layout = pool_layout(hybrid)
    assert layout.block * 2 * 4 * 256 * 2 >= state_bytes(hybrid) / 48
    assert pool_bytes(hybrid, 12) == layout.per_sequence + layout.block * layout.per_token


def test_the_pool_is_counted_where_it_is_asked_for():
    shape, job = known_model("gpt-oss-20b").shape, Workload(context_length=8192, batch_size=32)
    pool = serving_memory(shape, dataclasses.replace(job, kv_pool=True)).kv_cache
    assert pool == 32 * pool_bytes(shape, 8192)
    assert pool > serving_memory(shape, job).kv_cache


@pytest.mark.parametrize("name", MIXERS)
def test_gradients_flow_through_every_mixer(name):
    """With respect to every leaf, of all that is counted and timed."""
    block = Block(count=3.0, mixer=jax.tree.map(float, MIXERS[name]), ffn=Dense(d_ff=512.0), norms=2)
    leaves, structure = jax.tree.flatten(block)
    hardware = load_hardware("h100")

    def f(x):
        own = jax.tree.unflatten(structure, [x[str(i)] for i in range(len(leaves))])
        shape = Shape(d_model=256.0, vocab_size=1000.0, blocks=(own,))
        job = Workload(context_length=700.0, batch_size=3.0)
        flops = forward_flops(shape, 5.0, 400.0).total
        memory = weight_bytes(shape) + kv_cache_bytes(shape, 600.0)
        return jnp.log(flops) + jnp.log(memory) + jnp.log(step_time(shape, job, hardware))

    # Off whole numbers, where a window or a rank is no kink of a minimum.
    assert_gradients_agree(f, {str(i): 1.01 * leaf for i, leaf in enumerate(leaves)}, rtol=1e-4)
