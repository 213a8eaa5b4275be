import jax
import jax.numpy as jnp
import numpy as np

from scalesim.numerics.roots import newton_root


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
