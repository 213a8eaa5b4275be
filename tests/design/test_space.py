"""Design spaces: what may be free, whether the best is found, and what is said where there is none."""

import dataclasses
import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.cost import (
    FIGURE_2,
    AtMost,
    HardwareAwareCost,
    LifetimePrice,
    WeightedCost,
    max_memory,
    max_params,
    max_training_flops,
)
from scalesim.design import (
    DesignSpace,
    Problem,
    Query,
    choices_over_context,
    design_space,
    distribution,
    solve,
    stack_queries,
    visible,
)
from scalesim.design.problem import FreeVariables
from scalesim.design.search import _solved
from scalesim.design.space_moves import Moves
from scalesim.design.space_search import build
from scalesim.errors import InvalidInput, Unreachable
from scalesim.families import FIGURE, TABLE
from scalesim.fitting.bootstrap import Bootstrap
from scalesim.fitting.coordinates import slots_of
from scalesim.laws import AspectRatio, Chinchilla, ConditionalShape, Gemstones, HeadLaw, Precision
from scalesim.numerics.best_first import MARKED, _Marks, best_first, box_moves, pair_moves
from scalesim.shape import Shape, count_params
from scalesim.workload import Traffic

FIT = dataclasses.replace(ss.named_fit("paper"), rollout=None)  # its laws alone, no error beyond the runs
LONG = ss.Workload(context_length=131072.0)
DEEP = FIT.law * AspectRatio(eps=0.002, g=0.5)
SMALL = design_space(
    DEEP, n_layer=range(8, 41, 2), d_model=range(1024, 4097, 256), n_head=(4, 8, 16, 32), n_kv_head=(1, 2, 4)
)
WHOLE = Precision() * ConditionalShape() * AspectRatio(eps=0.0008, g=0.6)


def n_layer(shape, workload):
    return 1.0 * shape.n_layer


def every_design(space, law, target, context, per_param=20.0):
    """All designs of a space in depth, width, d_ff and heads, spelled out, and which reach the loss."""
    low, high = space.ffn_limits(FIGURE)
    bodies = [
        (depth, width, d_ff)
        for depth, width in itertools.product(space.n_layer, space.d_model)
        for d_ff in range(space.tile, int(high * width) + space.tile, space.tile)
        if low * width - 1e-6 <= d_ff <= high * width + 1e-6
    ]
    pairs = [(h, k) for h in space.n_head for k in space.n_kv_head if h % k == 0]
    body, pair = (np.array(v, float) for v in (bodies, pairs))
    columns = [np.repeat(body[:, i], len(pair)) for i in range(3)]
    heads = [np.tile(pair[:, i], len(body)) for i in range(2)]
    shape = Shape(
        n_layer=columns[0], d_model=columns[1], d_ff=columns[2], n_head=heads[0], n_kv_head=heads[1]
    )
    loss = law(shape, per_param * count_params(shape, "paper"), context)
    return shape, np.asarray(loss) <= target


@pytest.mark.parametrize("limit", [None, *(pytest.param(x, marks=pytest.mark.slow) for x in (24.0, 14.0))])
@pytest.mark.parametrize(
    ("context", "target"), [(8192.0, 2.75), pytest.param(131072.0, 2.68, marks=pytest.mark.slow)]
)
def test_the_best_of_every_design_is_found(limit, context, target):
    job = ss.Workload(context_length=context)
    constraints = () if limit is None else (AtMost(measure=n_layer, limit=limit, name="n_layer"),)
    design = ss.search(DEEP, job, target, lattice=SMALL, constraints=constraints)
    shape, reached = every_design(SMALL, DEEP, target, context)
    cost = np.where(reached & (shape.n_layer <= (limit or 1e9)), FIGURE_2(shape, job), np.inf)
    assert cost.size == SMALL.count(FIGURE)
    assert cost.min() <= design.best.objective * (1 + 1e-12)
    assert design.best.objective <= cost.min() * 1.005
    assert design.best.loss <= target * (1 + 1e-9)
    assert design.shape.n_layer <= (limit or 1e9)
    assert design.gap_to_relaxed >= 0 <= design.gap_to_exhaustive
    assert design.evaluations * 10 < cost.size


