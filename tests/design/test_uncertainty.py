import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.cost import TimePerToken, TimeToFirstToken, max_memory, max_params, max_time_to_first_token
from scalesim.design import (
    PAPER,
    choices_over_context,
    design_space,
    distribution,
    exhaustive,
    sensitivity,
    stack_queries,
)
from scalesim.design.sensitivity import polished
from scalesim.errors import InvalidInput, Unreachable
from scalesim.laws import AspectRatio

FIT = dataclasses.replace(ss.named_fit("paper"), rollout=None)  # its laws alone, no error beyond the runs
LONG = ss.Workload(context_length=131072.0)
QUESTIONS = {"edge": (131072.0, 2.615), "interior": (65536.0, 2.5), "corner": (8192.0, 2.4)}


@pytest.fixture(scope="module")
def spread():
    design = ss.search(FIT, LONG, 2.615, lattice=PAPER)
    return design, distribution(FIT, design)


def test_probabilities_are_those_of_searching_every_law_alone(spread):
    design, found = spread
    laws = FIT.bootstrap.laws(FIT.law)
    queries = stack_queries([design.query])
    for i in range(0, len(FIT.bootstrap), 20):
        law = jax.tree.map(lambda leaf, i=i: float(leaf[i]), laws)
        alone = exhaustive(dataclasses.replace(design.problem, law=law), queries, PAPER)
        assert found.winner[i] == alone.index[0]
        assert found.cost[i] >= float(alone.design.cost[0]) * (1 - 1e-12)
    assert found.probability.sum() == pytest.approx(1)
    assert len(found.winner) == len(FIT.bootstrap)


def test_savings_and_sizes_have_intervals_about_the_answer(spread):
    design, found = spread
    for name, values in found.savings.items():
        low, high = found.interval(values)
        assert low < high
        assert low - 0.02 < design.savings_at_equal_loss[name] < high + 0.02
    low, high = found.interval(found.n_params)
    assert low < design.best.n_params < high


@pytest.mark.slow
def test_savings_between_forms_are_those_of_searching_under_each_form_alone():
    fit = dataclasses.replace(ss.named_fit("default"), rollout=None)
    design = ss.search(fit, LONG, 2.615, lattice=PAPER)
    found = distribution(fit, design)
    alone = fit.law.alone()
    same = ss.Lattice("one", ((int(design.best.shape.n_head), int(design.best.shape.n_kv_head)),), real=False)
    saved = []
    for i, name in enumerate(found.forms):
        law = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], alone)
        x = dict.fromkeys(law.fields, 2.0)
        member = jax.tree.map(lambda leaf, i=i: float(leaf[i]) if np.ndim(leaf) else float(leaf), fit.law.law)
        assert float(law.loss(x)) == pytest.approx(float(member.loss(x)), rel=1e-12), name
        saved.append(ss.search(law, LONG, 2.615, lattice=same).savings_at_equal_loss["objective"])
    chex.assert_trees_all_close(found.savings_by_form["objective"], np.asarray(saved), rtol=1e-6)
    assert found.between_forms() == (
        min(found.savings_by_form["objective"]),
        max(found.savings_by_form["objective"]),
    )
    assert "From form to form of the law" in found.text()


def test_a_law_of_one_form_has_nothing_between_forms(spread):
    _, found = spread
    assert found.forms == ()
    assert found.between_forms() is None
    assert "form to form" not in found.text()


def test_the_sentence_and_the_rankings_agree(spread):
    _, found = spread
    assert found.best_in_expectation == tuple(found.heads[np.argmin(found.regret)])
    assert found.best_in_expectation in found.indistinguishable()
    assert f"{100 * found.probability[found.chosen]:.0f}% of the fit's resamples" in found.text()
    assert found.to_dict()["configurations"][0]["probability"] == found.probability.max()


def test_a_law_without_a_bootstrap_cannot_say(spread):
    design, _ = spread
    with pytest.raises(InvalidInput, match="fit has no bootstrap"):
        distribution(FIT.law, design)


def resolved(design, scale):
    """The polished optimum's logs with the problem and query changed by `scale`, a map from leaf names."""

    def changed(path, leaf):
        return leaf * scale.get(str(getattr(path[-1], "name", path[-1])), 1.0)

    problem, query = jax.tree_util.tree_map_with_path(changed, (design.problem, design.query))
    problem, query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (problem, query))
    start = design.lattice.position_of(design.relaxed.shape, design.relaxed_free, design.problem.family)
    with jax.enable_x64(True):
        return polished(problem, query, design.lattice, start).logs


