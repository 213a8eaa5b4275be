"""The law that sees attention's width, cached values and head size, and mixtures of laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.fitting.result import law_from_json, law_to_json
from scalesim.laws import AttentionLaw, Mixture, PowerLaw
from tests.gradients import assert_gradients_agree

VALUES = {"E": 1.97, "A": 0.77, "b": 0.197, "C": 0.1, "k": 3.5, "c": 0.8, "F": 0.03, "m": 1.5, "f": 0.5}
LAW = AttentionLaw(**VALUES, H=0.05, h=40.0)
X = {"n_params": 3e8, "n_head": 8.0, "n_kv_head": 2.0, "head_dim": 64.0}


def test_its_terms_are_those_of_its_equation():
    s = 3e8 / 2e8
    terms = (
        1 + 0.1 * s ** (0.197 * 0.8) * np.log(1 + 3.5 / 8) + 0.03 * s ** (0.197 * 0.5) * np.log(1 + 1.5 / 2)
    )
    terms += 0.05 * np.log(1 + (40 / 64) ** 2)
    np.testing.assert_allclose(LAW.loss(X), 1.97 + 0.77 * s**-0.197 * terms, rtol=1e-12)


@pytest.mark.parametrize("form", [(0.0, 0.0, 0.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)])
def test_loss_falls_with_every_field(form):
    u, w, r = form
    law = AttentionLaw(**VALUES, H=0.05, h=40.0, u=u, w=w, r=r)
    sizes = jnp.geomspace(1e5, 1e13, 200)
    assert bool(jnp.all(jnp.diff(law.loss({**X, "n_params": sizes})) < 0))
    for name in ("n_head", "n_kv_head", "head_dim"):
        steps = jnp.geomspace(1.0, 512.0, 40)
        assert bool(jnp.all(jnp.diff(law.loss({**X, name: steps})) < 0))


def test_heads_of_128_count_as_two_of_64_only_where_width_is_seen():
    wide = AttentionLaw(**VALUES, H=0.0, h=40.0, u=1.0, w=1.0)
    narrow = {**X, "n_head": 16.0, "n_kv_head": 4.0}
    np.testing.assert_allclose(wide.loss({**X, "head_dim": 128.0}), wide.loss(narrow), rtol=1e-12)
    by_number = AttentionLaw(**VALUES, H=0.0, h=40.0, u=0.0, w=0.0)
    np.testing.assert_allclose(by_number.loss({**X, "head_dim": 128.0}), by_number.loss(X), rtol=1e-12)


def test_slopes_are_of_the_logs():
    own = AttentionLaw(**VALUES, H=0.05, h=40.0, width_slope=0.002, cache_slope=-0.001, head_slope=0.003)
    factor = (8 * 64 / 512) ** -0.002 * (2 * 64 / 512) ** 0.001 * (64 / 64) ** -0.003
    np.testing.assert_allclose(own.loss(X), LAW.loss(X) * factor, rtol=1e-12)


def test_derivatives_are_finite_and_right():
    assert_gradients_agree(LAW.loss, X)


def test_a_mixture_is_the_weighted_mean_and_sees_what_its_law_sees():
    both = Mixture(law=PowerLaw(a=np.array([1e8, 4e8]), b=0.5, E=2.0), weights=np.array([0.25, 0.75]))
    sizes = np.array([1e8, 4e8])
    each = [PowerLaw(a=a, b=0.5, E=2.0).loss({"n_params": sizes}) for a in (1e8, 4e8)]
    np.testing.assert_allclose(both.loss({"n_params": sizes}), 0.25 * each[0] + 0.75 * each[1])
    assert both.fields == ("n_params",)
    assert jax.jit(lambda law, x: law.loss(x))(both, {"n_params": 4e8}).shape == ()


def test_a_mixture_is_kept_in_a_file(tmp_path):
    law = Mixture(
        law=jax.tree.map(lambda leaf: np.array([leaf, leaf]), LAW),
        weights=np.array([0.4, 0.6]),
        names=("one", "other"),
    )
    again = law_from_json(law_to_json(law))
    assert again.names == ("one", "other")
    assert jax.tree.structure(again) == jax.tree.structure(law)
    np.testing.assert_array_equal(again.loss(X), law.loss(X))


def test_the_shipped_mixture_describes_the_paper_and_asks_for_its_own_fields():
    fit = ss.named_fit("default")
    runs = ss.paper_runs()
    miss = np.asarray(fit.law.loss({name: runs[name] for name in fit.law.fields})) - runs.loss
    assert np.sqrt(np.mean(miss**2)) == pytest.approx(fit.rms, rel=1e-4)
    assert fit.rms <= 0.006
    assert fit.law.fields == ("n_params", "n_head", "n_kv_head", "head_dim")
    np.testing.assert_allclose(np.sum(fit.law.weights), 1.0)


def test_samples_of_the_shipped_mixture_differ_by_form_and_by_corpus():
    fit = ss.named_fit("default")
    laws = fit.bootstrap.laws(fit.law)
    slopes = np.asarray(laws.law.cache_slope)[:, 0]
    assert 0 < np.std(slopes) < 0.01
    assert (
        len({tuple(row) for row in np.stack([laws.law.u[:, 0], laws.law.w[:, 0], laws.law.r[:, 0]], 1)}) > 1
    )
    # Each sample is one law, whatever the weights.
    losses = jax.vmap(lambda law: law.law.loss({k: jnp.array([v]) for k, v in X.items()}))(
        jax.tree.map(jnp.asarray, laws)
    )
    assert np.ptp(np.asarray(losses), axis=-1).max() < 1e-6