@pytest.mark.slow
def test_a_batch_of_questions_is_a_loop_and_compiles_once():
    losses = [2.68, 2.75]
    together = ss.search(DEEP, [LONG], losses, lattice=SMALL)
    before = _solved.n_programs()
    again = ss.search(DEEP, [LONG], [2.7, 2.72, 2.74], lattice=SMALL)
    assert _solved.n_programs() == before
    assert len(again) == 3
    for loss, design in zip(losses, together, strict=True):
        alone = ss.search(DEEP, LONG, loss, lattice=SMALL)
        assert alone.shape == design.shape
        assert alone.best.objective == pytest.approx(design.best.objective, rel=1e-12)


WIDE = design_space(
    WHOLE,
    ("d_model", "d_ff", "head_dim", "n_tokens", "kv_bits", "n_head", "n_kv_head"),
    n_layer=range(8, 49, 4),
    d_model=range(1024, 4097, 512),
    ffn_ratio=(1.0, 2.0, 3.0, 4.0),
    n_head=(4, 8, 16),
    head_dim=(64, 128),
    tokens_per_param=(10.0, 200.0),
)


@pytest.mark.slow
def test_tokens_and_precision_are_chosen_where_the_law_sees_them():
    """Training tokens are solved for, and what depends on them, or on KV bits, follows."""
    job, target = ss.Workload(context_length=32768.0, batch_size=8), 2.35
    hardware = ss.load_hardware("h100-sxm")
    cost = LifetimePrice(hardware=hardware, traffic=Traffic(prompt_tokens=1e12, generated_tokens=1e11))
    design = ss.search(WHOLE, job, target, lattice=WIDE, objective=cost)
    best = design.best
    per_param = best.n_tokens / best.n_params
    assert best.loss == pytest.approx(target, rel=1e-9)
    assert 10 <= per_param <= 200
    assert best.kv_bits in (4.0, 8.0, 16.0)
    plan = ss.TrainingPlan(tokens_per_param=per_param)
    served = dataclasses.replace(job, kv_bits=best.kv_bits)
    assert best.objective == pytest.approx(float(cost(best.shape, served, plan)), rel=1e-9)
    # Less training must cost something: with a limit on it the model is larger.
    flops = max_training_flops(1.0).measure
    spent = float(flops(best.shape, job, plan))
    limited = ss.search(
        WHOLE, job, target, lattice=WIDE, objective=cost, constraints=[max_training_flops(0.9 * spent)]
    ).best
    plan = ss.TrainingPlan(n_tokens=limited.n_tokens)
    assert float(flops(limited.shape, job, plan)) <= 0.9 * spent * (1 + 1e-9)
    assert limited.objective > best.objective


def test_precision_and_tokens_come_from_the_workload_and_the_plan_alone():
    """Costs within costs and limits see what a design chose, and none of them is rewritten."""
    hardware = ss.load_hardware("h100-sxm")
    life = LifetimePrice(hardware=hardware, traffic=Traffic(prompt_tokens=1e12, generated_tokens=1e11))
    query = Query(
        workload=LONG,
        target_loss=2.6,
        objective=WeightedCost(costs=(HardwareAwareCost(), life), weights=(1.0, 2.0)),
        constraints=(max_memory(1e9), max_training_flops(1e21)),
    )
    shape = Shape(n_layer=16, d_model=2048, n_head=8, n_kv_head=8, d_ff=5461)
    asked = FreeVariables(kv_bits=4.0, tokens_per_param=200.0).applied(query)
    assert asked.objective == query.objective
    assert asked.workload.kv_bits == 4.0
    assert float(asked.cost(shape)) != float(query.cost(shape))
    cache, whole = (q.objective.function.costs[0].function.memory(shape, q.workload) for q in (asked, query))
    assert cache.time_variant == whole.time_variant / 4
    (_, flops), (_, before) = (q.excesses(shape) for q in (asked, query))
    assert float(flops - before) == pytest.approx(np.log(10.0))
    assert FreeVariables().applied(query) is query


