import jax
import jax.numpy as jnp
import numpy as np

from scalesim.numerics.roots import newton_root, newton_system


def root_of_power(a, b):
    """The root of exp(-b u) = a, which is -log(a) / b."""
    return newton_root(lambda u: jnp.exp(-b * u) - a, jnp.zeros_like(a))


def test_root_and_its_derivatives_to_third_order():
    a, b = jnp.array(0.01), 0.2
    exact = lambda a: -jnp.log(a) / b  # noqa: E731
    f, g = (lambda a: root_of_power(a, b)), exact
    for _ in range(4):
        np.testing.assert_allclose(f(a), g(a), rtol=1e-9)
        f, g = jax.grad(f), jax.grad(g)


def test_elements_are_independent():
    a = jnp.array([0.5, 0.1, 1e-4])
    together = root_of_power(a, 0.3)
    alone = [root_of_power(x, 0.3) for x in a]
    np.testing.assert_allclose(together, alone, rtol=1e-12)
    jacobian = jax.jacobian(root_of_power)(a, 0.3)
    np.testing.assert_allclose(jacobian, jnp.diag(-1 / (0.3 * a)), rtol=1e-9, atol=1e-12)


def test_bounds_hold():
    root = newton_root(lambda u: jnp.exp(-u) + 1.0, jnp.array(0.0), bounds=(-5.0, 5.0))
    assert float(root) == 5.0


def test_a_system_is_solved_to_rounding_and_its_inverse_is_the_jacobians():
    def f(z):
        return jnp.stack([z[0] ** 2 + z[1] ** 2 - 4.0, jnp.exp(z[0]) + z[1] - 1.0]), z.sum()

    z, value, total, inverse = newton_system(f, jnp.array([1.0, -1.5]))
    np.testing.assert_allclose(value, 0.0, atol=1e-12)
    assert float(total) == float(z.sum())
    np.testing.assert_allclose(inverse @ jax.jacobian(lambda z: f(z)[0])(z), np.eye(2), atol=1e-9)


def test_a_system_that_says_a_thing_twice_goes_to_the_nearest_solution():
    z, value, _, _ = newton_system(lambda z: (jnp.stack([z.sum() - 1.0] * 2), None), jnp.zeros(2), reach=9.0)
    np.testing.assert_allclose(z, 0.5)
    np.testing.assert_allclose(value, 0.0, atol=1e-12)


def test_steps_of_the_watched_unknowns_are_short():
    f = lambda z: (z - jnp.array([10.0, 1000.0]), None)  # noqa: E731
    far, *_ = newton_system(f, jnp.zeros(2), steps=2, watched=1, reach=0.25)
    np.testing.assert_allclose(far, [0.25, 25.0])
