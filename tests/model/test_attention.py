"""Attention against its definition, in every form it is computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.model import ModelOptions
from scalesim.model.attention import EVERYWHERE, attend, rope, rope_tables
from scalesim.model.blocked import blocked_attention


def random(seed, *sizes):
    return jax.random.normal(jax.random.key(seed), sizes, jnp.float64)


def by_definition(q, k, v, window):
    """Grouped-query attention with loops over all that can be looped over."""
    batch, n_tokens, n_head, head_dim = q.shape
    group = n_head // k.shape[2]
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b in range(batch):
        for head in range(n_head):
            for t in range(n_tokens):
                seen = range(max(0, t - window + 1), t + 1)
                scores = np.array([q[b, t, head] @ k[b, s, head // group] for s in seen]) / np.sqrt(head_dim)
                weights = np.exp(scores - scores.max())
                weights /= weights.sum()
                out[b, t, head] = sum(w * v[b, s, head // group] for w, s in zip(weights, seen, strict=True))
    return out


@pytest.mark.parametrize("attention", ["blocked", "xla"])
@pytest.mark.parametrize("window", [EVERYWHERE, 3])
def test_attention_is_its_definition(attention, window):
    q, k, v = random(0, 2, 9, 6, 4), random(1, 2, 9, 2, 4), random(2, 2, 9, 2, 4)
    got = attend(q, k, v, window, ModelOptions(attention=attention))
    expected = by_definition(*map(np.asarray, (q, k, v)), min(window, 9))
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("attention", ["blocked", "xla"])
@pytest.mark.parametrize("size", [3, 7])
def test_values_may_be_of_another_size_and_scores_of_another_scale(attention, size):
    q, k, v = random(0, 1, 9, 6, 4), random(1, 1, 9, 2, 4), random(2, 1, 9, 2, size)
    got = attend(q, k, v, EVERYWHERE, ModelOptions(attention=attention), scale=0.3)
    np.testing.assert_allclose(got, by_definition(*map(np.asarray, (0.6 * q, k, v)), 9), atol=1e-6)


@pytest.mark.parametrize(("n_tokens", "window"), [(64, 64), (65, 1000), (150, 40), (1040, 1040)])
def test_blocks_of_any_number_agree_with_one_whole_and_so_do_gradients(n_tokens, window):
    q, k, v, d = (random(i, 1, n_tokens, h, 4) for i, h in enumerate((4, 2, 2, 4)))

    def value(q, k, v, how):
        if how == "blocked":
            out = blocked_attention(q, k, v, window)
        else:
            k, v = (jnp.repeat(x, 2, axis=2) for x in (k, v))
            scores = jnp.einsum("bthd,bshd->bhts", q, k) / 2.0
            distance = jnp.arange(n_tokens)[:, None] - jnp.arange(n_tokens)[None, :]
            seen = (distance >= 0) & (distance < window)
            weights = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf), axis=-1)
            out = jnp.einsum("bhts,bshd->bthd", weights, v)
        return (out * d).sum()

    both = jax.jit(jax.value_and_grad(value, (0, 1, 2)), static_argnums=3)
    (a, da), (b, db) = (both(q, k, v, how) for how in ("blocked", "whole"))
    np.testing.assert_allclose(a, b, rtol=1e-10)
    for x, y in zip(da, db, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-10)


def test_grouped_heads_are_repeated_heads():
    q, k, v = random(0, 2, 70, 8, 4), random(1, 2, 70, 2, 4), random(2, 2, 70, 2, 4)
    grouped = blocked_attention(q, k, v, 70)
    repeated = blocked_attention(q, jnp.repeat(k, 4, axis=2), jnp.repeat(v, 4, axis=2), 70)
    np.testing.assert_allclose(grouped, repeated, atol=1e-12)


def test_rotary_scores_depend_on_distance_alone():
    q, k = random(0, 1, 1, 1, 8), random(1, 1, 1, 1, 8)

    def score(at, of):
        a, b = (rope(x, rope_tables(jnp.array([p]), 8, 100.0)) for x, p in ((q, at), (k, of)))
        return float((a * b).sum())

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(8, 3), abs=1e-3)
