import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from scalesim.numerics.penalty import ITERATIONS, SMOOTH, minimise, penalty_newton


def quadratic(seed, axes, limits):
    """Return functions of a convex quadratic under linear limits that leave the box's middle allowed."""
    rng = np.random.default_rng(seed)
    root, centre = rng.normal(size=(axes, axes)), rng.uniform(-0.5, 1.5, axes)
    curve = root @ root.T + 0.1 * np.eye(axes)
    normal, slack = rng.normal(size=(limits, axes)), rng.uniform(0.0, 0.3, limits)

    def functions(x, carried):
        away = x - centre[:, None]
        value = 0.5 * (away * jnp.tensordot(curve, away, 1)).sum(0)
        limit = jnp.tensordot(normal, x - 0.5, 1) - slack[:, None]
        return jnp.concatenate([value[None], limit]), carried

    return functions


def by_slsqp(functions, axes):
    def at(x):
        return np.asarray(functions(jnp.asarray(x)[:, None], None)[0])[:, 0]

    limit = {"type": "ineq", "fun": lambda x: -at(x)[1:]}
    constraints = [limit] if len(at(np.full(axes, 0.5))) > 1 else []
    found = minimize(
        lambda x: at(x)[0], np.full(axes, 0.5), method="SLSQP", bounds=[(0, 1)] * axes,
        constraints=constraints, options={"maxiter": 300, "ftol": 1e-12},
    )  # fmt: skip
    assert found.success
    return found.fun


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(1, 1), (2, 0), (3, 2), (6, 5)]))
def test_it_finds_what_slsqp_finds(seed, size):
    axes, limits = size
    functions = quadratic(seed, axes, limits)
    start = np.random.default_rng(seed + 1).uniform(0, 1, (axes, 4))
    x, values, _ = jax.jit(lambda s: minimise(functions, s, None))(jnp.asarray(start))
    assert float(values[1:].max(initial=-np.inf)) < 10 * SMOOTH[1]
    assert float(x.min()) >= 0.0
    assert float(x.max()) <= 1.0
    expected = by_slsqp(functions, axes)
    # A limit exceeded by a few of the last scale is worth as much as its multiplier says: below 20 of them.
    np.testing.assert_allclose(values[0], expected, rtol=1e-3, atol=5e-3 * (1 + abs(expected)))


def test_a_start_ends_in_the_same_place_alone_and_among_others():
    functions = quadratic(3, 3, 2)
    start = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (3, 5)))
    together = minimise(functions, start, None)[0]
    alone = minimise(functions, start[:, 2:3], None)[0]
    np.testing.assert_allclose(together[:, 2:3], alone, rtol=1e-9, atol=1e-12)


def test_it_keeps_out_of_where_the_value_is_no_number():
    def functions(x, carried):
        return jnp.where(x > 0.6, jnp.nan, -x), carried  # falls up to the edge of what there is

    x, values, _ = minimise(functions, jnp.array([[0.1, 0.4]]), None)
    assert np.isfinite(values).all()
    assert float(x.min()) > 0.55


def test_what_is_carried_is_that_of_the_best_point():
    def functions(x, carried):
        return jnp.stack([((x - 0.3) ** 2).sum(0)]), jax.lax.stop_gradient(x[0] + 0 * carried)

    x, _, carried = minimise(functions, jnp.array([[0.9, 0.1]]), jnp.zeros(2))
    np.testing.assert_allclose(x, 0.3, atol=1e-6)
    np.testing.assert_array_equal(carried, x[0])


@pytest.mark.parametrize("excess", [0.5, 3.0])
def test_where_nothing_is_allowed_it_ends_at_the_least_excess(excess):
    def functions(x, carried):
        return jnp.stack([-x[0], excess + x[0]]), carried

    x, values, _ = minimise(functions, jnp.array([[0.8, 0.2]]), None)
    np.testing.assert_allclose(x, 0.0, atol=1e-6)
    np.testing.assert_allclose(values[1], excess, atol=1e-6)


def test_the_optax_form_takes_the_same_steps():
    functions = quadratic(5, 3, 2)
    start = jnp.asarray(np.random.default_rng(2).uniform(0, 1, (3, 4)))
    solver = penalty_newton(functions)

    @jax.jit
    def descended(params):
        def step(carry, _):
            updates, state = solver.update(None, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, solver.init(params)), length=ITERATIONS)[0][1].best

    x, values, _ = minimise(functions, start, None)
    chex.assert_trees_all_close(descended(start)[:2], (x, values), rtol=1e-6, atol=1e-9)
    assert float(values[1:].max()) < 10 * SMOOTH[1]
