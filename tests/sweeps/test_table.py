import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scalesim as ss
from scalesim.design import Problem, Query
from scalesim.laws import AspectRatio, Chinchilla, law_from_function
from scalesim.sweeps import Stream, engine
from scalesim.sweeps.block import SIZES
from scalesim.sweeps.keep import FRONTIERS
from scalesim.sweeps.screen import exact
from scalesim.sweeps.table import TOLERANCE, tabulated
from tests.sweeps.test_sweep import DEFAULT, JOB, KINKED, LAW, SMOOTH, SPACE

ALL = SPACE.sizes(np.arange(SPACE.count))
QUERY = Query(workload=JOB, target_loss=2.6)


def rough_and_exact(law, table, sizes, plan=QUERY.plan):
    query = dataclasses.replace(QUERY, plan=plan)
    asked = [engine.Question(problem=problem, query=query) for problem in (Problem(law=law), table)]
    return [exact(question, sizes)[:, 0] for question in asked]


@pytest.mark.parametrize("law", [DEFAULT, LAW, SMOOTH], ids=["default", "heads", "function"])
def test_a_table_is_its_law_to_its_tolerance(law):
    table = tabulated(Problem(law=law), QUERY, ALL[::7])
    true, told = rough_and_exact(law, table, ALL)
    assert np.abs(told - true).max() <= 2 * TOLERANCE
    assert table.law.terms.shape[1] == len(np.unique(ALL[:, 2:4], axis=0))
    single = exact(engine.Question(problem=table, query=QUERY), ALL, np.float32)[:, 0]
    assert np.abs(single - true).max() < engine.LEAST_MARGIN / 4


def test_tokens_by_the_plan_are_told_by_the_size():
    def law_of(n_params, n_tokens, n_head, A, b):
        return 1.9 + A * (n_params / 2e8) ** -b + 0.1 * (n_tokens / 1e10) ** -0.3 + 0.1 / n_head

    made = law_from_function(law_of, {"A": (0.3, 1.0), "b": (0.1, 0.4)}, ["n_params", "n_tokens", "n_head"])
    fixed = ss.TrainingPlan(n_tokens=1e11)
    problem = Problem(law=made())
    table = tabulated(problem, dataclasses.replace(QUERY, plan=fixed), ALL)
    true, told = rough_and_exact(problem.law, table, ALL, fixed)
    assert np.abs(told - true).max() <= 2 * TOLERANCE
    # A plan counts the paper's parameters, this law those outside embeddings: neither tells the other.
    assert tabulated(problem, QUERY, ALL) is None


@pytest.mark.parametrize(
    "law", [KINKED, Chinchilla() * AspectRatio(), Chinchilla()], ids=["kinked", "aspect", "other count"]
)
def test_no_table_of_a_law_that_bends_sharply_or_sees_more(law):
    assert tabulated(Problem(law=law), QUERY, ALL) is None


def test_no_table_of_a_law_that_is_no_number_somewhere_or_of_designs_that_are_not_real():
    def rooted(n_params, A):
        return A + jnp.sqrt(jnp.log(n_params / 3e8))

    law = law_from_function(rooted, {"A": (1.0, 2.0)}, ["n_params"])()
    assert tabulated(Problem(law=law), QUERY, ALL) is None
    for wrong in (0.0, np.nan, np.inf):
        sizes = ALL[:10].astype(float)
        sizes[3, 1] = wrong
        assert tabulated(Problem(law=DEFAULT), QUERY, sizes) is None
    assert tabulated(Problem(law=DEFAULT), QUERY, ALL[:0]) is None


def test_what_a_table_does_not_hold_passes():
    table = tabulated(Problem(law=DEFAULT), QUERY, ALL).law
    x = {"n_params": jnp.full(5, 6e8), "n_head": jnp.array([8.0, 8, 4000, 7, 0]), "n_kv_head": jnp.ones(5)}
    x["n_kv_head"] = jnp.array([1.0, 5, 1, 5000, 1])
    assert np.isneginf(table.loss(x)).tolist() == [False, True, True, True, True]
    ends = table.middle * np.exp(table.half_width * np.array([-1.01, -0.99, 0.99, 1.01]))
    with jax.enable_x64(True):
        at = table.loss({"n_params": ends, "n_head": np.full(4, 8.0), "n_kv_head": np.full(4, 1.0)})
    assert np.isneginf(at).tolist() == [True, False, False, True]


@pytest.mark.parametrize("many", [1 << 14, 64])
def test_a_stream_that_leaves_its_table_is_answered_as_ever(many, monkeypatch):
    monkeypatch.setattr(engine, "MANY", many)
    few = ALL[(ALL[:, 2] <= 4) & (ALL[:, 0] <= 10)]

    def designs():
        for part in (few, ALL):
            yield {name: part[:, i] for i, name in enumerate(SIZES)}

    def asked(law):
        return ss.sweep(law, Stream(designs, block_designs=2048), JOB, 2.62)

    found = asked(DEFAULT)
    monkeypatch.setattr(engine, "tabulated", lambda *_: None)
    plain = asked(DEFAULT)
    assert found.kept.top.tobytes() == plain.kept.top.tobytes()
    assert found.best.shape.n_head > 4
    for measure in FRONTIERS:
        assert found.kept.frontier(measure).tobytes() == plain.kept.frontier(measure).tobytes()


def test_the_law_takes_over_once_most_of_a_block_is_beyond_the_table(monkeypatch):
    monkeypatch.setattr(engine, "MANY", 64)
    asked, chosen = engine.Engine._screen_of, []

    def seen(self, i, table=True):
        chosen.append(asked(self, i, table))
        return chosen[-1]

    monkeypatch.setattr(engine.Engine, "_screen_of", seen)
    few, rest = ALL[ALL[:, 2] <= 4], ALL[ALL[:, 2] > 4]
    batches = [{name: part[:, i] for i, name in enumerate(SIZES)} for part in (few, rest)]
    ss.sweep(DEFAULT, Stream(lambda: batches, block_designs=2048), JOB, 2.62)
    assert [by.tabulated for by in chosen] == [True, False]
    chosen.clear()
    ss.sweep(DEFAULT, SPACE, JOB, 2.62)
    assert [by.tabulated for by in chosen] == [True], "a product's own table holds all of it"