@pytest.mark.slow
def test_a_limit_on_training_follows_the_plan():
    """Two hundred tokens a parameter spend ten times what twenty do: the same limit allows less."""
    law = Chinchilla() * ConditionalShape()
    plan = ss.TrainingPlan(tokens_per_param=200.0)
    free = ss.search(law, LONG, 2.4, plan=plan)
    spent = float(max_training_flops(1.0).measure(free.shape, LONG, plan))
    found = ss.search(law, LONG, 2.4, plan=plan, constraints=[max_training_flops(0.99 * spent)], throw=False)
    if found.reached:
        assert float(max_training_flops(1.0).measure(found.shape, LONG, plan)) <= 0.99 * spent * (1 + 1e-9)
    else:
        assert "training_flops" in found.status


@pytest.mark.parametrize(
    ("law", "name", "seen"),
    [
        (HeadLaw(), "d_model", False),
        (HeadLaw(), "n_head", True),
        (HeadLaw(), "n_tokens", False),
        (Chinchilla(), "n_head", False),
        (Gemstones(), "d_model", True),
        (Gemstones(), "d_ff", False),
        (ConditionalShape(), "head_dim", True),
        (Precision(), "kv_bits", True),
    ],
)
def test_only_what_the_law_sees_can_be_free(law, name, seen):
    assert visible(law, name) == seen
    if seen:
        assert name in design_space(law).free
        return
    with pytest.raises(
        InvalidInput, match=rf"{name} is free, but the law cannot see it: {type(law).__name__}"
    ):
        design_space(law, [name])


def test_a_search_refuses_a_space_that_its_law_cannot_see():
    with pytest.raises(InvalidInput, match="d_model is free, but the law cannot see it: HeadLaw sees"):
        ss.search(FIT, LONG, 2.6, lattice=SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("law", [Gemstones(), Chinchilla()])
def test_heads_that_a_law_cannot_see_follow_the_width(law):
    job = ss.Workload(context_length=8192.0)
    space = design_space(law, ["d_model"] if visible(law, "d_model") else [], n_layer=range(8, 65))
    shape = ss.search(law, job, 2.9 if isinstance(law, Chinchilla) else 3.0, lattice=space).shape
    assert shape.n_head == round(shape.d_model / 64)
    assert shape.n_head % shape.n_kv_head == 0
    assert shape.n_kv_head <= 8


@pytest.mark.slow
def test_a_width_that_is_not_free_follows_the_family():
    space = DesignSpace(n_layer=range(8, 65), n_head=range(1, 33), n_kv_head=range(1, 33))
    for family in (FIGURE, TABLE):
        shape = ss.search(FIT, LONG, 2.615, lattice=space, family=family).shape
        aspect = float(family.aspect(12.0 * shape.n_layer * shape.d_model**2))
        assert abs(shape.d_model - aspect * shape.n_layer) <= 3 * 64


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_layer": []}, "n_layer is an empty range"),
        ({"d_model": [0, 64]}, "d_model must be whole numbers above 0"),
        ({"head_dim": range(0)}, "head_dim is an empty range"),
        ({"kv_bits": ()}, "kv_bits is an empty range"),
        ({"ffn_ratio": (0.0, 2.0)}, "ffn_ratio must be above 0 and finite"),
        ({"tokens_per_param": (20.0,)}, r"tokens_per_param must be \(least, most\)"),
        ({"tokens_per_param": (50.0, 20.0)}, r"tokens_per_param must be \(least, most\)"),
        ({"n_head": [7, 5], "n_kv_head": [2, 3]}, r"n_kv_head \[2, 3\] divides none of n_head \[5, 7\]"),
        ({"n_head": [1, 3], "tensor": 2}, r"n_head \[1, 3\] holds no multiple of tensor = 2"),
        ({"tile": 0}, "tile and tensor must be at least 1"),
    ],
)
def test_empty_ranges_and_impossible_axes_are_named(options, says):
    with pytest.raises(InvalidInput, match=says):
        DesignSpace(**options)


