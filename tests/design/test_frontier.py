import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import scalesim as ss
from scalesim.cost import LOSS, Measure, max_params
from scalesim.design import PAPER, Lattice, buildable, frontier
from scalesim.design.picks import Table, pick
from scalesim.errors import InvalidInput, Unreachable
from scalesim.numerics.pareto import non_dominated

FIT = ss.named_fit("paper")
LONG = ss.Workload(context_length=131072)


def betters(a, b):
    return bool((a <= b).all() and (a < b).any())


def by_pairs(values):
    finite = np.isfinite(values).all(axis=1)
    return [
        bool(finite[i] and not any(finite[j] and betters(values[j], values[i]) for j in range(len(values))))
        for i in range(len(values))
    ]


# Few distinct values, so that ties and copies are common.
coarse = st.integers(1, 3).flatmap(
    lambda m: hnp.arrays(
        float,
        st.tuples(st.integers(0, 40), st.just(m)),
        elements=st.one_of(st.integers(0, 6).map(float), st.just(np.nan), st.just(np.inf)),
    )
)


@given(coarse)
def test_the_filter_is_the_definition(values):
    assert non_dominated(values).tolist() == by_pairs(values)


@pytest.mark.parametrize("columns", [2, 3, 4])
def test_the_filter_goes_over_blocks(columns):
    random = np.random.default_rng(columns)
    values = random.integers(0, 400, (5000, columns)).astype(float)
    mask = non_dominated(values)
    front = values[mask]
    assert 0 < mask.sum() < 5000
    assert not any(betters(b, a) for a in front for b in front)
    for row in values[~mask][:500]:
        assert any(betters(a, row) for a in front)


def test_the_filter_refuses_what_is_no_table():
    with pytest.raises(InvalidInput, match="values must be"):
        non_dominated(np.zeros(4))


QUESTIONS = {
    "loss, memory": ((2.5, 2.8), ("loss", "memory")),
    "flops, loss": ((2.6, 2.7), ("flops", "loss")),
    "memory, flops": (2.7, ("memory", "flops")),
    "three": ((2.55, 2.75), ("loss", "memory", "flops")),
}


@pytest.fixture(
    scope="module", params=[(q, lat) for q in QUESTIONS for lat in ("paper", "buildable")], ids=str
)
def front(request):
    question, lattice = request.param
    target, measures = QUESTIONS[question]
    chosen = PAPER if lattice == "paper" else buildable(16)
    return frontier(FIT, LONG, target, measures, lattice=chosen, points=13)


def test_nobody_in_the_set_is_bettered_and_nothing_else_would_do(front):
    exact = np.array(by_pairs(front.cloud)) if len(front.cloud) < 400 else non_dominated(front.cloud)
    least = [front.cloud[:, i].min() for i in range(front.cloud.shape[1])]
    for i, m in enumerate(front.measures):
        if m.is_loss:  # designs just below the range are compared, not shown
            least[i] = front.values[:, i].min()
    expected = front.cloud[exact & (front.cloud >= least).all(axis=1)]
    assert sorted(map(tuple, expected)) == sorted(map(tuple, front.values))
    assert len(front) == len(front.shapes) < front.considered


