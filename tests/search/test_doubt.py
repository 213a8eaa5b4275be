import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.errors import InvalidInput
from scalesim.search import PAPER, choices_over_context, distribution, exhaustive, sensitivity, stack_queries
from scalesim.search.sensitivity import _derivatives, _log_optimum

FIT = ss.named_fit("default")
LONG = ss.Workload(context_length=131072.0)
QUESTIONS = {"edge": (131072.0, 2.615), "interior": (65536.0, 2.5), "corner": (8192.0, 2.4)}


@pytest.fixture(scope="module")
def doubt():
    design = ss.search(FIT, LONG, 2.615, lattice=PAPER)
    return design, distribution(FIT, design)


def test_probabilities_are_those_of_searching_every_law_alone(doubt):
    design, found = doubt
    laws = FIT.bootstrap.laws(FIT.law)
    queries = stack_queries([design.query])
    for i in range(0, len(FIT.bootstrap), 20):
        law = jax.tree.map(lambda leaf, i=i: float(leaf[i]), laws)
        alone = exhaustive(dataclasses.replace(design.problem, law=law), queries, PAPER)
        assert found.winner[i] == alone.index[0]
        assert found.cost[i] >= float(alone.sized.cost[0]) * (1 - 1e-12)
    assert found.probability.sum() == pytest.approx(1)
    assert len(found.winner) == len(FIT.bootstrap)


def test_savings_and_sizes_have_intervals_about_the_answer(doubt):
    design, found = doubt
    for name, values in found.savings.items():
        low, high = found.interval(values)
        assert low < high
        assert low - 0.02 < design.savings_at_equal_loss[name] < high + 0.02
    low, high = found.interval(found.n_params)
    assert low < design.best.n_params < high


def test_the_sentence_and_the_rankings_agree(doubt):
    _, found = doubt
    assert found.best_in_expectation == tuple(found.heads[np.argmin(found.regret)])
    assert found.best_in_expectation in found.indistinguishable()
    assert f"{100 * found.probability[found.chosen]:.0f}% of the fit's resamples" in found.in_words()
    assert found.to_json()["configurations"][0]["probability"] == found.probability.max()


def test_a_law_without_a_bootstrap_cannot_say(doubt):
    design, _ = doubt
    with pytest.raises(InvalidInput, match="fit has no bootstrap"):
        distribution(FIT.law, design)


def resolved(design, scale):
    """The polished optimum's logs with the problem and query changed by `scale`, a map from leaf names."""

    def changed(path, leaf):
        return leaf * scale.get(str(getattr(path[-1], "name", path[-1])), 1.0)

    problem, query = jax.tree_util.tree_map_with_path(changed, (design.problem, design.query))
    s = design.relaxed.shape
    log_head = np.log(float(s.n_head))
    start = jnp.array([log_head / np.log(design.lattice.max_head), np.log(float(s.n_kv_head)) / log_head])
    problem, query = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (problem, query))
    position, _ = _derivatives(problem, query, start, design.lattice.max_head)
    return {k: float(v) for k, v in _log_optimum(problem, query, design.lattice.max_head, position).items()}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_sensitivities_are_finite_differences_of_resolved_problems(question):
    context, loss = question
    design = ss.search(FIT, ss.Workload(context_length=context), loss, lattice=PAPER)
    moves = {move.name: move for move in sensitivity(design)}
    for name in ("context_length", "target_loss", "memory_weight", "bytes_per_kv", "A", "b", "C", "F", "m"):
        h = 1e-4
        up, down = (resolved(design, {name: 1 + sign * h}) for sign in (1, -1))
        scale = moves[name].value if name == "target_loss" else 1.0
        for measure in ("cost", "n_params", "n_head", "n_kv_head"):
            difference = (up[measure] - down[measure]) / (2 * h * scale)
            assert getattr(moves[name], measure) == pytest.approx(difference, rel=1e-4, abs=2e-6), (
                name,
                measure,
            )


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