def test_unknown_names_are_named():
    with pytest.raises(InvalidInput, match="free 'depth' is not known"):
        design_space(DEEP, ["depth"])


@pytest.mark.slow
def test_tensor_parallel_spaces_divide():
    space = design_space(DEEP, n_layer=range(8, 41), d_model=range(1024, 4097, 64), tensor=4)
    shape = ss.search(DEEP, LONG, 2.7, lattice=space).shape
    assert shape.n_head % 4 == shape.d_model % 4 == shape.d_ff % 256 == 0
    assert shape.n_kv_head % 4 == 0 or 4 % shape.n_kv_head == 0


@pytest.mark.slow
def test_a_loss_out_of_reach_of_the_space_says_what_is_in_reach():
    with pytest.raises(Unreachable, match=r"target_loss 2.3 is out of reach of the wide space.* of 2\.[45]"):
        ss.search(DEEP, LONG, 2.3, lattice=SMALL)


@pytest.mark.slow
def test_a_limit_that_contradicts_the_loss_says_so_and_by_how_much():
    says = r"n_params_total <= 5e\+08 and the target_loss contradict each other.* misses one by [\d.]+%"
    with pytest.raises(Unreachable, match=says):
        ss.search(DEEP, LONG, 2.7, lattice=SMALL, constraints=[max_params(5e8), max_memory(1e15)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "lattice",
    [pytest.param(SMALL, marks=pytest.mark.slow), ss.buildable()],
    ids=lambda lattice: lattice.name,
)
def test_two_limits_that_contradict_each_other_are_named(lattice):
    """The least memory needs few heads and so many parameters: either limit can be met, both cannot."""
    ask = {"lattice": lattice, "baseline": "16x2048x32x8"}
    least = {
        make: ss.search(DEEP, LONG, 2.7, objective=make(1.0).measure, **ask).best.objective
        for make in (max_memory, max_params)
    }
    limits = [make(1.01 * value) for make, value in least.items()]
    limits.append(AtMost(measure=n_layer, limit=1e6, name="n_layer"))
    says = r"memory_bytes <= .* and n_params_total <= .* contradict each other: each .* one by [\d.]+%"
    with pytest.raises(Unreachable, match=says):
        ss.search(DEEP, LONG, 2.7, constraints=limits, **ask)


def test_what_asks_about_heads_refuses_a_space():
    design = ss.search(DEEP, LONG, 2.7, lattice=SMALL)
    with pytest.raises(InvalidInput, match="DesignSpace"):
        choices_over_context(design)
    with pytest.raises(InvalidInput, match="another law than the design"):
        distribution(FIT, design)


@pytest.mark.slow
def test_every_law_of_the_bootstrap_has_a_search_of_its_own():
    """Under each law the winner is the best of all designs there are."""
    space = DesignSpace(n_layer=range(12, 29), n_head=(4, 8, 12, 16), n_kv_head=(1, 2, 4))
    design = ss.search(FIT, LONG, 2.615, lattice=space)
    found = distribution(FIT, design, resamples=40)
    assert found.names == ("n_layer", "d_model", "n_head", "n_kv_head")
    s = design.shape
    assert found.values(found.chosen) == (s.n_layer, s.d_model, s.n_head, s.n_kv_head)
    assert found.probability.sum() == pytest.approx(1)
    every = jnp.asarray(list(itertools.product(*map(range, space.axes(FIGURE).sizes))))
    laws = FIT.bootstrap.laws(FIT.law, 40)
    for i in range(0, 40, 8):
        law = jax.tree.map(lambda leaf, i=i: float(leaf[i]), laws)
        with jax.enable_x64(True):
            built = build(Problem(law=law), design.query, space, every)
        best = int(built.cost.argmin())
        sizes = [
            float(jnp.broadcast_to(getattr(built.shape, name), built.cost.shape)[best])
            for name in found.names
        ]
        assert found.values(found.winner[i]) == tuple(sizes)
    # Where the design's d_ff would have to be beyond its range, it is not among those compared.
    assert len(found.cost) == pytest.approx(40 * (1 - found.missed[found.chosen]))
    assert np.isfinite(found.excess[found.chosen])
    low, high = found.interval(found.savings["objective"])
    assert low < high
    assert low - 0.03 < design.savings_at_equal_loss["objective"] < high + 0.03
    low, high = found.ranges()["n_layer"]
    assert low <= high
    assert "The best designs (90%): n_layer" in found.text()


@pytest.mark.slow
def test_a_design_that_no_law_of_the_bootstrap_allows_is_refused():
    """Under a higher floor the design's layers are too few, whatever their d_ff."""
    space = DesignSpace(n_layer=range(12, 29), n_head=(4, 8, 12, 16), n_kv_head=(1, 2, 4))
    design = ss.search(FIT, LONG, 2.615, lattice=space)
    coefficients = {name: np.full(8, np.mean(v)) for name, v in FIT.bootstrap.coefficients.items()}
    coefficients["E"] = coefficients["E"] + 0.06
    other = dataclasses.replace(FIT.bootstrap, coefficients=coefficients, objective=np.zeros(8))
    with pytest.raises(Unreachable, match="under any law of the bootstrap, though others can"):
        distribution(dataclasses.replace(FIT, bootstrap=other), design)
    coefficients["E"] = coefficients["E"] + 5.0
    with pytest.raises(Unreachable, match="out of reach under every law of the bootstrap"):
        distribution(dataclasses.replace(FIT, bootstrap=other), design)


def rounded_cost(shape, workload):
    return jnp.round(FIGURE_2(shape, workload) / 10) * 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "space", "target", "objective"),
    [(WHOLE, WIDE, 2.8, FIGURE_2), (DEEP, SMALL, 2.7, rounded_cost)],
    ids=["all axes", "without a gradient"],
)
def test_laws_that_agree_leave_no_uncertainty(law, space, target, objective):
    """A bootstrap of copies: the design is the best under all, and saves what it saves."""
    design = ss.search(law, LONG, target, lattice=space, objective=objective)
    slots = zip(slots_of(law), jax.tree.leaves(law), strict=True)
    leaves = {slot.name: np.full(3, leaf) for slot, leaf in slots}
    boot = Bootstrap(coefficients=leaves, objective=np.zeros(3), kind="pairs", seed=0, asked=3)
    found = distribution(dataclasses.replace(FIT, law=law, bootstrap=boot), design)
    assert found.probability.tolist() == [1.0]
    assert found.regret.tolist() == found.missed.tolist() == [0.0]
    assert found.cost == pytest.approx(design.best.objective, rel=1e-9)
    assert found.n_params == pytest.approx(design.best.n_params, rel=1e-9)
    for name, values in found.savings.items():
        assert values == pytest.approx(design.savings_at_equal_loss[name], rel=1e-6), name
    given = dict(zip(found.names, found.values(0), strict=True))
    assert given.get("kv_bits", 16) == design.best.kv_bits
    assert given["n_layer"] == design.shape.n_layer