def check(design, names):
    """Each derivative equals the difference of two problems solved anew."""
    moves = {move.name: move for move in sensitivity(design)}
    for name in names:
        h = 1e-4
        leaf = "limit" if name.startswith("limit of") else name
        up, down = (resolved(design, {leaf: 1 + sign * h}) for sign in (1, -1))
        scale = moves[name].value if name == "target_loss" else 1.0
        own = {
            measure: getattr(moves[name], measure) for measure in ("cost", "n_params", "n_head", "n_kv_head")
        }
        for measure, value in (own | moves[name].others).items():
            difference = (up[measure] - down[measure]) / (2 * h * scale)
            assert value == pytest.approx(difference, rel=1e-4, abs=2e-6), (name, measure)
    return moves


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_sensitivities_are_finite_differences_of_resolved_problems(question):
    context, loss = question
    design = ss.search(FIT, ss.Workload(context_length=context), loss, lattice=PAPER)
    check(design, ("context_length", "target_loss", "memory_weight", "kv_bits", "A", "b", "C", "F", "m"))


@pytest.mark.slow
def test_shadow_prices_of_limits_are_what_a_little_more_of_them_saves():
    """Against searches anew, and zero where nothing binds."""
    job = ss.Workload(context_length=65536.0)
    free = ss.search(FIT, job, 2.5, lattice=PAPER)
    most = 0.985 * free.relaxed.n_params_total
    ask = {"lattice": PAPER, "baseline": "16x2048x32x8"}
    limits = [max_params(most), max_memory(1e15)]
    design = ss.search(FIT, job, 2.5, constraints=limits, **ask)
    moves = check(design, ("limit of n_params_total", "context_length", "target_loss", "F", "kv_bits"))
    price = moves["limit of n_params_total"].cost
    assert price < -0.01
    assert "limit of memory_bytes" not in moves
    assert not any(move.name.startswith("limit") for move in sensitivity(free))
    more, less = (
        ss.search(FIT, job, 2.5, constraints=[max_params(scale * most)], **ask).relaxed.objective
        for scale in (1.001, 0.999)
    )
    assert np.log(more / less) / np.log(1.001 / 0.999) == pytest.approx(price, rel=0.05)


def test_an_optimum_that_is_not_there_has_no_derivatives():
    design = ss.search(FIT, ss.Workload(context_length=65536.0), 2.5, lattice=PAPER)
    query = dataclasses.replace(design.query, constraints=(max_params(1e6),))
    start = PAPER.position_of(design.relaxed.shape, design.relaxed_free, design.problem.family)
    with jax.enable_x64(True), pytest.raises(Unreachable, match="the precision that derivatives need"):
        polished(design.problem, jax.tree.map(jnp.asarray, query), PAPER, start)


@pytest.mark.slow
def test_one_number_in_two_places_moves_in_both():
    """The bandwidth of objective and constraint is one accelerator's."""
    hardware = ss.load_hardware("h100-sxm")
    job = ss.Workload(context_length=32768.0, batch_size=8)
    objective = TimePerToken(hardware=hardware)
    first = ss.search(FIT, job, 2.6, lattice=PAPER, objective=objective)
    slow = TimeToFirstToken(hardware=hardware)(first.relaxed.shape, job)
    design = ss.search(
        FIT,
        job,
        2.6,
        lattice=PAPER,
        objective=objective,
        constraints=[max_time_to_first_token(0.99 * float(slow), hardware)],
    )
    moves = check(design, ("limit of ttft_s", "bandwidth_gbs", "context_length"))
    assert moves["limit of ttft_s"].cost < 0


@pytest.mark.slow
def test_a_wide_optimum_moves_as_differences_say():
    law = FIT.law * AspectRatio(eps=0.002, g=0.5)
    space = design_space(law, n_layer=range(8, 41), d_model=range(1024, 4097, 64))
    design = ss.search(law, LONG, 2.7, lattice=space)
    moves = check(design, ("context_length", "target_loss", "eps", "A", "kv_bits"))
    assert set(moves["eps"].others) >= {"n_layer", "d_model", "d_ff"}
    narrow = dataclasses.replace(space, d_model=(1024, 1536))
    held = ss.search(law, LONG, 2.7, lattice=narrow)
    moves = check(held, ("context_length", "target_loss", "eps"))
    assert "d_model" not in moves["context_length"].others  # held at the end of its range


def test_heads_on_an_edge_stay_there():
    design = ss.search(FIT, LONG, 2.615, lattice=PAPER)
    assert design.relaxed.shape.n_kv_head == 1
    assert all(move.n_kv_head == 0 for move in sensitivity(design))


def test_choices_over_context_change_where_they_say():
    design = ss.search(FIT, LONG, 2.615, lattice=PAPER)
    choices = choices_over_context(design)
    assert choices[0].from_context == 1024
    assert choices[-1].to_context == 1048576
    for before, after in itertools.pairwise(choices):
        assert before.to_context == after.from_context
        for choice, context in ((before, before.to_context - 2), (after, after.from_context + 2)):
            workload = ss.Workload(context_length=context)
            shape = ss.search(FIT, workload, 2.615, lattice=PAPER).shape
            assert (shape.n_head, shape.n_kv_head) == (choice.n_head, choice.n_kv_head)
