"""Schedules, what decays, and how the learning rate follows the width."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scalesim.errors import InvalidInput
from scalesim.training import Recipe
from scalesim.training.recipe import optimiser, rate_factors, schedule
from scalesim.training.step import first_state, train_step
from tests.training.small import SHAPE, config


def rates(recipe, n_steps=100):
    return np.array([float(schedule(recipe, k, n_steps)) for k in range(n_steps)])


def test_wsd_rises_holds_and_falls():
    r = rates(Recipe(warmup=0.1, decay=0.2, end=0.1))
    assert (np.diff(r[:10]) > 0).all()
    np.testing.assert_allclose(r[9:81], 1.0)
    assert (np.diff(r[81:]) < 0).all()
    assert r[-1] == pytest.approx(0.1 + 0.9 / 20, abs=0.01)


def test_cosine_falls_all_the_way():
    r = rates(Recipe(schedule="cosine", warmup=0.1, end=0.1))
    assert r.argmax() in (9, 10)
    assert (np.diff(r[10:]) < 0).all()
    assert r[55] == pytest.approx(0.55, abs=0.01)


@pytest.mark.slow
def test_only_matrices_decay():
    params = {k: jnp.ones_like(v) for k, v in first_state(SHAPE, Recipe(), 0).params.items()}
    rule = optimiser(Recipe(weight_decay=0.5), SHAPE)
    update, _ = rule.update(jax.tree.map(jnp.zeros_like, params), rule.init(params), params)
    decays = {k for k, v in update.items() if float(jnp.abs(v).max()) > 0}
    assert decays == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert float(update["q_proj"].max()) == 0.5


@pytest.mark.slow
def test_adamw_is_that_of_optax():
    import optax

    recipe = Recipe(clip=1e9, weight_decay=0.0, warmup=0.0, decay=0.0)
    state = first_state(SHAPE, recipe, 0)
    batch = np.random.default_rng(0).integers(0, 256, (8, 33)).astype(np.int32)
    after, _ = train_step(state, batch, 0.01, 10, SHAPE, recipe, config().options)

    def loss(params):
        from scalesim.training.step import position_loss

        return position_loss(params, batch, SHAPE, config().options).mean()

    rule = optax.adam(0.01, b1=0.9, b2=0.95)
    update, _ = rule.update(jax.grad(loss)(state.params), rule.init(state.params))
    for name, value in optax.apply_updates(state.params, update).items():
        np.testing.assert_allclose(after.params[name], value, atol=1e-7)


def test_mup_makes_a_wider_models_steps_as_large():
    # The first step of Adam is lr in each entry: by muP's factor, changes of a matrix's output do not grow
    # with the width it sums over.
    recipe = Recipe(mup_width=16)
    wide = replace(SHAPE, d_model=64, d_ff=128, n_head=16, n_kv_head=8)
    narrow_factors, wide_factors = rate_factors(recipe, SHAPE), rate_factors(recipe, wide)
    for name in ("q_proj", "o_proj", "gate_proj", "down_proj"):
        assert wide_factors[name] == pytest.approx(narrow_factors[name] / 4)
    assert wide_factors["embedding"] == wide_factors["attention_norm"] == 1.0
    assert recipe.model_options(wide, config().options).logit_scale == pytest.approx(0.25)
    assert rate_factors(Recipe(), wide)["q_proj"] == 1.0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"schedule": "linear"}, "schedule"),
        ({"warmup": 1.5}, "warmup"),
        ({"warmup": 0.6, "decay": 0.6}, "at most 1"),
        ({"accumulate": 0}, "accumulate"),
        ({"clip": 0.0}, "clip"),
    ],
)
def test_recipes_that_cannot_be_are_refused(changes, says):
    with pytest.raises(InvalidInput, match=says):
        Recipe(**changes)