def test_the_best_first_search_crosses_what_is_forbidden():
    """A ridge of forbidden points lies between the start and the optimum."""
    sizes = np.array([60, 60])

    def merits(index):
        x, y = index[:, 0] * 1.0, index[:, 1] * 1.0
        value = (x - 30) ** 2 + 4.0 * (y - 20 - 0.3 * x) ** 2
        forbidden = (jnp.abs(x - 15) < 1.5) | ((x + y) % 3 == 0)
        return jnp.where(forbidden, 1e6, value), value + 30.0 * forbidden

    def moved(moves, index):
        return index[:, None] + moves[None]

    start = jnp.array([[2, 35], [5, 5]])
    near, around = (partial(moved, moves) for moves in (pair_moves([0, 1], 2), box_moves([0, 1], 2)))
    walk = partial(best_first, merits, start, near, around, sizes, expand=4, width=24)
    pool, before, tried = walk(rounds=60, patience=60)
    grid = jnp.asarray(np.stack(np.meshgrid(np.arange(60), np.arange(60)), -1).reshape(-1, 2))
    assert float(merits(grid)[0].min()) < 1e-9
    assert float(pool.merit[0]) == float(before) < 1e-9
    assert tried < 60 * 60 / 2
    finite = np.asarray(pool.index)[np.isfinite(np.asarray(pool.merit))]
    assert len(np.unique(finite, axis=0)) == len(finite)
    # A walk that has been where nothing is better for long enough ends, with the same answer.
    short, _, fewer = walk(rounds=60, patience=8)
    assert fewer < tried
    assert (short.index[0] == pool.index[0]).all()


