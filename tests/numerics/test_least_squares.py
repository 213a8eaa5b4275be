"""Levenberg-Marquardt and its kin on problems with known answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scalesim.numerics.descent import curvature, damped_step, descend, newton
from scalesim.numerics.least_squares import (
    LEAST,
    Rows,
    influence,
    levenberg_marquardt,
    march,
    rho,
    total,
    weight,
)

ROSENBROCK = lambda z: jnp.stack([10 * (z[1] - z[0] ** 2), 1 - z[0]])  # noqa: E731
# Moré, Garbow and Hillstrom 1981, ACM TOMS 7:17: function, standard start, solution's residual norm.
PROBLEMS = {
    "rosenbrock": (ROSENBROCK, [-1.2, 1.0], 0.0),
    "powell singular": (
        lambda z: jnp.stack(
            [z[0] + 10 * z[1], 5**0.5 * (z[2] - z[3]), (z[1] - 2 * z[2]) ** 2, 10**0.5 * (z[0] - z[3]) ** 2]
        ),
        [3.0, -1.0, 0.0, 1.0],
        0.0,
    ),
    "freudenstein and roth": (
        lambda z: jnp.stack(
            [-13 + z[0] + ((5 - z[1]) * z[1] - 2) * z[1], -29 + z[0] + ((z[1] + 1) * z[1] - 14) * z[1]]
        ),
        [0.5, -2.0],
        48.98425,
    ),
    "helical valley": (
        lambda z: jnp.stack(
            [
                10 * (z[2] - 10 * jnp.arctan2(z[1], z[0]) / (2 * jnp.pi)),
                10 * (jnp.sqrt(z[0] ** 2 + z[1] ** 2) - 1),
                z[2],
            ]
        ),
        [-1.0, 0.0, 0.0],
        0.0,
    ),
}


def loop(residual, params, steps, solver=None):
    solver = levenberg_marquardt() if solver is None else solver

    def step(carry, _):
        updates, state = solver.update(None, carry[1], carry[0], residual_fn=residual)
        params = optax.apply_updates(carry[0], updates)
        now = residual(params)
        return (params, state), total(now) if isinstance(now, Rows) else jnp.sum(now**2)

    (params, state), costs = jax.lax.scan(step, (params, solver.init(params)), length=steps)
    return params, state, costs


@pytest.mark.parametrize("name", PROBLEMS)
def test_it_solves_the_standard_problems_and_never_climbs(name):
    residual, start, squares = PROBLEMS[name]
    _, _, costs = loop(residual, jnp.array(start), 120)
    assert float(costs[-1]) == pytest.approx(squares, abs=1e-5)
    assert np.all(np.diff(np.asarray(costs)) <= 0)
    chex.assert_tree_all_finite(costs)


def test_parameters_may_be_any_tree_and_rows_say_how_residuals_count():
    x = jnp.linspace(0.0, 1.0, 30)
    y = 1.0 + 2.0 * x
    y = y.at[3].add(50.0)  # one outlier, which Huber's loss leaves where it is
    params = {"line": (jnp.array(0.0), jnp.array([0.0]))}

    def rows(p):
        r = p["line"][0] + p["line"][1] * x - y
        return Rows(r, jnp.ones_like(r), 1e-3 * jnp.ones_like(r), jnp.ones_like(r))

    found, _, costs = loop(rows, params, 150)
    chex.assert_trees_all_close(found, {"line": (jnp.array(1.0), jnp.array([2.0]))}, atol=2e-3)
    chex.assert_trees_all_equal_shapes(found, params)
    assert np.all(np.diff(np.asarray(costs)) <= 0)


def test_update_says_what_it_needs():
    solver = levenberg_marquardt()
    with pytest.raises(ValueError, match="needs params and residual_fn="):
        solver.update(None, solver.init(jnp.zeros(2)), jnp.zeros(2))


def test_it_chains_with_other_transformations():
    solver = optax.chain(levenberg_marquardt(), optax.scale(0.5))
    solver = optax.with_extra_args_support(solver)
    params, _, _ = loop(ROSENBROCK, jnp.array([-1.2, 1.0]), 80, solver)
    np.testing.assert_allclose(params, 1.0, atol=1e-6)


def test_a_place_where_nothing_is_finite_is_not_left_for_worse():
    params, state, _ = loop(lambda z: jnp.where(z > 5, z - 6, jnp.nan), jnp.array([0.0]), 3)
    assert float(params[0]) == 0.0
    assert float(state.damping) >= LEAST


class Variants(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_jit_is_eager(self):
        step = self.variant(lambda b, g: damped_step(b, g, 0.1))
        bend, slope = jnp.array([[2.0, 0.3], [0.3, 4.0]]), jnp.array([1.0, -2.0])
        ridge = 0.1 * (jnp.diag(bend) + 0.04)
        expected = -jnp.linalg.solve(bend + jnp.diag(ridge), slope)
        chex.assert_trees_all_close(step(bend, slope), expected, rtol=1e-9)

    @chex.variants(with_jit=True, without_jit=True)
    def test_losses_agree_with_their_derivatives(self):
        r = jnp.array([-3.0, -0.5, 0.2, 2.0])
        losses = self.variant(lambda r: rho(r, 1.0, 2.0))
        chex.assert_trees_all_close(jax.vmap(jax.grad(lambda r: rho(r, 1.0, 2.0)))(r), influence(r, 1.0, 2.0))
        chex.assert_trees_all_close(weight(r, 1.0, 2.0) * r, influence(r, 1.0, 2.0))
        chex.assert_trees_all_close(losses(r), jnp.array([2.5, 0.125, 0.04, 3.0]))


def test_starts_and_steps_share_one_program():
    target = jnp.array([0.5, -1.0, 2.0])

    def rows(z, anneal):
        r = z - target
        return Rows(r, jnp.ones_like(r), 10.0 * jnp.ones_like(r), jnp.ones_like(r))

    @jax.jit
    @chex.assert_max_traces(n=1)
    def carried(z, steps):
        return jax.vmap(lambda z: march(rows, z, 1e-2, 0, steps))(z)

    for steps in (3, 40):
        ends = carried(jnp.zeros((5, 3)) + steps, steps)
    np.testing.assert_allclose(ends.z, jnp.tile(target, (5, 1)), atol=1e-6)
    assert ends.done.all()
    chex.assert_tree_all_finite(ends)
    with pytest.raises(AssertionError, match="rank"):
        march(rows, jnp.zeros((5, 3)), 1e-2, 0, 3)


def test_totals_that_are_no_number_are_infinite():
    rows = Rows(jnp.array([jnp.nan, 1.0]), jnp.ones(2), jnp.ones(2), jnp.ones(2))
    assert float(total(rows)) == np.inf


def test_newton_ends_at_the_optimum_from_where_the_curvature_is_negative():
    objective = lambda z: jnp.sum(z**4 - 2 * z**2) + 0.1 * z[0]  # noqa: E731 a saddle at 0
    at = jax.vmap(lambda z: curvature(objective, z))
    z, _, slope, bend = newton(lambda z, busy: at(z), np.array([[0.1, 0.1], [-0.2, 0.3]]))
    assert np.all(slope < 1e-6)
    assert np.all(np.linalg.eigvalsh(bend) > 0)
    np.testing.assert_allclose(np.abs(z), 1.0, atol=0.02)


def test_descend_takes_any_transformation():
    objective = lambda z, anneal: jnp.sum((z - 1.5) ** 2) * anneal  # noqa: E731
    residual = lambda z, anneal: (z - 1.5) * anneal  # noqa: E731
    for solver, steps in ((optax.sgd(0.1), 100), (optax.lbfgs(), 10), (levenberg_marquardt(), 10)):
        z = descend(objective, jnp.zeros(2), solver, steps, residual=residual)
        np.testing.assert_allclose(z, 1.5, atol=1e-4)
