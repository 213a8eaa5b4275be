"""FLOPs and buffer sizes against XLA's own analysis of a compiled decoder, and against peers' faults."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.cost.cache import kv_cache_bytes
from scalesim.cost.flops import attended_pairs, forward_flops
from scalesim.cost.memory import weight_bytes
from scalesim.errors import InvalidInput
from scalesim.models import known_model
from scalesim.shape import Shape
from tests.cost import decoder as model
from tests.gradients import assert_gradients_agree

SHAPE = Shape(
    n_layer=2,
    d_model=512,
    n_head=8,
    n_kv_head=2,
    head_dim=96,
    d_ff=1408,
    vocab_size=2048,
    tied_embeddings=False,
)
BATCH, LENGTH = 2, 512


def xla_flops(f, *args):
    analysis = jax.jit(f).lower(*args).compile().cost_analysis()
    return (analysis[0] if isinstance(analysis, list) else analysis)["flops"]


def abstract(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)


ONE_LAYER = {name: abstract(*p.shape[1:]) for name, p in model.zeros(SHAPE).items() if len(p.shape) > 1}
OURS = forward_flops(SHAPE, LENGTH, batch_size=BATCH, causal=False)
X = abstract(BATCH, LENGTH, SHAPE.d_model)


@pytest.mark.parametrize(
    ("f", "args", "ours"),
    [
        (lambda p, x: model.attention(p, x, SHAPE), (ONE_LAYER, X), OURS.attention / 2),
        (model.ffn, (ONE_LAYER, X), OURS.ffn / 2),
        (lambda x, w: x @ w, (X, abstract(SHAPE.d_model, SHAPE.vocab_size)), OURS.logits),
        (
            lambda p, t: model.decoder(p, t, SHAPE),
            (model.zeros(SHAPE), jax.ShapeDtypeStruct((BATCH, LENGTH), jnp.int32)),
            OURS.total,
        ),
    ],
    ids=["attention", "ffn", "logits", "decoder"],
)
def test_flops_agree_with_xla(f, args, ours):
    assert ours == pytest.approx(xla_flops(f, *args), rel=0.05)


def test_decode_flops_and_buffers_agree_with_xla():
    # In float32: on a CPU XLA converts bfloat16 first, and counts a FLOP for every weight it converts.
    caches = (jax.ShapeDtypeStruct((2, BATCH, LENGTH, 2, 96), jnp.float32),) * 2
    token = jax.ShapeDtypeStruct((BATCH, 1), jnp.int32)
    args = (model.zeros(SHAPE, jnp.float32), token, caches)

    def step(p, t, c):
        return model.decoder(p, t, SHAPE, c)

    ours = forward_flops(SHAPE, 1, past=LENGTH - 1, batch_size=BATCH)
    assert ours.total == pytest.approx(xla_flops(step, *args), rel=0.05)
    held = jax.jit(step).lower(*args).compile().memory_analysis().argument_size_in_bytes
    cache = BATCH * kv_cache_bytes(SHAPE, LENGTH, kv_bits=32)
    assert weight_bytes(SHAPE, weight_bits=32) + cache == pytest.approx(held, rel=0.05)


def test_output_projection_counts_two_flops_a_weight():
    # A peer counts one.
    assert forward_flops(SHAPE, 1).output == 2 * 2 * (8 * 96) * 512


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("past", [0, 2, 50])
def test_attended_pairs_are_a_sum(window, past):
    expected = sum(min(past + i, window or 10**9) for i in range(1, 8))
    assert attended_pairs(7, past, window=window) == expected


def test_prefill_is_the_sum_of_its_steps():
    for name in ("llama-3-8b", "gemma-3-1b", "mixtral-8x7b-v0.1"):
        shape = known_model(name).shape
        whole = forward_flops(shape, 40, batch_size=3).total
        steps = sum(forward_flops(shape, 1, past=i, batch_size=3).total for i in range(40))
        assert whole == pytest.approx(steps, rel=1e-12)


def test_matrices_cost_two_flops_an_active_weight():
    for name in ("llama-3-8b", "deepseek-v3", "gpt2", "qwen3-30b-a3b"):
        shape = known_model(name).shape
        f = forward_flops(shape, 1, logits="none")
        visited = dataclasses.replace(shape, tied_embeddings=True)
        weights = visited.n_params_active
        for extra in ("embedding", "positions"):
            weights -= {"embedding": shape.vocab_size, "positions": shape.n_positions}[extra] * shape.d_model
        assert f.total - f.scores == pytest.approx(2 * weights, rel=2e-3)  # norms and biases remain


def test_absorbing_the_latent_up_projection_costs_flops_for_each_pair():
    shape = known_model("deepseek-v3").shape
    expanded, absorbed = (forward_flops(shape, 1, 4095, absorbed=a).scores for a in (False, True))
    assert absorbed / expanded == pytest.approx((2 * 512 + 64) / (192 + 128))


def test_a_batch_equals_a_loop_and_jit_equals_eager():
    heads = np.array([8, 16, 32])
    batch = dataclasses.replace(SHAPE, n_head=heads)
    loop = [forward_flops(dataclasses.replace(SHAPE, n_head=int(h)), 100).total for h in heads]
    np.testing.assert_allclose(forward_flops(batch, 100).total, loop)
    jitted = jax.jit(lambda s: forward_flops(s, 100).total)(batch)
    np.testing.assert_allclose(jitted, loop)


def test_large_shapes_do_not_overflow(float32):
    shape = known_model("llama-3.1-405b").shape
    assert np.isfinite(forward_flops(shape, 131072, batch_size=64).total)
    assert forward_flops(jax.tree.map(jnp.asarray, shape), 131072, batch_size=64).total > 1e18


def test_gradients_agree():
    def f(x):
        shape = dataclasses.replace(
            SHAPE, **{k: v for k, v in x.items() if k not in ("new", "past", "batch")}
        )
        return forward_flops(shape, x["new"], x["past"], batch_size=x["batch"]).total

    sizes = {
        name: getattr(SHAPE, name)
        for name in ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff")
    }
    assert_gradients_agree(f, {**sizes, "new": 7.0, "past": 100.0, "batch": 3.0})


def test_unknown_logits_are_named():
    with pytest.raises(InvalidInput, match="logits 'first' is not known"):
        forward_flops(SHAPE, 1, logits="first")
