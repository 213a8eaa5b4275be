"""Shapes beyond the plain decoder: counts, relaxed and batched shapes, what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.errors import InvalidInput
from scalesim.models import known_model
from scalesim.shape import (
    LatentAttention,
    MixtureOfExperts,
    Shape,
    SlidingWindow,
    count_params,
    layer_counts,
    parameter_table,
)

PLAIN = {"n_layer": 12, "d_model": 512, "n_head": 8, "n_kv_head": 2, "d_ff": 1024, "vocab_size": 1000}
VARIED = ["gemma-3-4b", "mixtral-8x7b-v0.1", "qwen3-30b-a3b", "deepseek-v2-lite", "deepseek-v3", "gpt2"]


@pytest.mark.parametrize("name", VARIED)
def test_relaxed_and_batched_counts_equal_the_exact_one(name):
    shape = known_model(name).shape
    for convention in ("total", "active", "non_embedding", "embedding", "paper"):
        exact = count_params(shape, convention)
        relaxed = jax.jit(lambda s, c=convention: count_params(s, c))(jax.tree.map(float, shape))
        batch = jax.tree.map(lambda v: np.array([v, v]), shape)
        np.testing.assert_allclose(relaxed, exact, rtol=1e-12)
        np.testing.assert_array_equal(count_params(batch, convention), [exact, exact])


def test_total_is_the_sum_of_the_table():
    shape = known_model("deepseek-v3").shape
    copies = {p.name: 1 if not p.per_layer else shape.n_layer if p.layers is None else p.layers
              for p in parameter_table(shape)}  # fmt: skip
    assert sum(p.size * copies[p.name] for p in parameter_table(shape)) == shape.n_params_total


def test_sharing_keys_and_values_drops_projections_of_every_second_layer():
    alone, shared = Shape(**PLAIN), Shape(**PLAIN, layers_per_kv=2)
    per_layer = 2 * 512 * 2 * 64
    assert alone.n_params_total - shared.n_params_total == 6 * per_layer
    assert layer_counts(Shape(**{**PLAIN, "n_layer": 5}, layers_per_kv=2)).caches == 3


@pytest.mark.parametrize(
    ("every", "n_layer", "expected"),
    [(6, 26, (4, 22)), (2, 26, (13, 13)), (0, 32, (0, 32)), (6, 34, (5, 29))],
)
def test_global_and_local_layers(every, n_layer, expected):
    shape = Shape(**{**PLAIN, "n_layer": n_layer}, window=SlidingWindow(window=8, global_every=every))
    assert layer_counts(shape)[:2] == expected
    relaxed = layer_counts(dataclasses.replace(shape, n_layer=float(n_layer)))
    assert relaxed.global_ == pytest.approx(n_layer / every if every else 0)


def test_gradients_flow_through_experts_and_ranks():
    shape = jax.tree.map(float, known_model("deepseek-v3").shape)
    slope = jax.grad(lambda s: count_params(s, "total"))(shape)
    layers, d = 58, 7168
    assert slope.moe.n_expert == pytest.approx(layers * (3 * d * 2048 + d + 1))
    assert jnp.isfinite(jnp.asarray(jax.tree.leaves(slope))).all()


def test_active_counts_the_visited_experts_alone():
    moe = MixtureOfExperts(n_expert=8, top_k=2, d_ff=256, n_shared=1)
    shape = Shape(**PLAIN, moe=moe)
    idle = 12 * 6 * 3 * 512 * 256
    assert shape.n_params_total - shape.n_params_active == idle


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"moe": {"n_expert": 8, "top_k": 9, "d_ff": 64}}, "top_k must be at most n_expert = 8, but is 9"),
        (
            {"moe": {"n_expert": 8, "top_k": 2, "d_ff": 64, "n_dense_layer": 13}},
            "n_dense_layer must be at most",
        ),
        ({"window": {"window": 0}}, "window must be above 0"),
        ({"window": {"window": 8, "n_global": 13}}, "n_global must be at most n_layer = 12"),
        ({"latent": {"kv_lora_rank": 64}}, "n_kv_head must be n_head = 8 with latent attention"),
        ({"latent": {"kv_lora_rank": 64, "rope_dim": 64}, "n_kv_head": 8}, "rope_dim must be below head_dim"),
        ({"latent": {"kv_lora_rank": 64}, "n_kv_head": 8, "qkv_bias": True}, "qkv_bias must be False"),
        ({"layers_per_kv": 0}, "layers_per_kv must be above 0"),
    ],
)
def test_bad_architectures_are_named(options, says):
    kinds = {"moe": MixtureOfExperts, "window": SlidingWindow, "latent": LatentAttention}

    def build():
        built = {k: kinds[k](**v) if k in kinds else v for k, v in options.items()}
        return Shape(**{**PLAIN, **built})

    with pytest.raises(InvalidInput, match=says):
        build()
