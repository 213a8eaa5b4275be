"""Shapes beyond the plain decoder: counts, relaxed and batched shapes, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.errors import InvalidInput
from scalesim.models import known_model
from scalesim.shape import (
    Attention,
    Block,
    DeltaNet,
    Dense,
    LatentAttention,
    MixtureOfExperts,
    Shape,
    count_params,
    parameter_table,
)

PLAIN = {"n_layer": 12, "d_model": 512, "n_head": 8, "n_kv_head": 2, "d_ff": 1024, "vocab_size": 1000}
HEADS, FFN = Attention(n_head=8, n_kv_head=2), Dense(d_ff=1024)
VARIED = ["gemma-3-4b", "mixtral-8x7b-v0.1", "qwen3-30b-a3b", "deepseek-v2-lite", "deepseek-v3", "gpt2"]


def of_blocks(*blocks):
    return Shape(d_model=512, vocab_size=1000, blocks=blocks)


@pytest.mark.parametrize("name", VARIED)
def test_relaxed_and_batched_counts_equal_the_exact_one(name):
    shape = known_model(name).shape
    for convention in ("total", "active", "non_embedding", "embedding", "paper"):
        exact = count_params(shape, convention)
        relaxed = jax.jit(lambda s, c=convention: count_params(s, c))(jax.tree.map(float, shape))
        batch = jax.tree.map(lambda v: np.array([v, v]), shape)
        np.testing.assert_allclose(relaxed, exact, rtol=1e-12)
        np.testing.assert_array_equal(count_params(batch, convention), [exact, exact])


@pytest.mark.parametrize("name", ["deepseek-v3", "gemma-3-4b"])
def test_total_is_the_sum_of_the_table(name):
    shape = known_model(name).shape
    rows = parameter_table(shape)
    assert sum(p.size * (1 if p.layers is None else p.layers) for p in rows) == shape.n_params_total
    # What all layers have alike is one row, whatever else they differ in.
    assert [p.layers for p in rows if p.name in ("attention_norm",)] == [shape.n_layer]


def test_one_block_is_the_plain_decoder():
    assert of_blocks(Block(count=12, mixer=HEADS, ffn=FFN)) == Shape(**PLAIN)
    assert Shape(**PLAIN).is_plain


def test_equal_blocks_are_gathered_and_their_order_is_kept():
    local = Block(mixer=dataclasses.replace(HEADS, window=64), ffn=FFN)
    full = Block(mixer=HEADS, ffn=FFN)
    shape = of_blocks(local, local, full, local, Block(count=0, ffn=FFN), full)
    assert [(b.count, b.mixer.window) for b in shape.blocks] == [(3, 64), (2, None)]
    assert shape.order == ((0, 2), (1, 1), (0, 1), (1, 1))
    assert shape.n_layer == 5
    assert dataclasses.replace(shape, vocab_size=7).order == shape.order


def test_a_size_is_replaced_wherever_it_is():
    shape = known_model("gemma-3-4b").shape
    fewer = dataclasses.replace(shape, n_head=4, n_kv_head=1)
    assert [b.mixer.n_head for b in fewer.blocks] == [4, 4]
    assert [b.mixer.window for b in fewer.blocks] == [b.mixer.window for b in shape.blocks]
    deepseek = dataclasses.replace(known_model("deepseek-v3").shape, d_ff=4096)
    assert [b.ffn.d_ff for b in deepseek.blocks] == [4096, 2048]
    halved = dataclasses.replace(shape, n_layer=17.0)
    assert halved.n_layer == pytest.approx(17.0)
    assert halved.blocks[0].count / halved.blocks[1].count == pytest.approx(29 / 5)


def test_layers_that_share_keys_and_values_have_no_projections_for_them():
    own, shared = Block(count=6, mixer=HEADS, ffn=FFN), dataclasses.replace(HEADS, shared=True)
    alone, with_shared = Shape(**PLAIN), of_blocks(own, Block(count=6, mixer=shared, ffn=FFN))
    assert alone.n_params_total - with_shared.n_params_total == 6 * 2 * 512 * 2 * 64


def test_gradients_flow_through_experts_and_ranks():
    shape = jax.tree.map(float, known_model("deepseek-v3").shape)
    slope = jax.grad(lambda s: count_params(s, "total"))(shape)
    layers, d = 58, 7168
    assert slope.blocks[1].ffn.n_expert == pytest.approx(layers * (3 * d * 2048 + d + 1))
    assert jnp.isfinite(jnp.asarray(jax.tree.leaves(slope))).all()


def test_active_counts_the_visited_experts_alone():
    moe = MixtureOfExperts(n_expert=8, top_k=2, d_ff=256, d_ff_shared=256)
    shape = of_blocks(Block(count=12, mixer=HEADS, ffn=moe))
    idle = 12 * 6 * 3 * 512 * 256
    assert shape.n_params_total - shape.n_params_active == idle


def test_a_plain_zero_is_absent():
    moe = MixtureOfExperts(n_expert=8, top_k=2, d_ff=256, d_ff_shared=0)
    assert moe.d_ff_shared is None
    names = [p.name for p in moe.tensors(512)]
    assert not any(name.startswith("shared") for name in names)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            lambda: MixtureOfExperts(n_expert=8, top_k=9, d_ff=64),
            "top_k must be at most n_expert = 8, but is 9",
        ),
        (lambda: Attention(n_head=8, n_kv_head=2, window=0), "window must be above 0"),
        (lambda: Attention(n_head=8, n_kv_head=3), "n_kv_head must divide n_head = 8, but is 3"),
        (
            lambda: LatentAttention(n_head=8, kv_lora_rank=64, head_dim=64),
            "rope_dim must be below head_dim = 64",
        ),
        (
            lambda: LatentAttention(n_head=8, kv_lora_rank=64, n_index_head=4),
            "n_index_head needs q_lora_rank",
        ),
        (lambda: DeltaNet(n_k_head=4, n_v_head=6), "n_v_head must be a multiple of n_k_head = 4, but is 6"),
        (lambda: Block(count=-1, ffn=FFN), "count must be at least 0"),
        (lambda: dataclasses.replace(of_blocks(Block(ffn=FFN)), n_head=8), "n_head is no size of this shape"),
        (
            lambda: dataclasses.replace(known_model("gemma-3-1b").shape, n_layer=25),
            "n_layer must keep the proportion",
        ),
    ],
)
def test_bad_architectures_are_named(build, says):
    with pytest.raises(InvalidInput, match=says):
        build()
