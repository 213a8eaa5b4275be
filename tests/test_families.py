import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesim.errors import InvalidInput
from scalesim.families import FIGURE, TABLE, ShapeFamily, fixed_ratio, named_family
from scalesim.shape import count_params

from .gradients import assert_gradients_agree

FAMILIES = {"figure": FIGURE, "table": TABLE, "ratio": fixed_ratio(64.0)}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@given(log_n=st.floats(13, 30), n_head=st.floats(1, 128), share=st.floats(0, 1))
def test_a_shape_has_exactly_the_size_asked_for(family, log_n, n_head, share):
    shape = family.at(jnp.exp(log_n), n_head, n_head**share)
    assert float(jnp.log(count_params(shape, "paper"))) == pytest.approx(log_n, rel=1e-10)


def test_figure_family_is_figure_2s_models():
    for n_layer, n_head, n_kv_head, n_params in [
        (6, 8, 8, 37748736),
        (16, 8, 1, 574619648),
        (16, 1, 1, 545259520),
    ]:
        shape = FIGURE.at(float(n_params), n_head, n_kv_head)
        assert float(shape.n_layer) == pytest.approx(n_layer, rel=1e-9)
        assert float(shape.d_model) == pytest.approx(128 * n_layer, rel=1e-9)


def test_table_family_runs_through_its_models():
    for n_layer, d_model in [(4, 256), (24, 1280), (36, 2048), (80, 8192)]:
        heads = d_model / 64
        shape = TABLE.at(12.0 * n_layer * d_model**2, heads, heads)
        assert float(shape.n_layer) == pytest.approx(n_layer, rel=1e-9)


@given(st.floats(10, 32))
def test_aspect_stays_between_its_models(log_n):
    assert 42 <= float(TABLE.aspect(jnp.exp(log_n))) <= 103


def test_aspect_has_no_kinks():
    slope = jax.vmap(jax.grad(lambda u: TABLE.aspect(jnp.exp(u))))
    knots = jnp.asarray(TABLE.log_sizes)
    np.testing.assert_allclose(slope(knots - 1e-7), slope(knots + 1e-7), atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("field", ["n_layer", "d_model", "d_ff"])
def test_gradients_agree_with_finite_differences(family, field):
    at = {"log_n": 19.3, "n_head": 11.0, "n_kv_head": 3.0}
    assert_gradients_agree(
        lambda x: getattr(family.at(jnp.exp(x["log_n"]), x["n_head"], x["n_kv_head"]), field), at
    )


def test_jit_and_batches_agree():
    sizes = jnp.exp(jnp.linspace(15.0, 28.0, 7))
    batch = jax.jit(TABLE.at)(sizes, 8.0, 2.0)
    loop = [TABLE.at(n, 8.0, 2.0).n_layer for n in sizes]
    np.testing.assert_allclose(batch.n_layer, loop, rtol=1e-12)


def test_names():
    assert named_family("figure") is FIGURE
    assert named_family("96").aspects == (96.0,)
    with pytest.raises(InvalidInput, match="family 'figur' is not known; did you mean 'figure'"):
        named_family("figur")
    with pytest.raises(InvalidInput, match="aspect must be above 0"):
        named_family("-3")


@pytest.mark.parametrize("models", [[], [(0, 64)], [(12, 768), (12, 768)]])
def test_bad_model_lists_are_refused(models):
    with pytest.raises(InvalidInput, match="models must"):
        ShapeFamily.from_models("mine", models)