def test_every_measure_is_that_of_the_shape(front):
    for i in range(0, len(front), max(len(front) // 5, 1)):
        design = front.candidate(i)
        ours = {"loss": design.loss, "memory": design.memory.total, "flops": design.flops.total}
        for m, value in zip(front.measures, front.values[i], strict=True):
            assert value == pytest.approx(ours[m.name], rel=1e-9)
        if front.lattice.real:
            s = design.shape
            assert all(isinstance(n, int) for n in (s.n_layer, s.d_model, s.d_ff))
            assert s.n_head % s.n_kv_head == 0


def test_the_bound_lies_on_or_below_the_lattice(front):
    assert len(front.relaxed) > 0
    assert not any(betters(a * (1 + 1e-7), b) for a in front.cloud for b in front.relaxed)
    if len(front.measures) == 2 and front.lattice.real:
        # And it says something: designs of the lattice stand above points of it, not only beside them.
        above = [any(betters(b, a) for b in front.relaxed) for a in front.values]
        assert np.mean(above) > 0.25


def test_the_bound_is_near_the_lattice():
    found = frontier(FIT, LONG, (2.5, 2.8), ("loss", "objective"), points=25)
    for loss, cost in found.relaxed:
        attained = found.values[found.values[:, 0] <= loss + 0.006, 1]
        assert not len(attained) or attained.min() < cost * 1.03


def test_constraints_and_own_measures_hold():
    depth = Measure(function=lambda shape, workload: shape.n_layer, name="depth")
    limited = frontier(FIT, LONG, (2.6, 2.8), ("loss", depth), constraints=[max_params(1.2e9)], points=13)
    assert all(s.n_params_total <= 1.2e9 for s in limited.shapes)
    assert [s.n_layer for s in limited.shapes] == limited.values[:, 1].tolist()
    assert limited.measures[1].key == "depth"


@pytest.mark.slow
def test_hardware_measures():
    h100 = ss.load_hardware("h100-sxm")
    found = frontier(FIT, LONG, 2.7, ("tpot", "memory"), lattice=PAPER, hardware=h100)
    for s, (seconds, _) in zip(found.shapes, found.values, strict=True):
        assert seconds == pytest.approx(float(ss.TimePerToken(hardware=h100)(s, LONG)))


@pytest.mark.slow
def test_the_cheapest_at_a_loss_is_what_search_finds():
    found = frontier(FIT, LONG, (2.6, 2.66), ("loss", "objective"), lattice=PAPER, points=13)
    chosen = found.pick(limits={"loss": 2.6200001})
    design = ss.search(FIT, LONG, 2.62, lattice=PAPER)
    assert chosen.values["objective"] == pytest.approx(design.best.objective)
    assert (chosen.shape.n_head, chosen.shape.n_kv_head) == (design.shape.n_head, design.shape.n_kv_head)


def table_of(values):
    measures = (LOSS, Measure(function=len, name="cost"))
    shapes = tuple(
        ss.Shape(n_layer=i + 1, d_model=64, n_head=1, n_kv_head=1, d_ff=64) for i in range(len(values))
    )
    return Table(measures, shapes, np.asarray(values, float))


KNOWN = table_of([[2.0, 16.0], [2.1, 6.0], [2.3, 4.0], [2.7, 2.0], [3.0, 1.0]])


def test_the_knee_is_furthest_below_the_chord():
    scaled = KNOWN.scaled()
    first, last = scaled[0], scaled[-1]
    along = (last - first) / np.linalg.norm(last - first)
    below = [along[0] * (p - first)[1] - along[1] * (p - first)[0] for p in scaled]
    assert pick(KNOWN).index == int(np.argmin(below))


def test_limits_pick_the_cheapest_and_say_what_is_next():
    chosen = pick(KNOWN, limits={"loss": 2.5})
    assert chosen.values == {"loss": 2.3, "cost": 4.0}
    assert "(3 of 5)" in chosen.reason
    assert "The next with less has loss 2.700, cost 2" in chosen.reason
    assert pick(KNOWN, least="loss", limits={"cost": 5}).values["loss"] == 2.3
    with pytest.raises(
        Unreachable, match=r"no design of the frontier has loss 1\.500 or less; the least of any"
    ):
        pick(KNOWN, limits={"loss": 1.5})


@given(st.floats(1e-4, 0.05))
def test_a_marginal_value_picks_the_best_of_all_at_it(marginal_value):
    chosen = pick(KNOWN, marginal_value=marginal_value)
    for loss, cost in KNOWN.values:
        percents = np.log(cost / chosen.values["cost"]) / np.log(1.01)
        assert chosen.values["loss"] - loss <= marginal_value * percents + 1e-12


@pytest.mark.slow
def test_reasons_state_the_trade_of_the_frontier_itself():
    found = frontier(FIT, LONG, (2.5, 2.8), ("loss", "memory"), points=25)
    chosen = found.pick()
    loss, memory = found.values.T
    here = chosen.values
    gained = here["loss"] - loss[memory <= 1.1 * here["memory"]].min()
    lost = loss[memory <= 0.9 * here["memory"]].min() - here["loss"]
    assert f"10% more memory buys {gained:.4f} nats of loss" in chosen.reason
    assert f"10% less costs {lost:.4f} nats more loss" in chosen.reason


MISTAKES = [
    ({"measures": ("loss",)}, "measures must be two or three"),
    ({"measures": ("loss", "loss")}, "measures must be two or three"),
    ({"measures": ("loss", "speed")}, "measure 'speed' is not known"),
    ({"measures": ("loss", "tpot")}, "measure 'tpot' needs hardware"),
    ({"target_loss": -1.0}, "target_loss must be a positive number"),
    ({"target_loss": (2.5, 2.8), "measures": ("memory", "flops")}, "target_loss must be one number"),
    ({"points": 1}, "points must be at least 2"),
]


@pytest.mark.parametrize(("given", "says"), MISTAKES, ids=[m[1] for m in MISTAKES])
def test_wrong_calls_get_a_sentence(given, says):
    asked = {"target_loss": 2.6, "measures": ("loss", "memory"), "lattice": PAPER, **given}
    with pytest.raises(InvalidInput, match=says):
        frontier(FIT, LONG, **asked)


def test_a_single_design_is_no_trade():
    alone = pick(table_of([[2.0, 5.0]]))
    assert alone.index == 0
    assert alone.reason == "The only design of the frontier: it has the least of every measure."


def test_picks_refuse_what_excludes_itself():
    with pytest.raises(InvalidInput, match="marginal_value excludes"):
        pick(KNOWN, marginal_value=0.1, limits={"loss": 2})
    with pytest.raises(InvalidInput, match="marginal_value must be above 0"):
        pick(KNOWN, marginal_value=-1)
    with pytest.raises(InvalidInput, match="measure 'memory' is not known"):
        pick(KNOWN, limits={"memory": 2})


def test_a_frontier_out_of_reach_says_so():
    tiny = Lattice("tiny", ((1, 1),), real=True)
    with pytest.raises(Unreachable, match=r"no design of the tiny lattice reaches a loss of 1\.5"):
        frontier(FIT, LONG, 1.5, ("memory", "flops"), lattice=tiny)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    st.sets(st.sampled_from(buildable(32).heads), min_size=1, max_size=6),
    st.sampled_from([("loss", "memory"), ("flops", "loss", "memory"), ("n_params", "objective")]),
    st.floats(2.45, 2.9),
    st.booleans(),
)
def test_random_lattices_by_brute_force(heads, measures, target, real):
    lattice = Lattice("drawn", tuple(sorted(heads)), real=real)
    found = frontier(FIT, LONG, target, measures, lattice=lattice, points=7)
    names = [m.name for m in found.measures]
    within = np.ones(len(found.cloud), bool)
    if "loss" in names:
        within = found.cloud[:, names.index("loss")] >= target - 0.15
    expected = found.cloud[np.array(by_pairs(found.cloud)) & within]
    assert sorted(map(tuple, expected)) == sorted(map(tuple, found.values))
    assert not any(betters(a * (1 + 1e-7), b) for a in found.cloud for b in found.relaxed)
    chosen = found.pick()
    assert chosen.values == dict(zip(names, found.values[chosen.index], strict=True))