@pytest.mark.parametrize("width", [5, 64])
def test_no_point_is_tried_twice_and_none_around_the_answer_is_left_out(width):
    """Points of one name are one; what does not fit in a turn is tried in a later one."""
    sizes, tried = np.array([8, 8]), []

    def merits(index):
        jax.debug.callback(lambda index: tried.append(np.asarray(index)), index, ordered=True)
        return ((index - 5.3) ** 2).sum(1), ((index - 5.3) ** 2).sum(1)

    def moved(moves, index):
        return index[:, None] + moves[None]

    def tidy(index):  # of two along the second axis there is one, and none at the upper end of the first
        return index.at[:, 1].set(index[:, 1] // 2 * 2), index[:, 0] < 7

    near, around = (partial(moved, moves) for moves in (pair_moves([0, 1], 2, 1), 2 * box_moves([0, 1], 2)))
    start = jnp.array([[0, 0], [0, 1], [1, 1], [6, 3], [7, 7]])
    pool, _, count = best_first(
        merits, start, near, around, sizes, canonical=tidy, rounds=3, patience=3, expand=2, width=width
    )
    jax.effects_barrier()
    assert sum(len(some) for some in tried) == int(count)
    held = np.asarray(pool.index)[np.isfinite(np.asarray(pool.merit))]
    assert len(np.unique(held, axis=0)) == len(held)
    assert (held[:, 1] % 2 == 0).all()
    assert held[:, 0].max() == 6
    best = held[0]
    assert best.tolist() == [5, 6]
    tidied = np.clip(best + 2 * box_moves([0, 1], 2), 0, 7) // [1, 2] * [1, 2]
    expected = {tuple(p) for p in tidied.tolist() if p[0] < 7}
    assert expected <= {tuple(p) for p in held.tolist()}


def test_least_d_ff_where_more_of_it_raises_loss_again():
    """The law has a best FFN ratio: the widest FFN misses the loss that a narrower one reaches."""
    law = Chinchilla() * ConditionalShape()
    space = design_space(
        law, ("d_model", "d_ff"), n_layer=(62,), d_model=(6144,), ffn_ratio=(1.0, 6.0), n_head=(16,)
    )
    tiles = np.arange(6144, 6 * 6144 + 1, space.tile).astype(float)
    problem = Problem(law=law)
    shape = Shape(
        n_layer=62.0, d_model=6144.0, d_ff=tiles, n_head=16.0, n_kv_head=8.0, vocab_size=FIGURE.vocab_size
    )
    loss = np.asarray(problem.loss_of(shape, Query(workload=LONG, target_loss=3.0)))
    lowest = int(loss.argmin())
    assert 0 < lowest < len(loss) - 1
    for target, reached in (
        (loss[-1] - 1e-4 * (loss[-1] - loss[lowest]), True),
        (loss[lowest] - 1e-3, False),
    ):
        found = build(problem, Query(workload=LONG, target_loss=target), space, jnp.zeros((1, 7), int))
        expected = np.flatnonzero(loss <= target)[0] if reached else lowest
        assert float(found.shape.d_ff[0]) == pytest.approx(tiles[expected], abs=0 if reached else space.tile)
        assert bool(found.loss_excess[0] <= 1e-9) is reached


def test_kv_heads_that_stand_for_several_values_have_one_place():
    space = design_space(HeadLaw(), n_layer=(24,), n_head=(6, 8), n_kv_head=range(1, 9))
    moves_of = Moves(space, FIGURE)
    axes = moves_of.axes
    assert axes.kv_table[8].tolist() == [1, 2, 4, 4, 4, 8, 8, 8]
    assert axes.kv_rank[8].tolist() == [0, 1, 2, 2, 2, 3, 3, 3]
    assert axes.kv_place[8].tolist() == [0, 1, 2, 5, 5, 5, 5, 5]
    index = jnp.array([[0, 0, 0, 1, 3, 0, 0]])  # 8 query heads, 4 KV heads
    moves = np.array([[0, 0, 0, 0, 1, 0, 0], [0, 0, 0, 0, -1, 0, 0], [0, 0, 0, -1, 0, 0, 0]])
    moved = moves_of.moved(index[:, None], moves[None])[0]
    assert axes.kv_table[[8, 8, 6], moved[:, 4]].tolist() == [8, 2, 3]
    many = jnp.stack([index[0].at[4].set(j) for j in range(8)])
    tidied, real = moves_of.canonical(many)
    assert tidied[:, 4].tolist() == [0, 1, 2, 2, 2, 5, 5, 5]
    assert real.all()


@pytest.mark.slow
def test_every_design_built_is_priced_as_it_is():
    problem = Problem(law=WHOLE)
    queries = stack_queries([Query(workload=LONG, target_loss=2.5)])
    found = jax.device_get(solve(problem, queries, WIDE))
    query = jax.tree.map(lambda leaf: leaf[0], queries)
    again = build(problem, query, WIDE, found.index[0])
    np.testing.assert_allclose(np.asarray(again.cost), found.designs.cost[0], rtol=1e-9)
    for i in range(3):
        shape = jax.tree.map(lambda leaf, i=i: float(leaf[0, i]), found.designs.shape)
        free = jax.tree.map(lambda leaf, i=i: float(leaf[0, i]), found.designs.free)
        cost = float(free.applied(query).cost(shape))
        assert cost == pytest.approx(float(found.designs.cost[0, i]), rel=1e-12)


def test_marks_tell_apart_all_points_of_a_lattice_and_those_near_each_other_of_a_vast_one():
    small = _Marks(np.array([7, 5, 3]))
    grid = np.stack(np.meshgrid(*map(np.arange, (7, 5, 3)), indexing="ij"), -1).reshape(-1, 3)
    assert sorted(small.place(jnp.asarray(grid)).tolist()) == list(range(105))
    vast = _Marks(np.array([64, 1024, 64, 32, 32, 8, 4]))
    assert vast.count == MARKED
    about = np.array([30, 500, 30, 16, 16, 4, 1]) + box_moves(list(range(7)), 7)
    assert len(np.unique(vast.place(jnp.asarray(about)))) == len(about)


def test_marks_choose_each_new_point_once_and_leave_the_rest_for_later():
    marks, wanted = _Marks(np.array([10])), jnp.array([True, True, True, False, True, True])
    points = jnp.array([[3], [3], [4], [5], [6], [7]])
    chosen, new, table = marks.choose(marks.blank(), points, wanted, 2)
    assert (points[chosen[:2], 0].tolist(), int(new)) == ([3, 4], 4)
    chosen, new, table = marks.choose(table, points, wanted, 2)
    assert (points[chosen[:2], 0].tolist(), int(new)) == ([6, 7], 2)
    assert int(marks.choose(table, points, wanted, 2)[1]) == 0
