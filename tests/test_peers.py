"""The peers of the wide search are given the same problem as it is, in both settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.peers import lent, plain
from experiments.benchmarks.peers.posed import COMPARED, Enough, Trace, drawn_on
from experiments.benchmarks.wide_problems import problem_of, query_of
from scalesim.design.space_search import build, merits
from scalesim.errors import InvalidInput
from scalesim.families import FIGURE


@pytest.fixture(scope="module")
def drawn():
    return drawn_on(COMPARED[0], 1)[0]


@pytest.fixture(scope="module")
def places(drawn):
    sizes = drawn.case.space.axes(FIGURE).sizes
    return np.random.default_rng(0).integers(0, sizes, (400, len(sizes)))


@pytest.fixture(scope="module")
def built(drawn, places):
    query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), query_of(drawn))
    return build(problem_of(drawn.case), query, drawn.case.space, places)


def test_the_plain_problem_prices_a_design_as_the_search_does(drawn, places, built):
    posed = plain.pose(COMPARED[0])(drawn)
    log_cost, excess = posed.measured(np.column_stack([places, np.log(built.free.tokens_per_param)]))
    reached = np.asarray(built.loss_excess) <= 1e-9
    allowed = np.isfinite(np.asarray(built.cost))
    assert excess.shape == (400, posed.limits)
    assert 0 < allowed.sum() < reached.sum() < 400
    np.testing.assert_allclose(log_cost, np.log(built.value), rtol=1e-12)
    np.testing.assert_allclose(excess[:, 0], built.loss_excess, atol=1e-9)
    np.testing.assert_allclose(excess[:, 1:].max(1), built.excess, atol=1e-12)


@pytest.mark.slow
def test_slsqp_s_functions_are_those_of_whole_designs_and_its_gradients_are_theirs(drawn, places, built):
    posed = plain.pose(COMPARED[0])(drawn)
    shape, freed = (jax.tree.map(lambda leaf: float(leaf[7]), part) for part in (built.shape, built.free))
    fields = (shape.n_layer, shape.d_model, shape.d_ff / shape.d_model, shape.n_head, shape.n_kv_head)
    x = np.log([*fields, shape.head_dim, freed.kv_bits, freed.tokens_per_param])
    log_cost, slope, excess, slopes = posed.loose.at(x)
    np.testing.assert_allclose(log_cost, np.log(built.value[7]), rtol=1e-12)
    assert excess[-1] == pytest.approx(np.log(shape.n_kv_head / shape.n_head))
    for i in range(len(x)):
        step = 1e-6 * np.eye(len(x))[i]
        above, below = posed.loose.at(x + step), posed.loose.at(x - step)
        assert (above[0] - below[0]) / 2e-6 == pytest.approx(float(slope[i]), abs=1e-6)
        np.testing.assert_allclose((above[2] - below[2]) / 2e-6, slopes[:, i], atol=1e-6)


def test_the_lent_function_ranks_designs_as_the_search_does(drawn, places, built):
    posed = lent.pose(COMPARED[0])(drawn)
    merit, excess = posed.measured(places[:, drawn.case.space.axes(FIGURE).free].astype(float))
    assert excess.shape == (400, 0)
    np.testing.assert_allclose(merit, merits(built)[0], rtol=1e-9)


def test_a_trace_keeps_what_is_feasible_and_ends_when_the_time_is_up(drawn, places, built):
    posed = plain.pose(COMPARED[0])(drawn)
    x = np.column_stack([places, np.log(built.free.tokens_per_param)])
    trace = Trace(posed, seconds=1e9)
    trace(x[~np.isfinite(np.asarray(built.cost))])
    assert trace.points == []
    trace(x)
    assert trace.best == pytest.approx(float(np.log(np.min(built.cost))), rel=1e-12)
    assert trace.points[-1][1] == trace.evaluations > 400
    trace.seconds = 0.0
    with pytest.raises(Enough):
        trace(x[:1])


def test_a_lattice_whose_tokens_are_not_free_is_not_posed_plainly():
    with pytest.raises(InvalidInput, match="must free the training tokens"):
        plain.pose("depth")(drawn_on("depth", 1)[0])
