import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.cost import FIGURE_2, AtMost, HardwareAwareCost, max_memory, max_params
from scalesim.design import PAPER, Problem, Query, buildable, least_loss, solve, stack_queries
from scalesim.design.rounding import evaluate
from scalesim.errors import InvalidInput, Unreachable

FIT = ss.named_fit("paper")
LONG = ss.Workload(context_length=131072.0)
PROBLEM = Problem(law=FIT.law)


def n_layer(shape, workload):
    return 1.0 * shape.n_layer


def random_queries(count):
    """Questions whose two limits, on parameters and on layers, bind in various ways."""
    rng = np.random.default_rng(5)
    contexts, losses = 2 ** rng.uniform(12, 20, count), rng.uniform(2.4, 3.0, count)
    usual = Query(workload=LONG, target_loss=losses)
    n_params = np.exp(PROBLEM.size_for_loss(usual, np.full(count, 12.0), np.full(count, 2.0)))
    limits = n_params * rng.uniform(0.9, 1.6, count), rng.uniform(10, 40, count)
    weights = rng.uniform(size=count)
    return [
        Query(
            workload=ss.Workload(context_length=float(contexts[i])),
            target_loss=float(losses[i]),
            objective=HardwareAwareCost(memory_weight=float(weights[i])),
            constraints=(
                max_params(float(limits[0][i])),
                AtMost(measure=n_layer, limit=float(limits[1][i]), name="n_layer"),
            ),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("lattice", [PAPER, buildable()], ids=lambda lattice: lattice.name)
def test_the_best_feasible_design_is_found_and_nothing_infeasible(lattice):
    queries = random_queries(100)
    found = solve(PROBLEM, stack_queries(queries), lattice)
    best = np.asarray(found.designs.cost).min(axis=1)
    possible = np.isfinite(best)
    assert 20 < possible.sum() < 100, "the draw should hold feasible and infeasible problems"
    cost = np.asarray(found.own_cost)
    assert (np.isfinite(cost) == possible).all()
    assert (cost[possible] <= best[possible] * 1.005).all()
    if not lattice.real:
        assert (np.asarray(found.relaxed.designs.cost)[possible] <= best[possible] * 1.001).all()


@pytest.mark.slow
def test_the_answer_is_the_best_of_the_lattice_even_where_rounding_misses_it():
    for query in random_queries(12):
        ask = {"objective": query.objective, "constraints": query.constraints}
        try:
            design = ss.search(FIT, query.workload, query.target_loss, **ask)
        except Unreachable:
            continue
        assert design.best.objective == pytest.approx(design.candidates[0][3], rel=1e-9)


@pytest.mark.slow
def test_constraints_change_the_answer_and_hold():
    free = ss.search(FIT, LONG, 2.615)
    tight = ss.search(FIT, LONG, 2.615, constraints=[max_params(1.1e9), max_memory(2.5 * 2**30)])
    assert free.best.n_params_total > 1.1e9 >= tight.best.n_params_total
    assert tight.best.memory.total <= 2.5 * 2**30
    assert tight.best.objective > free.best.objective
    loose = ss.search(FIT, LONG, 2.615, constraints=[max_params(1e12)])
    assert loose.shape == free.shape


def test_an_infeasible_problem_says_what_binds_and_by_how_much():
    says = r"nearest, \(32, 32\), has n_params_total = 7\.\d+e\+08, 5\d\.\d% above its limit of 5e\+08"
    with pytest.raises(Unreachable, match=says):
        ss.search(FIT, LONG, 2.615, constraints=[max_params(5e8), AtMost(measure=n_layer, limit=1e4)])


@pytest.mark.parametrize("limit", [0, -1.0, float("nan"), float("inf")])
def test_a_limit_must_be_a_positive_number(limit):
    with pytest.raises(InvalidInput, match="limit of n_params_total must be above 0"):
        max_params(limit)


def test_tensor_parallelism_must_divide():
    lattice = buildable(32, 64, tensor=4)
    assert all(h % 4 == 0 and (k % 4 == 0 or 4 % k == 0) for h, k in lattice.heads)
    shape = ss.search(FIT, LONG, 2.615, lattice=lattice).shape
    assert shape.d_model % 256 == shape.d_ff % 256 == shape.n_head % 4 == 0
    with pytest.raises(InvalidInput, match="max_head must be at least tensor = 8"):
        buildable(4, tensor=8)


@pytest.mark.parametrize("law", ["paper", "default"])
def test_the_best_with_so_many_kv_heads_is_the_best_of_those(law):
    fit, few = ss.named_fit(law), buildable(16, min_kv_heads=4)
    assert few.heads == tuple(pair for pair in buildable(16).heads if pair[1] >= 4)
    design = ss.search(fit, LONG, 2.615, lattice=few)
    alone = [
        ss.search(fit, LONG, 2.615, lattice=ss.Lattice("one", (pair,), real=True)).best.objective
        for pair in few.heads
        if pair[1] <= 8
    ]
    assert design.shape.n_kv_head >= 4
    assert design.best.objective == pytest.approx(min(alone), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [3e4, 6e4, 2e5])
def test_the_dual_is_the_least_loss_any_design_of_the_lattice_has_within_the_budget(budget):
    design = least_loss(FIT, LONG, budget)
    assert design.best.objective <= budget
    below = Query(workload=LONG, target_loss=design.target_loss - 1e-4, objective=FIGURE_2)
    with jax.enable_x64(True):
        cheaper = evaluate(PROBLEM, below, design.lattice, *map(jnp.asarray, design.lattice.arrays()))
    assert float(cheaper.cost.min()) > budget


def test_the_dual_inverts_the_search():
    design = ss.search(FIT, LONG, 2.7)
    assert least_loss(FIT, LONG, design.best.objective).target_loss == pytest.approx(2.7, abs=2e-3)
    tight = least_loss(FIT, LONG, 1e5, constraints=[max_params(1e9)])
    assert tight.best.n_params_total <= 1e9


@pytest.mark.parametrize("target", [0.3, 0.05])
def test_the_dual_finds_a_loss_below_half_a_nat(target):
    law = ss.HeadLaw(E=0.6 * target, A=0.5 * target, b=0.3, C=0.01, k=2.0, F=0.001, m=10.0, g=0.667)
    budget = ss.search(law, LONG, target).best.objective
    assert least_loss(law, LONG, budget).target_loss == pytest.approx(target, rel=2e-3)


@pytest.mark.parametrize(
    ("budget", "error"), [(1.0, Unreachable), (0.0, InvalidInput), (float("nan"), InvalidInput)]
)
def test_budgets_that_buy_nothing_are_refused(budget, error):
    with pytest.raises(error, match="budget"):
        least_loss(FIT, LONG, budget)
